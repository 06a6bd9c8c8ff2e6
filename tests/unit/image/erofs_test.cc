// SPDX-License-Identifier: Apache-2.0
#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "base/digest.h"
#include "base/fd.h"
#include "base/text.h"
#include "gtest/gtest.h"
#include "image/erofs_format.h"
#include "image/erofs_reader.h"
#include "image/erofs_writer.h"
#include "tests/fakes/image/tree_samples.h"

namespace imagefs {
namespace {

constexpr uint64_t kB = kBlockSize;

class Index {
 public:
  explicit Index(std::string bytes) : bytes_(std::move(bytes)) {
    auto image = ErofsImage::FromMemory(bytes_);
    EXPECT_TRUE(image.ok()) << image.status() << " " << Printable(bytes_, 300);
    if (image.ok()) image_ = *std::move(image);
  }
  explicit Index(const TreeMaker& maker)
      : Index(ImageBytes(maker.tree, {.devices = SampleDevices(maker)})) {}

  const ErofsImage& operator*() const { return *image_; }
  const ErofsImage* operator->() const { return image_.get(); }
  const std::string& bytes() const { return bytes_; }

  Nid Find(std::string_view path) const {
    Nid nid = image_->root();
    for (std::string_view name : Split(path, '/')) {
      const auto found = image_->Lookup(nid, name);
      if (!found.ok() || !found->has_value()) {
        ADD_FAILURE() << path << ": no " << name << " " << found.status();
        return 0;
      }
      nid = **found;
    }
    return nid;
  }

 private:
  std::string bytes_;
  std::unique_ptr<ErofsImage> image_;
};

// ---- Round trips

TEST(ErofsTest, TreeSurvives) {
  const TreeMaker maker = SampleTree();
  const Index index(maker);
  auto tree = index->ToTree();
  ASSERT_TRUE(tree.ok()) << tree.status();
  // Flags that only overlay form stores are lost here.
  TreeMaker expected = SampleTree();
  for (InodeId id = 0; id < expected.tree.inode_count(); ++id) {
    expected.tree.inode(id).implied = false;
  }
  EXPECT_EQ(TreeText(*tree), TreeText(expected.tree));
}

// A file truncated while mapped returns no data from any call.
TEST(ErofsTest, AFileThatIsCutIsDamaged) {
  const TreeMaker maker = SampleTree();
  const std::string bytes = ImageBytes(maker.tree, {.devices = SampleDevices(maker)});
  const std::string path = StrCat(::testing::TempDir(), "/erofs-", RandomHex(8));
  ASSERT_TRUE(WriteFileDurably(path, bytes).ok());
  const auto image = ErofsImage::Open(path);
  ASSERT_TRUE(image.ok()) << image.status();
  const Nid root = (*image)->root();
  ASSERT_TRUE((*image)->ToTree().ok());
  EXPECT_FALSE((*image)->damaged());
  ASSERT_EQ(truncate(path.c_str(), 0), 0);
  const auto lost = [](const absl::Status& status) {
    return status.code() == absl::StatusCode::kDataLoss;
  };
  EXPECT_TRUE(lost((*image)->ToTree().status()));
  EXPECT_TRUE((*image)->damaged());
  EXPECT_TRUE(lost((*image)->GetStat(root).status()));
  EXPECT_TRUE(lost((*image)->Lookup(root, "etc").status()));
  EXPECT_TRUE(lost((*image)->ReadDir(root, 0, [](const auto&) { return true; })));
  EXPECT_TRUE(lost((*image)->Readlink(root).status()));
  EXPECT_TRUE(lost((*image)->Xattrs(root).status()));
  EXPECT_TRUE(lost((*image)->GetXattr(root, "user.x").status()));
  EXPECT_TRUE(lost((*image)->Map(root, 0).status()));
  EXPECT_TRUE(lost((*image)->StoredBytes(root).status()));
  EXPECT_FALSE(ErofsImage::Open(path).ok());
  // With the original bytes back, the same object works again.
  const Fd fd = *OpenFile(path, O_RDWR);
  EXPECT_TRUE(lost((*image)->MapAgain(fd.get())));
  ASSERT_TRUE(PwriteFull(fd.get(), bytes, 0).ok());
  ASSERT_TRUE((*image)->MapAgain(fd.get()).ok());
  EXPECT_FALSE((*image)->damaged());
  EXPECT_TRUE((*image)->ToTree().ok());
  (*image)->Distrust();
  EXPECT_TRUE(lost((*image)->GetStat(root).status()));
  unlink(path.c_str());
}

TEST(ErofsTest, DeviceNumbersShift) {
  TreeMaker maker;
  maker.File("f", 10, {{0, 0, 10, 1}});
  const Index index(LayerImage(maker.tree));
  auto tree = index->ToTree(41);
  ASSERT_TRUE(tree.ok());
  const DirentId f = tree->Find(Tree::kRoot, "f");
  ASSERT_NE(f, kNoId);
  EXPECT_EQ(tree->Extents(tree->dirent(f).inode)[0].device, 42);
}

TEST(ErofsTest, OverlayFormKeepsMarkersAndWhiteouts) {
  TreeMaker maker;
  maker.File("implied/f", 1);
  maker.Dir("opaque");
  maker.Opaque("opaque");
  maker.Whiteout("gone");
  const Index index(LayerImage(maker.tree));
  EXPECT_EQ(index->flags(), kIndexOverlayForm | kIndexHasXattrs);
  EXPECT_EQ(*index->GetXattr(index.Find("opaque"), "trusted.overlay.opaque"), "y");
  EXPECT_EQ(*index->GetXattr(index.Find("implied"), "trusted.overlay.opaque"), std::nullopt);
  EXPECT_EQ(*index->GetXattr(index.Find("implied"), "trusted.imagefs.implied"), "y");
  const auto gone = index->GetStat(index.Find("gone"));
  EXPECT_TRUE(S_ISCHR(gone->mode));
  auto tree = index->ToTree();
  ASSERT_TRUE(tree.ok());
  EXPECT_EQ(TreeText(*tree), TreeText(maker.tree));
}

TEST(ErofsTest, MergedFormHasNoMarkers) {
  TreeMaker maker;
  maker.File("implied/f", 1);
  const Index index(maker);
  EXPECT_FALSE(index->has_xattrs());
  EXPECT_TRUE(index->Xattrs(index.Find("implied"))->empty());
}

TEST(ErofsTest, EmptyTree) {
  const Index index(ImageBytes(Tree(), {}));
  EXPECT_EQ(index->inode_count(), 1u);
  EXPECT_EQ(index->size_bytes(), 2048u);
  std::vector<std::string> names;
  ASSERT_TRUE(index
                  ->ReadDir(index->root(), 0,
                            [&](const ErofsImage::DirentView& entry) {
                              names.emplace_back(entry.name);
                              EXPECT_EQ(entry.nid, index->root());
                              return true;
                            })
                  .ok());
  EXPECT_EQ(names, (std::vector<std::string>{".", ".."}));
  EXPECT_EQ(index->GetStat(index->root())->nlink, 2u);
}

// ---- Serialized format

TEST(ErofsTest, SuperBlock) {
  const TreeMaker maker = SampleTree();
  const Index index(maker);
  SuperBlock super;
  std::memcpy(&super, &index.bytes()[kSuperOffset], sizeof(super));
  EXPECT_EQ(super.magic, 0xE0F5E1E2);
  EXPECT_EQ(super.block_bits, 9);
  EXPECT_EQ(super.feature_compat, 3u);
  EXPECT_EQ(super.feature_incompat, 0xcu);
  EXPECT_EQ(super.extra_devices, 2);
  EXPECT_EQ(super.device_table_slot, 9);
  EXPECT_EQ(super.meta_block, 0u);
  EXPECT_EQ(super.epoch, 0u);
  EXPECT_EQ(uint64_t{super.blocks} * kB, index.bytes().size());
  EXPECT_EQ(super.inode_count, index->inode_count());
  EXPECT_EQ(std::string(&super.volume_name[0], 10), std::string("imagefs\0\1\5", 10));
  EXPECT_EQ(index->devices()[1].tag, std::string(64, '2'));
  EXPECT_EQ(index->devices()[1].size_bytes, 4096u);
}

// The digest changes with any change of the format, which requires a new kIndexVersion.
TEST(ErofsTest, GoldenBytes) {
  const TreeMaker maker = SampleTree();
  const std::string bytes = ImageBytes(maker.tree, {.devices = SampleDevices(maker)});
  EXPECT_EQ(bytes, ImageBytes(SampleTree().tree, {.devices = SampleDevices(maker)}));
  EXPECT_EQ(Sha256Of(bytes).hex(),
            "11e49674bdac8160ebf96aac5281471bf31a518ac326e22b7a0a53cd75d90db2");
}

TEST(ErofsTest, RootIsInReachWithManyDevices) {
  std::vector<DeviceSlot> devices(500, {std::string(64, 'a'), 512});
  Tree tree;
  const Index index(ImageBytes(tree, {.devices = devices}));
  EXPECT_EQ(index->root(), (kDeviceTableOffset + 500 * 128) / 32);
  EXPECT_EQ(index->devices().size(), 500u);
}

TEST(ErofsTest, FilesInOnePieceAreOneChunk) {
  TreeMaker maker;
  for (int i = 0; i < 1000; ++i) maker.File(StrCat("f", 1000 + i), i * 1000);
  const Index index(maker);
  // 96 bytes per inode; 12 bytes plus the name per directory entry.
  EXPECT_LT(index->size_bytes(), 2048u + 1000 * (96 + 12 + 5) * 102 / 100);
}

TEST(ErofsTest, InodesAscendFromTheRootInOrderOfNames) {
  const Index index(SampleTree());
  Nid before = index->root();
  EXPECT_EQ(before, kSuperOffset / 32 + kB / 32);
  ASSERT_TRUE(index
                  ->ReadDir(index.Find("dirs/d3000"), 0,
                            [&](const ErofsImage::DirentView& entry) {
                              if (entry.name[0] == '.') return true;
                              EXPECT_GT(entry.nid, before);
                              before = entry.nid;
                              return true;
                            })
                  .ok());
}

// ---- Reading

TEST(ErofsTest, LookupFindsEveryNameAndNoOther) {
  const Index index(SampleTree());
  std::vector<Nid> stack = {index->root()};
  size_t names = 0;
  while (!stack.empty()) {
    const Nid directory = stack.back();
    stack.pop_back();
    std::string before;
    ASSERT_TRUE(
        index
            ->ReadDir(directory, 0,
                      [&](const ErofsImage::DirentView& entry) {
                        ++names;
                        EXPECT_LT(before, entry.name);
                        before = std::string(entry.name);
                        EXPECT_EQ(*index->Lookup(directory, entry.name), entry.nid);
                        for (const std::string& other :
                             {StrCat(entry.name, "\x01"), before.substr(0, before.size() - 1)}) {
                          const auto found = index->Lookup(directory, other);
                          EXPECT_TRUE(found.ok()) << found.status();
                        }
                        const auto stat = index->GetStat(entry.nid);
                        EXPECT_EQ(static_cast<uint8_t>(IFTODT(stat->mode)), entry.type);
                        if (S_ISDIR(stat->mode) && entry.name != "." && entry.name != "..") {
                          EXPECT_EQ(*index->Lookup(entry.nid, ".."), directory);
                          stack.push_back(entry.nid);
                        }
                        return true;
                      })
            .ok());
  }
  EXPECT_GT(names, 3500u);
  for (const char* absent : {"", "0", "entry-", "entry-3000", "zzz", "entry-1 "}) {
    EXPECT_EQ(*index->Lookup(index.Find("dirs/d3000"), absent), std::nullopt) << absent;
  }
  EXPECT_EQ(index->Lookup(index.Find("data/s1"), "x").status().code(),
            absl::StatusCode::kFailedPrecondition);
}

TEST(ErofsTest, ReadDirGoesOnAtAnyPosition) {
  const Index index(SampleTree());
  for (const char* path : {"dirs/d3000", "dirs/d22", "dirs/empty", "names"}) {
    const Nid directory = index.Find(path);
    std::vector<std::pair<std::string, uint64_t>> all;
    const auto read = [&](uint64_t position, size_t count) {
      std::vector<std::pair<std::string, uint64_t>> some;
      EXPECT_TRUE(index
                      ->ReadDir(directory, position,
                                [&](const ErofsImage::DirentView& entry) {
                                  some.emplace_back(entry.name, entry.next);
                                  return some.size() < count;
                                })
                      .ok());
      return some;
    };
    all = read(0, SIZE_MAX);
    for (size_t i = 0; i < all.size(); ++i) {
      const auto rest = read(all[i].second, 3);
      const size_t expected = std::min<size_t>(3, all.size() - i - 1);
      ASSERT_EQ(rest.size(), expected);
      EXPECT_TRUE(std::equal(rest.begin(), rest.end(), all.begin() + static_cast<long>(i) + 1));
    }
    EXPECT_TRUE(read(uint64_t{1} << 62, 10).empty());
    EXPECT_TRUE(read(UINT64_MAX, 10).empty());
  }
}

TEST(ErofsTest, MapGivesWholeRuns) {
  const Index index(SampleTree());
  const Nid islands = index.Find("data/islands");
  EXPECT_EQ(*index->Map(islands, 0), (Extent{0, 0, kB, 0}));
  EXPECT_EQ(*index->Map(islands, kB + 5), (Extent{kB + 5, 8 * kB + 5, 2 * kB - 5, 1}));
  EXPECT_EQ(*index->Map(islands, 3 * kB), (Extent{3 * kB, 0, 7 * kB, 0}));
  EXPECT_EQ(*index->Map(islands, 100 * kB), (Extent{100 * kB, 9 * kB, 1, 1}));
  EXPECT_EQ(*index->Map(index.Find("data/hole"), 77), (Extent{77, 0, 100000 - 77, 0}));
  EXPECT_EQ(*index->Map(index.Find("data/adjacent"), 1), (Extent{1, 3 * kB + 1, 4 * kB + 8, 1}));
  EXPECT_EQ(*index->Map(index.Find("data/two devices"), kB), (Extent{kB, kB, 2 * kB, 1}));
  EXPECT_EQ(index->Map(islands, 100 * kB + 1).status().code(), absl::StatusCode::kOutOfRange);
  EXPECT_FALSE(index->Map(index.Find("data"), 0).ok());
  EXPECT_FALSE(index->Map(index.Find("data/s0"), 0).ok());
}

TEST(ErofsTest, HugeFile) {
  TreeMaker maker;
  const uint64_t size = (uint64_t{3} << 40) + 12345;  // several chunks of the largest size
  maker.File("hole", size, std::vector<Extent>{});
  maker.File("data", uint64_t{3} << 39, {{0, 0, uint64_t{3} << 39, 1}});
  maker.File("end", size, {{size - 12345, 512, 12345, 1}});
  const Index index(LayerImage(maker.tree, (uint64_t{1} << 41) - kB));
  EXPECT_EQ(index->Map(index.Find("hole"), 1)->length, size - 1);
  EXPECT_EQ(index->Map(index.Find("data"), 7)->length, (uint64_t{3} << 39) - 7);
  EXPECT_EQ(index->Map(index.Find("end"), 0)->length, size - 12345);
  EXPECT_EQ(index->Map(index.Find("end"), size - 1)->data_offset, 512 + 12344u);
}

TEST(ErofsTest, XattrsThatTheKernelRefusesAreDropped) {
  TreeMaker maker;
  const std::vector<Xattr> xattrs = {{"user.a", "1"},
                                     {"security.b", "2"},
                                     {"system.posix_acl_access", SampleAcl()},
                                     {"system.nfs4_acl", "x"},
                                     {"lustre.lov", "x"},
                                     {"user.", "x"},
                                     {"plain", "x"},
                                     {StrCat("user.", std::string(255, 'u')), "x"}};
  maker.File("file", 1, {.xattrs = xattrs});
  maker.Symlink("link", "t", {.permissions = 0777, .xattrs = xattrs});
  const Index index(maker);
  EXPECT_EQ(*index->Xattrs(index.Find("file")),
            (std::vector<Xattr>{
                {"security.b", "2"}, {"system.posix_acl_access", SampleAcl()}, {"user.a", "1"}}));
  EXPECT_EQ(*index->Xattrs(index.Find("link")), (std::vector<Xattr>{{"security.b", "2"}}));
  EXPECT_EQ(*index->GetXattr(index.Find("file"), "user.a"), "1");
  EXPECT_EQ(*index->GetXattr(index.Find("file"), "user."), std::nullopt);
  EXPECT_EQ(*index->GetXattr(index.Find("file"), "user.aa"), std::nullopt);
  EXPECT_EQ(*index->GetXattr(index.Find("file"), "us"), std::nullopt);
}

// ---- Rejected input

TEST(ErofsTest, WriterRefuses) {
  const auto refused = [](auto fill) {
    TreeMaker maker;
    fill(maker);
    return LayerImage(maker.tree, 4096);
  };
  EXPECT_NE(refused([](TreeMaker& m) { m.File(std::string(256, 'n'), 0); }).find("255"),
            std::string::npos);
  EXPECT_NE(refused([](TreeMaker& m) { m.Symlink("l", ""); }).find("symbolic link"),
            std::string::npos);
  EXPECT_NE(refused([](TreeMaker& m) { m.Symlink("l", std::string(4096, 'x')); }).find("\"l\""),
            std::string::npos);
  EXPECT_NE(refused([](TreeMaker& m) { m.Node("d", S_IFBLK, 4096, 0); }).find("device number"),
            std::string::npos);
  EXPECT_NE(refused([](TreeMaker& m) {
              m.File("f", 4096, {{0, 512, 4096, 1}});
            }).find("beyond"),
            std::string::npos);
  EXPECT_NE(refused([](TreeMaker& m) {
              m.File("f", 512, {{0, 512, 512, 2}});
            }).find("data file 2"),
            std::string::npos);
  EXPECT_NE(refused([](TreeMaker& m) {
              m.File("f", 512, {{0, 100, 512, 1}});
            }).find("unaligned"),
            std::string::npos);
  EXPECT_NE(refused([](TreeMaker& m) {
              m.File("f", uint64_t{1} << 40, {{512, 0, 512, 1}});
            }).find("too many segments"),
            std::string::npos);
  EXPECT_NE(refused([](TreeMaker& m) {
              m.File("f", 1, {.xattrs = {{"user.x", std::string(65536, 'v')}}});
            }).find("65535"),
            std::string::npos);
  EXPECT_NE(refused([](TreeMaker& m) { m.Node("n", 0, 0, 0); }).find("file type"),
            std::string::npos);
}

// ---- Hostile images

// Makes every call of the reader, with bounded work. Returns a value to defeat optimization.
size_t Exercise(const ErofsImage& image) {
  size_t seen = image.inode_count() + image.devices().size();
  std::vector<Nid> stack = {image.root()};
  std::set<Nid> visited;
  for (int budget = 400; !stack.empty() && budget > 0; --budget) {
    const Nid nid = stack.back();
    stack.pop_back();
    if (!visited.insert(nid).second) continue;
    const auto stat = image.GetStat(nid);
    if (stat.ok()) seen += stat->size;
    (void)image.ReadDir(nid, 0, [&](const ErofsImage::DirentView& entry) {
      stack.push_back(entry.nid);
      seen += entry.name.size();
      return stack.size() < 1000;
    });
    for (uint64_t position : {uint64_t{5}, uint64_t{24}, uint64_t{512}, UINT64_MAX}) {
      (void)image.ReadDir(nid, position, [&](const ErofsImage::DirentView& entry) {
        seen += entry.name.size();
        return false;
      });
    }
    for (const char* name : {".", "a", "entry-1", "zz"}) seen += image.Lookup(nid, name).ok();
    if (const auto target = image.Readlink(nid); target.ok()) seen += target->size();
    if (const auto xattrs = image.Xattrs(nid); xattrs.ok()) seen += xattrs->size();
    seen += image.GetXattr(nid, "user.a").ok();
    for (uint64_t offset : {uint64_t{0}, uint64_t{513}, uint64_t{1} << 40}) {
      if (const auto extent = image.Map(nid, offset); extent.ok()) {
        EXPECT_GT(extent->length, 0u);
        seen += extent->length;
      }
    }
  }
  if (const auto tree = image.ToTree(); tree.ok()) seen += tree->inode_count();
  return seen;
}

TreeMaker SmallTree() {
  TreeMaker m;
  m.File("dir/a", 100, {.xattrs = {{"user.a", "value"}, {"security.b", "c"}}});
  m.File("dir/sparse", 4000, {{512, 0, 512, 1}, {2048, 1024, 1000, 1}});
  for (int i = 0; i < 30; ++i) m.Node(StrCat("entry-", i), S_IFIFO, 0, 0);
  m.Symlink("link", "target");
  m.Symlink("long", std::string(600, 'l'));
  m.HardLink("linked", m.Find("dir/a"));
  m.Node("null", S_IFCHR, 1, 3);
  return m;
}

// Updates the checksum after a change of the superblock's block, so that the reader gets to see it.
void FixChecksum(std::string& bytes) {
  if (bytes.size() < kSuperOffset + kBlockSize) return;
  const Le32 zero(0);
  std::memcpy(&bytes[kSuperOffset + 4], &zero, 4);
  const Le32 sum = Crc32c(0xffffffff, std::string_view(bytes).substr(kSuperOffset, kBlockSize));
  std::memcpy(&bytes[kSuperOffset + 4], &sum, 4);
}

TEST(ErofsTest, AnyDamagedByteIsSurvived) {
  const std::string good = LayerImage(SmallTree().tree, 1 << 20);
  ASSERT_LT(good.size(), 16384u);
  size_t opened = 0;
  for (size_t i = kSuperOffset; i < good.size(); ++i) {
    for (unsigned char change : {0x01, 0x10, 0x80, 0xff}) {
      std::string bad = good;
      bad[i] = static_cast<char>(static_cast<unsigned char>(bad[i]) ^ change);
      FixChecksum(bad);
      const auto image = ErofsImage::FromMemory(bad);
      if (!image.ok()) continue;
      ++opened;
      Exercise(**image);
    }
  }
  EXPECT_GT(opened, good.size());
}

TEST(ErofsTest, AnyCutIsSurvived) {
  const std::string good = LayerImage(SmallTree().tree, 1 << 20);
  for (size_t size = 0; size < good.size(); size += 31) {
    EXPECT_FALSE(ErofsImage::FromMemory(std::string_view(good).substr(0, size)).ok());
  }
  // With a superblock that declares the truncated size.
  for (size_t size = kSuperOffset + kB; size < good.size(); size += kB) {
    std::string cut = good.substr(0, size);
    const Le32 blocks(static_cast<uint32_t>(size / kB));
    std::memcpy(&cut[kSuperOffset + offsetof(SuperBlock, blocks)], &blocks, 4);
    FixChecksum(cut);
    if (const auto image = ErofsImage::FromMemory(cut); image.ok()) Exercise(**image);
  }
}

TEST(ErofsTest, WrongChecksumIsDataLoss) {
  std::string bytes = LayerImage(SmallTree().tree, 1 << 20);
  bytes[kSuperOffset + kB - 1] ^= 1;
  EXPECT_EQ(ErofsImage::FromMemory(bytes).status().code(), absl::StatusCode::kDataLoss);
}

TEST(ErofsTest, ForeignErofsIsRefused) {
  std::string bytes = LayerImage(SmallTree().tree, 1 << 20);
  bytes[kSuperOffset + offsetof(SuperBlock, volume_name)] = 'x';
  FixChecksum(bytes);
  EXPECT_EQ(ErofsImage::FromMemory(bytes).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST(ErofsTest, CycleOfDirectoriesIsDataLoss) {
  TreeMaker maker;
  maker.Dir("loop");
  std::string bytes = LayerImage(maker.tree);
  // The entry "loop" refers back to the root.
  const Index index(bytes);
  const Nid loop = index.Find("loop");
  for (size_t i = index->root() * 32 + 64; i < loop * 32; i += 4) {
    Le64 nid;
    std::memcpy(&nid, &bytes[i], 8);
    if (nid != loop) continue;
    nid = index->root();
    std::memcpy(&bytes[i], &nid, 8);
  }
  const auto image = ErofsImage::FromMemory(bytes);
  ASSERT_TRUE(image.ok());
  EXPECT_EQ((*image)->ToTree().status().code(), absl::StatusCode::kDataLoss);
}

TEST(ErofsTest, MillionFilesInOneDirectory) {
  TreeMaker maker;
  const InodeId directory = maker.Dir("d");
  constexpr int kCount = 1'000'000;
  for (int i = 0; i < kCount; ++i) {
    Inode inode;
    inode.mode = S_IFREG | 0644;
    maker.tree.Link(directory, StrCat(i), maker.tree.NewInode(inode));
  }
  const Index index(LayerImage(maker.tree));
  EXPECT_EQ(index->inode_count(), kCount + 2u);
  const Nid nid = index.Find("d");
  for (int i = 0; i < kCount; i += 997) {
    EXPECT_TRUE(index->Lookup(nid, StrCat(i))->has_value()) << i;
  }
  EXPECT_EQ(*index->Lookup(nid, "1000000"), std::nullopt);
}

}  // namespace
}  // namespace imagefs
