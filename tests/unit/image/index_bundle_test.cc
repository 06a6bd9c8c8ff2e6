// SPDX-License-Identifier: Apache-2.0
#include "image/index_bundle.h"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <functional>
#include <optional>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "base/fd.h"
#include "image/erofs_writer.h"
#include "image/span_table.h"
#include "image/zstd_frame.h"
#include "tests/fakes/image/old_bundle.h"

namespace imagefs {
namespace {

std::string WriteTree(const Tree& tree, const Digest& diff_id, uint64_t data_bytes) {
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

// The index of a layer that contains a file of `size` bytes.
std::string Index(const Digest& diff_id, uint64_t data_bytes, uint64_t size) {
  Tree tree;
  Inode attributes;
  attributes.mode = S_IFREG | 0644;
  attributes.size = size;
  const InodeId file = tree.NewInode(attributes);
  tree.SetExtents(file, {{0, 512, size, 1}});
  tree.Link(Tree::kRoot, "file", file);
  return WriteTree(tree, diff_id, data_bytes);
}

class IndexBundleTest : public ::testing::Test {
 protected:
  IndexBundleTest() {
    table_.blob_digest = blob_;
    table_.blob_size = 100;
    table_.diff_id = diff_id_;
    table_.tar_bytes = 2048;
    table_.data_bytes = 2048;
    SpanEntry span{.data_begin = 0, .data_bytes = 2048, .blob_begin = 0, .blob_bytes = 100};
    span.codec = SpanCodec::kGzip;
    table_.spans = {span};
    bundle_ = {Index(diff_id_, 2048, 1000), *WriteSpanTable(table_)};
  }
  absl::Status Check(const Digest& blob, uint64_t blob_size, const Digest& diff_id,
                     uint64_t max_bytes = UINT64_MAX) const {
    const auto index = ErofsImage::FromMemory(bundle_.index);
    if (!index.ok()) return index.status();
    const auto span_table = SpanTableReader::FromBytes(bundle_.span_table);
    if (!span_table.ok()) return span_table.status();
    return TreeOfBundle(**index, **span_table, blob, blob_size, diff_id, max_bytes).status();
  }
  // Makes the second half of the data a span with a window, of two pieces.
  void AddWindows() {
    std::minstd_rand random(1);
    for (int i = 0; i < 60'000; ++i) table_.windows.push_back(static_cast<char>(random() >> 8));
    SpanEntry& first = table_.spans[0];
    first.data_bytes = 1024;
    SpanEntry second = first;
    second.data_begin = 1024;
    second.codec = SpanCodec::kDeflate;
    second.window_bytes = static_cast<uint32_t>(table_.windows.size());
    table_.spans.push_back(second);
    bundle_.span_table = *WriteSpanTable(table_);
  }
  const Digest blob_ = Sha256Of("blob"), diff_id_ = Sha256Of("tar");
  SpanTable table_;
  IndexBundle bundle_;
};

struct Unpacked {
  std::string index, span_table;
  std::optional<PublishedWindows> windows;
};

absl::StatusOr<Unpacked> Unpack(std::string_view packed, uint64_t max_bytes = 1 << 20,
                                const Digest& blob = Sha256Of("blob")) {
  const Fd index(memfd_create("index", MFD_CLOEXEC)),
      span_table(memfd_create("access", MFD_CLOEXEC));
  auto windows = UnpackBundle(packed, max_bytes, blob, index.get(), span_table.get());
  if (!windows.ok()) return windows.status();
  Unpacked bundle;
  bundle.windows = *std::move(windows);
  for (const auto& [file, out] :
       {std::pair(&index, &bundle.index), {&span_table, &bundle.span_table}}) {
    struct stat st;
    EXPECT_EQ(fstat(file->get(), &st), 0);
    out->resize(static_cast<size_t>(st.st_size));
    EXPECT_TRUE(PreadFull(file->get(), absl::MakeSpan(*out), 0).ok());
  }
  return bundle;
}

TEST_F(IndexBundleTest, OpensWhatWasPacked) {
  const PackedBundle packed = *PackBundle(bundle_);
  EXPECT_EQ(packed.windows, "");
  const auto opened = Unpack(packed.index);
  ASSERT_TRUE(opened.ok()) << opened.status();
  EXPECT_EQ(opened->index, bundle_.index);
  EXPECT_EQ(opened->span_table, bundle_.span_table);
  EXPECT_FALSE(opened->windows.has_value());
  EXPECT_TRUE(Check(blob_, 100, diff_id_).ok());
}

TEST_F(IndexBundleTest, WindowsAreInABlobOfTheirOwn) {
  AddWindows();
  const PackedBundle packed = *PackBundle(bundle_);
  ASSERT_EQ(packed.windows, table_.windows);
  EXPECT_LT(packed.index.size(), 4096U);
  const auto opened = Unpack(packed.index);
  ASSERT_TRUE(opened.ok()) << opened.status();
  EXPECT_EQ(opened->index, bundle_.index);
  ASSERT_TRUE(opened->windows.has_value());
  const PublishedWindows& windows = *opened->windows;
  EXPECT_EQ(windows.blob.digest, Sha256Of(packed.windows));
  EXPECT_EQ(windows.blob.size, packed.windows.size());
  ASSERT_EQ(windows.pieces.size(), windows.PieceCount());
  ASSERT_GT(windows.pieces.size(), 1U);
  for (size_t i = 0; i < windows.pieces.size(); ++i) {
    EXPECT_EQ(windows.pieces[i],
              Sha256Of(packed.windows.substr(i * windows.piece_bytes, windows.piece_bytes)));
  }
  // The table has a hole for them; with them in it, it becomes the one that was published.
  EXPECT_TRUE((*SpanTableReader::FromBytes(opened->span_table))->late_windows());
  std::string table = opened->span_table;
  table.replace(table.size() - packed.windows.size(), packed.windows.size(), packed.windows);
  const std::string header = *HeaderOfCompleted(table);
  EXPECT_EQ(table.replace(0, header.size(), header), bundle_.span_table);
  // Nothing is published of a table that lacks them.
  bundle_.span_table = opened->span_table;
  EXPECT_FALSE(PackBundle(bundle_).ok());
}

TEST_F(IndexBundleTest, OfEarlierVersionsIsRead) {
  AddWindows();
  const auto opened = Unpack(PackOldBundle(bundle_));
  ASSERT_TRUE(opened.ok()) << opened.status();
  EXPECT_EQ(opened->index, bundle_.index);
  EXPECT_EQ(opened->span_table, bundle_.span_table);
  EXPECT_FALSE(opened->windows.has_value());
}

TEST_F(IndexBundleTest, WhatALaterVersionAddsIsIgnoredOrRefused) {
  AddWindows();
  const std::string plain = *DecompressZstd(PackBundle(bundle_)->index, 1 << 20);
  const auto with = [&](const std::function<void(std::string&)>& change) {
    std::string changed = plain;
    change(changed);
    return Unpack(CompressZstd(changed, 1));
  };
  const auto insert = [](size_t at, size_t length_at, size_t length) {
    return [=](std::string& text) {
      text[length_at] = static_cast<char>(length + 8);
      text.insert(at, 8, '?');
    };
  };
  const auto same = [&](const absl::StatusOr<Unpacked>& opened) {
    return opened.ok() && opened->index == bundle_.index && opened->windows.has_value() &&
           SpanTableReader::FromBytes(opened->span_table).ok();
  };
  EXPECT_TRUE(same(with([](std::string&) {})));
  EXPECT_TRUE(same(with(insert(48, 12, 48))));         // a longer header
  EXPECT_TRUE(same(with(insert(48 + 104, 36, 104))));  // a longer entry
  EXPECT_TRUE(same(with([](std::string& text) { text += "more"; })));
  EXPECT_TRUE(same(with([](std::string& text) { text[16] = 1; })));  // may be ignored
  EXPECT_FALSE(with([](std::string& text) { text[20] = 1; }).ok());  // may not
  EXPECT_FALSE(with([](std::string& text) { text[48 + 44] = 1; }).ok());
  EXPECT_FALSE(with([](std::string& text) { text[8] = 3; }).ok());
  // A second blob in front of the first.
  const auto second = [&](uint64_t table) {
    return with([&](std::string& text) {
      text[32] = 2;
      std::string entry(text, 48, 104);
      entry.replace(0, 32, 32, 'b');
      entry.replace(48, 48, 48, '\0');
      entry[48] = static_cast<char>(table);
      const size_t tables = 48 + 104 + bundle_.index.size();
      text.insert(tables, table, 't');
      text.insert(48, entry);
    });
  };
  EXPECT_TRUE(same(second(0)));
  EXPECT_TRUE(same(second(100)));
  EXPECT_FALSE(Unpack(PackBundle(bundle_)->index, 1 << 20, Sha256Of("another")).ok());
}

TEST_F(IndexBundleTest, SizesThatLie) {
  AddWindows();
  const std::string plain = *DecompressZstd(PackBundle(bundle_)->index, 1 << 20);
  const auto with = [&](size_t at, uint64_t value, size_t bytes) {
    std::string changed = plain;
    for (size_t i = 0; i < bytes; ++i) changed[at + i] = static_cast<char>(value >> (8 * i));
    return Unpack(CompressZstd(changed, 1)).ok();
  };
  EXPECT_TRUE(with(24, bundle_.index.size(), 8));
  for (const uint64_t value : {uint64_t{0}, uint64_t{1} << 20, UINT64_MAX}) {
    EXPECT_FALSE(with(12, value, 4)) << value;           // the header
    EXPECT_FALSE(with(32, value, 4)) << value;           // the entries
    EXPECT_FALSE(with(36, value, 4)) << value;           // an entry
    EXPECT_FALSE(with(48 + 96, value | 1, 4)) << value;  // a piece
  }
  for (const uint64_t value : {uint64_t{1} << 20, UINT64_MAX - 8, UINT64_MAX}) {
    EXPECT_FALSE(with(24, value, 8)) << value;            // the index
    EXPECT_FALSE(with(48 + 48, value, 8)) << value;       // the table
    EXPECT_FALSE(with(48 + 56, value << 9, 8)) << value;  // its windows
  }
}

TEST_F(IndexBundleTest, IsOfOneLayerOnly) {
  EXPECT_FALSE(Check(Sha256Of("another"), 100, diff_id_).ok());
  EXPECT_FALSE(Check(blob_, 101, diff_id_).ok());
  EXPECT_FALSE(Check(blob_, 100, Sha256Of("another")).ok());
}

TEST_F(IndexBundleTest, TreeAndTableAreOfTheSameData) {
  bundle_.index = Index(diff_id_, 4096, 1000);
  EXPECT_FALSE(Check(blob_, 100, diff_id_).ok());
  bundle_.index = Index(Sha256Of("another"), 2048, 1000);
  EXPECT_FALSE(Check(blob_, 100, diff_id_).ok());
  bundle_.index = "no index";
  EXPECT_FALSE(Check(blob_, 100, diff_id_).ok());
}

// The tree of such a table is never compared with a tar.
TEST_F(IndexBundleTest, OnlyTheImageMaySpeakOfATableOfContents) {
  for (const DataLayout layout : {DataLayout::kTable, DataLayout::kForeignTar}) {
    table_.layout = layout;
    bundle_.span_table = *WriteSpanTable(table_);
    EXPECT_FALSE(Check(blob_, 100, diff_id_).ok());
  }
}

// Its bytes would be trusted because they came from the registry, which is not for a publisher to
// say.
TEST_F(IndexBundleTest, EverySpanHasADigest) {
  table_.spans.front().codec = SpanCodec::kStored;
  table_.spans.front().blob_bytes = table_.spans.front().data_bytes;
  table_.blob_size = 1 << 20;
  bundle_.span_table = *WriteSpanTable(table_);
  EXPECT_TRUE(Check(blob_, 1 << 20, diff_id_).ok());
  table_.spans.front().digest_of = SpanDigest::kNone;
  bundle_.span_table = *WriteSpanTable(table_);
  EXPECT_FALSE(Check(blob_, 1 << 20, diff_id_).ok());
}

TEST_F(IndexBundleTest, InodesThatNoLayerHas) {
  const auto with = [&](auto change) {
    Tree tree;
    Inode attributes;
    attributes.mode = S_IFREG | 0644;
    const InodeId file = tree.NewInode(attributes);
    tree.Link(Tree::kRoot, "file", file);
    change(tree, file);
    bundle_.index = WriteTree(tree, diff_id_, 2048);
    return Check(blob_, 100, diff_id_);
  };
  EXPECT_TRUE(with([](Tree&, InodeId) {}).ok());
  EXPECT_FALSE(with([](Tree& tree, InodeId id) { tree.inode(id).uid = UINT32_MAX; }).ok());
  EXPECT_FALSE(with([](Tree& tree, InodeId id) { tree.inode(id).gid = UINT32_MAX; }).ok());
  EXPECT_FALSE(with([](Tree& tree, InodeId id) { tree.inode(id).opaque = true; }).ok());
  EXPECT_FALSE(with([](Tree& tree, InodeId id) { tree.inode(id).implied = true; }).ok());
}

TEST_F(IndexBundleTest, MemoryIsBounded) {
  EXPECT_TRUE(absl::IsResourceExhausted(Check(blob_, 100, diff_id_, 100)));
  // A file whose pieces are in reverse order: 8 bytes of index, 32 of tree.
  Tree tree;
  Inode attributes;
  attributes.mode = S_IFREG | 0644;
  constexpr uint64_t kPieces = 20000;
  attributes.size = kPieces * 512;
  const InodeId file = tree.NewInode(attributes);
  std::vector<Extent> extents;
  for (uint64_t i = 0; i < kPieces; ++i) extents.push_back({i * 512, i % 2 * 1024, 512, 1});
  tree.SetExtents(file, extents);
  tree.Link(Tree::kRoot, "file", file);
  bundle_.index = WriteTree(tree, diff_id_, 2048);
  EXPECT_TRUE(Check(blob_, 100, diff_id_).ok());
  EXPECT_TRUE(absl::IsResourceExhausted(Check(blob_, 100, diff_id_, 2 * bundle_.index.size())));
}

TEST_F(IndexBundleTest, DamagedBytesAreAnError) {
  AddWindows();
  const std::string bytes = PackBundle(bundle_)->index;
  for (size_t i = 0; i < bytes.size(); ++i) {
    EXPECT_FALSE(Unpack(bytes.substr(0, i)).ok()) << i;
  }
  EXPECT_FALSE(Unpack("").ok());
  EXPECT_FALSE(Unpack(bytes + "x").ok());
  const std::string plain = *DecompressZstd(bytes, 1 << 20);
  for (size_t i = 0; i < plain.size(); ++i) {
    EXPECT_FALSE(Unpack(CompressZstd(plain.substr(0, i), 1)).ok()) << i;
  }
  EXPECT_FALSE(Unpack(CompressZstd(std::string(100, 'x'), 1)).ok());
  // Of an earlier version; and an index longer than the whole bundle.
  EXPECT_FALSE(Unpack(CompressZstd("imgfsidx", 1)).ok());
  EXPECT_FALSE(
      Unpack(CompressZstd(std::string("imgfsidx\xff\xff\xff\xff\0\0\0\0abc", 19), 1)).ok());
}

TEST_F(IndexBundleTest, IsUnpackedToNoMoreThanAllowed) {
  const std::string packed = PackBundle(bundle_)->index;
  const uint64_t size = *ZstdFrameBytes(packed);
  EXPECT_TRUE(Unpack(packed, size).ok());
  EXPECT_TRUE(absl::IsResourceExhausted(Unpack(packed, size - 1).status()));
}

// The content size declared by a frame (RFC 8878) is only a claim.
TEST(ZstdFrame, MayNotHoldMoreThanItSays) {
  std::string frame = CompressZstd(std::string(1 << 20, '\0'), 1);
  ASSERT_EQ(*ZstdFrameBytes(frame), 1U << 20);
  const size_t at = frame.find(std::string("\0\0\x10\0", 4));  // 1 << 20, little-endian
  ASSERT_NE(at, std::string::npos);
  frame[at + 2] = 1;
  const uint64_t said = *ZstdFrameBytes(frame);
  ASSERT_EQ(said, 1U << 16);
  uint64_t got = 0;
  EXPECT_FALSE(DecompressZstdTo(frame, said, [&](std::string_view piece) {
                 got += piece.size();
                 return absl::OkStatus();
               }).ok());
  EXPECT_LE(got, said);
}

TEST(ZstdFrame, IsBounded) {
  const std::string zeros(1 << 20, '\0');
  EXPECT_EQ(*DecompressZstd(CompressZstd(zeros, 3), 1 << 20), zeros);
  EXPECT_TRUE(
      absl::IsResourceExhausted(DecompressZstd(CompressZstd(zeros, 3), (1 << 20) - 1).status()));
  EXPECT_FALSE(DecompressZstd("nonsense", 100).ok());
  EXPECT_EQ(*DecompressZstd(CompressZstd("", 3), 0), "");
  // Truncated input, too much content, trailing bytes; a frame that claims to hold 512 MiB.
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
