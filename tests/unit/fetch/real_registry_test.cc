// SPDX-License-Identifier: Apache-2.0
// Pushes to, and reads back from, a third-party registry: started by tests/integration/034-push.sh,
// which names it in IMAGEFS_TEST_REGISTRY (and, if it requires authentication, IMAGEFS_TEST_USER
// and IMAGEFS_TEST_PASSWORD). Skipped otherwise.
#include <gtest/gtest.h>

#include <cstdlib>

#include "base/text.h"
#include "fetch/registry_writer.h"
#include "fetch/source.h"
#include "tests/fakes/fetch/pending.h"

namespace imagefs {
namespace {

constexpr char kManifestType[] = "application/vnd.oci.image.manifest.v1+json";

std::string Environment(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

class RealRegistryTest : public testing::Test {
 protected:
  void SetUp() override {
    host_ = Environment("IMAGEFS_TEST_REGISTRY");
    if (host_.empty()) GTEST_SKIP() << "IMAGEFS_TEST_REGISTRY names no registry";
    access_.credential.username = Environment("IMAGEFS_TEST_USER");
    access_.credential.password = Environment("IMAGEFS_TEST_PASSWORD");
    SourceFactory::Options options;
    options.push_chunk_bytes = 1 << 20;
    auto factory = SourceFactory::Create(options);
    ASSERT_TRUE(factory.ok()) << factory.status();
    factory_ = *std::move(factory);
  }
  std::shared_ptr<RegistryWriter> Writer(const std::string& repository) {
    return *factory_->OpenWriter(*Reference::Parse(StrCat(host_, "/", repository, ":1")), access_);
  }
  absl::StatusOr<RegistryWriter::PushedBlob> Push(const std::string& repository,
                                                  const std::string& bytes,
                                                  const std::string& from = "") {
    Pending<absl::StatusOr<RegistryWriter::PushedBlob>> pending;
    Writer(repository)
        ->PushBlob({Sha256Of(bytes), bytes.size(), RegistryWriter::FromMemory(bytes), from},
                   CancelToken(), pending.Done());
    return pending.Wait();
  }
  std::shared_ptr<ImageSource> Source(const std::string& repository) {
    return *factory_->Open(*Reference::Parse(StrCat(host_, "/", repository, ":1")), access_);
  }

  std::string host_;
  SourceFactory::Access access_;
  std::unique_ptr<SourceFactory> factory_;
};

TEST_F(RealRegistryTest, BlobsOfEverySize) {
  for (const size_t size : {size_t{0}, size_t{1}, size_t{1} << 20, (size_t{5} << 20) + 17}) {
    const std::string bytes = PatternBytes(size);
    const auto pushed = Push("push/a", bytes);
    ASSERT_TRUE(pushed.ok()) << size << " " << pushed.status();
    EXPECT_EQ(pushed->sent_bytes, size);
    const auto again = Push("push/a", bytes);
    ASSERT_TRUE(again.ok()) << size << " " << again.status();
    EXPECT_EQ(again->sent_bytes, 0u);
    Descriptor blob;
    blob.digest = Sha256Of(bytes);
    blob.size = size;
    Pending<absl::StatusOr<std::string>> read;
    const auto source = Source("push/a");
    source->GetSmallBlob(blob, size, CancelToken(), read.Done());
    ASSERT_TRUE(read.Wait().ok()) << read.result.status();
    EXPECT_TRUE(*read.result == bytes);
  }
}

TEST_F(RealRegistryTest, Mounts) {
  const std::string bytes = PatternBytes(12345);
  ASSERT_TRUE(Push("push/base", bytes).ok());
  const auto mounted = Push("push/derived", bytes, "push/base");
  ASSERT_TRUE(mounted.ok()) << mounted.status();
  EXPECT_TRUE(mounted->mounted);
}

TEST_F(RealRegistryTest, WrongBytesAreRefused) {
  Pending<absl::StatusOr<RegistryWriter::PushedBlob>> pending;
  Writer("push/a")->PushBlob({Sha256Of("this"), 4, RegistryWriter::FromMemory("that"), ""},
                             CancelToken(), pending.Done());
  EXPECT_FALSE(pending.Wait().ok());
  EXPECT_TRUE(Mentions(pending.result.status(), "digest")) << pending.result.status();
}

TEST_F(RealRegistryTest, ArtifactsAreFoundByTheirSubject) {
  const std::string config = "{\"rootfs\":{\"type\":\"layers\",\"diff_ids\":[]}}";
  ASSERT_TRUE(Push("push/image", config).ok());
  const std::string image = StrCat(
      "{\"schemaVersion\":2,\"mediaType\":\"", kManifestType,
      "\",\"config\":{\"mediaType\":\"application/vnd.oci.image.config.v1+json\",\"digest\":\"",
      Sha256Of(config).ToString(), "\",\"size\":", config.size(), "},\"layers\":[]}");
  Pending<absl::StatusOr<RegistryWriter::PushedManifest>> manifest;
  const auto writer = Writer("push/image");
  writer->PushManifest("1", kManifestType, image, CancelToken(), manifest.Done());
  ASSERT_TRUE(manifest.Wait().ok()) << manifest.result.status();

  std::vector<Digest> pushed;
  for (const std::string& bytes : {PatternBytes(100), PatternBytes(3 << 20)}) {
    RegistryWriter::Artifact artifact;
    artifact.artifact_type = "application/vnd.imagefs.test";
    artifact.subject.media_type = kManifestType;
    artifact.subject.digest = Sha256Of(image);
    artifact.subject.size = image.size();
    artifact.annotations = {{"size", StrCat(bytes.size())}};
    RegistryWriter::Layer layer;
    layer.media_type = "application/octet-stream";
    layer.blob = {Sha256Of(bytes), bytes.size(), RegistryWriter::FromMemory(bytes), ""};
    artifact.layers.push_back(std::move(layer));
    Pending<absl::StatusOr<RegistryWriter::PushedArtifact>> pending;
    writer->PushArtifact(std::move(artifact), CancelToken(), pending.Done());
    ASSERT_TRUE(pending.Wait().ok()) << pending.result.status();
    pushed.push_back(pending.result->manifest.digest);
  }
  const auto source = Source("push/image");
  for (int i = 0; i < 2; ++i) {
    Pending<absl::StatusOr<std::vector<Descriptor>>> list;
    source->GetReferrers(Sha256Of(image), "application/vnd.imagefs.test", CancelToken(),
                         list.Done());
    ASSERT_TRUE(list.Wait().ok()) << list.result.status();
    ASSERT_EQ(list.result->size(), 2u);
    EXPECT_EQ((*list.result)[0].digest, pushed[0]);
    EXPECT_EQ((*list.result)[1].digest, pushed[1]);
    EXPECT_EQ((*list.result)[0].annotations.at("size"), "100");
    Pending<absl::StatusOr<ImageSource::FetchedManifest>> fetched;
    source->GetManifest(pushed[0].ToString(), CancelToken(), fetched.Done());
    ASSERT_TRUE(fetched.Wait().ok()) << fetched.result.status();
    EXPECT_TRUE(ParseManifest(fetched.result->bytes, fetched.result->content_type).ok());
  }
}

TEST_F(RealRegistryTest, WithoutTheRightCredentialsNothingIsPushed) {
  if (access_.credential.empty()) GTEST_SKIP() << "this registry lets everybody push";
  access_.credential.password = Secret::Concat({access_.credential.password.view(), "x"});
  EXPECT_TRUE(absl::IsUnauthenticated(Push("push/a", "new bytes").status()));
  access_ = {};
  const absl::Status anonymous = Push("push/a", "new bytes").status();
  EXPECT_TRUE(absl::IsUnauthenticated(anonymous));
  EXPECT_TRUE(Mentions(anonymous, "--to REPOSITORY")) << anonymous;
}

}  // namespace
}  // namespace imagefs
