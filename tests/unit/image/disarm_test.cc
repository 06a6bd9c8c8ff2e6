#include "image/disarm.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <string>
#include <vector>

namespace imagefs {
namespace {

InodeId Add(Tree& tree, std::string_view name, Inode inode) {
  const InodeId id = tree.NewInode(inode);
  tree.Link(Tree::kRoot, tree.Intern(name), id);
  return id;
}

TEST(DisarmTest, AttributesOfPowerGoAndOthersStay) {
  Tree tree;
  const InodeId file = Add(tree, "file", {.mode = S_IFREG | 04755});
  tree.SetXattrs(file, {{"security.capability", "x"},
                        {"security.selinux", "x"},
                        {"trusted.overlay.redirect", "/x"},
                        {"trusted.other", "x"},
                        {"user.overlay.opaque", "y"},
                        {"user.mime", "text"}});
  Disarm(tree);
  ASSERT_EQ(tree.Xattrs(file).size(), 1U);
  EXPECT_EQ(tree.Xattrs(file)[0].name, "user.mime");
  EXPECT_EQ(tree.inode(file).mode, uint32_t{S_IFREG | 04755});
}

TEST(DisarmTest, DeviceNodesBecomeEmptyFilesAndWhiteoutsStay) {
  Tree tree;
  const InodeId disk =
      Add(tree, "sda", {.mode = S_IFBLK | 0666, .uid = 3, .rdev_major = 8, .rdev_minor = 1});
  const InodeId null =
      Add(tree, "null", {.mode = S_IFCHR | 0666, .rdev_major = 1, .rdev_minor = 3});
  const InodeId zero = Add(tree, "zero", {.mode = S_IFBLK | 0666});
  const InodeId whiteout = Add(tree, "gone", {.mode = S_IFCHR});
  Disarm(tree);
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
  const InodeId directory =
      Add(tree, "d", {.mode = S_IFDIR | 0755, .opaque = true, .implied = true});
  tree.SetXattrs(directory, {{"trusted.overlay.opaque", "y"}});
  Disarm(tree);
  EXPECT_TRUE(tree.inode(directory).opaque);
  EXPECT_TRUE(tree.inode(directory).implied);
  EXPECT_TRUE(tree.Xattrs(directory).empty());
}

}  // namespace
}  // namespace imagefs
