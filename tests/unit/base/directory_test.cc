// SPDX-License-Identifier: Apache-2.0
#include "base/directory.h"

#include <fcntl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <set>
#include <string>

#include "base/text.h"
#include "gtest/gtest.h"

namespace imagefs {
namespace {

class DirectoryTest : public testing::Test {
 protected:
  void SetUp() override {
    dir_ = StrCat(testing::TempDir(), "/directory-", RandomHex(6));
    ASSERT_TRUE(MakeDirs(dir_).ok());
    char resolved[4096];
    ASSERT_NE(realpath(dir_.c_str(), resolved), nullptr);
    dir_ = resolved;
  }
  void TearDown() override { (void)RemoveTree(dir_); }

  static mode_t ModeOf(const std::string& path) {
    const auto st = StatPath(path);
    return st.ok() ? st->st_mode & 07777 : 0;
  }
  std::string dir_;
};

TEST_F(DirectoryTest, PathsThatAreNone) {
  EXPECT_TRUE(CheckPath("/", "DIR").ok());
  EXPECT_TRUE(absl::IsInvalidArgument(CheckPath("", "DIR")));
  const absl::Status longer = CheckPath(std::string(100'000, 'x'), "DIR");
  EXPECT_TRUE(absl::IsInvalidArgument(longer));
  EXPECT_LT(longer.message().size(), 300u);
  for (const std::string_view path : {std::string_view("/a\nb"), std::string_view("/a\0b", 4),
                                      std::string_view("/\x1b[31m"), std::string_view("/\xff")}) {
    const absl::Status status = CheckPath(path, "DIR");
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
    EXPECT_FALSE(HasControls(ToStd(status.message()))) << status;
  }
  EXPECT_TRUE(absl::IsInvalidArgument(CheckPath("/a/" + std::string(256, 'x') + "/b", "DIR")));
  EXPECT_TRUE(CheckPath("/a/" + std::string(255, 'x') + "/\u00fc b", "DIR").ok());
}

TEST_F(DirectoryTest, NoLinkIsFollowed) {
  ASSERT_TRUE(MakeDirs(dir_ + "/a/b").ok());
  ASSERT_EQ(symlink("a", (dir_ + "/link").c_str()), 0);
  EXPECT_TRUE(OpenWithoutLinks(dir_ + "/a/b", O_PATH).ok());
  EXPECT_TRUE(absl::IsFailedPrecondition(OpenWithoutLinks(dir_ + "/link/b", O_PATH).status()));
  EXPECT_TRUE(absl::IsFailedPrecondition(OpenWithoutLinks(dir_ + "/link", O_PATH).status()));
  EXPECT_TRUE(absl::IsNotFound(OpenWithoutLinks(dir_ + "/none", O_PATH).status()));
}

TEST_F(DirectoryTest, WhatIsInADirectory) {
  EXPECT_TRUE(ListDir(dir_)->empty());
  ASSERT_TRUE(MakeDirs(dir_ + "/sub").ok());
  ASSERT_TRUE(WriteFileDurably(dir_ + "/.hidden", "x").ok());
  const auto names = ListDir(dir_);
  ASSERT_TRUE(names.ok()) << names.status();
  EXPECT_EQ(std::set<std::string>(names->begin(), names->end()),
            (std::set<std::string>{".hidden", "sub"}));
  // Repeatedly on the same descriptor.
  const auto folder = OpenFile(dir_, O_RDONLY | O_DIRECTORY);
  ASSERT_TRUE(folder.ok());
  for (int i = 0; i < 2; ++i) EXPECT_EQ(ListDir(*folder, dir_)->size(), 2u);
  EXPECT_TRUE(absl::IsNotFound(ListDir(dir_ + "/none").status()));
  EXPECT_FALSE(ListDir(dir_ + "/.hidden").ok());
  EXPECT_EQ(ListDirOrWarn(dir_).size(), 2u);
  EXPECT_TRUE(ListDirOrWarn(dir_ + "/none").empty());
}

TEST_F(DirectoryTest, APlaceHasOnePath) {
  ASSERT_TRUE(MakeDirs(dir_ + "/a/b").ok());
  ASSERT_EQ(symlink("a", (dir_ + "/link").c_str()), 0);
  const auto place = OpenPlace(dir_ + "/link/b");
  ASSERT_TRUE(place.ok()) << place.status();
  EXPECT_EQ(*PathOf(*place, "x"), dir_ + "/a/b");
  ASSERT_EQ(rename((dir_ + "/a").c_str(), (dir_ + "/moved").c_str()), 0);
  EXPECT_EQ(*PathOf(*place, "x"), dir_ + "/moved/b");
  ASSERT_EQ(rmdir((dir_ + "/moved/b").c_str()), 0);
  ASSERT_TRUE(MakeDirs(dir_ + "/moved/b (deleted)").ok());
  EXPECT_TRUE(absl::IsNotFound(PathOf(*place, "x").status()));
}

TEST_F(DirectoryTest, WhatAProcessHasOpenIsNoPlace) {
  const auto fd = OpenFile(dir_, O_RDONLY | O_DIRECTORY);
  ASSERT_TRUE(fd.ok());
  for (const std::string& path :
       {StrCat("/proc/self/fd/", fd->get()), std::string("/proc/self/cwd"),
        std::string("/proc/self"), StrCat("/dev/fd/", fd->get())}) {
    EXPECT_TRUE(absl::IsFailedPrecondition(OpenPlace(path).status())) << path;
  }
}

TEST_F(DirectoryTest, LinksAreFollowedAsTheKernelDoesButNotThoseOfOthers) {
  ASSERT_TRUE(MakeDirs(dir_ + "/a/b/c").ok());
  ASSERT_EQ(symlink("../a/./b//", (dir_ + "/a/up").c_str()), 0);
  ASSERT_EQ(symlink((dir_ + "/a/up/c").c_str(), (dir_ + "/far").c_str()), 0);
  ASSERT_EQ(symlink("loop", (dir_ + "/loop").c_str()), 0);
  for (const char* path : {"/far", "/far/", "/a/up/c", "//a/../a/up/../b/c/."}) {
    const auto place = OpenPlace(dir_ + path);
    ASSERT_TRUE(place.ok()) << place.status();
    EXPECT_EQ(*PathOf(*place, path), dir_ + "/a/b/c") << path;
  }
  EXPECT_EQ(*PathOf(*OpenPlace("/../.."), "x"), "/");
  EXPECT_FALSE(OpenPlace(dir_ + "/loop").ok());
  ASSERT_TRUE(WriteFileDurably(dir_ + "/file", "x").ok());
  EXPECT_TRUE(OpenPlace(dir_ + "/file").ok());
  EXPECT_TRUE(absl::IsNotFound(OpenPlace(dir_ + "/file/x").status()));
  EXPECT_TRUE(absl::IsNotFound(OpenPlace(dir_ + "/none").status()));
  if (geteuid() != 0) return;
  ASSERT_EQ(lchown((dir_ + "/a/up").c_str(), 1234, 1234), 0);
  const absl::Status refused = OpenPlace(dir_ + "/far").status();
  EXPECT_TRUE(absl::IsFailedPrecondition(refused));
  EXPECT_NE(refused.message().find("user 1234"), absl::string_view::npos) << refused;
}

TEST_F(DirectoryTest, ADirectoryIsMadeWithItsModeOrLeftAsItIs) {
  const auto parent = OpenFile(dir_, O_PATH | O_DIRECTORY);
  ASSERT_TRUE(parent.ok());
  const mode_t before = umask(0277);
  const auto made = MakeDirIn(*parent, "made", 0751, dir_ + "/made");
  umask(before);
  ASSERT_TRUE(made.ok()) << made.status();
  EXPECT_TRUE(made->created);
  EXPECT_EQ(ModeOf(dir_ + "/made"), 0751u);
  ASSERT_EQ(chmod((dir_ + "/made").c_str(), 01777), 0);
  const auto again = MakeDirIn(*parent, "made", 0700, dir_ + "/made");
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_FALSE(again->created);
  EXPECT_EQ(ModeOf(dir_ + "/made"), 01777u);
  ASSERT_EQ(symlink("made", (dir_ + "/link").c_str()), 0);
  ASSERT_TRUE(WriteFileDurably(dir_ + "/file", "x").ok());
  for (const char* name : {"link", "file"}) {
    EXPECT_TRUE(absl::IsFailedPrecondition(MakeDirIn(*parent, name, 0700, name).status())) << name;
  }
}

TEST_F(DirectoryTest, OnesOwnIsNotOpenToOthers) {
  ASSERT_TRUE(MakeOwnDir(dir_ + "/x/own").ok());
  EXPECT_EQ(ModeOf(dir_ + "/x/own"), 0700u);
  EXPECT_TRUE(MakeOwnDir(dir_ + "/x/own", 0711).ok());
  EXPECT_EQ(ModeOf(dir_ + "/x/own"), 0700u) << "what is there is never changed";
  ASSERT_EQ(chmod((dir_ + "/x/own").c_str(), 0711), 0);
  EXPECT_TRUE(absl::IsFailedPrecondition(MakeOwnDir(dir_ + "/x/own").status()));
  EXPECT_EQ(ModeOf(dir_ + "/x/own"), 0711u);
  ASSERT_EQ(symlink("own", (dir_ + "/x/link").c_str()), 0);
  EXPECT_TRUE(absl::IsFailedPrecondition(MakeOwnDir(dir_ + "/x/link", 0777).status()));
  if (geteuid() != 0) return;
  ASSERT_EQ(chown((dir_ + "/x/own").c_str(), 1234, 1234), 0);
  EXPECT_TRUE(absl::IsFailedPrecondition(MakeOwnDir(dir_ + "/x/own", 0711).status()));
}

TEST_F(DirectoryTest, ATreeOfAnyDepthIsRemoved) {
  ASSERT_TRUE(MakeDirs(dir_ + "/outside").ok());
  ASSERT_TRUE(WriteFileDurably(dir_ + "/outside/kept", "x").ok());
  ASSERT_TRUE(MakeDirs(dir_ + "/tree").ok());
  // Deeper than PATH_MAX, and than the process has descriptors for.
  rlimit before;
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &before), 0);
  const rlimit few = {150, before.rlim_max};
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &few), 0);
  auto at = OpenFile(dir_ + "/tree", O_RDONLY | O_DIRECTORY);
  for (int i = 0; i < 3000; ++i) {
    ASSERT_EQ(mkdirat(at->get(), "d", 0700), 0);
    if (i % 100 == 0) {
      ASSERT_EQ(symlinkat((dir_ + "/outside").c_str(), at->get(), "link"), 0);
    }
    at = Fd(openat(at->get(), "d", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    ASSERT_TRUE(at->valid());
  }
  const absl::Status removed = RemoveTree(dir_ + "/tree");
  EXPECT_EQ(setrlimit(RLIMIT_NOFILE, &before), 0);
  EXPECT_TRUE(removed.ok()) << removed;
  EXPECT_TRUE(absl::IsNotFound(StatPath(dir_ + "/tree").status()));
  EXPECT_TRUE(StatPath(dir_ + "/outside/kept").ok());
}

TEST_F(DirectoryTest, AnOpenFolderIsEmptiedWhereverItsNameLeads) {
  ASSERT_TRUE(MakeDirs(dir_ + "/ours/sub").ok());
  ASSERT_TRUE(MakeDirs(dir_ + "/theirs/kept").ok());
  const auto ours = OpenFile(dir_ + "/ours", O_RDONLY | O_DIRECTORY);
  ASSERT_EQ(rename((dir_ + "/ours").c_str(), (dir_ + "/away").c_str()), 0);
  ASSERT_EQ(symlink("theirs", (dir_ + "/ours").c_str()), 0);
  EXPECT_TRUE(EmptyFolder(*ours, dir_ + "/ours").ok());
  EXPECT_TRUE(absl::IsNotFound(StatPath(dir_ + "/away/sub").status()));
  EXPECT_TRUE(StatPath(dir_ + "/theirs/kept").ok());
}

}  // namespace
}  // namespace imagefs
