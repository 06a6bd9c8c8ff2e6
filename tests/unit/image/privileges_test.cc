// SPDX-License-Identifier: Apache-2.0
#include "image/privileges.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <string>
#include <vector>

namespace imagefs {
namespace {

Inode Of(uint32_t mode, uint32_t rdev_major = 0, uint32_t rdev_minor = 0) {
  Inode inode;
  inode.mode = mode;
  inode.uid = 3;
  inode.rdev_major = rdev_major;
  inode.rdev_minor = rdev_minor;
  return inode;
}

InodeId Add(Tree& tree, std::string_view name, const Inode& inode) {
  const InodeId id = tree.NewInode(inode);
  tree.Link(Tree::kRoot, tree.Intern(name), id);
  return id;
}

TEST(DisarmTest, AttributesOfPowerGoAndOthersStay) {
  Tree tree;
  const InodeId file = Add(tree, "file", Of(S_IFREG | 04755));
  tree.SetXattrs(file, {{"security.capability", "x"},
                        {"security.selinux", "x"},
                        {"trusted.overlay.redirect", "/x"},
                        {"trusted.other", "x"},
                        {"user.overlay.opaque", "y"},
                        {"user.mime", "text"}});
  RemovePrivileges(tree);
  ASSERT_EQ(tree.Xattrs(file).size(), 1U);
  EXPECT_EQ(tree.Xattrs(file)[0].name, "user.mime");
  EXPECT_EQ(tree.inode(file).mode, uint32_t{S_IFREG | 04755});
}

TEST(DisarmTest, DeviceNodesBecomeEmptyFilesAndWhiteoutsStay) {
  Tree tree;
  const InodeId disk = Add(tree, "sda", Of(S_IFBLK | 0666, 8, 1));
  const InodeId null = Add(tree, "null", Of(S_IFCHR | 0666, 1, 3));
  const InodeId zero = Add(tree, "zero", Of(S_IFBLK | 0666));
  const InodeId whiteout = Add(tree, "gone", Of(S_IFCHR));
  RemovePrivileges(tree);
  for (const InodeId id : {disk, null, zero}) {
    EXPECT_EQ(tree.inode(id).mode, uint32_t{S_IFREG});
    EXPECT_EQ(tree.inode(id).rdev_major, 0U);
    EXPECT_EQ(tree.inode(id).rdev_minor, 0U);
    EXPECT_EQ(tree.inode(id).size, 0U);
  }
  EXPECT_EQ(tree.inode(disk).uid, 3U);
  EXPECT_EQ(tree.inode(whiteout).mode, uint32_t{S_IFCHR});
}

TEST(DisarmTest, OpaqueAndImpliedStay) {
  Tree tree;
  Inode marked = Of(S_IFDIR | 0755);
  marked.opaque = marked.implied = true;
  const InodeId directory = Add(tree, "d", marked);
  tree.SetXattrs(directory, {{"trusted.overlay.opaque", "y"}});
  RemovePrivileges(tree);
  EXPECT_TRUE(tree.inode(directory).opaque);
  EXPECT_TRUE(tree.inode(directory).implied);
  EXPECT_TRUE(tree.Xattrs(directory).empty());
}

}  // namespace
}  // namespace imagefs
