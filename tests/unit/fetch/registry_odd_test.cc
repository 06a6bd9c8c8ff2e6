// SPDX-License-Identifier: Apache-2.0
// Registries that deviate from the distribution specification, and behavior of real ones: links
// that die, challenges in one place only, redirects of the whole API.
#include <gtest/gtest.h>

#include <algorithm>

#include "base/text.h"
#include "fetch/registry.h"
#include "tests/fakes/fetch/fake_registry.h"
#include "tests/fakes/fetch/pending.h"

namespace imagefs {
namespace {

using Behaviour = FakeRegistry::Behaviour;

constexpr char kManifest[] = "/v2/img/manifests/1";
constexpr char kType[] = "application/vnd.oci.image.manifest.v1+json";
const std::vector<std::pair<std::string, std::string>> kNoChallenge = {{"WWW-Authenticate", ""}};

class RegistryOddTest : public testing::Test {
 protected:
  void SetUp() override {
    MakeFactory();
    blob_.size = bytes_.size();
    blob_.digest = server_.AddBlob("img", bytes_);
    path_ = FakeRegistry::BlobPath("img", blob_.digest);
    server_.AddManifest("img", "1", "{}", kType);
  }
  // Creates a factory without any remembered state.
  void MakeFactory() {
    SourceFactory::Options options;
    options.first_backoff = std::chrono::milliseconds(1);
    options.max_attempts = 4;
    options.range_bytes = 100'000;
    factory_ = *SourceFactory::Create(options);
  }
  std::shared_ptr<ImageSource> Open(const std::string& user = "") {
    SourceFactory::Access access;
    access.credential.username = user;
    if (!user.empty()) access.credential.password = "pw";
    return *factory_->Open(*Reference::Parse(StrCat(server_.host(), "/img:1")), access);
  }
  absl::Status GetManifest(const std::string& user = "") {
    Pending<absl::StatusOr<ImageSource::FetchedManifest>> pending;
    Open(user)->GetManifest("1", CancelToken(), pending.Done());
    return pending.Wait().status();
  }
  // Returns kDataLoss if the bytes differ from the blob's.
  absl::Status Read(ByteRange range) { return ReadFrom(*Open(), range); }
  absl::Status ReadFrom(ImageSource& source, ByteRange range) {
    std::string got(bytes_.size(), '\0');
    uint64_t total = 0;
    Pending<absl::Status> pending;
    source.ReadBlob(
        blob_, {range}, nullptr, CancelToken(),
        [&](uint64_t offset, std::string_view data) {
          got.replace(offset, data.size(), data);
          total += data.size();
          return absl::OkStatus();
        },
        pending.Done());
    if (!pending.Wait().ok()) return pending.result;
    const bool right = total == range.size() && got.substr(range.begin, range.size()) ==
                                                    bytes_.substr(range.begin, range.size());
    return right ? absl::OkStatus() : absl::DataLossError("other bytes");
  }
  // Redirects every request for the blob to the storage's /x.
  void LeadTo(const FakeRegistry& storage, const std::string& path = "/x") {
    server_.On(path_, {.times = -1, .status = 307, .headers = {{"Location", storage.Url(path)}}});
  }
  static size_t With(const std::vector<FakeRegistry::Request>& requests, const char* header) {
    return std::count_if(requests.begin(), requests.end(),
                         [&](const auto& request) { return !request.Header(header).empty(); });
  }

  FakeRegistry server_;
  std::unique_ptr<SourceFactory> factory_;
  const std::string bytes_ = PatternBytes(350'000);
  Descriptor blob_;
  std::string path_;
};

// ---- Links

TEST_F(RegistryOddTest, ADeadLinkIsGivenUpWhateverItAnswers) {
  FakeRegistry storage("127.0.0.2");
  storage.AddFile("/x", bytes_);
  LeadTo(storage);
  std::vector<Behaviour> deaths = {{.cut_head = true},
                                   {.cut_after_bytes = 0},
                                   {.status = 302, .headers = {{"Location", "file:///etc/x"}}},
                                   {.status = 200, .body = "<html>this link has expired"}};
  for (const int status : {400, 401, 403, 404, 410, 414, 416, 429, 500, 502, 503}) {
    deaths.push_back({.status = status, .headers = {{"Retry-After", "86400"}}});
  }
  ASSERT_EQ(Read({0, 1000}), absl::OkStatus());
  for (const Behaviour& death : deaths) {
    const size_t asked = server_.RequestsFor(path_).size();
    const size_t at_storage = storage.requests().size();
    ASSERT_EQ(Read({1000, 2000}), absl::OkStatus());  // the link works again
    storage.On("/x", death);
    EXPECT_EQ(Read({0, 1000}), absl::OkStatus()) << death.status;
    EXPECT_EQ(server_.RequestsFor(path_).size(), asked + 1) << death.status;
    EXPECT_EQ(storage.requests().size(), at_storage + 3) << death.status;
  }
}

TEST_F(RegistryOddTest, AStorageThatIsGoneIsLeft) {
  FakeRegistry other("127.0.0.3");
  other.AddFile("/x", bytes_);
  {
    FakeRegistry storage("127.0.0.2");
    storage.AddFile("/x", bytes_);
    server_.On(path_, {.status = 307, .headers = {{"Location", storage.Url("/x")}}});
    ASSERT_EQ(Read({0, 1000}), absl::OkStatus());
  }
  LeadTo(other);
  EXPECT_EQ(Read({0, 1000}), absl::OkStatus());
  EXPECT_EQ(Read({1000, 2000}), absl::OkStatus());
  EXPECT_EQ(server_.RequestsFor(path_).size(), 2u);
}

TEST_F(RegistryOddTest, OneOfTwoStoragesIsDead) {
  FakeRegistry storage("127.0.0.2");
  storage.AddFile("/x", bytes_);
  const std::vector<Behaviour> dead = {
      {.status = 307, .headers = {{"Location", "http://no-such-host.invalid/x"}}},
      {.status = 307, .headers = {{"Location", "http://127.0.0.2:1/x"}}},
      {.status = 307, .headers = {{"Location", storage.Url("/gone")}}}};
  for (const Behaviour& behaviour : dead) {
    server_.On(path_, behaviour);
    server_.On(path_, {.status = 307, .headers = {{"Location", storage.Url("/x")}}});
    EXPECT_EQ(Read({0, 1000}), absl::OkStatus());
    storage.On("/x", {.status = 403});
    server_.On(path_, {.status = 307, .headers = {{"Location", storage.Url("/x")}}});
    EXPECT_EQ(Read({0, 1000}), absl::OkStatus());
    // So that the next round starts without a link.
    storage.On("/x", {.status = 403});
  }
}

TEST_F(RegistryOddTest, LinksThatAreRefusedOneAfterTheOtherAreTheEnd) {
  FakeRegistry storage("127.0.0.2");
  LeadTo(storage);
  const absl::Status gone = Read({0, 1000});
  EXPECT_TRUE(absl::IsNotFound(gone)) << gone;
  EXPECT_TRUE(Mentions(gone, StrCat("storage host ", storage.host()))) << gone;
  EXPECT_EQ(storage.requests().size(), 3u);
  storage.On("/x", {.times = -1, .status = 403});
  const absl::Status refused = Read({0, 1000});
  EXPECT_TRUE(absl::IsFailedPrecondition(refused)) << refused;
  EXPECT_TRUE(Mentions(refused, "refuses the link")) << refused;
  EXPECT_EQ(storage.requests().size(), 6u);
}

TEST_F(RegistryOddTest, LinksThatWorkOnceServeRangesInParallelAndResumedOnes) {
  FakeRegistry storage("127.0.0.2");
  for (int i = 0; i < 40; ++i) {
    const std::string path = StrCat("/x", i);
    storage.AddFile(path, bytes_);
    Behaviour once;
    if (i % 5 == 1) once.cut_after_bytes = 70'000;
    storage.On(path, once);
    storage.On(path, {.times = -1, .status = i % 2 == 0 ? 404 : 403});
    server_.On(path_, {.status = 307, .headers = {{"Location", storage.Url(path)}}});
  }
  for (int i = 0; i < 3; ++i) EXPECT_EQ(Read({0, blob_.size}), absl::OkStatus()) << i;
  // Nothing is tried twice by now.
  const size_t before = storage.requests().size();
  EXPECT_EQ(Read({0, 300}), absl::OkStatus());
  EXPECT_EQ(Read({0, 300}), absl::OkStatus());
  EXPECT_EQ(storage.requests().size(), before + 2);
}

// ---- Ranges

TEST_F(RegistryOddTest, APartThatMakesNoSenseIsReadAgainAsAWhole) {
  std::vector<Behaviour> odd = {{.status = 416}};
  for (const char* lie : {"bytes 1-99999/350000", "bytes 0-100000/350000", "bytes 0-99999/350001",
                          "bytes */350000", "lines 0-99999/350000", "", "bytes 0-99999"}) {
    odd.push_back({.headers = {{"Content-Range", lie}}});
  }
  odd.push_back({.headers = {{"Content-Type", "multipart/byteranges; boundary=x"}}});
  for (const Behaviour& behaviour : odd) {
    const std::string what =
        StrCat(behaviour.status, " ", behaviour.headers.empty() ? "" : behaviour.headers[0].second);
    server_.On(path_, behaviour);
    EXPECT_EQ(Read({0, blob_.size}), absl::OkStatus()) << what;
    server_.On(path_, behaviour);
    EXPECT_EQ(Read({0, 100'000}), absl::OkStatus()) << what;
    EXPECT_EQ(server_.RequestsFor(path_).back().Header("range"), "") << what;
  }
  // Also while others are in flight.
  for (int i = 0; i < 6; ++i) {
    for (int ranges = 0; ranges < i; ++ranges) server_.On(path_, {});
    for (int ranges = i; ranges < 4; ++ranges)
      server_.On(path_, {.headers = {{"Content-Range", ""}}});
    EXPECT_EQ(Read({0, blob_.size}), absl::OkStatus()) << i;
  }
}

TEST_F(RegistryOddTest, AWholeThatMakesNoSenseIsTheRegistrysFault) {
  for (const Behaviour& behaviour :
       {Behaviour{.status = 206, .headers = {{"Content-Range", "bytes 0-9/350000"}}},
        Behaviour{.status = 206, .headers = {{"Content-Range", ""}}},
        Behaviour{.status = 206, .body = "short"}}) {
    server_.On(path_, {.status = 416});
    server_.On(path_, behaviour);
    const absl::Status status = Read({0, 1000});
    EXPECT_TRUE(absl::IsDataLoss(status)) << status;
    EXPECT_TRUE(Mentions(status, "check the registry")) << status;
  }
}

// ---- URLs of the image

TEST_F(RegistryOddTest, WhatTheRegistryHasNotIsAskedForWhereTheImageSays) {
  FakeRegistry far("127.0.0.2"), other("127.0.0.3");
  far.AddFile("/blob", bytes_);
  far.On("/hop", {.times = -1, .status = 302, .headers = {{"Location", "/blob"}}});
  other.AddFile("/other", "of another size");
  other.On("/broken", {.times = -1, .status = 404});
  blob_.urls = {"ftp://127.0.0.2/x",    "http://u:p@127.0.0.2/x",    other.Url("/broken"),
                other.Url("/other"),    "http://127.0.0.4:1/nobody", "http://no-such-host.invalid/",
                StrCat(far.Url("/hop"))};
  // If the registry has it, it comes from there.
  EXPECT_EQ(Read({0, blob_.size}), absl::OkStatus());
  EXPECT_TRUE(far.requests().empty());
  server_.SetAuth({.kind = FakeRegistry::Auth::Kind::kBasic, .user = "me", .password = "pw"});
  server_.On(path_, {.times = 1});  // 401 first
  server_.On(path_, {.times = -1, .status = 404});
  const auto source = Open("me");
  EXPECT_EQ(ReadFrom(*source, {0, blob_.size}), absl::OkStatus());
  EXPECT_EQ(ReadFrom(*source, {5, 17}), absl::OkStatus());
  EXPECT_EQ(With(far.requests(), "authorization") + With(other.requests(), "authorization"), 0u);
  // Its location is known by now.
  EXPECT_EQ(far.RequestsFor("/hop").size(), 1u);
  EXPECT_EQ(other.RequestsFor("/broken").size(), 1u);
  far.On("/blob", {.status = 500});
  EXPECT_EQ(ReadFrom(*source, {5, 17}), absl::OkStatus());
}

TEST_F(RegistryOddTest, UrlsOnTheRegistrysOwnHostGetNoCredentialEither) {
  server_.AddFile("/foreign", bytes_);
  server_.SetAuth({.kind = FakeRegistry::Auth::Kind::kBasic, .user = "me", .password = "pw"});
  server_.On(path_, {.times = 1});
  server_.On(path_, {.times = -1, .status = 404});
  blob_.urls = {server_.Url("/foreign")};
  EXPECT_EQ(ReadFrom(*Open("me"), {0, 1000}), absl::OkStatus());
  EXPECT_EQ(With(server_.RequestsFor("/foreign"), "authorization"), 0u);
}

TEST_F(RegistryOddTest, UrlsAreLearnedAndAreNoPossession) {
  FakeRegistry far("127.0.0.2");
  far.AddFile("/blob", bytes_);
  server_.On(path_, {.times = -1, .status = 404});
  const auto source = Open();
  EXPECT_TRUE(absl::IsNotFound(ReadFrom(*source, {0, 1000})));
  Descriptor with_urls = blob_;
  with_urls.urls = {far.Url("/blob")};
  source->LearnUrls(with_urls);
  EXPECT_EQ(ReadFrom(*source, {0, 1000}), absl::OkStatus());
  Pending<absl::StatusOr<bool>> has;
  source->HasBlob(with_urls, CancelToken(), has.Done());
  EXPECT_EQ(*has.Wait(), false);
}

TEST_F(RegistryOddTest, WhereNobodyHasItEachIsNamed) {
  FakeRegistry far("127.0.0.2");
  server_.On(path_, {.times = -1, .status = 404});
  blob_.urls = {far.Url("/blob")};
  const absl::Status missing = Read({0, 1000});
  EXPECT_TRUE(absl::IsNotFound(missing)) << missing;
  EXPECT_TRUE(Mentions(missing, server_.host()) && Mentions(missing, far.host())) << missing;
  far.On("/blob", {.times = -1, .status = 503});
  EXPECT_TRUE(absl::IsUnavailable(Read({0, 1000})));
  EXPECT_EQ(far.requests().size(), 1u + 4u);  // transient
}

// ---- Referer

TEST_F(RegistryOddTest, StorageSeesWhoSentItsClients) {
  FakeRegistry storage("127.0.0.2"), far("127.0.0.3");
  far.AddFile("/y", bytes_);
  storage.On("/x", {.times = -1, .status = 302, .headers = {{"Location", far.Url("/y?sig=2")}}});
  LeadTo(storage, "/x?sig=1");
  ASSERT_EQ(Read({0, 1000}), absl::OkStatus());
  ASSERT_EQ(Read({1000, 2000}), absl::OkStatus());  // the link is known by now
  EXPECT_EQ(storage.RequestsFor("/x").at(0).Header("referer"), server_.Url(path_));
  ASSERT_EQ(far.RequestsFor("/y").size(), 2u);
  for (const auto& request : far.requests()) {
    EXPECT_EQ(request.Header("referer"), storage.Url("/x"));  // the signature is not disclosed
  }
  EXPECT_EQ(With(server_.requests(), "referer"), 0u);
}

// ---- Challenges at /v2/ only

TEST_F(RegistryOddTest, ACredentialIsSentWhereOnlyTheRootAsksForIt) {
  int number = 0;
  for (const int status : {404, 403, 401}) {
    server_.SetAuth({.kind = FakeRegistry::Auth::Kind::kBasic, .user = "me", .password = "pw"});
    server_.On(kManifest, {.status = status, .headers = kNoChallenge});
    MakeFactory();
    EXPECT_EQ(GetManifest("me"), absl::OkStatus()) << status;
    EXPECT_EQ(GetManifest("me"), absl::OkStatus());
    EXPECT_EQ(server_.RequestsFor("/v2/").size(), static_cast<size_t>(++number));
    EXPECT_EQ(server_.RequestsFor("/v2/").back().Header("authorization"), "");
  }
}

TEST_F(RegistryOddTest, AnAnonymousTokenHelpsWhereOnlyTheRootAsksForOne) {
  server_.SetAuth({.kind = FakeRegistry::Auth::Kind::kBearer});
  server_.On(kManifest, {.status = 404, .headers = kNoChallenge});
  EXPECT_EQ(GetManifest(), absl::OkStatus());
  EXPECT_EQ(server_.RequestsFor("/token").at(0).query,
            "service=fake&scope=repository%3Aimg%3Apull");
  // Another repository on the host does not ask the root again.
  server_.AddManifest("other", "1", "{}", kType);
  server_.On("/v2/other/manifests/1", {.status = 403, .headers = kNoChallenge});
  Pending<absl::StatusOr<ImageSource::FetchedManifest>> pending;
  (*factory_->Open(*Reference::Parse(StrCat(server_.host(), "/other:1")), {}))
      ->GetManifest("1", CancelToken(), pending.Done());
  EXPECT_EQ(pending.Wait().status(), absl::OkStatus());
  EXPECT_EQ(server_.RequestsFor("/v2/").size(), 1u);
}

TEST_F(RegistryOddTest, TheRootIsAskedOnceForAllAndOnlyAfterARefusal) {
  EXPECT_EQ(GetManifest(), absl::OkStatus());
  EXPECT_EQ(server_.RequestsFor("/v2/").size(), 0u);
  MakeFactory();
  server_.On("/v2/", {.status = 200, .body = "{}", .hold = true});
  server_.On(kManifest, {.times = -1, .status = 404});
  std::vector<Pending<absl::StatusOr<ImageSource::FetchedManifest>>> pending(4);
  const auto source = Open("me");
  for (auto& one : pending) source->GetManifest("1", CancelToken(), one.Done());
  ASSERT_TRUE(server_.WaitForRequests(kManifest, 5));
  server_.Release("/v2/");
  for (auto& one : pending) EXPECT_TRUE(absl::IsNotFound(one.Wait().status()));
  EXPECT_TRUE(absl::IsNotFound(GetManifest()));
  EXPECT_EQ(server_.RequestsFor("/v2/").size(), 1u);
}

TEST_F(RegistryOddTest, TheRootMayMoveOnItsHostAndAskWithAnyStatus) {
  FakeRegistry other("127.0.0.2");
  const auto challenge = StrCat("Bearer realm=\"", server_.Url("/token"), "\"");
  size_t tokens = 0;
  for (const int status : {401, 403, 200}) {
    for (FakeRegistry* answers : {&other, &server_}) {
      MakeFactory();
      server_.On("/v2/", {.status = 302, .headers = {{"Location", answers->Url("/root")}}});
      answers->On("/root", {.status = status, .headers = {{"WWW-Authenticate", challenge}}});
      server_.On(kManifest, {.status = 404});
      // Another host's challenge is not answered.
      EXPECT_EQ(GetManifest().ok(), answers == &server_) << status;
      if (answers == &server_) ++tokens;
      EXPECT_EQ(server_.RequestsFor("/token").size(), tokens) << status;
    }
  }
}

TEST_F(RegistryOddTest, WhoHasNoCredentialIsToldThatOneMayHelp) {
  server_.SetAuth({.kind = FakeRegistry::Auth::Kind::kBasic, .user = "me", .password = "pw"});
  server_.On(kManifest, {.times = -1, .status = 404, .headers = kNoChallenge});
  const absl::Status status = GetManifest();
  EXPECT_TRUE(absl::IsNotFound(status)) << status;
  EXPECT_TRUE(Mentions(status, StrCat("imagefs login ", server_.host()))) << status;
}

TEST_F(RegistryOddTest, WhyThereIsNoCredentialIsToldWhereOneIsWanted) {
  SourceFactory::Access access;
  access.credential_trouble = "credential helper docker-credential-x: not found in PATH";
  const auto get = [&] {
    Pending<absl::StatusOr<ImageSource::FetchedManifest>> pending;
    (*factory_->Open(*Reference::Parse(StrCat(server_.host(), "/img:1")), access))
        ->GetManifest("1", CancelToken(), pending.Done());
    return pending.Wait().status();
  };
  EXPECT_EQ(get(), absl::OkStatus());
  using Kind = FakeRegistry::Auth::Kind;
  for (const Kind kind : {Kind::kBasic, Kind::kBearer}) {
    server_.SetAuth({.kind = kind, .user = "me", .password = "pw"});
    const absl::Status status = get();
    EXPECT_TRUE(absl::IsUnauthenticated(status)) << status;
    EXPECT_TRUE(Mentions(status, access.credential_trouble)) << status;
    EXPECT_TRUE(Mentions(status, "anonymous users")) << status;
  }
}

// ---- Another registry

TEST_F(RegistryOddTest, ARegistryThatLeadsToAnotherIsFollowedAsNobody) {
  FakeRegistry other("127.0.0.2");
  other.AddManifest("img", "1", "{}", kType);
  other.AddBlob("img", bytes_);
  other.SetAuth({.kind = FakeRegistry::Auth::Kind::kBearer});
  server_.SetAuth({.kind = FakeRegistry::Auth::Kind::kBasic, .user = "me", .password = "pw"});
  server_.On(kManifest, {.times = 1});  // 401 first
  for (const std::string& path : {std::string(kManifest), path_}) {
    server_.On(path, {.times = -1, .status = 307, .headers = {{"Location", other.Url(path)}}});
  }
  EXPECT_EQ(GetManifest("me"), absl::OkStatus());
  EXPECT_EQ(Read({0, blob_.size}), absl::OkStatus());
  for (const auto& request : other.requests()) {
    EXPECT_FALSE(request.Header("authorization").starts_with("Basic")) << request.path;
  }
  EXPECT_EQ(other.RequestsFor("/token").at(0).query, "service=fake&scope=repository%3Aimg%3Apull");
  EXPECT_EQ(other.RequestsFor("/token").size(), 1u);  // one anonymous token for all users
  // A token that has become invalid is fetched again.
  other.RevokeTokens();
  EXPECT_EQ(GetManifest("me"), absl::OkStatus());
}

TEST_F(RegistryOddTest, ARegistryThatLeadsToOneWithUsersIsNamed) {
  FakeRegistry other("127.0.0.2");
  using Kind = FakeRegistry::Auth::Kind;
  for (const Kind kind : {Kind::kBasic, Kind::kBearer}) {
    other.SetAuth({.kind = kind, .user = "me", .password = "pw"});
    server_.On(kManifest, {.status = 307, .headers = {{"Location", other.Url(kManifest)}}});
    const absl::Status status = GetManifest("me");
    EXPECT_TRUE(absl::IsUnauthenticated(status)) << status;
    EXPECT_FALSE(Mentions(status, "storage")) << status;
    EXPECT_TRUE(Mentions(status, other.host())) << status;
  }
  EXPECT_EQ(With(other.requests(), "authorization"), 0u);
}

TEST_F(RegistryOddTest, WhatAnotherRegistryHasIsAskedThere) {
  FakeRegistry other("127.0.0.2");
  LeadTo(other, path_);
  const auto has = [&] {
    Pending<absl::StatusOr<bool>> pending;
    Open()->HasBlob(blob_, CancelToken(), pending.Done());
    return *pending.Wait();
  };
  EXPECT_FALSE(has());
  other.AddBlob("img", bytes_);
  EXPECT_TRUE(has());
}

// ---- Accept

TEST_F(RegistryOddTest, EachTypeOfManifestHasALineOfItsOwn) {
  ASSERT_EQ(GetManifest(), absl::OkStatus());
  EXPECT_EQ(server_.RequestsFor(kManifest).at(0).Values("accept"),
            (std::vector<std::string>{"application/vnd.oci.image.index.v1+json",
                                      "application/vnd.oci.image.manifest.v1+json",
                                      "application/vnd.docker.distribution.manifest.list.v2+json",
                                      "application/vnd.docker.distribution.manifest.v2+json"}));
}

}  // namespace
}  // namespace imagefs
