// SPDX-License-Identifier: Apache-2.0
#include "image/tree.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <string>
#include <utility>
#include <vector>

namespace imagefs {
namespace {

Inode WithMode(uint32_t mode) {
  Inode inode;
  inode.mode = mode;
  return inode;
}
const Inode kFile = WithMode(S_IFREG | 0644);
const Inode kDirectory = WithMode(S_IFDIR | 0755);

std::vector<std::string> Names(const Tree& tree, InodeId directory) {
  std::vector<std::string> names;
  for (DirentId id : tree.SortedChildren(directory)) names.emplace_back(tree.dirent(id).name);
  return names;
}

TEST(TreeTest, StartsWithAnImpliedRoot) {
  Tree tree;
  EXPECT_EQ(tree.inode(Tree::kRoot).mode, static_cast<uint32_t>(S_IFDIR | 0755));
  EXPECT_TRUE(tree.inode(Tree::kRoot).implied);
  EXPECT_EQ(tree.inode(Tree::kRoot).parent, Tree::kRoot);
  EXPECT_TRUE(tree.SortedChildren(Tree::kRoot).empty());
  EXPECT_EQ(tree.Find(Tree::kRoot, "a"), kNoId);
}

TEST(TreeTest, ChildrenAreSortedBytewise) {
  Tree tree;
  for (const char* name : {"b", "\xff", "a", "B", "a\n", "aa"}) {
    tree.Link(Tree::kRoot, name, tree.NewInode(kFile));
  }
  EXPECT_EQ(Names(tree, Tree::kRoot),
            (std::vector<std::string>{"B", "a", "a\n", "aa", "b", "\xff"}));
}

TEST(TreeTest, SameNameInTwoDirectories) {
  Tree tree;
  const InodeId a = tree.NewInode(kDirectory), b = tree.NewInode(kDirectory);
  tree.Link(Tree::kRoot, "a", a);
  tree.Link(Tree::kRoot, "b", b);
  const InodeId x = tree.NewInode(kFile), y = tree.NewInode(kFile);
  tree.Link(a, "f", x);
  tree.Link(b, "f", y);
  EXPECT_EQ(tree.dirent(tree.Find(a, "f")).inode, x);
  EXPECT_EQ(tree.dirent(tree.Find(b, "f")).inode, y);
  EXPECT_EQ(tree.inode(a).parent, Tree::kRoot);
}

TEST(TreeTest, LinksAreCounted) {
  Tree tree;
  const InodeId file = tree.NewInode(kFile);
  EXPECT_EQ(tree.inode(file).nlink, 0u);
  tree.Link(Tree::kRoot, "a", file);
  tree.Link(Tree::kRoot, "b", file);
  EXPECT_EQ(tree.inode(file).nlink, 2u);
  tree.Unlink(Tree::kRoot, "a");
  EXPECT_EQ(tree.inode(file).nlink, 1u);
  EXPECT_EQ(Names(tree, Tree::kRoot), std::vector<std::string>{"b"});
  tree.Unlink(Tree::kRoot, "absent");
  EXPECT_EQ(tree.inode(file).nlink, 1u);
}

TEST(TreeTest, UnlinkTakesTheWholeDirectoryAndTheNameIsFreeAgain) {
  Tree tree;
  const InodeId d = tree.NewInode(kDirectory), e = tree.NewInode(kDirectory);
  const InodeId file = tree.NewInode(kFile);
  tree.Link(Tree::kRoot, "d", d);
  tree.Link(d, "e", e);
  tree.Link(e, "f", file);
  tree.Link(Tree::kRoot, "kept", file);
  tree.Unlink(Tree::kRoot, "d");
  EXPECT_EQ(tree.Find(d, "e"), kNoId);
  EXPECT_EQ(tree.Find(e, "f"), kNoId);
  EXPECT_EQ(tree.inode(file).nlink, 1u);
  tree.Link(Tree::kRoot, "d", tree.NewInode(kFile));
  EXPECT_EQ(Names(tree, Tree::kRoot), (std::vector<std::string>{"d", "kept"}));
}

TEST(TreeTest, DepthIsNotBounded) {
  Tree tree;
  InodeId at = Tree::kRoot;
  for (int i = 0; i < 100'000; ++i) {
    const InodeId next = tree.NewInode(kDirectory);
    tree.Link(at, "d", next);
    at = next;
  }
  tree.Unlink(Tree::kRoot, "d");
  EXPECT_TRUE(tree.SortedChildren(Tree::kRoot).empty());
}

TEST(TreeTest, ExtentsOneManyNoneAndReplaced) {
  Tree tree;
  const InodeId file = tree.NewInode(kFile);
  EXPECT_TRUE(tree.Extents(file).empty());
  const std::vector<Extent> one = {{0, 512, 3, 1}};
  const std::vector<Extent> many = {{0, 512, 3, 1}, {4096, 1024, 9, 2}};
  tree.SetExtents(file, one);
  EXPECT_EQ(tree.Extents(file), absl::MakeConstSpan(one));
  tree.SetExtents(file, many);
  EXPECT_EQ(tree.Extents(file), absl::MakeConstSpan(many));
  tree.SetExtents(file, {});
  EXPECT_TRUE(tree.Extents(file).empty());
}

TEST(TreeTest, EqualXattrsAreStoredOnceAndSorted) {
  Tree tree;
  const InodeId a = tree.NewInode(kFile), b = tree.NewInode(kFile), c = tree.NewInode(kFile);
  const std::string binary("\0\1\2", 3);
  tree.SetXattrs(a, {{"user.b", "1"}, {"user.a", binary}});
  tree.SetXattrs(b, {{"user.a", binary}, {"user.b", "1"}});
  tree.SetXattrs(c, {{"user.a", binary}, {"user.b", "2"}});
  ASSERT_EQ(tree.Xattrs(a).size(), 2u);
  EXPECT_EQ(tree.Xattrs(a)[0], (Xattr{"user.a", binary}));
  EXPECT_EQ(tree.Xattrs(a).data(), tree.Xattrs(b).data());
  EXPECT_NE(tree.Xattrs(a).data(), tree.Xattrs(c).data());
}

TEST(TreeTest, TextOfAnyLengthSurvivesGrowthAndMoves) {
  Tree tree;
  const std::string huge(1 << 20, 'x');
  const std::string_view small = tree.Intern("small");
  const std::string_view large = tree.Intern(huge);
  for (int i = 0; i < 10'000; ++i) {
    tree.Link(Tree::kRoot, "name" + std::to_string(i), tree.NewInode(kFile));
  }
  Tree moved = std::move(tree);
  moved = Tree(std::move(moved));
  EXPECT_EQ(small, "small");
  EXPECT_EQ(large, huge);
  EXPECT_NE(moved.Find(Tree::kRoot, "name9999"), kNoId);
  moved.Link(Tree::kRoot, "after", moved.NewInode(kFile));
  EXPECT_EQ(moved.SortedChildren(Tree::kRoot).size(), 10'001u);
}

}  // namespace
}  // namespace imagefs
