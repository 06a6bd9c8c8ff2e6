#include "image/index_bundle.h"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <string>

#include "base/fd.h"
#include "image/erofs_writer.h"
#include "image/layer_access.h"
#include "image/zstd_frame.h"

namespace imagefs {
namespace {

// The index of a layer that has one directory and a file of `size` bytes.
std::string Index(const Digest& diff_id, uint64_t data_bytes, uint64_t size) {
  Tree tree;
  Inode attributes;
  attributes.mode = S_IFREG | 0644;
  attributes.size = size;
  attributes.nlink = 1;
  const InodeId file = tree.NewInode(attributes);
  tree.SetExtents(file, {{0, 512, size, 1}});
  tree.Link(Tree::kRoot, "file", file);
  const Fd fd(memfd_create("index", MFD_CLOEXEC));
  ErofsWriterOptions options;
  options.overlay_form = true;
  options.devices.push_back({diff_id.hex(), data_bytes});
  EXPECT_TRUE(WriteErofs(tree, options, fd.get()).ok());
  struct stat st;
  EXPECT_EQ(fstat(fd.get(), &st), 0);
  std::string bytes(static_cast<size_t>(st.st_size), '\0');
  EXPECT_TRUE(PreadFull(fd.get(), absl::MakeSpan(bytes), 0).ok());
  return bytes;
}

class IndexBundleTest : public ::testing::Test {
 protected:
  IndexBundleTest() {
    table_.blob_digest = blob_;
    table_.blob_size = 100;
    table_.diff_id = diff_id_;
    table_.tar_bytes = 2048;
    table_.data_bytes = 2048;
    AccessSpan span{.data_begin = 0, .data_bytes = 2048, .blob_begin = 0, .blob_bytes = 100};
    span.codec = SpanCodec::kGzip;
    table_.spans = {span};
    bundle_ = {Index(diff_id_, 2048, 1000), *WriteAccess(table_)};
  }
  const Digest blob_ = Sha256Of("blob"), diff_id_ = Sha256Of("tar");
  AccessTable table_;
  IndexBundle bundle_;
};

TEST_F(IndexBundleTest, OpensWhatWasPacked) {
  const auto opened = UnpackBundle(PackBundle(bundle_));
  ASSERT_TRUE(opened.ok()) << opened.status();
  EXPECT_EQ(opened->index, bundle_.index);
  EXPECT_EQ(opened->access, bundle_.access);
  EXPECT_TRUE(CheckBundle(*opened, blob_, 100, diff_id_).ok());
}

TEST_F(IndexBundleTest, IsOfOneLayerOnly) {
  EXPECT_FALSE(CheckBundle(bundle_, Sha256Of("another"), 100, diff_id_).ok());
  EXPECT_FALSE(CheckBundle(bundle_, blob_, 101, diff_id_).ok());
  EXPECT_FALSE(CheckBundle(bundle_, blob_, 100, Sha256Of("another")).ok());
}

TEST_F(IndexBundleTest, TreeAndTableAreOfTheSameData) {
  bundle_.index = Index(diff_id_, 4096, 1000);
  EXPECT_FALSE(CheckBundle(bundle_, blob_, 100, diff_id_).ok());
  bundle_.index = Index(Sha256Of("another"), 2048, 1000);
  EXPECT_FALSE(CheckBundle(bundle_, blob_, 100, diff_id_).ok());
  bundle_.index = "no index";
  EXPECT_FALSE(CheckBundle(bundle_, blob_, 100, diff_id_).ok());
}

TEST_F(IndexBundleTest, DamagedBytesAreAnError) {
  const std::string bytes = PackBundle(bundle_);
  for (size_t i = 0; i < bytes.size(); ++i) {
    EXPECT_FALSE(UnpackBundle(bytes.substr(0, i)).ok()) << i;
  }
  EXPECT_FALSE(UnpackBundle("").ok());
  EXPECT_FALSE(UnpackBundle(CompressZstd("imgfsidx", 1)).ok());
  EXPECT_FALSE(UnpackBundle(CompressZstd(std::string(100, 'x'), 1)).ok());
  // An index that is longer than all.
  EXPECT_FALSE(
      UnpackBundle(CompressZstd(std::string("imgfsidx\xff\xff\xff\xff\0\0\0\0abc", 19), 1)).ok());
}

TEST(ZstdFrame, IsBounded) {
  const std::string zeros(1 << 20, '\0');
  EXPECT_EQ(*DecompressZstd(CompressZstd(zeros, 3), 1 << 20), zeros);
  EXPECT_TRUE(
      absl::IsResourceExhausted(DecompressZstd(CompressZstd(zeros, 3), (1 << 20) - 1).status()));
  EXPECT_FALSE(DecompressZstd("nonsense", 100).ok());
  EXPECT_EQ(*DecompressZstd(CompressZstd("", 3), 0), "");
  // What is not there, what is too much, what follows; a frame that says it holds 512 MiB.
  const std::string frame = CompressZstd(zeros, 3);
  for (size_t n = 0; n < frame.size(); ++n) {
    EXPECT_FALSE(DecompressZstd(std::string_view(frame).substr(0, n), 1 << 20).ok()) << n;
  }
  EXPECT_FALSE(DecompressZstd(frame + "x", 1 << 20).ok());
  EXPECT_FALSE(DecompressZstd(frame + frame, 4 << 20).ok());
  const std::string_view claim("\x28\xb5\x2f\xfd\xa0\x00\x00\x00\x20\x01\x00\x00", 12);
  EXPECT_TRUE(absl::IsDataLoss(DecompressZstd(claim, 512 << 20).status()));
  EXPECT_TRUE(absl::IsResourceExhausted(DecompressZstd(claim, 511 << 20).status()));
}

}  // namespace
}  // namespace imagefs
