// SPDX-License-Identifier: Apache-2.0
// The promises of a source, kept by those of registries, good and bad ones, and of this disk.
#include "tests/fakes/fetch/source_contract.h"

#include <filesystem>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_format.h"
#include "base/fd.h"
#include "tests/fakes/fetch/fake_registry.h"
#include "tests/fakes/fetch/held_source_contract.h"
#include "tests/fakes/fetch/source_answers_contract.h"

namespace imagefs {
namespace {

// A real server on a loopback port, and requests of 100,000 bytes, three at a time.
class RegistryHarness {
 public:
  std::shared_ptr<ImageSource> Open(std::string bytes, Descriptor& blob) {
    SourceFactory::Options options;
    options.first_backoff = std::chrono::milliseconds(1);
    options.range_bytes = 100'000;
    options.ranges_per_blob = 3;
    factory_ = *SourceFactory::Create(options);
    blob.size = bytes.size();
    blob.digest = server_.AddBlob("img", std::move(bytes));
    path_ = FakeRegistry::BlobPath("img", blob.digest);
    return *factory_->Open(*Reference::Parse(StrCat(server_.host(), "/img:1")), {});
  }

 protected:
  FakeRegistry server_;
  std::unique_ptr<SourceFactory> factory_;
  std::string path_;
};

class IgnoringRangesHarness : public RegistryHarness {
 public:
  std::shared_ptr<ImageSource> Open(std::string bytes, Descriptor& blob) {
    auto source = RegistryHarness::Open(std::move(bytes), blob);
    server_.On(path_, {.times = -1, .ignore_range = true});
    return source;
  }
};

class CuttingHarness : public RegistryHarness {
 public:
  std::shared_ptr<ImageSource> Open(std::string bytes, Descriptor& blob) {
    auto source = RegistryHarness::Open(std::move(bytes), blob);
    for (const uint64_t after : {70'000, 1, 66'000, 0, 90'000}) {
      server_.On(path_, {.times = 1, .cut_after_bytes = after});
    }
    return source;
  }
};

class WithoutLengthHarness : public RegistryHarness {
 public:
  std::shared_ptr<ImageSource> Open(std::string bytes, Descriptor& blob) {
    auto source = RegistryHarness::Open(std::move(bytes), blob);
    server_.On(path_, {.times = -1, .chunked = true});
    return source;
  }
};

class HoldingHarness : public RegistryHarness {
 public:
  void Hold(uint64_t offset) {
    server_.On(path_, offset == 0
                          ? FakeRegistry::Behaviour{.times = -1, .hold = true}
                          : FakeRegistry::Behaviour{.times = -1, .hold_after_bytes = offset});
    seen_ = server_.RequestsFor(path_).size();
  }
  void AwaitHeld() { EXPECT_TRUE(server_.WaitForRequests(path_, seen_ + 1)); }
  void Release() { server_.Release(path_); }

 private:
  size_t seen_ = 0;
};

constexpr char kManifestType[] = "application/vnd.oci.image.manifest.v1+json";

class RegistryAnswersHarness {
 public:
  std::shared_ptr<ImageSource> Open(const std::vector<std::string>& blobs,
                                    const std::string& manifest) {
    for (const std::string& blob : blobs) server_.AddBlob("img", blob);
    server_.AddManifest("img", "1", manifest, StrCat(kManifestType, "; charset=utf-8"));
    SourceFactory::Options options;
    options.first_backoff = std::chrono::milliseconds(1);
    factory_ = *SourceFactory::Create(options);
    return *factory_->Open(*Reference::Parse(StrCat(server_.host(), "/img:1")), {});
  }
  void Damage(const Digest& blob) {
    server_.On(FakeRegistry::BlobPath("img", blob), {.times = -1, .corrupt = true});
  }

 protected:
  FakeRegistry server_;
  std::unique_ptr<SourceFactory> factory_;
};

class RegistryWithReferrersHarness : public RegistryAnswersHarness {
 public:
  RegistryWithReferrersHarness() { server_.SetFeatures({.referrers = true}); }
};

// The file of a blob, and its first byte, in a directory or in a tar.
class LocalHarness {
 public:
  LocalHarness() : directory_(StrCat(::testing::TempDir(), "/contract-", RandomHex(8))) {
    EXPECT_TRUE(MakeDirs(directory_).ok());
  }
  ~LocalHarness() { std::filesystem::remove_all(directory_); }

 protected:
  using Files = std::vector<std::pair<std::string, std::string>>;  // by their names

  static Files LayoutOf(const std::vector<std::string>& blobs, const std::string& manifest) {
    Files files = {{"oci-layout", R"({"imageLayoutVersion":"1.0.0"})"}};
    for (const std::string& blob : blobs) files.emplace_back(NameOf(Sha256Of(blob)), blob);
    std::string list;
    if (!manifest.empty()) {
      const Digest digest = Sha256Of(manifest);
      files.emplace_back(NameOf(digest), manifest);
      list = StrCat(R"({"mediaType":")", kManifestType, R"(","digest":")", digest.ToString(),
                    R"(","size":)", manifest.size(),
                    R"(,"annotations":{"org.opencontainers.image.ref.name":"1"}})");
    }
    files.emplace_back("index.json", StrCat(R"({"schemaVersion":2,"manifests":[)", list, "]}"));
    return files;
  }
  static std::string NameOf(const Digest& blob) { return "blobs/sha256/" + blob.hex(); }

  void WriteDirectory(const Files& files) {
    EXPECT_TRUE(MakeDirs(directory_ + "/blobs/sha256").ok());
    for (const auto& [name, bytes] : files) {
      EXPECT_TRUE(WriteFileDurably(StrCat(directory_, "/", name), bytes).ok());
    }
  }
  void WriteArchive(const Files& files) {
    std::string tar;
    for (const auto& [name, bytes] : files) {
      std::string head(512, '\0');
      const auto put = [&head](size_t at, const std::string& text) {
        head.replace(at, text.size(), text);
      };
      put(0, name);
      put(100, "0000644");
      put(124, absl::StrFormat("%011o", bytes.size()));
      put(148, "        ");
      put(156, "0");
      put(257, std::string("ustar\00000", 8));
      unsigned sum = 0;
      for (const char c : head) sum += static_cast<unsigned char>(c);
      put(148, absl::StrFormat("%06o", sum) + std::string("\0 ", 2));
      places_[name] = tar.size() + head.size();
      tar += head + bytes + std::string((512 - bytes.size() % 512) % 512, '\0');
    }
    EXPECT_TRUE(WriteFileDurably(archive(), tar + std::string(1024, '\0')).ok());
  }
  static void TurnByte(const std::string& path, uint64_t offset) {
    absl::StatusOr<Fd> file = OpenFile(path, O_RDWR);
    ASSERT_TRUE(file.ok()) << file.status();
    char byte = 0;
    ASSERT_EQ(*PreadFull(file->get(), absl::MakeSpan(&byte, 1), offset), 1U);
    byte ^= 1;
    ASSERT_TRUE(PwriteFull(file->get(), std::string_view(&byte, 1), offset).ok());
  }
  std::shared_ptr<ImageSource> OpenReference(const std::string& reference) {
    factory_ = *SourceFactory::Create({});
    auto source = factory_->Open(*Reference::Parse(reference), {});
    EXPECT_TRUE(source.ok()) << source.status();
    return source.ok() ? *source : nullptr;
  }
  std::string archive() const { return directory_ + "/image.tar"; }

  const std::string directory_;
  std::map<std::string, uint64_t> places_;  // in the archive

 private:
  std::unique_ptr<SourceFactory> factory_;
};

class LayoutHarness : public LocalHarness {
 public:
  std::shared_ptr<ImageSource> Open(const std::string& bytes, Descriptor& blob) {
    blob.size = bytes.size();
    blob.digest = Sha256Of(bytes);
    return Open({bytes}, "");
  }
  std::shared_ptr<ImageSource> Open(const std::vector<std::string>& blobs,
                                    const std::string& manifest) {
    WriteDirectory(LayoutOf(blobs, manifest));
    return OpenReference(StrCat("oci:", directory_));
  }
  void Damage(const Digest& blob) { TurnByte(StrCat(directory_, "/", NameOf(blob)), 0); }
};

class ArchiveHarness : public LocalHarness {
 public:
  std::shared_ptr<ImageSource> Open(const std::string& bytes, Descriptor& blob) {
    blob.size = bytes.size();
    blob.digest = Sha256Of(bytes);
    return Open({bytes}, "");
  }
  std::shared_ptr<ImageSource> Open(const std::vector<std::string>& blobs,
                                    const std::string& manifest) {
    WriteArchive(LayoutOf(blobs, manifest));
    return OpenReference(StrCat("oci-archive:", archive()));
  }
  void Damage(const Digest& blob) { TurnByte(archive(), places_.at(NameOf(blob))); }
};

// What docker save writes: its layer is the blob, by its DiffID.
class DockerArchiveHarness : public LocalHarness {
 public:
  std::shared_ptr<ImageSource> Open(const std::string& bytes, Descriptor& blob) {
    blob.size = bytes.size();
    blob.digest = Sha256Of(bytes);
    const std::string config =
        StrCat(R"({"os":"linux","architecture":"amd64","rootfs":{"type":"layers","diff_ids":[")",
               blob.digest.ToString(), R"("]}})");
    const std::string named = Sha256Of(config).hex() + ".json";
    WriteArchive(
        {{named, config},
         {"0/layer.tar", bytes},
         {"manifest.json", StrCat(R"([{"Config":")", named,
                                  R"(","RepoTags":["img:1"],"Layers":["0/layer.tar"]}])")}});
    return OpenReference(StrCat("docker-archive:", archive()));
  }
};

INSTANTIATE_TYPED_TEST_SUITE_P(Registry, SourceContractTest, RegistryHarness);
INSTANTIATE_TYPED_TEST_SUITE_P(RegistryIgnoringRanges, SourceContractTest, IgnoringRangesHarness);
INSTANTIATE_TYPED_TEST_SUITE_P(RegistryCuttingAnswers, SourceContractTest, CuttingHarness);
INSTANTIATE_TYPED_TEST_SUITE_P(RegistryWithoutLength, SourceContractTest, WithoutLengthHarness);
INSTANTIATE_TYPED_TEST_SUITE_P(Layout, SourceContractTest, LayoutHarness);
INSTANTIATE_TYPED_TEST_SUITE_P(Archive, SourceContractTest, ArchiveHarness);
INSTANTIATE_TYPED_TEST_SUITE_P(DockerArchive, SourceContractTest, DockerArchiveHarness);
INSTANTIATE_TYPED_TEST_SUITE_P(Registry, HeldSourceContractTest, HoldingHarness);
INSTANTIATE_TYPED_TEST_SUITE_P(Registry, SourceAnswersContractTest, RegistryAnswersHarness);
INSTANTIATE_TYPED_TEST_SUITE_P(RegistryWithReferrers, SourceAnswersContractTest,
                               RegistryWithReferrersHarness);
INSTANTIATE_TYPED_TEST_SUITE_P(Layout, SourceAnswersContractTest, LayoutHarness);
INSTANTIATE_TYPED_TEST_SUITE_P(Archive, SourceAnswersContractTest, ArchiveHarness);

}  // namespace
}  // namespace imagefs
