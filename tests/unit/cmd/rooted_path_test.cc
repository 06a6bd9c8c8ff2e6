// SPDX-License-Identifier: Apache-2.0
#include "cmd/rooted_path.h"

#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <string>

#include "gtest/gtest.h"

namespace imagefs {
namespace {

class RootedPathTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string name = ::testing::TempDir() + "/rooted.XXXXXX";
    ASSERT_NE(mkdtemp(name.data()), nullptr);
    base_ = name;
    mkdir((base_ + "/tree").c_str(), 0755);
    mkdir((base_ + "/outside").c_str(), 0755);
    root_ = *OpenFile(base_ + "/tree", O_PATH | O_DIRECTORY);
  }
  void TearDown() override { RemoveTree(base_).IgnoreError(); }
  void Link(const std::string& target, const std::string& name) {
    ASSERT_EQ(symlinkat(target.c_str(), root_.get(), name.c_str()), 0);
  }
  bool Exists(const std::string& path) const {
    struct stat st;
    return lstat((base_ + path).c_str(), &st) == 0;
  }

  std::string base_;
  Fd root_;
};

TEST_F(RootedPathTest, MakesWhatIsMissing) {
  EXPECT_TRUE(MakeDirsInRoot(root_, "/a/b/c").ok());
  EXPECT_TRUE(Exists("/tree/a/b/c"));
  EXPECT_TRUE(MakeDirsInRoot(root_, "/a/b/c").ok());
  EXPECT_TRUE(MakeDirsInRoot(root_, "/").ok());
  EXPECT_TRUE(MakeFileInRoot(root_, "/a/d/file").ok());
  EXPECT_TRUE(Exists("/tree/a/d/file"));
  EXPECT_FALSE(MakeFileInRoot(root_, "/a").ok()) << "a directory";
  EXPECT_FALSE(MakeDirsInRoot(root_, "/a/d/file/x").ok());
}

TEST_F(RootedPathTest, LinksStayInside) {
  Link("../outside", "up");
  Link(base_ + "/outside", "absolute");
  EXPECT_FALSE(MakeDirsInRoot(root_, "/up/a").ok()) << "a link that leads nowhere";
  EXPECT_FALSE(MakeDirsInRoot(root_, "/absolute/a").ok());
  mkdir((base_ + "/tree/outside").c_str(), 0755);
  EXPECT_TRUE(MakeDirsInRoot(root_, "/up/a").ok());
  EXPECT_TRUE(Exists("/tree/outside/a"));
  EXPECT_FALSE(Exists("/outside/a"));
  // A file takes the place of a link that leads nowhere.
  Link(base_ + "/outside/file", "file");
  EXPECT_TRUE(MakeFileInRoot(root_, "/file").ok());
  EXPECT_FALSE(Exists("/outside/file"));
  struct stat st;
  ASSERT_EQ(lstat((base_ + "/tree/file").c_str(), &st), 0);
  EXPECT_TRUE(S_ISREG(st.st_mode));
}

TEST_F(RootedPathTest, MagicLinksLeadNowhere) {
  const Fd outside = *OpenFile(base_ + "/outside", O_PATH | O_DIRECTORY);
  const Fd proc(open("/proc", O_PATH | O_DIRECTORY | O_CLOEXEC));
  const std::string path = "/self/fd/" + std::to_string(outside.get());
  EXPECT_FALSE(MakeDirsInRoot(proc, path).ok());
  EXPECT_FALSE(MakeFileInRoot(proc, path + "/file").ok());
  EXPECT_FALSE(Exists("/outside/file"));
}

TEST_F(RootedPathTest, ARealDirectoryIsNoLink) {
  EXPECT_TRUE(MakeRealDirInRoot(root_, "proc").ok());
  EXPECT_TRUE(Exists("/tree/proc"));
  Link("proc", "dev");
  EXPECT_TRUE(absl::IsFailedPrecondition(MakeRealDirInRoot(root_, "dev").status()));
  ASSERT_TRUE(MakeFileInRoot(root_, "/sys").ok());
  EXPECT_TRUE(absl::IsFailedPrecondition(MakeRealDirInRoot(root_, "sys").status()));
}

TEST_F(RootedPathTest, ReadsRegularFiles) {
  EXPECT_EQ(*ReadInRoot(root_, "/etc/passwd", 100), "");
  ASSERT_TRUE(WriteFileDurably(base_ + "/outside/passwd", "outside").ok());
  ASSERT_TRUE(WriteFileDurably(base_ + "/tree/passwd", "inside").ok());
  Link("../outside/../../passwd", "link");
  EXPECT_EQ(*ReadInRoot(root_, "/passwd", 100), "inside");
  EXPECT_EQ(ReadInRoot(root_, "/link", 100).value_or(""), "") << "outside does not exist there";
  EXPECT_FALSE(ReadInRoot(root_, "/passwd", 3).ok());
  ASSERT_EQ(mkfifoat(root_.get(), "pipe", 0644), 0);
  EXPECT_FALSE(ReadInRoot(root_, "/pipe", 100).ok());
}

}  // namespace
}  // namespace imagefs
