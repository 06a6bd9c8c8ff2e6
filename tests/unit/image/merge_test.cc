// SPDX-License-Identifier: Apache-2.0
#include "image/merge.h"

#include <sys/stat.h>

#include <deque>
#include <map>
#include <memory>
#include <random>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "base/text.h"
#include "gtest/gtest.h"
#include "image/erofs_reader.h"
#include "tests/fakes/image/tree_samples.h"

namespace imagefs {
namespace {

// The layers of an image, bottom first, through their indexes.
class Layers {
 public:
  TreeMaker& Add() { return makers_.emplace_back(); }

  Tree Merge() {
    std::vector<const ErofsImage*> layers;
    for (const TreeMaker& maker : makers_) {
      bytes_.push_back(LayerImage(maker.tree));
      auto image = ErofsImage::FromMemory(bytes_.back());
      EXPECT_TRUE(image.ok()) << image.status();
      images_.push_back(*std::move(image));
      layers.push_back(images_.back().get());
    }
    auto tree = MergeLayers(layers);
    EXPECT_TRUE(tree.ok()) << tree.status();
    return tree.ok() ? *std::move(tree) : Tree();
  }

 private:
  std::deque<TreeMaker> makers_;
  std::deque<std::string> bytes_;
  std::vector<std::unique_ptr<ErofsImage>> images_;
};

class Merged {
 public:
  explicit Merged(Layers& layers) { maker_.tree = layers.Merge(); }

  bool Has(std::string_view path) const { return maker_.Find(path) != kNoId; }
  const Inode& operator[](std::string_view path) const {
    const InodeId id = maker_.Find(path);
    EXPECT_NE(id, kNoId) << path;
    return maker_.tree.inode(id == kNoId ? Tree::kRoot : id);
  }
  uint16_t Device(std::string_view path) const {
    const auto extents = maker_.tree.Extents(maker_.Find(path));
    return extents.empty() ? 0 : extents[0].device;
  }
  std::string Names(std::string_view path) const {
    std::string names;
    for (const DirentId id : maker_.tree.SortedChildren(maker_.Find(path))) {
      StrAppend(&names, names.empty() ? "" : " ", maker_.tree.dirent(id).name);
    }
    return names;
  }
  InodeId Id(std::string_view path) const { return maker_.Find(path); }
  const Tree& tree() const { return maker_.tree; }

 private:
  TreeMaker maker_;
};

TEST(MergeTest, NoLayersIsAnEmptyRoot) {
  Layers layers;
  const Merged merged(layers);
  EXPECT_EQ(merged[""].mode, S_IFDIR | 0755u);
  EXPECT_EQ(merged.Names(""), "");
}

TEST(MergeTest, EmptyLayersChangeNothing) {
  Layers layers;
  layers.Add();
  layers.Add().File("f", 1);
  layers.Add();
  const Merged merged(layers);
  EXPECT_EQ(merged.Names(""), "f");
  EXPECT_EQ(merged.Device("f"), 2);
}

TEST(MergeTest, UpperFileReplacesLowerOne) {
  Layers layers;
  layers.Add().File("f", 100, {.xattrs = {{"user.lower", "1"}}});
  layers.Add().File("f", 200, FileAttributes{.permissions = 0600});
  const Merged merged(layers);
  EXPECT_EQ(merged["f"].size, 200u);
  EXPECT_EQ(merged["f"].mode, S_IFREG | 0600u);
  EXPECT_EQ(merged["f"].nlink, 1u);
  EXPECT_EQ(merged.Device("f"), 2);
  EXPECT_TRUE(merged.tree().Xattrs(merged.Id("f")).empty());
}

TEST(MergeTest, WhiteoutHidesFileAndTreeOfLowerLayersOnly) {
  Layers layers;
  TreeMaker& lower = layers.Add();
  lower.File("d/a", 1);
  lower.File("d/b", 1);
  lower.File("tree/x/y/z", 1);
  TreeMaker& upper = layers.Add();
  upper.Whiteout("d/a");
  upper.Whiteout("tree");
  upper.Whiteout("d/never there");
  upper.Whiteout("no directory/x");
  TreeMaker& top = layers.Add();
  top.File("tree/new", 1);
  const Merged merged(layers);
  EXPECT_EQ(merged.Names(""), "d no directory tree");
  EXPECT_EQ(merged.Names("d"), "b");
  EXPECT_EQ(merged.Names("tree"), "new");
  EXPECT_EQ(merged.Names("no directory"), "");
}

TEST(MergeTest, WhiteoutsOfTheBottomLayerAreInvisible) {
  Layers layers;
  TreeMaker& maker = layers.Add();
  maker.Whiteout("a");
  maker.Whiteout("d/b");
  const Merged merged(layers);
  EXPECT_EQ(merged.Names(""), "d");
  EXPECT_EQ(merged.Names("d"), "");
}

TEST(MergeTest, DeviceNodesThatAreNoWhiteoutsStay) {
  Layers layers;
  layers.Add().File("dev/null", 1);
  TreeMaker& upper = layers.Add();
  upper.Node("dev/null", S_IFCHR, 1, 3);
  upper.Node("dev/block", S_IFBLK, 0, 0);
  const Merged merged(layers);
  EXPECT_EQ(merged["dev/null"].rdev_major, 1u);
  EXPECT_EQ(merged.Names("dev"), "block null");
}

TEST(MergeTest, OpaqueHidesLowerChildrenAndKeepsItsOwn) {
  Layers layers;
  TreeMaker& lower = layers.Add();
  lower.Dir("d", {.permissions = 0700, .uid = 5});
  lower.File("d/old", 1);
  lower.File("d/sub/old", 1);
  TreeMaker& upper = layers.Add();
  upper.File("d/new", 1);
  upper.File("d/sub/new", 1);
  upper.Opaque("d");
  const Merged merged(layers);
  EXPECT_EQ(merged.Names("d"), "new sub");
  EXPECT_EQ(merged.Names("d/sub"), "new");
  EXPECT_FALSE(merged["d"].opaque);
  // The layer has no entry for d itself: the lower attributes stay.
  EXPECT_EQ(merged["d"].mode, S_IFDIR | 0700u);
  EXPECT_EQ(merged["d"].uid, 5u);
}

TEST(MergeTest, OpaqueRoot) {
  Layers layers;
  layers.Add().File("old", 1);
  TreeMaker& upper = layers.Add();
  upper.File("new", 1);
  upper.Opaque("");
  const Merged merged(layers);
  EXPECT_EQ(merged.Names(""), "new");
}

TEST(MergeTest, OpaqueOfANewDirectoryIsCleared) {
  Layers layers;
  TreeMaker& maker = layers.Add();
  maker.Dir("d");
  maker.Opaque("d");
  const Merged merged(layers);
  EXPECT_FALSE(merged["d"].opaque);
}

TEST(MergeTest, DirectoriesMergeAndTheUpperAttributesWin) {
  Layers layers;
  TreeMaker& lower = layers.Add();
  lower.Dir("d", {.permissions = 0700, .uid = 1, .xattrs = {{"user.lower", "1"}}});
  lower.File("d/a", 1);
  TreeMaker& upper = layers.Add();
  upper.Dir("d", {.permissions = 01777, .uid = 2, .mtime_seconds = 9, .xattrs = {{"user.u", "2"}}});
  upper.File("d/b", 1);
  const Merged merged(layers);
  EXPECT_EQ(merged.Names("d"), "a b");
  EXPECT_EQ(merged["d"].mode, S_IFDIR | 01777u);
  EXPECT_EQ(merged["d"].uid, 2u);
  EXPECT_EQ(merged["d"].mtime_seconds, 9);
  ASSERT_EQ(merged.tree().Xattrs(merged.Id("d")).size(), 1u);
  EXPECT_EQ(merged.tree().Xattrs(merged.Id("d"))[0].name, "user.u");
}

TEST(MergeTest, ImpliedDirectoryKeepsTheLowerAttributes) {
  Layers layers;
  layers.Add().Dir("d", {.permissions = 02750, .gid = 9, .xattrs = {{"user.lower", "1"}}});
  layers.Add().File("d/sub/f", 1);
  const Merged merged(layers);
  EXPECT_EQ(merged["d"].mode, S_IFDIR | 02750u);
  EXPECT_EQ(merged["d"].gid, 9u);
  EXPECT_EQ(merged.tree().Xattrs(merged.Id("d")).size(), 1u);
  EXPECT_EQ(merged["d/sub"].mode, S_IFDIR | 0755u);
}

TEST(MergeTest, ExplicitOverImplied) {
  Layers layers;
  layers.Add().File("d/f", 1);
  layers.Add().Dir("d", {.permissions = 0711});
  layers.Add().File("d/g", 1);
  const Merged merged(layers);
  EXPECT_EQ(merged["d"].mode, S_IFDIR | 0711u);
  EXPECT_EQ(merged.Names("d"), "f g");
}

TEST(MergeTest, OtherKindsReplaceTheWholeTree) {
  Layers layers;
  TreeMaker& lower = layers.Add();
  lower.File("dir to file/x/y", 1);
  lower.File("file to dir", 1);
  lower.Symlink("link to dir", "elsewhere");
  lower.File("dir to link/x", 1);
  lower.File("elsewhere/kept", 1);
  TreeMaker& upper = layers.Add();
  upper.File("dir to file", 7);
  upper.File("file to dir/new", 1);
  upper.File("link to dir/new", 1);
  upper.Symlink("dir to link", "t");
  const Merged merged(layers);
  EXPECT_EQ(merged["dir to file"].mode & S_IFMT, static_cast<unsigned>(S_IFREG));
  EXPECT_EQ(merged.Names("file to dir"), "new");
  EXPECT_EQ(merged.Names("link to dir"), "new");
  EXPECT_EQ(merged.Names("elsewhere"), "kept");
  EXPECT_EQ(merged["dir to link"].symlink, "t");
}

TEST(MergeTest, LowerLinksInAPathAreNotFollowed) {
  Layers layers;
  TreeMaker& lower = layers.Add();
  lower.Symlink("lib", "usr/lib");
  lower.File("usr/lib/libc", 1);
  layers.Add().File("lib/x", 1);
  const Merged merged(layers);
  EXPECT_TRUE(S_ISDIR(merged["lib"].mode));
  EXPECT_EQ(merged.Names("lib"), "x");
  EXPECT_EQ(merged.Names("usr/lib"), "libc");
}

TEST(MergeTest, HardLinksStayInTheirLayer) {
  Layers layers;
  TreeMaker& lower = layers.Add();
  const InodeId file = lower.File("a", 100);
  lower.HardLink("b", file);
  lower.HardLink("d/c", file);
  TreeMaker& upper = layers.Add();
  upper.Whiteout("a");
  const InodeId other = upper.File("b", 5);
  upper.HardLink("d/e", other);
  const Merged merged(layers);
  EXPECT_EQ(merged["d/c"].nlink, 1u);
  EXPECT_EQ(merged["d/c"].size, 100u);
  EXPECT_EQ(merged.Id("b"), merged.Id("d/e"));
  EXPECT_EQ(merged["b"].nlink, 2u);
  EXPECT_EQ(merged.Device("b"), 2);
}

TEST(MergeTest, TheSameLayerTwice) {
  Layers layers;
  for (int i = 0; i < 2; ++i) {
    TreeMaker& maker = layers.Add();
    maker.File("data/s512", 512);
    maker.HardLink("a hard link before its file", maker.File("data/linked", 9));
    maker.HardLink("data/again", maker.Find("data/linked"));
  }
  const Merged merged(layers);
  EXPECT_EQ(merged.Device("data/s512"), 2);
  EXPECT_EQ(merged.Id("data/linked"), merged.Id("a hard link before its file"));
  EXPECT_EQ(merged["data/linked"].nlink, 3u);
}

TEST(MergeTest, RootAttributesAreTheTopmostExplicitOnes) {
  Layers layers;
  layers.Add().Dir("", {.permissions = 0700, .uid = 1});
  layers.Add().Dir("", {.permissions = 0711, .uid = 2});
  layers.Add().File("f", 1);
  const Merged merged(layers);
  EXPECT_EQ(merged[""].mode, S_IFDIR | 0711u);
  EXPECT_EQ(merged[""].uid, 2u);
}

TEST(MergeTest, DeepTrees) {
  Layers layers;
  std::string path = "d";
  for (int i = 0; i < 3000; ++i) path += "/d";
  layers.Add().File(path + "/a", 1);
  layers.Add().File(path + "/b", 1);
  layers.Add().Whiteout("d/d");
  const Merged merged(layers);
  EXPECT_EQ(merged.Names("d"), "");
}

TEST(MergeTest, AHundredLayers) {
  Layers layers;
  for (int i = 0; i < 100; ++i) {
    TreeMaker& maker = layers.Add();
    maker.File("same", i + 1);
    maker.File(StrCat("d/f", 1000 + i), 1);
    if (i > 0) maker.Whiteout(StrCat("d/f", 1000 + i - 1));
  }
  const Merged merged(layers);
  EXPECT_EQ(merged.Names("d"), "f1099");
  EXPECT_EQ(merged["same"].size, 100u);
  EXPECT_EQ(merged.Device("same"), 100);
}

TEST(MergeTest, AMergedIndexIsNoLayer) {
  const std::string bytes = ImageBytes(Tree(), {});
  const auto image = ErofsImage::FromMemory(bytes);
  ASSERT_TRUE(image.ok());
  EXPECT_FALSE(MergeLayers({image->get()}).ok());
}

// Compares random layers with the rule itself, applied to a map of paths.
TEST(MergeTest, RandomLayersFollowTheRule) {
  for (uint32_t seed = 1; seed <= 200; ++seed) {
    std::mt19937 random(seed);
    const auto pick = [&](uint32_t n) { return static_cast<uint32_t>(random() % n); };
    Layers layers;
    std::map<std::string, char> expected;  // path -> kind: d, f, l
    const auto erase_below = [&](const std::string& path, bool itself) {
      std::erase_if(expected, [&](const auto& e) {
        return e.first.starts_with(path + "/") || (itself && e.first == path);
      });
    };
    for (uint32_t layer = 0; layer < 1 + pick(4); ++layer) {
      TreeMaker& maker = layers.Add();
      std::map<std::string, char> own;
      std::set<std::string> opaque;
      for (uint32_t n = pick(12); n > 0; --n) {
        std::string path = StrCat(pick(3));
        for (uint32_t depth = pick(3); depth > 0; --depth) StrAppend(&path, "/", pick(3));
        bool blocked = maker.Find(path) != kNoId;
        for (size_t at = path.find('/'); at != std::string::npos; at = path.find('/', at + 1)) {
          const auto parent = own.find(path.substr(0, at));
          blocked |= parent != own.end() && parent->second != 'd';
        }
        if (blocked) continue;
        const char kind = "dflwo"[pick(5)];
        if (kind == 'd' || kind == 'o') maker.Dir(path);
        if (kind == 'o') maker.Opaque(path);
        if (kind == 'f') maker.File(path, 1);
        if (kind == 'l') maker.Symlink(path, "t");
        if (kind == 'w') maker.Whiteout(path);
        for (size_t at = path.find('/'); at != std::string::npos; at = path.find('/', at + 1)) {
          own[path.substr(0, at)] = 'd';
        }
        own[path] = kind == 'o' ? 'd' : kind;
        if (kind == 'o') opaque.insert(path);
      }
      for (const auto& [path, kind] : own) {  // parents before children
        const auto lower = expected.find(path);
        const bool merges = kind == 'd' && lower != expected.end() && lower->second == 'd';
        if (!merges || opaque.contains(path)) erase_below(path, !merges);
        if (kind != 'w') expected[path] = kind;
      }
    }
    const Merged merged(layers);
    std::map<std::string, char> actual;
    std::vector<std::pair<std::string, InodeId>> stack = {{"", Tree::kRoot}};
    while (!stack.empty()) {
      const auto [path, id] = stack.back();
      stack.pop_back();
      for (const DirentId child : merged.tree().SortedChildren(id)) {
        const Dirent& dirent = merged.tree().dirent(child);
        const std::string name =
            path.empty() ? std::string(dirent.name) : StrCat(path, "/", dirent.name);
        const uint32_t mode = merged.tree().inode(dirent.inode).mode;
        actual[name] = S_ISDIR(mode) ? 'd' : S_ISREG(mode) ? 'f' : S_ISLNK(mode) ? 'l' : 'w';
        stack.emplace_back(name, dirent.inode);
      }
    }
    ASSERT_EQ(actual, expected) << "seed " << seed;
  }
}

}  // namespace
}  // namespace imagefs
