// SPDX-License-Identifier: Apache-2.0
// The contract of LayerFill, for a layer whose bytes come from a source.
#include <filesystem>

#include "base/text.h"
#include "cache/filling_layer.h"
#include "tests/fakes/base/eventually.h"
#include "tests/fakes/cache/fake_source.h"
#include "tests/fakes/cache/layer_fill_contract.h"
#include "tests/fakes/cache/lazy_blob.h"

namespace imagefs {
namespace {

class FillingHarness {
 public:
  FillingHarness()
      : directory_(StrCat(::testing::TempDir(), "/fill-", RandomHex(8))),
        truth_(TarOf({{"file", MixedBytes(700'000, 11)}})) {
    const std::string bytes = GzipBytes(truth_);
    blob_ = repository_.AddBlob(bytes);
    EXPECT_TRUE(MakeDirs(directory_).ok());
    EXPECT_TRUE(WriteFileDurably(directory_ + "/access",
                                 *WriteSpanTable(MakeTable(truth_, bytes, 32 << 10)))
                    .ok());
    FillScheduler::Options options;
    options.background = false;
    scheduler_ = std::make_unique<FillScheduler>(options);
    auto layer = FillingLayer::Open(
        {.directory = directory_, .check = [](FillingLayer&) { return absl::OkStatus(); }},
        *scheduler_);
    EXPECT_TRUE(layer.ok()) << layer.status();
    layer_ = *std::move(layer);
    layer_->AddSource(repository_.Open("alice"));
    layer_->Start();
  }
  ~FillingHarness() {
    scheduler_.reset();
    layer_.reset();
    std::filesystem::remove_all(directory_);
  }
  LayerFill& fill() { return *layer_; }
  const std::string& truth() const { return truth_; }
  std::string data() const { return directory_ + "/data"; }
  void Hold() { repository_.HoldAt(blob_.digest, 0); }
  void AwaitHeld() { repository_.AwaitHeld(blob_.digest); }
  void Release() { repository_.Release(blob_.digest); }
  void BringAll() {
    layer_->WantAll(Priority::kForeground);
    EXPECT_TRUE(Eventually([this] { return layer_->complete(); }));
  }

 private:
  const std::string directory_;
  const std::string truth_;
  FakeRepository repository_;
  Descriptor blob_;
  std::unique_ptr<FillScheduler> scheduler_;
  std::shared_ptr<FillingLayer> layer_;
};

INSTANTIATE_TYPED_TEST_SUITE_P(Filling, LayerFillContractTest, FillingHarness);

}  // namespace
}  // namespace imagefs
