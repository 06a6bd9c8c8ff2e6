// The contract of ReadBlob for sources of well-behaved and odd registries and of local disk.
#include "tests/fakes/fetch/source_contract.h"

#include <filesystem>

#include "base/fd.h"
#include "tests/fakes/fetch/fake_registry.h"

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

class LayoutHarness {
 public:
  LayoutHarness() : directory_(StrCat(::testing::TempDir(), "/contract-", RandomHex(8))) {}
  ~LayoutHarness() { std::filesystem::remove_all(directory_); }
  std::shared_ptr<ImageSource> Open(const std::string& bytes, Descriptor& blob) {
    blob.size = bytes.size();
    blob.digest = Sha256Of(bytes);
    const std::string blobs = directory_ + "/blobs/sha256";
    EXPECT_TRUE(MakeDirs(blobs).ok());
    EXPECT_TRUE(WriteFileDurably(StrCat(blobs, "/", blob.digest.hex()), bytes).ok());
    EXPECT_TRUE(
        WriteFileDurably(directory_ + "/index.json", R"({"schemaVersion":2,"manifests":[]})").ok());
    EXPECT_TRUE(
        WriteFileDurably(directory_ + "/oci-layout", R"({"imageLayoutVersion":"1.0.0"})").ok());
    factory_ = *SourceFactory::Create({});
    auto source = factory_->Open(*Reference::Parse(StrCat("oci:", directory_)), {});
    EXPECT_TRUE(source.ok()) << source.status();
    return source.ok() ? *source : nullptr;
  }

 private:
  const std::string directory_;
  std::unique_ptr<SourceFactory> factory_;
};

INSTANTIATE_TYPED_TEST_SUITE_P(Registry, SourceContractTest, RegistryHarness);
INSTANTIATE_TYPED_TEST_SUITE_P(RegistryIgnoringRanges, SourceContractTest, IgnoringRangesHarness);
INSTANTIATE_TYPED_TEST_SUITE_P(RegistryCuttingAnswers, SourceContractTest, CuttingHarness);
INSTANTIATE_TYPED_TEST_SUITE_P(RegistryWithoutLength, SourceContractTest, WithoutLengthHarness);
INSTANTIATE_TYPED_TEST_SUITE_P(Layout, SourceContractTest, LayoutHarness);

}  // namespace
}  // namespace imagefs
