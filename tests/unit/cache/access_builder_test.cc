#include "cache/access_builder.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <zstd.h>

#include <memory>
#include <string>

#include "absl/synchronization/notification.h"
#include "base/fd.h"
#include "base/text.h"
#include "tests/fakes/cache/fake_source.h"
#include "tests/fakes/cache/lazy_blob.h"

namespace imagefs {
namespace {

// A frame that takes 32 MiB to read, for which the reader waits.
std::string ZstdOfLargeWindow(const std::string& data) {
  ZSTD_CCtx* context = ZSTD_createCCtx();
  ZSTD_CCtx_setParameter(context, ZSTD_c_windowLog, 25);
  std::string bytes(ZSTD_compressBound(data.size()) + 1024, '\0');
  ZSTD_outBuffer out = {bytes.data(), bytes.size(), 0};
  ZSTD_inBuffer in = {data.data(), data.size(), 0};
  // In two steps, so that the size of the content is not known, which would make it smaller.
  EXPECT_EQ(ZSTD_compressStream2(context, &out, &in, ZSTD_e_flush), 0u);
  EXPECT_EQ(ZSTD_compressStream2(context, &out, &in, ZSTD_e_end), 0u);
  ZSTD_freeCCtx(context);
  bytes.resize(out.pos);
  return bytes;
}

class AccessBuilderTest : public ::testing::Test {
 protected:
  void SetUp() override {
    root_ = StrCat(::testing::TempDir(), "/access-", RandomHex(6));
    for (const char* sub : {"/layers", "/blobs"}) ASSERT_TRUE(MakeDirs(root_ + sub).ok());
    builder_ = std::make_unique<AccessBuilder>(root_, windows_);
  }
  void TearDown() override {
    builder_.reset();
    EXPECT_TRUE(RemoveTree(root_).ok());
  }

  // What a pass over a blob of this tar leaves.
  struct Made {
    LayerRef layer;
    Descriptor blob;
    AccessBuilder::BlobFile file;
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
  static Fd File(const std::string& path, const std::string& bytes) {
    absl::StatusOr<Fd> fd = OpenFile(path, O_RDWR | O_CREAT | O_EXCL, 0600);
    EXPECT_TRUE(fd.ok() && PwriteFull(fd->get(), bytes, 0).ok()) << fd.status();
    return *std::move(fd);
  }

  std::string root_;
  FakeRepository repository_;
  WindowMemory windows_;
  std::unique_ptr<AccessBuilder> builder_;
};

// The thread of those that nobody waits for stands still: so it may on a busy machine.
TEST_F(AccessBuilderTest, WhoWaitsDoesNotWaitForTheLeastUrgentThread) {
  absl::StatusOr<ByteBudget::Lease> all = windows_.Wait("test", WindowMemory::kTotal, {});
  ASSERT_TRUE(all.ok());
  const std::string slow = TarOf({{"slow", MixedBytes(2 << 20, 1)}});
  Start(Make(slow, ZstdOfLargeWindow(slow), /*with_points=*/false));
  const std::string tar = TarOf({{"file", MixedBytes(2 << 20, 2)}});
  Made made = Make(tar, GzipBytes(tar), /*with_points=*/true);
  const LayerRef layer = made.layer;
  const Descriptor blob = made.blob;
  Start(std::move(made));
  absl::Notification ended;
  absl::Status status;
  builder_->Ensure(layer, blob, repository_.Open(""), [&](absl::Status result) {
    status = std::move(result);
    ended.Notify();
  });
  ended.WaitForNotification();
  EXPECT_TRUE(status.ok()) << status;
  EXPECT_TRUE(StatPath(AccessBuilder::PathOf(*layer)).ok());
  EXPECT_EQ(builder_->Flights().counters.active, 1u) << "the other one was not even waited for";
}

// What runs on that thread already is begun again.
TEST_F(AccessBuilderTest, WhoWaitsForWhatStandsStillHasItMadeAgain) {
  absl::StatusOr<ByteBudget::Lease> all = windows_.Wait("test", WindowMemory::kTotal, {});
  ASSERT_TRUE(all.ok());
  const std::string tar = TarOf({{"file", MixedBytes(2 << 20, 3)}});
  Made made = Make(tar, ZstdOfLargeWindow(tar), /*with_points=*/false);
  const LayerRef layer = made.layer;
  const Descriptor blob = made.blob;
  Start(std::move(made));
  absl::Notification ended;
  absl::Status status;
  builder_->Ensure(layer, blob, repository_.Open(""), [&](absl::Status result) {
    status = std::move(result);
    ended.Notify();
  });
  all->Return();
  ended.WaitForNotification();
  EXPECT_TRUE(status.ok()) << status;
  EXPECT_TRUE(StatPath(AccessBuilder::PathOf(*layer)).ok());
}

}  // namespace
}  // namespace imagefs
