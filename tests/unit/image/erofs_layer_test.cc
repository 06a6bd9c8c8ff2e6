// SPDX-License-Identifier: Apache-2.0
// Images are written here byte by byte; those of mkfs.erofs are read by integration/151.
#include "image/erofs_layer.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <cstring>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "base/text.h"
#include "image/erofs_format.h"

namespace imagefs {
namespace {

constexpr uint32_t kBits = 12;
constexpr size_t kBlock = 1 << kBits;

// Block 0: superblock. Block 1: inodes, each with 256 bytes. Blocks from 2 on: data.
class ImageMaker {
 public:
  ImageMaker() : bytes_(2 * kBlock, '\0') {
    SuperBlock super;
    super.magic = kMagic;
    super.block_bits = kBits;
    super.root_nid = 0;
    super.epoch = 1000;
    super.epoch_nanoseconds = 7;
    super.meta_block = 1;
    Put(kSuperOffset, super);
  }

  template <typename T>
  void Put(size_t at, const T& value) {
    if (bytes_.size() < at + sizeof(T)) bytes_.resize(at + sizeof(T));
    std::memcpy(&bytes_[at], &value, sizeof(T));
  }
  void Text(size_t at, const std::string& text) {
    if (bytes_.size() < at + text.size()) bytes_.resize(at + text.size());
    bytes_.replace(at, text.size(), text);
  }
  SuperBlock& super() { return *reinterpret_cast<SuperBlock*>(&bytes_[kSuperOffset]); }

  static uint64_t Nid(int number) { return static_cast<uint64_t>(number) * 8; }
  static size_t At(int number) { return kBlock + 256 * static_cast<size_t>(number); }
  DiskInode& inode(int number) { return *reinterpret_cast<DiskInode*>(&bytes_[At(number)]); }

  void Add(int number, uint32_t mode, uint16_t layout, uint64_t size, uint32_t u) {
    DiskInode inode;
    inode.format = static_cast<uint16_t>(layout << 1 | kFormatExtended);
    inode.mode = static_cast<uint16_t>(mode);
    inode.size = size;
    inode.u = u;
    inode.uid = 70000;
    inode.gid = 5;
    inode.mtime = 2000;
    inode.mtime_nanoseconds = 9;
    Put(At(number), inode);
  }
  void AddCompact(int number, uint32_t mode, uint16_t uid) {
    std::string bytes(32, '\0');
    const Le16 disk_mode = static_cast<uint16_t>(mode), disk_uid = uid;
    std::memcpy(&bytes[4], &disk_mode, sizeof(disk_mode));
    std::memcpy(&bytes[24], &disk_uid, sizeof(disk_uid));
    Text(At(number), bytes);
  }
  // A directory in its inode's tail. The names must be sorted.
  void AddDirectory(int number, std::vector<std::pair<std::string, int>> entries) {
    entries.insert(entries.begin(), {{".", number}, {"..", 0}});
    std::string block, names;
    for (const auto& [name, child] : entries) {
      DiskDirent entry;
      entry.nid = Nid(child);
      entry.name_offset = static_cast<uint16_t>(entries.size() * sizeof(DiskDirent) + names.size());
      block.append(reinterpret_cast<const char*>(&entry), sizeof(entry));
      names += name;
    }
    block += names;
    Add(number, S_IFDIR | 0750, kFlatInline, block.size(), 0);
    Text(At(number) + sizeof(DiskInode), block);
  }
  void AddTail(int number, uint32_t mode, const std::string& tail) {
    Add(number, mode, kFlatInline, tail.size(), 0);
    Text(At(number) + sizeof(DiskInode), tail);
  }
  // Before the inode's data is written: the xattr goes between.
  static std::string XattrText(uint8_t prefix, const std::string& name, const std::string& value) {
    XattrEntry entry;
    entry.name_length = static_cast<uint8_t>(name.size());
    entry.prefix = prefix;
    entry.value_size = static_cast<uint16_t>(value.size());
    std::string text(reinterpret_cast<const char*>(&entry), sizeof(entry));
    text += name + value;
    text.resize((text.size() + 3) / 4 * 4);
    return text;
  }
  void AddXattrs(int number, const std::string& entries, std::vector<uint32_t> shared = {}) {
    XattrHeader header;
    header.shared_count = static_cast<uint8_t>(shared.size());
    std::string text(reinterpret_cast<const char*>(&header), sizeof(header));
    for (const uint32_t id : shared) {
      const Le32 disk = id;
      text.append(reinterpret_cast<const char*>(&disk), sizeof(disk));
    }
    text += entries;
    const size_t after = At(number) + sizeof(DiskInode);
    const std::string data = bytes_.substr(after, 128);
    inode(number).xattr_count = static_cast<uint16_t>(1 + (text.size() - sizeof(header)) / 4);
    Text(after, text + data);
  }

  std::string Finish() {
    bytes_.resize((bytes_.size() + kBlock - 1) / kBlock * kBlock);
    return bytes_;
  }

 private:
  std::string bytes_;
};

std::string Error(const std::string& image) {
  return std::string(ReadErofsLayer(image).status().message());
}
bool Has(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

InodeId Find(const Tree& tree, const std::string& path) {
  InodeId at = Tree::kRoot;
  for (const std::string_view part : Split(path, '/')) {
    const DirentId found = tree.Find(at, part);
    if (found == kNoId) return kNoId;
    at = tree.dirent(found).inode;
  }
  return at;
}

TEST(ErofsLayerTest, TailsBlocksAndChunks) {
  ImageMaker maker;
  maker.AddDirectory(0, {{"blocks", 1}, {"chunks", 2}, {"hole", 3}, {"mixed", 4}, {"tail", 5}});
  maker.Add(1, S_IFREG | 0644, kFlatPlain, 5000, 2);
  maker.Text(2 * kBlock, std::string(2 * kBlock, 'b'));
  maker.Add(2, S_IFREG | 0644, kChunkBased, 3 * kBlock - 10, kChunkIndexes);
  for (int i = 0; i < 3; ++i) {
    ChunkIndex index;
    index.block = i == 1 ? kHoleBlock : 4 + static_cast<uint32_t>(i);
    maker.Put(ImageMaker::At(2) + sizeof(DiskInode) + 8 * static_cast<size_t>(i), index);
  }
  maker.Text(4 * kBlock, std::string(3 * kBlock, 'c'));
  maker.Add(3, S_IFREG | 0644, kChunkBased, 2 * kBlock, 0);
  maker.Put(ImageMaker::At(3) + sizeof(DiskInode), Le32(kHoleBlock));
  maker.Put(ImageMaker::At(3) + sizeof(DiskInode) + 4, Le32(kHoleBlock));
  maker.Add(4, S_IFREG | 0644, kFlatInline, kBlock + 3, 7);
  maker.Text(ImageMaker::At(4) + sizeof(DiskInode), "end");
  maker.Text(7 * kBlock, std::string(2 * kBlock, 'm'));
  maker.AddTail(5, S_IFREG | 04755, "tail");
  const std::string image = maker.Finish();
  const absl::StatusOr<LayerBuilder::Result> result = ReadErofsLayer(image);
  ASSERT_TRUE(result.ok()) << result.status();
  const Tree& tree = result->tree;
  using Extents = std::vector<Extent>;
  const auto extents = [&](const std::string& path) {
    const auto span = tree.Extents(Find(tree, path));
    return Extents(span.begin(), span.end());
  };
  EXPECT_EQ(extents("blocks"), (Extents{{0, 2 * kBlock, 5000, 1}}));
  EXPECT_EQ(extents("chunks"),
            (Extents{{0, 4 * kBlock, kBlock, 1}, {2 * kBlock, 6 * kBlock, kBlock - 10, 1}}));
  EXPECT_EQ(extents("hole"), Extents());
  // Directories are read in the order of their names.
  EXPECT_EQ(extents("mixed"), (Extents{{0, 7 * kBlock, kBlock, 1}, {kBlock, image.size(), 3, 1}}));
  EXPECT_EQ(extents("tail"), (Extents{{0, image.size() + 512, 4, 1}}));
  ASSERT_EQ(result->moves.size(), 2u);
  EXPECT_EQ(result->moves[0].from, ImageMaker::At(4) + sizeof(DiskInode));
  EXPECT_EQ(result->moves[1].to, image.size() + 512);
  EXPECT_EQ(result->data_size, image.size() + 1024);
  const Inode& tail = tree.inode(Find(tree, "tail"));
  EXPECT_EQ(tail.mode, S_IFREG | 04755u);
  EXPECT_EQ(tail.uid, 70000u);
  EXPECT_EQ(tail.mtime_seconds, 2000);
  EXPECT_EQ(tail.mtime_nanoseconds, 9u);
  EXPECT_EQ(tail.nlink, 1u);
  EXPECT_EQ(tree.inode(Tree::kRoot).mode, S_IFDIR | 0750u);
  EXPECT_FALSE(tree.inode(Tree::kRoot).implied);
}

TEST(ErofsLayerTest, OtherFilesLinksAndXattrs) {
  ImageMaker maker;
  maker.AddDirectory(0,
                     {{"again", 5}, {"dir", 1}, {"gone", 3}, {"link", 4}, {"null", 6}, {"p", 7}});
  maker.AddDirectory(1, {{"name", 5}});
  maker.AddXattrs(1, ImageMaker::XattrText(4, "overlay.opaque", "y") +
                         ImageMaker::XattrText(4, "overlay.origin", "z") +
                         ImageMaker::XattrText(6, "selinux", "label"));
  maker.Add(3, S_IFCHR, kFlatPlain, 0, 0);
  maker.AddTail(4, S_IFLNK | 0777, "to/somewhere");
  maker.AddTail(5, S_IFREG | 0644, "x");
  maker.AddXattrs(5, "", {1});
  maker.super().xattr_block = 2;
  maker.Text(2 * kBlock + 4, ImageMaker::XattrText(1, "mime", "text"));
  maker.Add(6, S_IFBLK | 0600, kFlatPlain, 0,
            (0x12345u & 0xff) | 300 << 8 | (0x12345u & ~0xffu) << 12);
  // A compact inode: its owner has 16 bits, its time is the image's.
  maker.AddCompact(7, S_IFIFO | 0600, 65535);
  const absl::StatusOr<LayerBuilder::Result> result = ReadErofsLayer(maker.Finish());
  ASSERT_TRUE(result.ok()) << result.status();
  const Tree& tree = result->tree;
  const InodeId dir = Find(tree, "dir");
  EXPECT_TRUE(tree.inode(dir).opaque);
  ASSERT_EQ(tree.Xattrs(dir).size(), 1u);
  EXPECT_EQ(tree.Xattrs(dir)[0], (Xattr{"security.selinux", "label"}));
  EXPECT_EQ(Find(tree, "again"), Find(tree, "dir/name"));
  EXPECT_EQ(tree.inode(Find(tree, "again")).nlink, 2u);
  EXPECT_EQ(tree.Xattrs(Find(tree, "again"))[0], (Xattr{"user.mime", "text"}));
  EXPECT_EQ(tree.inode(Find(tree, "link")).symlink, "to/somewhere");
  EXPECT_TRUE(S_ISCHR(tree.inode(Find(tree, "gone")).mode));
  EXPECT_EQ(tree.inode(Find(tree, "null")).rdev_major, 300u);
  EXPECT_EQ(tree.inode(Find(tree, "null")).rdev_minor, 0x12345u);
  const Inode& compact = tree.inode(Find(tree, "p"));
  EXPECT_EQ(compact.mode, S_IFIFO | 0600u);
  EXPECT_EQ(compact.uid, 65535u);
  EXPECT_EQ(compact.mtime_seconds, 1000);
  EXPECT_EQ(compact.mtime_nanoseconds, 7u);
}

// A valid image, changed in one place.
std::string Changed(const std::function<void(ImageMaker&)>& change) {
  ImageMaker maker;
  maker.AddDirectory(0, {{"dir", 1}, {"file", 2}});
  maker.AddDirectory(1, {{"in", 3}});
  maker.Add(2, S_IFREG | 0644, kFlatPlain, 100, 2);
  maker.AddTail(3, S_IFREG | 0644, "x");
  maker.Text(2 * kBlock, std::string(kBlock, 'd'));
  change(maker);
  return maker.Finish();
}

TEST(ErofsLayerTest, WhatIsNotSupportedIsSaid) {
  EXPECT_EQ(Error(Changed([](ImageMaker&) {})), "");
  EXPECT_TRUE(Has(Error(std::string(8192, '\0')), "not an EROFS image"));
  EXPECT_TRUE(Has(Error(""), "not an EROFS image"));
  for (const uint16_t layout : {1, 3}) {
    EXPECT_TRUE(Has(
        Error(Changed([&](ImageMaker& maker) { maker.Add(2, S_IFREG | 0644, layout, 100, 2); })),
        "\"file\": its EROFS image has compressed files"));
  }
  EXPECT_TRUE(Has(Error(Changed([](ImageMaker& maker) {
                    maker.super().feature_incompat = kIncompatDeviceTable;
                    maker.super().extra_devices = 1;
                  })),
                  "data in other files"));
  EXPECT_TRUE(Has(Error(Changed([](ImageMaker& maker) { maker.super().feature_incompat = 0x80; })),
                  "features that are not known (128)"));
  for (const char* name : {"overlay.metacopy", "overlay.redirect", "overlay.whiteout"}) {
    EXPECT_TRUE(Has(Error(Changed([&](ImageMaker& maker) {
                      maker.AddXattrs(2, ImageMaker::XattrText(4, name, ""));
                    })),
                    "refers to files of other layers"))
        << name;
  }
  EXPECT_TRUE(Has(Error(Changed([](ImageMaker& maker) {
                    maker.AddXattrs(2, ImageMaker::XattrText(0x81, "a", "b"));
                  })),
                  "xattr prefixes of its own"));
}

TEST(ErofsLayerTest, HostileImagesAreRefused) {
  const std::vector<std::function<void(ImageMaker&)>> changes = {
      [](ImageMaker& maker) { maker.super().block_bits = 8; },
      [](ImageMaker& maker) { maker.super().block_bits = 40; },
      [](ImageMaker& maker) { maker.super().meta_block = 0xffffffff; },
      [](ImageMaker& maker) { maker.super().root_nid = 0xffff; },
      [](ImageMaker& maker) { maker.super().root_nid = ImageMaker::Nid(2); },
      [](ImageMaker& maker) { maker.super().epoch_nanoseconds = 1'000'000'000; },
      [](ImageMaker& maker) { maker.inode(2).mtime_nanoseconds = 1'000'000'000; },
      [](ImageMaker& maker) { maker.inode(2).format = 0x41; },
      [](ImageMaker& maker) { maker.inode(2).uid = UINT32_MAX; },
      [](ImageMaker& maker) { maker.inode(2).mode = 0; },
      [](ImageMaker& maker) { maker.inode(2).size = UINT64_MAX; },
      [](ImageMaker& maker) { maker.inode(2).size = 2 * kBlock; },
      [](ImageMaker& maker) { maker.inode(2).u = 3; },
      [](ImageMaker& maker) { maker.inode(3).size = kBlock - 1; },
      [](ImageMaker& maker) { maker.inode(2).xattr_count = 0xffff; },
      [](ImageMaker& maker) { maker.AddXattrs(2, std::string("\xff\1\xff\xff", 4)); },
      [](ImageMaker& maker) { maker.AddXattrs(2, "", {0xffffffff}); },
      [](ImageMaker& maker) {
        maker.AddXattrs(2, ImageMaker::XattrText(1, "a", "b") + ImageMaker::XattrText(1, "a", "c"));
      },
      [](ImageMaker& maker) { maker.Add(2, S_IFREG, kChunkBased, uint64_t{1} << 60, 0); },
      [](ImageMaker& maker) { maker.Add(2, S_IFREG, kChunkBased, 100, 0x8000); },
      [](ImageMaker& maker) { maker.Add(2, S_IFLNK, kFlatPlain, 4096, 2); },
      [](ImageMaker& maker) { maker.AddTail(2, S_IFLNK, std::string("a\0b", 3)); },
      [](ImageMaker& maker) {
        maker.AddDirectory(1, {{"in", 0}});
      },  // a cycle
      [](ImageMaker& maker) {
        maker.AddDirectory(1, {{"a", 4}, {"b", 4}});
        maker.AddDirectory(4, {});
      },
      [](ImageMaker& maker) {
        maker.AddDirectory(1, {{"b", 3}, {"a", 2}});
      },
      [](ImageMaker& maker) {
        maker.AddDirectory(1, {{"a", 3}, {"a", 2}});
      },
      [](ImageMaker& maker) {
        maker.AddDirectory(1, {{"a/b", 3}});
      },
      [](ImageMaker& maker) {
        maker.AddDirectory(1, {{std::string("a\0b", 3), 3}, {"c", 2}});
      },
      [](ImageMaker& maker) {
        maker.AddDirectory(1, {{std::string(), 3}});
      },
      [](ImageMaker& maker) {
        maker.AddDirectory(1, {{"in", 30'000}});
      },
      [](ImageMaker& maker) { maker.inode(1).size = 5; },
      [](ImageMaker& maker) { maker.Add(1, S_IFDIR, kFlatPlain, kBlock, kHoleBlock); },
      [](ImageMaker& maker) { maker.Add(1, S_IFDIR, kFlatPlain, kBlock, 2); },
  };
  for (size_t i = 0; i < changes.size(); ++i) {
    const absl::Status status = ReadErofsLayer(Changed(changes[i])).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << i << ": " << status;
  }
}

// Each inode may have its tail, its names and its chunks to itself only.
TEST(ErofsLayerTest, SharedMetadataEndsTheWalk) {
  ImageMaker maker;
  std::vector<std::pair<std::string, int>> names;
  for (int i = 1; i <= 8; ++i) {
    names.emplace_back(StrCat("f", i), i);
    maker.Add(i, S_IFREG, kFlatInline, 3000, 0);
  }
  maker.AddDirectory(0, names);
  EXPECT_TRUE(Has(Error(maker.Finish()), "overlap"));
}

TEST(ErofsLayerTest, ACutImageIsRefused) {
  const std::string image = Changed([](ImageMaker&) {});
  for (size_t size = 0; size < image.size() - kBlock + 100; size += 13) {
    EXPECT_FALSE(ReadErofsLayer(std::string_view(image).substr(0, size)).ok()) << size;
  }
}

}  // namespace
}  // namespace imagefs
