// SPDX-License-Identifier: Apache-2.0
#include "image/tree_check.h"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <functional>
#include <string>

#include "base/fd.h"
#include "base/text.h"

namespace imagefs {
namespace {

// A layer with a directory, a program, a hard link to it, and a symbolic link.
struct Layer {
  Layer() {
    EXPECT_TRUE(PwriteFull(data.get(), std::string(1000, 'x') + std::string(24, '\0'), 0).ok());
    Inode directory;
    directory.mode = S_IFDIR | 0755;
    bin = tree.NewInode(directory);
    tree.Link(Tree::kRoot, "bin", bin);
    Inode file;
    file.mode = S_IFREG | 0755;
    file.uid = 1;
    file.mtime_seconds = 100;
    file.mtime_nanoseconds = 5;
    file.size = 1000;
    login = tree.NewInode(file);
    tree.SetExtents(login, {{0, 0, 1000, 1}});
    tree.SetXattrs(login, {{"user.a", "1"}});
    tree.Link(bin, "login", login);
    tree.Link(bin, "again", login);
    Inode link;
    link.mode = S_IFLNK | 0777;
    link.symlink = "login";
    symlink = tree.NewInode(link);
    tree.Link(bin, "sym", symlink);
  }
  Tree tree;
  Fd data{memfd_create("layer", MFD_CLOEXEC)};
  InodeId bin = kNoId, login = kNoId, symlink = kNoId;
};

absl::Status Compare(const std::function<void(Layer&)>& bend) {
  Layer described;
  const Layer own;
  bend(described);
  return CheckDescription({described.tree, described.data.get()}, {own.tree, own.data.get()});
}

TEST(TreeCheckTest, TheSameIsTheSame) {
  EXPECT_TRUE(Compare([](Layer&) {}).ok());
}

TEST(TreeCheckTest, EveryLieIsFoundAndNamed) {
  const std::pair<const char*, std::function<void(Layer&)>> lies[] = {
      {"/bin/again: mode 104755, in the tar 100755",
       [](Layer& l) { l.tree.inode(l.login).mode = S_IFREG | 04755; }},
      {"/bin/again: mode", [](Layer& l) { l.tree.inode(l.login).mode = S_IFIFO | 0755; }},
      {"owner 0:0, in the tar 1:0", [](Layer& l) { l.tree.inode(l.login).uid = 0; }},
      {"time", [](Layer& l) { l.tree.inode(l.login).mtime_seconds = 101; }},
      {"time", [](Layer& l) { l.tree.inode(l.login).mtime_nanoseconds = 6; }},
      {"size 999, in the tar 1000", [](Layer& l) { l.tree.inode(l.login).size = 999; }},
      {"/bin/sym: target", [](Layer& l) { l.tree.inode(l.symlink).symlink = "other"; }},
      {"/bin: opaque", [](Layer& l) { l.tree.inode(l.bin).opaque = true; }},
      {"attribute user.b",
       [](Layer& l) {
         l.tree.SetXattrs(l.login, {{"user.b", "1"}});
       }},
      {"attribute user.a",
       [](Layer& l) {
         l.tree.SetXattrs(l.login, {{"user.a", "2"}});
       }},
      {"/bin/more: name listed",
       [](Layer& l) { l.tree.Link(l.bin, "more", l.tree.NewInode(Inode{})); }},
      {"/bin/again: name missing", [](Layer& l) { l.tree.Unlink(l.bin, "again"); }},
      {"bytes from 0 on", [](Layer& l) { EXPECT_TRUE(PwriteFull(l.data.get(), "y", 999).ok()); }},
      {"bytes from 0 on", [](Layer& l) { l.tree.SetExtents(l.login, {}); }},
      {"/bin/stargz.index.json: name",
       [](Layer& l) { l.tree.Link(l.bin, "stargz.index.json", l.tree.NewInode(Inode{})); }},
  };
  for (const auto& [what, lie] : lies) {
    const absl::Status status = Compare(lie);
    EXPECT_TRUE(absl::IsDataLoss(status)) << what << ": " << status;
    EXPECT_NE(status.message().find(what), absl::string_view::npos) << what << ": " << status;
  }
}

TEST(TreeCheckTest, NamesOfOneFileAreNamesOfOneFile) {
  // Two identical files with as many names in place of one.
  const absl::Status status = Compare([](Layer& l) {
    l.tree.Unlink(l.bin, "again");
    Inode copy = l.tree.inode(l.login);
    copy.nlink = 0;
    copy.extents = copy.xattrs = kNoId;
    const InodeId id = l.tree.NewInode(copy);
    l.tree.SetExtents(id, {{0, 0, 1000, 1}});
    l.tree.Link(l.bin, "again", id);
  });
  EXPECT_TRUE(absl::IsDataLoss(status)) << status;
}

TEST(TreeCheckTest, WhatMayDiffer) {
  EXPECT_TRUE(Compare([](Layer& l) { l.tree.inode(Tree::kRoot).mode = S_IFDIR | 0700; }).ok());
  EXPECT_TRUE(Compare([](Layer& l) { l.tree.inode(l.login).mtime_nanoseconds = 0; }).ok());
  EXPECT_TRUE(Compare([](Layer& l) { l.tree.SetXattrs(l.login, {}); }).ok());
}

TEST(TreeCheckTest, TheFilesOfEstargzAreFilesLikeOthers) {
  for (const char* name : {"stargz.index.json", ".prefetch.landmark", ".no.prefetch.landmark"}) {
    const absl::Status status =
        Compare([name](Layer& l) { l.tree.Link(Tree::kRoot, name, l.tree.NewInode(Inode{})); });
    EXPECT_TRUE(absl::IsDataLoss(status)) << name;
  }
}

}  // namespace
}  // namespace imagefs
