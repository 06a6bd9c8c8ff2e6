// SPDX-License-Identifier: Apache-2.0
// One repository at a registry and at mirrors, which are left, asked again and blamed as they
// behave.
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>

#include "absl/time/clock.h"
#include "base/fd.h"
#include "base/status.h"
#include "base/text.h"
#include "fetch/registry.h"
#include "tests/fakes/fetch/fake_registry.h"
#include "tests/fakes/fetch/pending.h"

namespace imagefs {
namespace {

constexpr char kManifestType[] = "application/vnd.oci.image.manifest.v1+json";

class FailoverTest : public testing::Test {
 protected:
  void SetUp() override {
    char name[] = "/tmp/failover_test.XXXXXX";
    ASSERT_NE(mkdtemp(name), nullptr);
    dir_ = name;
    Configure("");
    options_.first_backoff = std::chrono::milliseconds(1);
    options_.max_attempts = 3;
    options_.range_bytes = 100'000;
    options_.hosts.containerd_dirs = {dir_};
    options_.mirror_credential = [this](const Reference& mirror, const Credential& refused) {
      asked_credential_for_ = mirror.host;
      return refused.empty() ? mirror_credential_ : Credential();
    };
    Restart();
    for (FakeRegistry* server : {&registry_, &one_, &two_}) {
      manifest_ = server->AddManifest("img", "1", "{}", kManifestType);
      blob_.digest = server->AddBlob("img", bytes_);
    }
    blob_.size = bytes_.size();
    path_ = FakeRegistry::BlobPath("img", blob_.digest);
  }

  void Restart() {
    auto factory = SourceFactory::Create(options_);
    ASSERT_TRUE(factory.ok()) << factory.status();
    factory_ = *std::move(factory);
  }
  // Writes hosts.toml: the registry itself with two mirrors before it, and `rest` in the section of
  // the first one.
  void Configure(const std::string& rest) {
    const std::string folder = StrCat(dir_, "/", registry_.host());
    ASSERT_TRUE(MakeDirs(folder).ok());
    const absl::Status written = WriteFileDurably(
        StrCat(folder, "/hosts.toml"),
        StrCat("server = \"http://", registry_.host(), "\"\n[host.\"http://", one_.host(), "\"]\n",
               rest, "\n[host.\"http://", two_.host(), "\"]\n"));
    ASSERT_TRUE(written.ok()) << written;
  }
  void TearDown() override {
    factory_.reset();
    std::filesystem::remove_all(dir_);
  }
  std::shared_ptr<ImageSource> Open(SourceFactory::Access access = {}) {
    const auto reference = Reference::Parse(StrCat(registry_.host(), "/img:1"));
    EXPECT_TRUE(reference.ok()) << reference.status();
    auto source = factory_->Open(*reference, access);
    EXPECT_TRUE(source.ok()) << source.status();
    return *std::move(source);
  }
  absl::StatusOr<ImageSource::FetchedManifest> GetManifest(ImageSource& source,
                                                           const std::string& tag = "1") {
    Pending<absl::StatusOr<ImageSource::FetchedManifest>> pending;
    source.GetManifest(tag, CancelToken(), pending.Done());
    return pending.Wait();
  }
  // Reads the whole blob; every byte must arrive once.
  absl::Status Read(ImageSource& source, ImageSource::ReadOptions options = nullptr) {
    read_.assign(blob_.size, '\0');
    uint64_t total = 0;
    Pending<absl::Status> pending;
    source.ReadBlob(
        blob_, {{0, blob_.size}}, std::move(options), CancelToken(),
        [&](uint64_t offset, std::string_view data) {
          read_.replace(offset, data.size(), data);
          total += data.size();
          return absl::OkStatus();
        },
        pending.Done());
    const absl::Status status = pending.Wait();
    EXPECT_TRUE(!status.ok() || total == blob_.size) << total;
    return status;
  }
  static size_t Count(const FakeRegistry& server) { return server.requests().size(); }

  std::string dir_;
  FakeRegistry registry_, one_, two_;
  SourceFactory::Options options_;
  std::unique_ptr<SourceFactory> factory_;
  std::string bytes_ = std::string(250'000, 'x') + std::string(250'000, 'y');
  Descriptor blob_;
  Digest manifest_;
  std::string path_, read_;
  Credential mirror_credential_;
  std::string asked_credential_for_;
};

TEST_F(FailoverTest, TheFirstMirrorIsAskedForEverythingWithTheRegistrysName) {
  auto source = Open();
  ASSERT_TRUE(GetManifest(*source).ok());
  ASSERT_TRUE(Read(*source).ok());
  EXPECT_EQ(read_, bytes_);
  EXPECT_EQ(Count(registry_), 0U);
  EXPECT_EQ(Count(two_), 0U);
  ASSERT_GT(Count(one_), 1U);
  for (const auto& request : one_.requests()) {
    EXPECT_EQ(request.query, StrCat("ns=", UrlEncode(registry_.host()))) << request.path;
  }
  EXPECT_EQ(source->registry(), registry_.host());
}

TEST_F(FailoverTest, ATagIsAskedOnlyOfThoseThatMayResolveIt) {
  Configure("capabilities = [\"pull\"]");
  auto source = Open();
  ASSERT_TRUE(GetManifest(*source).ok());
  EXPECT_EQ(Count(one_), 0U);
  EXPECT_EQ(Count(two_), 1U);
  ASSERT_TRUE(GetManifest(*source, manifest_.ToString()).ok());
  EXPECT_EQ(Count(one_), 1U);
}

TEST_F(FailoverTest, WhatAMirrorDoesNotHaveIsAskedOfTheNext) {
  one_.On("/v2/img/manifests/1", {.times = -1, .status = 404});
  two_.On("/v2/img/manifests/1", {.times = -1, .status = 403});
  auto source = Open();
  ASSERT_TRUE(GetManifest(*source).ok());
  EXPECT_EQ(registry_.RequestsFor("/v2/img/manifests/1").size(), 1U);
  EXPECT_EQ(registry_.requests().front().query, "");
  // It answers, so it is asked for the next thing.
  EXPECT_TRUE(factory_->endpoints_in_trouble().empty());
}

TEST_F(FailoverTest, WhatNobodyHasNamesAllThatWereAsked) {
  for (FakeRegistry* server : {&one_, &two_, &registry_}) {
    server->On("/v2/img/manifests/1", {.times = -1, .status = 404});
  }
  const auto manifest = GetManifest(*Open());
  EXPECT_TRUE(absl::IsNotFound(manifest.status())) << manifest.status();
  const std::string text(manifest.status().message());
  for (FakeRegistry* server : {&one_, &two_, &registry_}) {
    EXPECT_NE(text.find(server->host()), std::string::npos) << text;
  }
}

// Whether requests that wait are moved, and how often all are asked, depends on it.
TEST_F(FailoverTest, AFailureKeepsItsKind) {
  const auto reference = Reference::Parse("127.0.0.1:1/img:1");
  auto source = factory_->Open(*reference, {});
  ASSERT_TRUE(source.ok()) << source.status();
  EXPECT_EQ(TransportFailureOf(GetManifest(**source).status()), TransportFailure::kRefused);
}

TEST_F(FailoverTest, ADyingMirrorIsLeftInMidLayerWithoutLosingBytes) {
  auto source = Open();
  ASSERT_TRUE(GetManifest(*source).ok());
  one_.On(path_, {.times = 1, .cut_after_bytes = 30'000});
  one_.On(path_, {.times = -1, .close = true});
  ASSERT_TRUE(Read(*source).ok());
  EXPECT_EQ(read_, bytes_);
  // What the first delivered is not asked of the second.
  uint64_t asked = 0;
  for (const ByteRange& range : two_.RangesAsked(path_)) asked += range.size();
  EXPECT_EQ(asked, blob_.size - 30'000);
  EXPECT_EQ(Count(registry_), 0U);
  ASSERT_EQ(factory_->endpoints_in_trouble().size(), 1U);
  EXPECT_NE(factory_->endpoints_in_trouble()[0].endpoint.find(one_.host()), std::string::npos);
}

TEST_F(FailoverTest, ADyingMirrorIsLeftHoweverMuchItHasDelivered) {
  options_.range_bytes = 1'000'000;
  Restart();
  auto source = Open();
  ASSERT_TRUE(GetManifest(*source).ok());
  one_.On(path_, {.times = -1, .cut_after_bytes = 100'000});
  ASSERT_TRUE(Read(*source).ok());
  EXPECT_EQ(read_, bytes_);
  EXPECT_EQ(one_.RequestsFor(path_).size(), 1U);
  EXPECT_EQ(two_.RangesAsked(path_), (std::vector<ByteRange>{{100'000, blob_.size}}));
  EXPECT_EQ(factory_->endpoints_in_trouble().size(), 1U);
}

// As often as it takes, as long as each answer brings the end nearer.
TEST_F(FailoverTest, WhoCutsOftenIsAskedForTheRestIfTheOthersAreDead) {
  options_.range_bytes = 1'000'000;
  Restart();
  auto source = Open();
  ASSERT_TRUE(GetManifest(*source).ok());
  one_.On(path_, {.times = -1, .close = true});
  two_.On(path_, {.times = -1, .close = true});
  registry_.On(path_, {.times = -1, .cut_after_bytes = 70'000});
  const absl::Status read = Read(*source);
  ASSERT_TRUE(read.ok()) << read;
  EXPECT_EQ(read_, bytes_);
  EXPECT_EQ(registry_.RequestsFor(path_).size(), 8U);
}

TEST_F(FailoverTest, ADeadMirrorIsNotAskedForEachBlob) {
  one_.On("/v2/img/manifests/1", {.times = -1, .close = true});
  auto source = Open();
  ASSERT_TRUE(GetManifest(*source).ok());
  const size_t before = Count(one_);
  for (int i = 0; i < 5; ++i) ASSERT_TRUE(Read(*source).ok());
  EXPECT_EQ(Count(one_), before);
  EXPECT_GT(Count(two_), 5U);
}

TEST_F(FailoverTest, WhoIsLeftOutIsAskedIfNobodyElseAnswers) {
  one_.On("/v2/img/manifests/1", {.times = 1, .status = 503});
  auto source = Open();
  ASSERT_TRUE(GetManifest(*source).ok());
  two_.On("/v2/img/manifests/1", {.times = -1, .status = 503});
  registry_.On("/v2/img/manifests/1", {.times = -1, .status = 503});
  ASSERT_TRUE(GetManifest(*source).ok());
  EXPECT_EQ(one_.RequestsFor("/v2/img/manifests/1").size(), 2U);
}

TEST_F(FailoverTest, AWrongDocumentIsFetchedFromAnotherAndCounted) {
  one_.On(StrCat("/v2/img/manifests/", manifest_.ToString()), {.times = -1, .body = "other"});
  const auto manifest = GetManifest(*Open(), manifest_.ToString());
  ASSERT_TRUE(manifest.ok()) << manifest.status();
  EXPECT_EQ(manifest->bytes, "{}");
  ASSERT_EQ(factory_->endpoints_in_trouble().size(), 1U);
  EXPECT_EQ(factory_->endpoints_in_trouble()[0].lies, 1);
}

TEST_F(FailoverTest, AWrongSmallBlobIsFetchedFromAnother) {
  one_.On(path_, {.times = -1, .corrupt = true});
  Pending<absl::StatusOr<std::string>> pending;
  Open()->GetSmallBlob(blob_, 1 << 20, CancelToken(), pending.Done());
  ASSERT_TRUE(pending.Wait().ok()) << pending.result.status();
  EXPECT_EQ(*pending.result, bytes_);
  ASSERT_EQ(factory_->endpoints_in_trouble().size(), 1U);
  EXPECT_EQ(factory_->endpoints_in_trouble()[0].lies, 1);
}

TEST_F(FailoverTest, WhatIsReadAnewIsNotReadFromWhoWasWrong) {
  one_.On(path_, {.times = -1, .corrupt = true});
  auto source = Open();
  ASSERT_TRUE(Read(*source).ok());
  EXPECT_NE(read_, bytes_);
  ImageSource::ReadOptions options(nullptr);
  options.anew = true;
  ASSERT_TRUE(Read(*source, options).ok());
  EXPECT_EQ(read_, bytes_);
  EXPECT_EQ(factory_->endpoints_in_trouble().at(0).lies, 1);
}

TEST_F(FailoverTest, CredentialsAreTheMirrorsOwn) {
  one_.SetAuth({.kind = FakeRegistry::Auth::Kind::kBasic, .user = "node", .password = "secret"});
  mirror_credential_.username = "node";
  mirror_credential_.password = "secret";
  SourceFactory::Access access;
  access.credential.username = "user";
  access.credential.password = "private";
  auto source = Open(access);
  ASSERT_TRUE(GetManifest(*source).ok());
  EXPECT_EQ(asked_credential_for_, one_.host());
  for (const auto& request : one_.requests()) {
    const std::string sent = request.Header("authorization");
    EXPECT_TRUE(sent.empty() || sent == "Basic bm9kZTpzZWNyZXQ=") << sent;
  }
  EXPECT_EQ(Count(two_) + Count(registry_), 0U);
}

TEST_F(FailoverTest, HeadersDoNotFollowARedirect) {
  Configure("[host.\"http://" + one_.host() + "\".header]\nx-key = \"secret\"");
  one_.On(path_, {.times = -1, .status = 307, .headers = {{"location", two_.Url(path_)}}});
  ASSERT_TRUE(Read(*Open()).ok());
  for (const auto& request : one_.requests()) EXPECT_EQ(request.Header("x-key"), "secret");
  ASSERT_GT(Count(two_), 0U);
  for (const auto& request : two_.requests()) EXPECT_EQ(request.Header("x-key"), "");
}

TEST_F(FailoverTest, AChangeIsSeenByASourceInUse) {
  auto source = Open();
  ASSERT_TRUE(GetManifest(*source).ok());
  ASSERT_EQ(Count(one_), 1U);
  Configure("capabilities = [\"pull\"]");
  // The first request after a while looks, a later one follows.
  for (int i = 0; i < 200 && Count(two_) == 0; ++i) {
    absl::SleepFor(absl::Milliseconds(50));
    ASSERT_TRUE(GetManifest(*source).ok());
  }
  EXPECT_GT(Count(two_), 0U);
}

TEST_F(FailoverTest, AMalformedFileIsAnErrorThatNamesIt) {
  Configure("capabilities = 7");
  const auto reference = Reference::Parse(StrCat(registry_.host(), "/img:1"));
  const auto source = factory_->Open(*reference, {});
  EXPECT_TRUE(absl::IsInvalidArgument(source.status())) << source.status();
  EXPECT_NE(std::string(source.status().message()).find("hosts.toml"), std::string::npos);
}

}  // namespace
}  // namespace imagefs
