// SPDX-License-Identifier: Apache-2.0
#include "cache/span_table_builder.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <zstd.h>

#include <algorithm>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/synchronization/notification.h"
#include "base/fd.h"
#include "base/text.h"
#include "tests/fakes/cache/fake_source.h"
#include "tests/fakes/cache/lazy_blob.h"

namespace imagefs {
namespace {

// A frame that takes 32 MiB to read, which the reader must wait for.
std::string ZstdOfLargeWindow(const std::string& data) {
  ZSTD_CCtx* context = ZSTD_createCCtx();
  ZSTD_CCtx_setParameter(context, ZSTD_c_windowLog, 25);
  std::string bytes(ZSTD_compressBound(data.size()) + 1024, '\0');
  ZSTD_outBuffer out = {bytes.data(), bytes.size(), 0};
  ZSTD_inBuffer in = {data.data(), data.size(), 0};
  // In two steps, so that the content size is unknown; otherwise the window would be smaller.
  EXPECT_EQ(ZSTD_compressStream2(context, &out, &in, ZSTD_e_flush), 0u);
  EXPECT_EQ(ZSTD_compressStream2(context, &out, &in, ZSTD_e_end), 0u);
  ZSTD_freeCCtx(context);
  bytes.resize(out.pos);
  return bytes;
}

class SpanTableBuilderTest : public ::testing::Test {
 protected:
  void SetUp() override {
    root_ = StrCat(::testing::TempDir(), "/access-", RandomHex(6));
    for (const char* sub : {"/layers", "/blobs"}) ASSERT_TRUE(MakeDirs(root_ + sub).ok());
    builder_ = std::make_unique<SpanTableBuilder>(root_, windows_);
  }
  void TearDown() override {
    builder_.reset();
    EXPECT_TRUE(RemoveTree(root_).ok());
  }

  // The result of a pass over a blob of this tar.
  struct Made {
    LayerRef layer;
    Descriptor blob;
    SpanTableBuilder::BlobFile file;
    LayerOutput output;
  };
  Made Make(const std::string& tar, const std::string& bytes, bool with_points) {
    Made made;
    auto layer = std::make_shared<Layer>();
    layer->id = layer->diff_id = Sha256Of(tar);
    layer->directory = StrCat(root_, "/layers/", layer->id.hex());
    EXPECT_TRUE(MakeDirs(layer->directory).ok());
    layer->data = File(layer->directory + "/data", tar);
    layer->data_bytes = made.output.data_bytes = made.output.tar_bytes = tar.size();
    made.layer = std::move(layer);
    made.blob.digest = Sha256Of(bytes);
    made.blob.size = bytes.size();
    made.file.fd = File(StrCat(root_, "/blobs/", made.blob.digest.hex()), bytes);
    if (with_points) {
      auto decompressor = *Decompressor::Create(SniffCompression(bytes), kPointSpacing);
      std::string out(2 * tar.size(), '\0');
      EXPECT_TRUE(decompressor->Run(bytes, absl::MakeSpan(out)).ok());
      made.output.points = decompressor->points();
      EXPECT_FALSE(made.output.points.empty());
    }
    return made;
  }
  void Start(Made made) {
    builder_->Start(made.layer, made.blob, std::move(made.file), std::move(made.output),
                    {"registry.test", "", nullptr, true});
  }
  // Starts the build and immediately requests it.
  struct Asked {
    LayerRef layer;
    absl::Notification ended;
    absl::Status status;
  };
  std::unique_ptr<Asked> StartAndEnsure(Made made) {
    auto asked = std::make_unique<Asked>();
    asked->layer = made.layer;
    const Descriptor blob = made.blob;
    Start(std::move(made));
    builder_->Ensure(asked->layer, blob, repository_.Open(""),
                     [raw = asked.get()](absl::Status result) {
                       raw->status = std::move(result);
                       raw->ended.Notify();
                     });
    return asked;
  }
  static void ExpectTable(Asked& asked) {
    asked.ended.WaitForNotification();
    EXPECT_TRUE(asked.status.ok()) << asked.status;
    EXPECT_TRUE(StatPath(SpanTableBuilder::PathOf(*asked.layer)).ok());
  }
  uint64_t Counter(const std::string& name) const {
    std::vector<std::pair<std::string, uint64_t>> all;
    builder_->AppendCounters(all);
    return std::find_if(all.begin(), all.end(), [&](auto& one) { return one.first == name; })
        ->second;
  }
  static Fd File(const std::string& path, const std::string& bytes) {
    absl::StatusOr<Fd> fd = OpenFile(path, O_RDWR | O_CREAT | O_EXCL, 0600);
    EXPECT_TRUE(fd.ok() && PwriteFull(fd->get(), bytes, 0).ok()) << fd.status();
    return *std::move(fd);
  }

  std::string root_;
  FakeRepository repository_;
  WindowMemory windows_;
  std::unique_ptr<SpanTableBuilder> builder_;
};

// The idle thread is stuck, as it may be on a busy machine.
TEST_F(SpanTableBuilderTest, WhoWaitsDoesNotWaitForTheLeastUrgentThread) {
  absl::StatusOr<ByteBudget::Lease> all = windows_.Wait("test", WindowMemory::kTotal, {});
  ASSERT_TRUE(all.ok());
  const std::string slow = TarOf({{"slow", MixedBytes(2 << 20, 1)}});
  Start(Make(slow, ZstdOfLargeWindow(slow), /*with_points=*/false));
  const std::string tar = TarOf({{"file", MixedBytes(2 << 20, 2)}});
  const auto asked = StartAndEnsure(Make(tar, GzipBytes(tar), /*with_points=*/true));
  ExpectTable(*asked);
  EXPECT_EQ(builder_->Flights().counters.active, 1u) << "the other one was not even waited for";
}

// A build that already runs on that thread is started again.
TEST_F(SpanTableBuilderTest, WhoWaitsForWhatStandsStillHasItMadeAgain) {
  absl::StatusOr<ByteBudget::Lease> all = windows_.Wait("test", WindowMemory::kTotal, {});
  ASSERT_TRUE(all.ok());
  const std::string tar = TarOf({{"file", MixedBytes(2 << 20, 3)}});
  const auto asked = StartAndEnsure(Make(tar, ZstdOfLargeWindow(tar), /*with_points=*/false));
  all->Return();
  ExpectTable(*asked);
  // One table is built, regardless of the number of attempts.
  EXPECT_EQ(Counter("span_tables_built"), 1u);
  EXPECT_EQ(Counter("span_tables_failed"), 0u);
}

}  // namespace
}  // namespace imagefs
