// SPDX-License-Identifier: Apache-2.0
#include "fetch/registry_writer.h"

#include <gtest/gtest.h>

#include "base/json.h"
#include "base/log.h"
#include "base/status.h"
#include "base/text.h"
#include "fetch/source.h"
#include "tests/fakes/fetch/fake_registry.h"
#include "tests/fakes/fetch/pending.h"

namespace imagefs {
namespace {

constexpr char kIndexType[] = "application/vnd.oci.image.index.v1+json";
constexpr char kManifestType[] = "application/vnd.oci.image.manifest.v1+json";
constexpr char kUploads[] = "/v2/img/blobs/uploads/";
constexpr uint64_t kChunk = 100'000;

using PushedBlob = absl::StatusOr<RegistryWriter::PushedBlob>;
using PushedManifest = absl::StatusOr<RegistryWriter::PushedManifest>;
using PushedArtifact = absl::StatusOr<RegistryWriter::PushedArtifact>;

class RegistryWriterTest : public testing::Test {
 protected:
  void SetUp() override {
    SourceFactory::Options options;
    options.first_backoff = std::chrono::milliseconds(1);
    options.max_attempts = 4;
    options.push_chunk_bytes = kChunk;
    auto factory = SourceFactory::Create(options);
    ASSERT_TRUE(factory.ok()) << factory.status();
    factory_ = *std::move(factory);
  }
  Reference Where() { return *Reference::Parse(StrCat(server_.host(), "/img:1")); }
  std::shared_ptr<RegistryWriter> Open(const SourceFactory::Access& access = {}) {
    auto writer = factory_->OpenWriter(Where(), access);
    EXPECT_TRUE(writer.ok()) << writer.status();
    return *std::move(writer);
  }
  static SourceFactory::Access As(const std::string& user, const std::string& password) {
    SourceFactory::Access access;
    access.credential.username = user;
    access.credential.password = password;
    return access;
  }
  static RegistryWriter::Blob BlobOf(const std::string& bytes, const std::string& from = "") {
    return {Sha256Of(bytes), bytes.size(), RegistryWriter::FromMemory(bytes), from};
  }
  PushedBlob Push(RegistryWriter& writer, RegistryWriter::Blob blob) {
    Pending<PushedBlob> pending;
    writer.PushBlob(std::move(blob), CancelToken(), pending.Done());
    return pending.Wait();
  }
  PushedBlob Push(const std::string& bytes) { return Push(*Open(), BlobOf(bytes)); }
  PushedManifest PushManifest(const std::string& tag, const std::string& bytes) {
    Pending<PushedManifest> pending;
    Open()->PushManifest(tag, kManifestType, bytes, CancelToken(), pending.Done());
    return pending.Wait();
  }
  PushedArtifact PushArtifact(RegistryWriter::Artifact artifact) {
    Pending<PushedArtifact> pending;
    Open()->PushArtifact(std::move(artifact), CancelToken(), pending.Done());
    return pending.Wait();
  }
  void ExpectStored(const std::string& bytes) {
    const auto stored = server_.Stored(FakeRegistry::BlobPath("img", Sha256Of(bytes)));
    ASSERT_TRUE(stored.has_value());
    EXPECT_TRUE(*stored == bytes);
  }
  std::string Methods(const std::string& path) {
    std::string methods;
    for (const auto& request : server_.RequestsFor(path)) StrAppend(&methods, request.method, " ");
    return methods;
  }
  // The response to the next request for `path` closes its connection. On a reused connection, curl
  // itself would resend an unanswered request.
  void EndConnectionAfter(FakeRegistry& server, const std::string& path) {
    server.On(path, {.headers = {{"Connection", "close"}}});
  }
  std::string Upload(int n) { return FakeRegistry::UploadPath("img", n); }

  FakeRegistry server_;
  std::unique_ptr<SourceFactory> factory_;
};

RegistryWriter::Artifact MakeArtifact(const std::string& bytes) {
  RegistryWriter::Artifact artifact;
  artifact.artifact_type = "application/x.test";
  artifact.subject.media_type = kManifestType;
  artifact.subject.digest = Sha256Of("subject");
  artifact.subject.size = 7;
  artifact.annotations = {{"key", "value \"quoted\""}};
  RegistryWriter::Layer layer;
  layer.media_type = "application/x.test.layer";
  layer.annotations = {{"a", "b"}};
  layer.blob = {Sha256Of(bytes), bytes.size(), RegistryWriter::FromMemory(bytes), ""};
  artifact.layers.push_back(std::move(layer));
  return artifact;
}

std::string TagPath() { return StrCat("/v2/img/manifests/sha256-", Sha256Of("subject").hex()); }

TEST_F(RegistryWriterTest, SmallBlobsTakeOneUploadRequest) {
  for (const bool absolute : {false, true}) {
    const std::string bytes = PatternBytes(1000 + absolute);
    server_.SetFeatures({.absolute_location = absolute});
    const PushedBlob pushed = Push(bytes);
    ASSERT_TRUE(pushed.ok()) << pushed.status();
    EXPECT_EQ(pushed->sent_bytes, bytes.size());
    ExpectStored(bytes);
    EXPECT_EQ(Methods(Upload(1 + absolute)), "PUT ");
  }
  EXPECT_EQ(server_.requests().size(), 6u);
  EXPECT_EQ(server_.requests()[2].Header("content-type"), "application/octet-stream");
}

TEST_F(RegistryWriterTest, EmptyBlobAndOneOfExactlyAChunk) {
  EXPECT_TRUE(Push("").ok());
  ExpectStored("");
  const std::string bytes = PatternBytes(kChunk);
  EXPECT_TRUE(Push(bytes).ok());
  ExpectStored(bytes);
  EXPECT_EQ(Methods(Upload(2)), "PUT ");
}

TEST_F(RegistryWriterTest, WhatIsThereIsNotSent) {
  const std::string bytes = PatternBytes(1000);
  server_.AddBlob("img", bytes);
  const PushedBlob pushed = Push(bytes);
  ASSERT_TRUE(pushed.ok()) << pushed.status();
  EXPECT_EQ(pushed->sent_bytes, 0u);
  ASSERT_EQ(server_.requests().size(), 1u);
  EXPECT_EQ(server_.requests()[0].method, "HEAD");
}

TEST_F(RegistryWriterTest, AWrongSizeOfWhatIsThereIsNotBelieved) {
  const std::string bytes = PatternBytes(1000);
  server_.On(FakeRegistry::BlobPath("img", Sha256Of(bytes)),
             {.status = 200, .headers = {{"Content-Length", "7"}}});
  EXPECT_TRUE(Push(bytes).ok());
  ExpectStored(bytes);
}

TEST_F(RegistryWriterTest, AHeadThatIsNotAllowedIsNoObstacle) {
  const std::string bytes = PatternBytes(1000);
  server_.On(FakeRegistry::BlobPath("img", Sha256Of(bytes)), {.status = 405});
  EXPECT_TRUE(Push(bytes).ok());
  ExpectStored(bytes);
}

TEST_F(RegistryWriterTest, LargeBlobsGoInChunks) {
  const std::string bytes = PatternBytes(3 * kChunk + 50);
  const PushedBlob pushed = Push(bytes);
  ASSERT_TRUE(pushed.ok()) << pushed.status();
  EXPECT_EQ(pushed->sent_bytes, bytes.size());
  ExpectStored(bytes);
  EXPECT_EQ(Methods(Upload(1)), "PATCH PATCH PATCH PATCH PUT ");
  const auto asked = server_.RequestsFor(Upload(1));
  EXPECT_EQ(asked[0].Header("content-range"), "0-99999");
  EXPECT_EQ(asked[3].Header("content-range"), "300000-300049");
  EXPECT_EQ(asked[4].body, "");
  EXPECT_EQ(server_.uploads(), 0u);
}

TEST_F(RegistryWriterTest, TheRegistrysLeastChunkIsKept) {
  server_.SetFeatures({.chunk_min_bytes = 250'000});
  const std::string bytes = PatternBytes(600'000);
  EXPECT_TRUE(Push(bytes).ok());
  const auto asked = server_.RequestsFor(Upload(1));
  ASSERT_EQ(asked.size(), 4u);
  EXPECT_EQ(asked[0].body.size(), 250'000u);
  EXPECT_EQ(asked[1].body.size(), 250'000u);
}

TEST_F(RegistryWriterTest, MountsFromAnotherRepository) {
  const std::string bytes = PatternBytes(1000);
  server_.AddBlob("base", bytes);
  const PushedBlob pushed = Push(*Open(), BlobOf(bytes, "base"));
  ASSERT_TRUE(pushed.ok()) << pushed.status();
  EXPECT_TRUE(pushed->mounted);
  EXPECT_EQ(pushed->sent_bytes, 0u);
  ExpectStored(bytes);
  EXPECT_EQ(server_.requests().size(), 2u);
}

TEST_F(RegistryWriterTest, AMountThatDoesNotWorkIsAnUpload) {
  const std::string bytes = PatternBytes(1000);
  // The response is an upload, which is used.
  EXPECT_TRUE(Push(*Open(), BlobOf(bytes, "base")).ok());
  ExpectStored(bytes);
  EXPECT_EQ(server_.RequestsFor(kUploads).size(), 1u);
  // Refused: retried without the mount.
  const std::string other = PatternBytes(1001);
  server_.On(kUploads, {.status = 403});
  EXPECT_TRUE(Push(*Open(), BlobOf(other, "base")).ok());
  ExpectStored(other);
  EXPECT_EQ(server_.RequestsFor(kUploads).size(), 3u);
}

TEST_F(RegistryWriterTest, ACutChunkGoesOnWhereTheRegistryIs) {
  const std::string bytes = PatternBytes(3 * kChunk);
  EndConnectionAfter(server_, Upload(1));
  server_.On(Upload(1), {.cut_request_after_bytes = 60'000});
  const PushedBlob pushed = Push(bytes);
  ASSERT_TRUE(pushed.ok()) << pushed.status();
  ExpectStored(bytes);
  EXPECT_EQ(Methods(Upload(1)), "PATCH PATCH GET PATCH PATCH PUT ");
  const auto asked = server_.RequestsFor(Upload(1));
  EXPECT_EQ(asked[3].Header("content-range"), "160000-259999");
  EXPECT_EQ(pushed->sent_bytes, bytes.size() + 40'000);
  EXPECT_EQ(factory_->counters().resumes, 1u);
}

TEST_F(RegistryWriterTest, ACutChunkOnAConnectionThatWasUsedBefore) {
  const std::string bytes = PatternBytes(3 * kChunk);
  server_.On(Upload(1), {});
  server_.On(Upload(1), {.cut_request_after_bytes = 60'000});
  const PushedBlob pushed = Push(bytes);
  ASSERT_TRUE(pushed.ok()) << pushed.status();
  ExpectStored(bytes);
}

TEST_F(RegistryWriterTest, AChunkThatWasTakenButNotAnswered) {
  const std::string bytes = PatternBytes(2 * kChunk);
  EndConnectionAfter(server_, kUploads);
  server_.On(Upload(1), {.cut_request_after_bytes = kChunk});
  EXPECT_TRUE(Push(bytes).ok());
  ExpectStored(bytes);
  EXPECT_EQ(Methods(Upload(1)), "PATCH GET PATCH PUT ");
}

TEST_F(RegistryWriterTest, AnUploadThatIsLostStartsAgain) {
  const std::string bytes = PatternBytes(2 * kChunk);
  server_.On(Upload(1), {});
  server_.On(Upload(1), {.status = 404});
  EXPECT_TRUE(Push(bytes).ok());
  ExpectStored(bytes);
  EXPECT_EQ(Methods(Upload(2)), "PATCH PATCH PUT ");
  // Also if the upload is lost by the time of the query.
  const std::string other = PatternBytes(2 * kChunk + 1);
  server_.On(Upload(3), {.close = true});
  server_.On(Upload(3), {.status = 404});
  EXPECT_TRUE(Push(other).ok());
  ExpectStored(other);
}

TEST_F(RegistryWriterTest, ARefusedRangeIsAskedFor) {
  const std::string bytes = PatternBytes(2 * kChunk);
  server_.On(Upload(1), {.status = 416});
  EXPECT_TRUE(Push(bytes).ok());
  ExpectStored(bytes);
}

TEST_F(RegistryWriterTest, APartOfAChunkThatIsTakenIsProgress) {
  const std::string bytes = PatternBytes(2 * kChunk);
  // Not true either, as the registry itself reports when asked.
  server_.On(Upload(1), {.headers = {{"Range", "0-49999"}}});
  EXPECT_TRUE(Push(bytes).ok());
  ExpectStored(bytes);
  EXPECT_EQ(server_.RequestsFor(Upload(1))[1].Header("content-range"), "50000-149999");
  // More than was sent is detected as a lie.
  server_.On(Upload(2), {.headers = {{"Range", "0-500000"}}});
  EXPECT_TRUE(absl::IsDataLoss(Push(bytes + "x").status()));
  EXPECT_TRUE(server_.WaitForRequests(Upload(2), 2));
  EXPECT_EQ(Methods(Upload(2)), "PATCH DELETE ");
}

TEST_F(RegistryWriterTest, ACutEndIsLookedFor) {
  const std::string bytes = PatternBytes(1000);
  EndConnectionAfter(server_, kUploads);
  server_.On(Upload(1), {.cut_request_after_bytes = 500});
  EXPECT_TRUE(Push(bytes).ok());
  ExpectStored(bytes);
  // Accepted, but the response was lost.
  const std::string other = PatternBytes(1001);
  server_.On(Upload(3), {.body = std::string(10, 'x'), .cut_after_bytes = 0});
  EXPECT_TRUE(Push(other).ok());
  ExpectStored(other);
  EXPECT_EQ(server_.RequestsFor(kUploads).size(), 3u);
}

TEST_F(RegistryWriterTest, EndlessFailuresEnd) {
  const std::string bytes = PatternBytes(2 * kChunk);
  for (int n = 1; n < 20; ++n) server_.On(Upload(n), {.times = -1, .close = true});
  const absl::Status status = Push(bytes).status();
  EXPECT_TRUE(absl::IsUnavailable(status)) << status;
  EXPECT_TRUE(Mentions(status, "gave up after 4 attempts")) << status;
}

TEST_F(RegistryWriterTest, WhatPassesByItselfIsSentAgain) {
  const std::string bytes = PatternBytes(2 * kChunk);
  server_.On(kUploads, {.status = 503});
  server_.On(Upload(2), {.status = 429, .headers = {{"Retry-After", "0"}}});
  server_.On(Upload(2), {.status = 500});
  EXPECT_TRUE(Push(bytes).ok());
  ExpectStored(bytes);
  EXPECT_GE(factory_->counters().retries, 3u);
}

TEST_F(RegistryWriterTest, ExpiredTokenInTheMiddle) {
  const std::string bytes = PatternBytes(3 * kChunk);
  server_.SetAuth({.kind = FakeRegistry::Auth::Kind::kBearer, .check_scope = true});
  server_.On(Upload(1), {});
  server_.On(Upload(1), {.hold = true});
  Pending<PushedBlob> pending;
  const auto writer = Open();
  writer->PushBlob(BlobOf(bytes), CancelToken(), pending.Done());
  ASSERT_TRUE(server_.WaitForRequests(Upload(1), 2));
  server_.RevokeTokens();
  server_.Release(Upload(1));
  ASSERT_TRUE(pending.Wait().ok()) << pending.result.status();
  ExpectStored(bytes);
  EXPECT_EQ(server_.RequestsFor("/token").size(), 2u);
  for (const auto& request : server_.RequestsFor("/token")) {
    EXPECT_EQ(request.query, "service=fake&scope=repository%3Aimg%3Apull%2Cpush");
  }
}

TEST_F(RegistryWriterTest, TokensToReadAndToWriteAreKeptApart) {
  server_.AddManifest("img", "1", "{}", kManifestType);
  server_.SetAuth({.kind = FakeRegistry::Auth::Kind::kBearer, .check_scope = true});
  const auto source = *factory_->Open(Where(), {});
  const auto read = [&] {
    Pending<absl::StatusOr<ImageSource::FetchedManifest>> pending;
    source->GetManifest("1", CancelToken(), pending.Done());
    EXPECT_TRUE(pending.Wait().ok()) << pending.result.status();
    return server_.RequestsFor("/v2/img/manifests/1").back().Header("authorization");
  };
  const std::string reads_by = read();
  EXPECT_TRUE(Push("bytes").ok());
  EXPECT_EQ(read(), reads_by);
  const std::string writes_by = server_.RequestsFor(kUploads).back().Header("authorization");
  EXPECT_NE(writes_by, reads_by);
  EXPECT_TRUE(Push("more bytes").ok());
  EXPECT_EQ(server_.RequestsFor(kUploads).back().Header("authorization"), writes_by);
  EXPECT_EQ(server_.RequestsFor("/token").size(), 2u);
  // A mount also requests read access to the other repository, with a separate token.
  const std::string mounted = PatternBytes(10);
  server_.AddBlob("base", mounted);
  EXPECT_TRUE(Push(*Open(), BlobOf(mounted, "base"))->mounted);
  EXPECT_EQ(server_.RequestsFor("/token").back().query,
            "service=fake&scope=repository%3Aimg%3Apull%2Cpush&scope=repository%3Abase%3Apull");
}

TEST_F(RegistryWriterTest, CredentialsStayWithTheRegistry) {
  FakeRegistry storage("127.0.0.2");
  storage.AddUpload("img", "1");
  storage.AddUpload("img", "2");
  server_.SetFeatures({.upload_origin = storage.Url("")});
  server_.SetAuth(
      {.kind = FakeRegistry::Auth::Kind::kBasic, .user = "me", .password = "secret-pw"});
  const auto writer = Open(As("me", "secret-pw"));
  SetLogLevel(LogLevel::kDebug);
  testing::internal::CaptureStderr();
  EndConnectionAfter(storage, Upload(1));
  storage.On(Upload(2), {.close = true});
  EXPECT_TRUE(Push(*writer, BlobOf(PatternBytes(1000))).ok());
  EXPECT_TRUE(Push(*writer, BlobOf(PatternBytes(3 * kChunk))).ok());
  storage.On(Upload(3), {.times = -1, .status = 403});
  const absl::Status refused = Push(*writer, BlobOf("refused")).status();
  const std::string log = testing::internal::GetCapturedStderr();
  SetLogLevel(LogLevel::kInfo);
  EXPECT_TRUE(absl::IsFailedPrecondition(refused)) << refused;
  EXPECT_GE(storage.requests().size(), 6u);
  for (const auto& request : storage.requests()) {
    EXPECT_EQ(request.Header("authorization"), "");
    EXPECT_EQ(request.query.find("state=secret%2Fstate"), 0u) << request.query;
  }
  for (const std::string& text : {log, refused.ToString()}) {
    EXPECT_EQ(text.find("secret"), std::string::npos) << text;
    EXPECT_EQ(text.find("Basic"), std::string::npos) << text;
  }
  EXPECT_NE(log.find("registry_push_retry"), std::string::npos) << log;
}

TEST_F(RegistryWriterTest, RefusalsNameTheRemedy) {
  const std::string target = StrCat(server_.host(), "/img");
  for (const int code : {403, 404, 405}) {
    server_.On(kUploads, {.status = code});
    const absl::Status status = Push(StrCat("bytes ", code)).status();
    EXPECT_TRUE(Mentions(status, "does not let")) << status;
    EXPECT_TRUE(Mentions(status, StrCat("push to ", target))) << status;
    EXPECT_TRUE(Mentions(status, "--to REPOSITORY")) << status;
    EXPECT_FALSE(IsRetriable(status));
  }
  server_.On(kUploads, {.status = 413});
  EXPECT_TRUE(Mentions(Push("large").status(), "so large"));
  server_.On(kUploads, {.status = 202});
  server_.On(kUploads, {.status = 302, .headers = {{"Location", "/elsewhere"}}});
  EXPECT_TRUE(Push("fine").ok());
  EXPECT_TRUE(absl::IsFailedPrecondition(Push("redirected").status()));
  server_.SetAuth({.kind = FakeRegistry::Auth::Kind::kBearer});
  server_.On("/token", {.times = -1, .body = R"({"token":"worthless"})"});
  const absl::Status anonymous = Push("bytes").status();
  EXPECT_TRUE(absl::IsUnauthenticated(anonymous)) << anonymous;
  EXPECT_TRUE(Mentions(anonymous, "anonymous users push")) << anonymous;
  EXPECT_TRUE(Mentions(anonymous, StrCat("imagefs login ", server_.host()))) << anonymous;
  const absl::Status known = Push(*Open(As("me", "secret-pw")), BlobOf("bytes")).status();
  EXPECT_TRUE(absl::IsPermissionDenied(known)) << known;
  EXPECT_FALSE(Mentions(known, "secret-pw"));
}

TEST_F(RegistryWriterTest, BytesThatAreNotTheBlobs) {
  RegistryWriter::Blob wrong = BlobOf("bytes");
  wrong.bytes = RegistryWriter::FromMemory("other");
  const absl::Status refused = Push(*Open(), wrong).status();
  EXPECT_TRUE(absl::IsFailedPrecondition(refused)) << refused;
  EXPECT_TRUE(Mentions(refused, "digest did not match")) << refused;
  wrong.bytes = RegistryWriter::FromMemory("byt");
  EXPECT_TRUE(absl::IsDataLoss(Push(*Open(), wrong).status()));
  wrong.bytes = [](uint64_t, uint64_t) { return absl::InternalError("disk"); };
  EXPECT_TRUE(absl::IsInternal(Push(*Open(), wrong).status()));
  // A registry that claims to have stored something else.
  server_.On(Upload(4), {.headers = {{"Docker-Content-Digest", Sha256Of("x").ToString()}}});
  EXPECT_TRUE(absl::IsDataLoss(Push("fine").status()));
}

TEST_F(RegistryWriterTest, AnUploadWithoutAPlace) {
  server_.On(kUploads, {.headers = {{"Location", ""}}});
  EXPECT_TRUE(absl::IsFailedPrecondition(Push("bytes").status()));
  server_.On(kUploads, {.headers = {{"Location", "file:///etc"}}});
  EXPECT_FALSE(Push("bytes").ok());
}

TEST_F(RegistryWriterTest, Cancelled) {
  const std::string bytes = PatternBytes(2 * kChunk);
  const auto writer = Open();
  CancelSource before;
  before.Cancel();
  Pending<PushedBlob> never;
  writer->PushBlob(BlobOf(bytes), before.token(), never.Done());
  EXPECT_TRUE(absl::IsCancelled(never.Wait().status()));
  EXPECT_TRUE(server_.requests().empty());

  server_.On(Upload(1), {.hold = true});
  CancelSource cancel;
  Pending<PushedBlob> pending;
  writer->PushBlob(BlobOf(bytes), cancel.token(), pending.Done());
  ASSERT_TRUE(server_.WaitForRequests(Upload(1), 1));
  cancel.Cancel();
  EXPECT_TRUE(absl::IsCancelled(pending.Wait().status()));
  server_.Release(Upload(1));
  EXPECT_TRUE(server_.WaitForRequests(Upload(1), 2));
  EXPECT_EQ(Methods(Upload(1)), "PATCH DELETE ");
}

TEST_F(RegistryWriterTest, ManifestByTagAndByDigest) {
  const auto by_tag = PushManifest("latest", "{}");
  ASSERT_TRUE(by_tag.ok()) << by_tag.status();
  EXPECT_EQ(by_tag->digest, Sha256Of("{}"));
  EXPECT_FALSE(by_tag->listed);
  EXPECT_EQ(server_.requests()[0].Header("content-type"), kManifestType);
  EXPECT_EQ(server_.Stored("/v2/img/manifests/latest"), "{}");
  EXPECT_TRUE(PushManifest(Sha256Of("{ }").ToString(), "{ }").ok());
  const size_t asked = server_.requests().size();
  for (const std::string& bad :
       {Sha256Of("x").ToString(), std::string("../x"), std::string(), std::string("md5:12")}) {
    EXPECT_TRUE(absl::IsInvalidArgument(PushManifest(bad, "{}").status())) << bad;
  }
  EXPECT_TRUE(absl::IsInvalidArgument(
      PushManifest("big", std::string(kMaxManifestBytes + 1, ' ')).status()));
  EXPECT_EQ(server_.requests().size(), asked);
}

TEST_F(RegistryWriterTest, ManifestsThatAreRefusedOrLiedAbout) {
  const std::string path = "/v2/img/manifests/1";
  server_.On(path, {.headers = {{"Docker-Content-Digest", Sha256Of("x").ToString()}}});
  EXPECT_TRUE(absl::IsDataLoss(PushManifest("1", "{}").status()));
  server_.On(path,
             {.status = 400,
              .body = R"({"errors":[{"code":"MANIFEST_BLOB_UNKNOWN","message":"no blob"}]})"});
  const absl::Status bad = PushManifest("1", "{}").status();
  EXPECT_TRUE(absl::IsFailedPrecondition(bad)) << bad;
  EXPECT_TRUE(Mentions(bad, "no blob")) << bad;
  for (const int code : {403, 405}) {
    server_.On(path, {.status = code});
    EXPECT_TRUE(Mentions(PushManifest("1", "{}").status(), "--to REPOSITORY"));
  }
  server_.On(path, {.cut_request_after_bytes = 1});
  server_.On(path, {.status = 502});
  EXPECT_TRUE(PushManifest("1", "{}").ok());
}

TEST_F(RegistryWriterTest, ArtifactThatTheRegistryLists) {
  server_.SetFeatures({.referrers = true, .lists_itself = true});
  const std::string bytes = PatternBytes(2 * kChunk);
  const PushedArtifact pushed = PushArtifact(MakeArtifact(bytes));
  ASSERT_TRUE(pushed.ok()) << pushed.status();
  EXPECT_FALSE(pushed->listed_by_tag);
  EXPECT_EQ(pushed->sent_bytes, bytes.size() + 2);
  ExpectStored(bytes);
  ExpectStored("{}");
  EXPECT_TRUE(server_.RequestsFor(TagPath()).empty());
  // The manifest comes last.
  EXPECT_EQ(server_.requests().back().path,
            StrCat("/v2/img/manifests/", pushed->manifest.digest.ToString()));

  const auto source = *factory_->Open(Where(), {});
  Pending<absl::StatusOr<std::vector<Descriptor>>> list;
  source->GetReferrers(Sha256Of("subject"), "application/x.test", CancelToken(), list.Done());
  ASSERT_TRUE(list.Wait().ok()) << list.result.status();
  ASSERT_EQ(list.result->size(), 1u);
  EXPECT_EQ(list.result->front().digest, pushed->manifest.digest);
  EXPECT_EQ(list.result->front().size, pushed->manifest.size);
  EXPECT_EQ(list.result->front().annotations, pushed->manifest.annotations);
  EXPECT_TRUE(
      server_.RequestsFor(TagPath()).empty());  // the push has established that the API exists

  Pending<absl::StatusOr<ImageSource::FetchedManifest>> fetched;
  source->GetManifest(pushed->manifest.digest.ToString(), CancelToken(), fetched.Done());
  ASSERT_TRUE(fetched.Wait().ok()) << fetched.result.status();
  const auto parsed = ParseManifest(fetched.result->bytes, fetched.result->content_type);
  ASSERT_TRUE(parsed.ok() && parsed->manifest) << parsed.status();
  EXPECT_EQ(parsed->manifest->artifact_type, "application/x.test");
  ASSERT_TRUE(parsed->manifest->subject.has_value());
  EXPECT_EQ(parsed->manifest->subject->digest, Sha256Of("subject"));
  ASSERT_EQ(parsed->manifest->layers.size(), 1u);
  EXPECT_EQ(parsed->manifest->layers[0].annotations.at("a"), "b");
  EXPECT_EQ(parsed->manifest->annotations.at("key"), "value \"quoted\"");
}

TEST_F(RegistryWriterTest, ArtifactThatTheTagLists) {
  const PushedArtifact first = PushArtifact(MakeArtifact("one"));
  ASSERT_TRUE(first.ok()) << first.status();
  EXPECT_TRUE(first->listed_by_tag);
  EXPECT_EQ(Methods(TagPath()), "GET PUT GET GET ");
  EXPECT_EQ(server_.RequestsFor(TagPath())[1].Header("content-type"), kIndexType);
  const PushedArtifact second = PushArtifact(MakeArtifact("two"));
  ASSERT_TRUE(second.ok()) << second.status();
  const auto index = ParseManifest(*server_.Stored(TagPath()), kIndexType);
  ASSERT_TRUE(index.ok() && index->index) << index.status();
  ASSERT_EQ(index->index->manifests.size(), 2u);
  EXPECT_EQ(index->index->manifests[0].digest, first->manifest.digest);
  EXPECT_EQ(index->index->manifests[1].digest, second->manifest.digest);
  EXPECT_EQ(index->index->manifests[0].artifact_type, "application/x.test");
  EXPECT_EQ(index->index->manifests[0].annotations.at("key"), "value \"quoted\"");
  // An entry that is already listed is not written again.
  const size_t asked = server_.RequestsFor(TagPath()).size();
  EXPECT_TRUE(PushArtifact(MakeArtifact("one")).ok());
  EXPECT_EQ(server_.RequestsFor(TagPath()).size(), asked + 1);
}

TEST_F(RegistryWriterTest, ALostRaceForTheTagIsRunAgain) {
  const std::string others =
      StrCat("{\"schemaVersion\":2,\"mediaType\":\"", kIndexType, "\",\"manifests\":[]}");
  server_.On(TagPath(), {});
  server_.On(TagPath(), {});
  server_.On(TagPath(), {.times = 2, .status = 200, .body = others});
  const PushedArtifact pushed = PushArtifact(MakeArtifact("one"));
  ASSERT_TRUE(pushed.ok()) << pushed.status();
  EXPECT_EQ(Methods(TagPath()), "GET PUT GET GET PUT GET GET ");
  server_.On(TagPath(), {.times = -1, .status = 200, .body = others});
  const absl::Status endless = PushArtifact(MakeArtifact("two")).status();
  EXPECT_TRUE(absl::IsUnavailable(endless)) << endless;
  EXPECT_TRUE(Mentions(endless, "at the same time")) << endless;
}

TEST_F(RegistryWriterTest, WritersOfOneTagAtTheSameTime) {
  constexpr int kWriters = 4;
  std::vector<std::unique_ptr<Pending<PushedArtifact>>> pendings;
  const auto writer = Open();
  for (int i = 0; i < kWriters; ++i) {
    pendings.push_back(std::make_unique<Pending<PushedArtifact>>());
    writer->PushArtifact(MakeArtifact(StrCat("layer ", i)), CancelToken(), pendings.back()->Done());
  }
  size_t pushed = 0;
  for (auto& pending : pendings) pushed += pending->Wait().ok() ? 1 : 0;
  const auto index = ParseManifest(*server_.Stored(TagPath()), kIndexType);
  ASSERT_TRUE(index.ok() && index->index);
  // A writer may be overtaken after its check, which only the registry could prevent.
  EXPECT_GE(pushed, 1u);
  EXPECT_GE(index->index->manifests.size(), 1u);
}

TEST_F(RegistryWriterTest, ATagThatIsSomethingElseIsNotOverwritten) {
  server_.AddManifest("img", StrCat("sha256-", Sha256Of("subject").hex()), R"({"layers":[]})",
                      kManifestType);
  const absl::Status status = PushArtifact(MakeArtifact("one")).status();
  EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status;
  EXPECT_TRUE(Mentions(status, "not overwritten")) << status;
  EXPECT_EQ(Methods(TagPath()), "GET ");
}

TEST_F(RegistryWriterTest, AnArtifactFailsWithItsFirstBlobAndIsNeverSeen) {
  server_.On(kUploads, {.times = -1, .status = 403});
  const absl::Status status = PushArtifact(MakeArtifact("one")).status();
  EXPECT_TRUE(IsCredentialFailure(status)) << status;
  EXPECT_TRUE(Mentions(status, "application/x.test of ")) << status;
  for (const auto& request : server_.requests()) {
    EXPECT_EQ(request.path.find("/manifests/"), std::string::npos);
  }
  EXPECT_TRUE(absl::IsInvalidArgument(PushArtifact({}).status()));
}

TEST_F(RegistryWriterTest, AnArtifactIsCancelled) {
  server_.On(Upload(1), {.hold = true});
  CancelSource cancel;
  Pending<PushedArtifact> pending;
  Open()->PushArtifact(MakeArtifact("one"), cancel.token(), pending.Done());
  ASSERT_TRUE(server_.WaitForRequests(Upload(1), 1));
  cancel.Cancel();
  EXPECT_TRUE(absl::IsCancelled(pending.Wait().status()));
  server_.Release(Upload(1));
}

TEST_F(RegistryWriterTest, TheFactoryGoesFirst) {
  server_.On(Upload(1), {.hold = true});
  Pending<PushedBlob> pending;
  Open()->PushBlob(BlobOf("bytes"), CancelToken(), pending.Done());
  ASSERT_TRUE(server_.WaitForRequests(Upload(1), 1));
  factory_.reset();
  EXPECT_TRUE(absl::IsCancelled(pending.Wait().status()));
}

TEST_F(RegistryWriterTest, OnlyRegistriesArePushedTo) {
  const auto writer = factory_->OpenWriter(*Reference::Parse("oci:/tmp/x"), {});
  EXPECT_TRUE(absl::IsInvalidArgument(writer.status()));
  EXPECT_TRUE(Mentions(writer.status(), "--to REPOSITORY")) << writer.status();
}

TEST(ArtifactManifestTest, WhatItHolds) {
  RegistryWriter::Artifact artifact = MakeArtifact("one");
  EXPECT_EQ(ArtifactManifest(artifact), ArtifactManifest(MakeArtifact("one")));
  artifact.layers.clear();
  const auto json = Json::Parse(ArtifactManifest(artifact));
  ASSERT_TRUE(json.ok());
  EXPECT_EQ((*json)["config"].StringOr("mediaType"), "application/vnd.oci.empty.v1+json");
  EXPECT_EQ((*json)["config"].StringOr("digest"), Sha256Of("{}").ToString());
  EXPECT_EQ((*json)["layers"].size(), 1u);
  EXPECT_EQ((*json)["subject"].IntOr("size", 0), 7);
}

TEST(ReferrersIndexTest, Update) {
  Descriptor manifest;
  manifest.media_type = kManifestType;
  manifest.digest = Sha256Of("m");
  manifest.size = 5;
  manifest.artifact_type = "a/b";
  const auto fresh = UpdateReferrersIndex("", manifest);
  ASSERT_TRUE(fresh.ok()) << fresh.status();
  EXPECT_EQ(*UpdateReferrersIndex(*fresh, manifest), *fresh);
  // Entries of others stay, including unknown members; a digest has one entry.
  const std::string index = StrCat(
      R"({"manifests":[{"digest":"sha512:x","odd":[1]},{"digest":")", manifest.digest.ToString(),
      R"("},{"digest":")", manifest.digest.ToString(), R"("}],"annotations":{"k":"v"},"new":{}})");
  const auto updated = UpdateReferrersIndex(index, manifest);
  ASSERT_TRUE(updated.ok()) << updated.status();
  const auto json = Json::Parse(*updated);
  ASSERT_TRUE(json.ok());
  EXPECT_EQ((*json)["manifests"].size(), 2u);
  EXPECT_EQ((*json)["manifests"].at(0)["odd"].size(), 1u);
  EXPECT_EQ((*json)["manifests"].at(1).StringOr("artifactType"), "a/b");
  EXPECT_EQ((*json)["annotations"].StringOr("k"), "v");
  EXPECT_TRUE((*json)["new"].exists());
  EXPECT_EQ(json->StringOr("mediaType"), kIndexType);
  for (const char* bad :
       {"x", "[]", "{}", R"({"manifests":{}})", R"({"mediaType":"other","manifests":[]})"}) {
    EXPECT_TRUE(absl::IsFailedPrecondition(UpdateReferrersIndex(bad, manifest).status())) << bad;
  }
}

}  // namespace
}  // namespace imagefs
