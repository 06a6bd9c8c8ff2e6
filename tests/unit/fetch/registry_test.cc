// SPDX-License-Identifier: Apache-2.0
#include "fetch/registry.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>

#include "absl/synchronization/notification.h"
#include "base/status.h"
#include "base/text.h"
#include "tests/fakes/fetch/fake_registry.h"

namespace imagefs {
namespace {

constexpr char kManifestType[] = "application/vnd.oci.image.manifest.v1+json";

std::string Pattern(size_t size) {
  std::string bytes(size, '\0');
  uint32_t state = 12345;
  for (char& c : bytes) {
    state = state * 1664525 + 1013904223;
    c = static_cast<char>(state >> 24);
  }
  return bytes;
}

bool Contains(const absl::Status& status, const std::string& text) {
  return std::string(status.message()).find(text) != std::string::npos;
}

template <typename T>
struct Pending {
  absl::Notification finished;
  T result = absl::UnknownError("not finished");
  absl::AnyInvocable<void(T)> Done() {
    return [this](T r) {
      result = std::move(r);
      finished.Notify();
    };
  }
  T& Wait() {
    finished.WaitForNotification();
    return result;
  }
};
using PendingManifest = Pending<absl::StatusOr<ImageSource::FetchedManifest>>;

// Receives the bytes of a read. No byte may arrive twice.
struct Received {
  std::string bytes;
  RangeSet present;
  uint64_t total = 0;
  absl::Status Take(uint64_t offset, std::string_view data) {
    if (bytes.size() < offset + data.size()) bytes.resize(offset + data.size());
    bytes.replace(offset, data.size(), data);
    present.Add({offset, offset + data.size()});
    total += data.size();
    return absl::OkStatus();
  }
  bool Twice() const { return total != present.total_bytes(); }
};

class RegistryTest : public testing::Test {
 protected:
  void SetUp() override { MakeFactory(); }

  void MakeFactory() {
    SourceFactory::Options options;
    options.first_backoff = std::chrono::milliseconds(1);
    options.max_attempts = 4;
    options.range_bytes = 100'000;
    options.ranges_per_blob = 3;
    auto factory = SourceFactory::Create(options);
    ASSERT_TRUE(factory.ok()) << factory.status();
    factory_ = *std::move(factory);
  }
  std::shared_ptr<ImageSource> Open(SourceFactory::Access access = {}) {
    const auto reference = Reference::Parse(StrCat(server_.host(), "/img:1"));
    EXPECT_TRUE(reference.ok()) << reference.status();
    auto source = factory_->Open(*reference, access);
    EXPECT_TRUE(source.ok()) << source.status();
    return *std::move(source);
  }
  static SourceFactory::Access As(const std::string& user, const std::string& password) {
    SourceFactory::Access access;
    access.credential.username = user;
    access.credential.password = password;
    return access;
  }
  absl::StatusOr<ImageSource::FetchedManifest> GetManifest(ImageSource& source,
                                                           const std::string& tag = "1") {
    PendingManifest pending;
    source.GetManifest(tag, CancelToken(), pending.Done());
    return pending.Wait();
  }
  Descriptor AddBlob(std::string bytes) {
    Descriptor blob;
    blob.size = bytes.size();
    blob.digest = server_.AddBlob("img", std::move(bytes));
    path_ = FakeRegistry::BlobPath("img", blob.digest);
    return blob;
  }
  absl::Status Read(ImageSource& source, const Descriptor& blob, std::vector<ByteRange> ranges,
                    Received& received, ImageSource::ReadOptions options = nullptr) {
    Pending<absl::Status> pending;
    source.ReadBlob(
        blob, std::move(ranges), std::move(options), CancelToken(),
        [&](uint64_t offset, std::string_view data) { return received.Take(offset, data); },
        pending.Done());
    return pending.Wait();
  }
  // Checks that every byte of [0, size) was requested exactly once.
  void ExpectAskedOnce(uint64_t size) {
    std::vector<ByteRange> asked = server_.RangesAsked(path_);
    std::sort(asked.begin(), asked.end());
    uint64_t at = 0;
    for (const ByteRange& range : asked) {
      EXPECT_EQ(range.begin, at);
      at = range.end;
    }
    EXPECT_EQ(at, size);
  }

  FakeRegistry server_;
  std::unique_ptr<SourceFactory> factory_;
  std::string path_;  // of the blob added last
};

TEST_F(RegistryTest, ManifestByTagAndByDigest) {
  const Digest digest =
      server_.AddManifest("img", "1", "{}", "application/vnd.oci.image.manifest.v1+JSON; a=b");
  const auto source = Open();
  const auto by_tag = GetManifest(*source);
  ASSERT_TRUE(by_tag.ok()) << by_tag.status();
  EXPECT_EQ(by_tag->digest, digest);
  EXPECT_EQ(by_tag->bytes, "{}");
  EXPECT_EQ(by_tag->content_type, kManifestType);
  EXPECT_TRUE(GetManifest(*source, digest.ToString()).ok());
  EXPECT_FALSE(GetManifest(*source, "../x").ok());
  EXPECT_EQ(server_.requests().size(), 2u);
}

TEST_F(RegistryTest, ManifestBytesAreChecked) {
  const Digest digest = server_.AddManifest("img", "1", "{}", kManifestType);
  const auto source = Open();
  server_.On(StrCat("/v2/img/manifests/", digest.ToString()), {.corrupt = true});
  EXPECT_TRUE(absl::IsDataLoss(GetManifest(*source, digest.ToString()).status()));
  server_.On("/v2/img/manifests/1",
             {.headers = {{"Docker-Content-Digest", Sha256Of("other").ToString()}}});
  EXPECT_TRUE(absl::IsDataLoss(GetManifest(*source).status()));
  server_.On("/v2/img/manifests/1", {.headers = {{"Docker-Content-Digest", digest.ToString()}}});
  EXPECT_TRUE(GetManifest(*source).ok());
  server_.On("/v2/img/manifests/1", {.body = std::string(kMaxManifestBytes + 1, ' ')});
  EXPECT_TRUE(absl::IsResourceExhausted(GetManifest(*source).status()));
}

TEST_F(RegistryTest, NotFoundNamesTheReference) {
  const auto source = Open();
  const absl::Status status = GetManifest(*source).status();
  EXPECT_TRUE(absl::IsNotFound(status));
  EXPECT_TRUE(Contains(status, StrCat(server_.host(), "/img:1"))) << status;
  EXPECT_TRUE(Contains(status, "check the name")) << status;
  EXPECT_EQ(server_.RequestsFor("/v2/img/manifests/1").size(), 1u);
}

TEST_F(RegistryTest, TokensAreFetchedOnceForAllSources) {
  server_.AddManifest("img", "1", "{}", kManifestType);
  server_.SetAuth({.kind = FakeRegistry::Auth::Kind::kBearer});
  EXPECT_TRUE(GetManifest(*Open()).ok());
  EXPECT_TRUE(GetManifest(*Open()).ok());
  // The second source already knows the challenge: no further 401.
  EXPECT_EQ(server_.RequestsFor("/v2/img/manifests/1").size(), 3u);
  EXPECT_EQ(server_.RequestsFor("/token").size(), 1u);
  EXPECT_EQ(server_.RequestsFor("/token")[0].query, "service=fake&scope=repository%3Aimg%3Apull");
  EXPECT_EQ(factory_->counters().tokens.leaders, 1u);
}

TEST_F(RegistryTest, ARefusedCredentialIsRenewedOnceForAll) {
  server_.AddManifest("img", "1", "{}", kManifestType);
  for (const auto kind : {FakeRegistry::Auth::Kind::kBasic, FakeRegistry::Auth::Kind::kBearer}) {
    server_.SetAuth({.kind = kind, .user = "u", .password = "old"});
    std::atomic<int> asked{0};
    SourceFactory::Access access = As("u", "old");
    access.refresh = [&](const Credential& refused) -> absl::StatusOr<Credential> {
      EXPECT_EQ(refused.password, "old");
      ++asked;
      return As("u", "new").credential;
    };
    const auto source = Open(access);
    ASSERT_TRUE(GetManifest(*source).ok());
    EXPECT_EQ(asked, 0);
    server_.SetAuth({.kind = kind, .user = "u", .password = "new"});
    server_.RevokeTokens();
    std::vector<std::unique_ptr<PendingManifest>> pendings;
    for (int i = 0; i < 6; ++i) {
      pendings.push_back(std::make_unique<PendingManifest>());
      source->GetManifest("1", CancelToken(), pendings.back()->Done());
    }
    for (auto& pending : pendings) EXPECT_TRUE(pending->Wait().ok()) << pending->Wait().status();
    EXPECT_EQ(asked, 1);
  }
}

TEST_F(RegistryTest, ACredentialWithoutSuccessorIsRefused) {
  server_.AddManifest("img", "1", "{}", kManifestType);
  server_.SetAuth({.kind = FakeRegistry::Auth::Kind::kBasic, .user = "u", .password = "p"});
  int asked = 0;
  SourceFactory::Access access = As("u", "wrong");
  access.refresh = [&](const Credential&) -> absl::StatusOr<Credential> {
    ++asked;
    return As("u", "wrong").credential;
  };
  const auto source = Open(access);
  EXPECT_TRUE(absl::IsUnauthenticated(GetManifest(*source).status()));
  // Not on every request.
  EXPECT_TRUE(absl::IsUnauthenticated(GetManifest(*source).status()));
  EXPECT_EQ(asked, 1);
}

TEST_F(RegistryTest, ARegistryTokenIsSentAsItIs) {
  server_.AddManifest("img", "1", "{}", kManifestType);
  server_.SetAuth({.kind = FakeRegistry::Auth::Kind::kBearer, .user = "u", .password = "p"});
  server_.AcceptToken("given");
  SourceFactory::Access access;
  access.credential.registry_token = "given";
  EXPECT_TRUE(GetManifest(*Open(access)).ok());
  EXPECT_TRUE(server_.RequestsFor("/token").empty());
  access.credential.registry_token = "other";
  EXPECT_FALSE(GetManifest(*Open(access)).ok());
  EXPECT_TRUE(server_.RequestsFor("/token").empty());
}

TEST_F(RegistryTest, ARevokedTokenIsRenewedOnceForAllWaiters) {
  server_.AddManifest("img", "1", "{}", kManifestType);
  for (const int refusal : {401, 403}) {
    server_.SetAuth({.kind = FakeRegistry::Auth::Kind::kBearer, .refused_status = refusal});
    const auto source = Open();
    ASSERT_TRUE(GetManifest(*source).ok());
    const size_t before = server_.RequestsFor("/token").size();
    server_.RevokeTokens();
    // All have sent the revoked token before the first of them is rejected.
    const size_t seen = server_.RequestsFor("/v2/img/manifests/1").size();
    server_.On("/v2/img/manifests/1", {.times = 6, .hold = true});
    std::vector<std::unique_ptr<PendingManifest>> pendings;
    for (int i = 0; i < 6; ++i) {
      pendings.push_back(std::make_unique<PendingManifest>());
      source->GetManifest("1", CancelToken(), pendings.back()->Done());
    }
    EXPECT_TRUE(server_.WaitForRequests("/v2/img/manifests/1", seen + 6));
    server_.Release("/v2/img/manifests/1");
    for (auto& pending : pendings) EXPECT_TRUE(pending->Wait().ok()) << pending->result.status();
    EXPECT_EQ(server_.RequestsFor("/token").size(), before + 1) << refusal;
  }
}

TEST_F(RegistryTest, AFreshTokenThatIsRefusedIsTheEnd) {
  server_.AddManifest("img", "1", "{}", kManifestType);
  server_.SetAuth({.kind = FakeRegistry::Auth::Kind::kBearer});
  server_.On("/token", {.times = -1, .body = R"({"token":"not valid"})"});
  server_.On("/token", {.times = -1});
  const absl::Status useless = GetManifest(*Open()).status();
  EXPECT_TRUE(absl::IsFailedPrecondition(useless)) << useless;
}

TEST_F(RegistryTest, RefusalsSayWhatToDo) {
  server_.AddManifest("img", "1", "{}", kManifestType);
  server_.SetAuth({.kind = FakeRegistry::Auth::Kind::kBearer});
  server_.On("/token", {.times = -1, .body = R"({"token":"worthless"})"});
  const absl::Status anonymous = GetManifest(*Open()).status();
  EXPECT_TRUE(absl::IsUnauthenticated(anonymous)) << anonymous;
  EXPECT_TRUE(Contains(anonymous, StrCat("imagefs login ", server_.host()))) << anonymous;
  EXPECT_TRUE(Contains(anonymous, "anonymous")) << anonymous;
  EXPECT_EQ(server_.RequestsFor("/token").size(), 1u);
  const absl::Status known = GetManifest(*Open(As("me", "secret-pw"))).status();
  EXPECT_TRUE(IsCredentialFailure(known)) << known;
  EXPECT_FALSE(Contains(known, "anonymous")) << known;
  EXPECT_FALSE(Contains(known, "secret-pw"));
  EXPECT_FALSE(Contains(known, "worthless"));
}

TEST_F(RegistryTest, BasicCredentials) {
  server_.AddManifest("img", "1", "{}", kManifestType);
  server_.SetAuth(
      {.kind = FakeRegistry::Auth::Kind::kBasic, .user = "me", .password = "secret-pw"});
  const auto source = Open(As("me", "secret-pw"));
  EXPECT_TRUE(GetManifest(*source).ok());
  EXPECT_TRUE(GetManifest(*source).ok());
  EXPECT_EQ(server_.requests().size(), 3u);
  const absl::Status wrong = GetManifest(*Open(As("me", "guess"))).status();
  EXPECT_TRUE(absl::IsUnauthenticated(wrong)) << wrong;
  EXPECT_TRUE(Contains(wrong, "refuses these credentials")) << wrong;
  const absl::Status none = GetManifest(*Open()).status();
  EXPECT_TRUE(absl::IsUnauthenticated(none)) << none;
  EXPECT_TRUE(Contains(none, "anonymous")) << none;
  EXPECT_NE(Open()->auth_scope(), source->auth_scope());
}

TEST_F(RegistryTest, BearerIsPreferredToBasic) {
  server_.AddManifest("img", "1", "{}", kManifestType);
  server_.SetAuth({.kind = FakeRegistry::Auth::Kind::kBearer, .user = "me", .password = "pw"});
  server_.On("/v2/img/manifests/1",
             {.headers = {{"WWW-Authenticate", StrCat("bAsIc realm=\"x\", BEARER Realm=\"",
                                                      server_.Url("/token"), "\"")}}});
  EXPECT_TRUE(GetManifest(*Open(As("me", "pw"))).ok());
  // If the challenge has no scope, the repository's is used.
  EXPECT_EQ(server_.RequestsFor("/token").at(0).query, "scope=repository%3Aimg%3Apull");
}

TEST_F(RegistryTest, RedirectsLoseTheAuthorizationAndAreRemembered) {
  FakeRegistry storage("127.0.0.2");
  const std::string bytes = Pattern(350'000);
  const Descriptor blob = AddBlob(bytes);
  storage.AddFile("/store/x", bytes);
  server_.SetAuth(
      {.kind = FakeRegistry::Auth::Kind::kBasic, .user = "me", .password = "secret-pw"});
  server_.On(path_, {.times = 1});  // 401 first
  server_.On(path_, {.times = -1,
                     .status = 307,
                     .headers = {{"Location", storage.Url("/store/x?sig=abc")}},
                     .body = ""});
  Received received;
  const auto source = Open(As("me", "secret-pw"));
  EXPECT_EQ(Read(*source, blob, {{0, blob.size}}, received), absl::OkStatus());
  EXPECT_TRUE(received.bytes == bytes);
  EXPECT_FALSE(received.Twice());
  EXPECT_EQ(server_.RequestsFor(path_).size(), 2u);
  const auto asked = storage.RequestsFor("/store/x");
  EXPECT_EQ(asked.size(), 4u);
  for (const auto& request : asked) {
    EXPECT_EQ(request.Header("authorization"), "");
    EXPECT_EQ(request.query, "sig=abc");
  }
  EXPECT_EQ(factory_->counters().redirects, 1u);
}

TEST_F(RegistryTest, WhatIsReadAnewIsNotReadWhereItWasWrong) {
  FakeRegistry wrong("127.0.0.2"), right("127.0.0.3");
  const std::string bytes = Pattern(1000);
  const Descriptor blob = AddBlob(bytes);
  wrong.AddFile("/store/x", std::string(bytes.size(), 'w'));
  right.AddFile("/store/x", bytes);
  const auto lead_to = [&](FakeRegistry& storage) {
    server_.On(path_, {.times = 1,
                       .status = 307,
                       .headers = {{"Location", storage.Url("/store/x")}},
                       .body = ""});
  };
  const auto source = Open();
  lead_to(wrong);
  Received first, again, anew;
  EXPECT_EQ(Read(*source, blob, {{0, blob.size}}, first), absl::OkStatus());
  EXPECT_FALSE(first.bytes == bytes);
  // The redirect is remembered.
  lead_to(right);
  EXPECT_EQ(Read(*source, blob, {{0, blob.size}}, again), absl::OkStatus());
  EXPECT_EQ(wrong.RequestsFor("/store/x").size(), 2u);
  ImageSource::ReadOptions options(nullptr);
  options.anew = true;
  EXPECT_EQ(Read(*source, blob, {{0, blob.size}}, anew, std::move(options)), absl::OkStatus());
  EXPECT_TRUE(anew.bytes == bytes);
  EXPECT_EQ(wrong.RequestsFor("/store/x").size(), 2u);
}

TEST_F(RegistryTest, ATokenIsSentToNobodyButTheRegistry) {
  FakeRegistry neighbour;  // the same host, another port
  FakeRegistry storage("127.0.0.2");
  server_.SetAuth({.kind = FakeRegistry::Auth::Kind::kBearer});
  for (FakeRegistry* other : {&neighbour, &storage}) {
    const Descriptor blob = AddBlob(Pattern(other == &storage ? 1000 : 999));
    // It demands a token, as a registry would.
    other->On(
        "/x",
        {.times = -1,
         .status = 401,
         .headers = {{"WWW-Authenticate", StrCat("Bearer realm=\"", other->Url("/token"), "\"")}}});
    if (other == &neighbour) server_.On(path_, {.times = 1});  // 401 first
    server_.On(path_, {.times = -1, .status = 307, .headers = {{"Location", other->Url("/x")}}});
    Received received;
    EXPECT_FALSE(Read(*Open(), blob, {{0, blob.size}}, received).ok());
    EXPECT_FALSE(other->RequestsFor("/x").empty());
    EXPECT_TRUE(other->RequestsFor("/token").empty());
    for (const auto& request : other->requests()) EXPECT_EQ(request.Header("authorization"), "");
  }
  EXPECT_EQ(server_.RequestsFor("/token").size(), 1u);
}

TEST_F(RegistryTest, ARealmInTheClearElsewhereIsNeverAsked) {
  FakeRegistry internal("127.0.0.2");
  internal.On("/secret", {.times = -1, .body = R"({"access_token":"INTERNAL"})"});
  server_.AddManifest("img", "1", "{}", kManifestType);
  server_.SetAuth(
      {.kind = FakeRegistry::Auth::Kind::kBearer, .realm = internal.Url("/secret?a=b")});
  const absl::Status refused = GetManifest(*Open()).status();
  EXPECT_TRUE(absl::IsFailedPrecondition(refused)) << refused;
  EXPECT_TRUE(Contains(refused, "https token service")) << refused;
  EXPECT_FALSE(GetManifest(*Open(As("me", "pw"))).ok());
  EXPECT_TRUE(internal.requests().empty());
  for (const auto& request : server_.requests()) EXPECT_EQ(request.Header("authorization"), "");
}

TEST_F(RegistryTest, RelativeRedirectsKeepTheAuthorization) {
  server_.AddManifest("img", "1", "{}", kManifestType);
  server_.AddManifest("img", "2", "{}", kManifestType);
  server_.SetAuth({.kind = FakeRegistry::Auth::Kind::kBasic, .user = "me", .password = "pw"});
  server_.On("/v2/img/manifests/1", {.times = 1});
  server_.On("/v2/img/manifests/1", {.status = 302, .headers = {{"Location", "2"}}});
  EXPECT_TRUE(GetManifest(*Open(As("me", "pw"))).ok());
  EXPECT_NE(server_.RequestsFor("/v2/img/manifests/2").at(0).Header("authorization"), "");
}

TEST_F(RegistryTest, AnExpiredLinkIsResolvedAgain) {
  FakeRegistry storage("127.0.0.2");
  const std::string bytes = Pattern(1000);
  const Descriptor blob = AddBlob(bytes);
  storage.AddFile("/x", bytes);
  server_.On(path_, {.times = -1, .status = 307, .headers = {{"Location", storage.Url("/x")}}});
  const auto source = Open();
  for (const int refusal : {400, 401, 403}) {
    Received first, second;
    EXPECT_EQ(Read(*source, blob, {{0, 1000}}, first), absl::OkStatus());
    storage.On("/x", {.status = refusal});
    EXPECT_EQ(Read(*source, blob, {{0, 1000}}, second), absl::OkStatus());
    EXPECT_TRUE(second.bytes == bytes);
  }
  storage.On("/x", {.times = 4, .status = 403});  // the known link and three new ones
  Received third;
  const absl::Status status = Read(*source, blob, {{0, 1000}}, third);
  EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status;
  EXPECT_FALSE(IsCredentialFailure(status));
}

TEST_F(RegistryTest, RedirectsEnd) {
  server_.On("/v2/img/manifests/1", {.times = -1, .status = 302, .headers = {{"Location", "1"}}});
  const absl::Status status = GetManifest(*Open()).status();
  EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status;
  EXPECT_EQ(server_.requests().size(), 11u);
  server_.On("/v2/img/manifests/2", {.status = 302, .headers = {{"Location", "file:///etc/x"}}});
  EXPECT_FALSE(GetManifest(*Open(), "2").ok());
  server_.On("/v2/img/manifests/3", {.status = 302});
  EXPECT_FALSE(GetManifest(*Open(), "3").ok());
}

TEST_F(RegistryTest, TooManyRequestsAreRetriedAndThenReported) {
  server_.AddManifest("img", "1", "{}", kManifestType);
  const std::string path = "/v2/img/manifests/1";
  server_.On(path, {.times = 2, .status = 429, .headers = {{"Retry-After", "0"}}});
  EXPECT_TRUE(GetManifest(*Open()).ok());
  EXPECT_EQ(factory_->counters().retries, 2u);
  server_.On(path, {.times = 4, .status = 429});
  EXPECT_TRUE(absl::IsResourceExhausted(GetManifest(*Open()).status()));
  EXPECT_EQ(server_.RequestsFor(path).size(), 7u);
  server_.On(path, {.times = 1, .status = 429, .headers = {{"Retry-After", "86400"}}});
  EXPECT_TRUE(absl::IsResourceExhausted(GetManifest(*Open()).status()));
  EXPECT_EQ(server_.RequestsFor(path).size(), 8u);
}

TEST_F(RegistryTest, WhatMayPassIsRetried) {
  server_.AddManifest("img", "1", "{}", kManifestType);
  const std::string path = "/v2/img/manifests/1";
  server_.On(path, {.status = 503});
  server_.On(path, {.cut_after_bytes = 1});
  server_.On(path, {.status = 408});
  const auto manifest = GetManifest(*Open());
  ASSERT_TRUE(manifest.ok()) << manifest.status();
  EXPECT_EQ(manifest->bytes, "{}");
  server_.On(path, {.times = 4, .status = 500});
  const absl::Status status = GetManifest(*Open()).status();
  EXPECT_TRUE(absl::IsUnavailable(status)) << status;
  EXPECT_TRUE(Contains(status, "500")) << status;
  server_.On(path, {.status = 501 - 87});  // 414: permanent
  EXPECT_TRUE(absl::IsFailedPrecondition(GetManifest(*Open()).status()));
}

TEST_F(RegistryTest, ARefusedConnectionFailsSoon) {
  std::string host;
  {
    FakeRegistry gone;
    host = gone.host();
  }
  auto source = factory_->Open(*Reference::Parse(StrCat(host, "/img:1")), {});
  const absl::Status status = GetManifest(**source).status();
  EXPECT_TRUE(absl::IsUnavailable(status)) << status;
  EXPECT_TRUE(Contains(status, host)) << status;
  EXPECT_EQ(factory_->counters().retries, 2u);
}

TEST_F(RegistryTest, AnUnknownHostFailsAtOnce) {
  auto source = factory_->Open(*Reference::Parse("no-such-host.invalid/img:1"), {});
  EXPECT_TRUE(absl::IsUnavailable(GetManifest(**source).status()));
  EXPECT_EQ(factory_->counters().retries, 0u);
}

TEST_F(RegistryTest, ALoopbackHostThatRefusesHttpIsAskedByTls) {
  server_.On("/v2/img/manifests/1", {.status = 400});
  const absl::Status status = GetManifest(*Open()).status();
  EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status;
  EXPECT_TRUE(Contains(status, "400")) << status;
  EXPECT_EQ(server_.connections(), 2u);
}

TEST_F(RegistryTest, SmallBlobsAreChecked) {
  const Descriptor blob = AddBlob("config");
  const auto source = Open();
  const auto get = [&](uint64_t max_bytes) {
    Pending<absl::StatusOr<std::string>> pending;
    source->GetSmallBlob(blob, max_bytes, CancelToken(), pending.Done());
    return pending.Wait();
  };
  EXPECT_EQ(*get(6), "config");
  EXPECT_TRUE(absl::IsInvalidArgument(get(5).status()));
  server_.On(path_, {.corrupt = true});
  EXPECT_TRUE(absl::IsDataLoss(get(6).status()));
  server_.On(path_, {.body = "confi"});
  EXPECT_TRUE(absl::IsDataLoss(get(6).status()));
  server_.On(path_, {.body = "configs", .chunked = true});
  EXPECT_TRUE(absl::IsDataLoss(get(6).status()));
}

TEST_F(RegistryTest, ASmallBlobIsOnePlainGet) {
  const std::string bytes = Pattern(100'000);
  const Descriptor blob = AddBlob(bytes);
  Received received;
  EXPECT_EQ(Read(*Open(), blob, {{0, blob.size}}, received), absl::OkStatus());
  EXPECT_TRUE(received.bytes == bytes);
  ASSERT_EQ(server_.requests().size(), 1u);
  EXPECT_EQ(server_.requests()[0].Header("range"), "");
}

TEST_F(RegistryTest, NothingIsAskedForNothing) {
  const Descriptor blob = AddBlob("abc");
  Received received;
  EXPECT_EQ(Read(*Open(), blob, {}, received), absl::OkStatus());
  EXPECT_EQ(Read(*Open(), blob, {{2, 2}}, received), absl::OkStatus());
  EXPECT_TRUE(absl::IsInvalidArgument(Read(*Open(), blob, {{2, 4}}, received)));
  EXPECT_TRUE(server_.requests().empty());
}

TEST_F(RegistryTest, ALargeBlobComesInRangesEachAskedForOnce) {
  const std::string bytes = Pattern(1'234'567);
  const Descriptor blob = AddBlob(bytes);
  const auto source = Open();
  Received received;
  EXPECT_EQ(Read(*source, blob, {{0, blob.size}}, received), absl::OkStatus());
  EXPECT_TRUE(received.bytes == bytes);
  EXPECT_FALSE(received.Twice());
  EXPECT_EQ(server_.requests().size(), 13u);
  ExpectAskedOnce(blob.size);
  // In ascending order, apart from those that may be in flight together.
  const std::vector<ByteRange> asked = server_.RangesAsked(path_);
  for (size_t i = 0; i < asked.size(); ++i) {
    EXPECT_LE(asked[i].begin, (i + 2) * 100'000) << i;
  }
}

TEST_F(RegistryTest, AFewRangesAreInFlight) {
  const Descriptor blob = AddBlob(Pattern(1'000'000));
  const auto source = Open();
  Received first, second;
  ASSERT_EQ(Read(*source, blob, {{0, 10}}, first), absl::OkStatus());
  server_.On(path_, {.times = -1, .hold = true});
  Pending<absl::Status> pending;
  source->ReadBlob(
      blob, {{0, blob.size}}, nullptr, CancelToken(),
      [&](uint64_t offset, std::string_view data) { return second.Take(offset, data); },
      pending.Done());
  ASSERT_TRUE(server_.WaitForRequests(path_, 4));
  server_.Release(path_);
  EXPECT_EQ(pending.Wait(), absl::OkStatus());
  EXPECT_LE(server_.connections(), 3u);
  EXPECT_FALSE(second.Twice());
}

TEST_F(RegistryTest, OnlyTheRangesWantedAreAskedFor) {
  const std::string bytes = Pattern(1'000'000);
  const Descriptor blob = AddBlob(bytes);
  Received received;
  EXPECT_EQ(Read(*Open(), blob, {{500'000, 500'010}, {5, 10}, {8, 20}}, received),
            absl::OkStatus());
  EXPECT_FALSE(received.Twice());
  EXPECT_EQ(received.present.ranges(), (std::vector<ByteRange>{{5, 20}, {500'000, 500'010}}));
  EXPECT_TRUE(received.bytes.substr(5, 15) == bytes.substr(5, 15));
  EXPECT_TRUE(received.bytes.substr(500'000) == bytes.substr(500'000, 10));
  EXPECT_EQ(server_.RangesAsked(path_), (std::vector<ByteRange>{{5, 20}, {500'000, 500'010}}));
}

TEST_F(RegistryTest, ACutRangeGoesOnWhereItStopped) {
  const std::string bytes = Pattern(300'000);
  const Descriptor blob = AddBlob(bytes);
  server_.On(path_, {.cut_after_bytes = 60'000});
  server_.On(path_, {.cut_after_bytes = 10'000});
  server_.On(path_, {.close = true});
  Received received;
  // A single range, so that it is known which request meets which failure.
  EXPECT_EQ(Read(*Open(), blob, {{100'000, 200'000}}, received), absl::OkStatus());
  EXPECT_TRUE(received.bytes.substr(100'000) == bytes.substr(100'000, 100'000));
  EXPECT_FALSE(received.Twice());
  // curl itself may have resent a request on a reused connection that was closed before a response.
  EXPECT_GE(factory_->counters().resumes, 2u);
  EXPECT_EQ(server_.RangesAsked(path_),
            (std::vector<ByteRange>{
                {100'000, 200'000}, {160'000, 200'000}, {170'000, 200'000}, {170'000, 200'000}}));
}

TEST_F(RegistryTest, ACutPlainGetGoesOnByRange) {
  const std::string bytes = Pattern(90'000);
  const Descriptor blob = AddBlob(bytes);
  server_.On(path_, {.cut_after_bytes = 50'000});
  server_.On(path_, {.cut_after_bytes = 10'000});
  Received received;
  EXPECT_EQ(Read(*Open(), blob, {{0, blob.size}}, received), absl::OkStatus());
  EXPECT_TRUE(received.bytes == bytes);
  EXPECT_FALSE(received.Twice());
  EXPECT_EQ(server_.RangesAsked(path_),
            (std::vector<ByteRange>{{0, 90'000}, {50'000, 90'000}, {60'000, 90'000}}));
  EXPECT_EQ(factory_->counters().resumes, 2u);
}

TEST_F(RegistryTest, ProgressMakesPatienceNew) {
  const std::string bytes = Pattern(1'000'000);
  const Descriptor blob = AddBlob(bytes);
  SourceFactory::Options options;
  options.first_backoff = std::chrono::milliseconds(1);
  options.max_attempts = 2;
  factory_ = *SourceFactory::Create(options);
  server_.On(path_, {.times = 9, .cut_after_bytes = 100'000});
  Received received;
  EXPECT_EQ(Read(*Open(), blob, {{0, blob.size}}, received), absl::OkStatus());
  EXPECT_TRUE(received.bytes == bytes);
  server_.On(path_, {.times = 2, .cut_after_bytes = 100});
  Received failed;
  EXPECT_TRUE(absl::IsUnavailable(Read(*Open(), blob, {{0, blob.size}}, failed)));
}

TEST_F(RegistryTest, AServerThatIgnoresRangeGivesOneStream) {
  const std::string bytes = Pattern(450'000);
  const Descriptor blob = AddBlob(bytes);
  server_.On(path_, {.times = -1, .ignore_range = true});
  const auto source = Open();
  Received first, second, part;
  EXPECT_EQ(Read(*source, blob, {{0, blob.size}}, first), absl::OkStatus());
  EXPECT_TRUE(first.bytes == bytes);
  EXPECT_FALSE(first.Twice());
  EXPECT_EQ(server_.requests().size(), 1u);
  EXPECT_EQ(Read(*source, blob, {{0, blob.size}}, second), absl::OkStatus());
  EXPECT_TRUE(second.bytes == bytes);
  ASSERT_EQ(server_.requests().size(), 2u);
  EXPECT_EQ(server_.requests()[1].Header("range"), "");
  // Parts are extracted from the stream.
  EXPECT_EQ(Read(*source, blob, {{100, 110}, {200'000, 300'000}}, part), absl::OkStatus());
  EXPECT_EQ(part.present.ranges(), (std::vector<ByteRange>{{100, 110}, {200'000, 300'000}}));
  EXPECT_TRUE(part.bytes.substr(200'000) == bytes.substr(200'000, 100'000));
}

TEST_F(RegistryTest, ACutStreamWithoutRangesStartsAgainButDeliversOnce) {
  const std::string bytes = Pattern(450'000);
  const Descriptor blob = AddBlob(bytes);
  server_.On(path_, {.cut_after_bytes = 250'000, .ignore_range = true});
  server_.On(path_, {.times = -1, .ignore_range = true});
  Received received;
  EXPECT_EQ(Read(*Open(), blob, {{0, blob.size}}, received), absl::OkStatus());
  EXPECT_TRUE(received.bytes == bytes);
  EXPECT_FALSE(received.Twice());
  EXPECT_EQ(server_.requests().size(), 2u);
  // The same for an interrupted plain GET.
  const std::string small = Pattern(90'000);
  const Descriptor other = AddBlob(small);
  server_.On(path_, {.cut_after_bytes = 50'000});
  server_.On(path_, {.ignore_range = true});
  Received again;
  EXPECT_EQ(Read(*Open(), other, {{0, other.size}}, again), absl::OkStatus());
  EXPECT_TRUE(again.bytes == small);
  EXPECT_FALSE(again.Twice());
}

TEST_F(RegistryTest, WhoWantsPartsOnlyIsNotSentTheWhole) {
  const Descriptor blob = AddBlob(Pattern(900'000));
  const auto source = Open();
  ImageSource::ReadOptions options(nullptr);
  options.only_parts = true;
  Received part;
  EXPECT_EQ(Read(*source, blob, {{500'000, 500'010}}, part, options), absl::OkStatus());
  server_.On(path_, {.times = -1, .ignore_range = true});
  Received none;
  EXPECT_TRUE(absl::IsUnimplemented(Read(*source, blob, {{700'000, 700'010}}, none, options)));
  EXPECT_TRUE(none.present.ranges().empty());
  // What is known of the host is not asked again.
  const size_t asked = server_.requests().size();
  EXPECT_TRUE(absl::IsUnimplemented(Read(*source, blob, {{5, 20}}, none, options)));
  EXPECT_EQ(server_.requests().size(), asked);
  EXPECT_EQ(Read(*source, blob, {{5, 20}}, none), absl::OkStatus());
}

TEST_F(RegistryTest, LyingSizesAreRefused) {
  Descriptor blob = AddBlob(Pattern(250'000));
  const auto source = Open();
  Received received;
  blob.size = 250'001;
  EXPECT_TRUE(absl::IsDataLoss(Read(*source, blob, {{0, blob.size}}, received)));
  blob.size = 300'001;
  EXPECT_TRUE(absl::IsDataLoss(Read(*source, blob, {{300'000, 300'001}}, received)));  // 416
  EXPECT_EQ(received.total, 0u);
  blob.size = 99'000;
  EXPECT_TRUE(absl::IsDataLoss(Read(*source, blob, {{0, blob.size}}, received)));
  // Too much without a Content-Length.
  server_.On(path_, {.chunked = true});
  const absl::Status status = Read(*source, blob, {{0, blob.size}}, received);
  EXPECT_TRUE(absl::IsDataLoss(status)) << status;
  // Too little.
  server_.On(path_, {.body = "short", .chunked = true});
  EXPECT_TRUE(absl::IsDataLoss(Read(*source, blob, {{0, blob.size}}, received)));
}

TEST_F(RegistryTest, AShorterRangeIsCompleted) {
  const std::string bytes = Pattern(200'000);
  const Descriptor blob = AddBlob(bytes);
  server_.On(path_, {.headers = {{"Content-Range", "bytes 0-59999/200000"}},
                     .body = bytes.substr(0, 60'000)});
  Received received;
  EXPECT_EQ(Read(*Open(), blob, {{0, blob.size}}, received), absl::OkStatus());
  EXPECT_TRUE(received.bytes == bytes);
  EXPECT_FALSE(received.Twice());
}

TEST_F(RegistryTest, ASinksErrorEndsTheRead) {
  const Descriptor blob = AddBlob(Pattern(1'000'000));
  Pending<absl::Status> pending;
  int calls = 0;
  Open()->ReadBlob(
      blob, {{0, blob.size}}, nullptr, CancelToken(),
      [&](uint64_t, std::string_view) {
        return ++calls == 2 ? absl::ResourceExhaustedError("disk full") : absl::OkStatus();
      },
      pending.Done());
  EXPECT_EQ(pending.Wait(), absl::ResourceExhaustedError("disk full"));
  factory_.reset();
  EXPECT_EQ(calls, 2);
}

TEST_F(RegistryTest, CancellationEndsAReadAndItsSink) {
  const Descriptor blob = AddBlob(Pattern(400'000));
  server_.On(path_, {.times = -1, .hold_after_bytes = 10});
  CancelSource cancel;
  Pending<absl::Status> pending;
  absl::Notification started;
  Open()->ReadBlob(
      blob, {{0, blob.size}}, nullptr, cancel.token(),
      [&](uint64_t offset, std::string_view) {
        if (offset == 0) started.Notify();
        return absl::OkStatus();
      },
      pending.Done());
  started.WaitForNotification();
  cancel.Cancel();
  EXPECT_TRUE(absl::IsCancelled(pending.Wait()));
}

TEST_F(RegistryTest, CancellationEndsAWaitForRetryAndAWaitForAToken) {
  server_.On("/v2/img/manifests/1", {.status = 503, .headers = {{"Retry-After", "50"}}});
  CancelSource cancel;
  PendingManifest retrying;
  const auto source = Open();
  source->GetManifest("1", cancel.token(), retrying.Done());
  ASSERT_TRUE(server_.WaitForRequests("/v2/img/manifests/1", 1));
  cancel.Cancel();
  EXPECT_TRUE(absl::IsCancelled(retrying.Wait().status()));

  server_.SetAuth({.kind = FakeRegistry::Auth::Kind::kBearer});
  server_.On("/token", {.hold = true});
  CancelSource other;
  PendingManifest waiting;
  source->GetManifest("1", other.token(), waiting.Done());
  ASSERT_TRUE(server_.WaitForRequests("/token", 1));
  other.Cancel();
  EXPECT_TRUE(absl::IsCancelled(waiting.Wait().status()));
}

TEST_F(RegistryTest, DestructionEndsEverything) {
  const Descriptor blob = AddBlob(Pattern(400'000));
  server_.On(path_, {.times = -1, .hold = true});
  server_.On("/v2/img/manifests/1", {.status = 503, .headers = {{"Retry-After", "50"}}});
  Pending<absl::Status> reading;
  PendingManifest retrying;
  const auto source = Open();
  source->ReadBlob(
      blob, {{0, blob.size}}, nullptr, CancelToken(),
      [](uint64_t, std::string_view) { return absl::OkStatus(); }, reading.Done());
  source->GetManifest("1", CancelToken(), retrying.Done());
  ASSERT_TRUE(server_.WaitForRequests(path_, 1));
  ASSERT_TRUE(server_.WaitForRequests("/v2/img/manifests/1", 1));
  factory_.reset();
  EXPECT_TRUE(absl::IsCancelled(reading.Wait()));
  EXPECT_TRUE(absl::IsCancelled(retrying.Wait().status()));
}

TEST(ContentRangeTest, Parses) {
  const auto range = ParseContentRange("bytes 5-9/100");
  ASSERT_TRUE(range);
  EXPECT_EQ(range->begin, 5u);
  EXPECT_EQ(range->end, 10u);
  EXPECT_EQ(range->total, 100u);
  EXPECT_EQ(ParseContentRange("Bytes 5-9/*")->total, std::nullopt);
  for (const char* bad :
       {"", "bytes", "bytes 5-9", "bytes 9-5/100", "bytes 5-9/9", "bytes */100", "bytes 5/9-100",
        "bytes -9/100", "bytes 5-/100", "bytes 0-18446744073709551615/*", "bytes a-b/c"}) {
    EXPECT_FALSE(ParseContentRange(bad)) << bad;
  }
}

}  // namespace
}  // namespace imagefs
