// SPDX-License-Identifier: Apache-2.0
#include "cmd/options.h"

#include <sys/stat.h>
#include <unistd.h>

#include <map>

#include "base/fd.h"
#include "base/text.h"
#include "gtest/gtest.h"

namespace imagefs {
namespace {

absl::StatusOr<Paths> Resolve(std::map<std::string, std::string> env, uid_t uid,
                              std::string_view root = "", std::string_view run = "") {
  return ResolvePaths(root, run, "/home/u/work", {uid == 0, uid},
                      [&](const char* name) { return env[name]; });
}

TEST(PathsTest, RootUsesTheSystemsFolders) {
  auto paths = Resolve({{"XDG_DATA_HOME", "/data"}, {"XDG_RUNTIME_DIR", "/run/user/0"}}, 0);
  ASSERT_TRUE(paths.ok());
  EXPECT_EQ(paths->root, "/var/lib/imagefs");
  EXPECT_EQ(paths->run, "/run/imagefs");
  EXPECT_EQ(paths->socket(), "/run/imagefs/control.sock");
}

TEST(PathsTest, UsersUseTheXdgFolders) {
  auto paths = Resolve({{"XDG_DATA_HOME", "/data"}, {"XDG_RUNTIME_DIR", "/run/user/7"}}, 7);
  ASSERT_TRUE(paths.ok());
  EXPECT_EQ(paths->root, "/data/imagefs");
  EXPECT_EQ(paths->run, "/run/user/7/imagefs");
}

TEST(PathsTest, UsersWithoutXdgFallBack) {
  auto paths = Resolve({{"HOME", "/home/u"}}, 1000);
  ASSERT_TRUE(paths.ok());
  EXPECT_EQ(paths->root, "/home/u/.local/share/imagefs");
  EXPECT_EQ(paths->run, "/tmp/imagefs-1000");
}

TEST(PathsTest, RootOfAUserNamespaceIsAUser) {
  const auto paths = ResolvePaths("", "", "/", MachineUser{false, 0}, [](const char* name) {
    return std::string(name == std::string_view("HOME") ? "/root" : "");
  });
  ASSERT_TRUE(paths.ok());
  EXPECT_EQ(paths->root, "/root/.local/share/imagefs");
  EXPECT_EQ(paths->run, "/tmp/imagefs-0");
}

TEST(PathsTest, RelativeXdgValuesAreIgnored) {
  auto paths = Resolve({{"HOME", "/home/u"}, {"XDG_DATA_HOME", "data"}}, 1000);
  ASSERT_TRUE(paths.ok());
  EXPECT_EQ(paths->root, "/home/u/.local/share/imagefs");
}

TEST(PathsTest, NoHomeIsAnErrorWithARemedy) {
  auto paths = Resolve({}, 1000);
  ASSERT_FALSE(paths.ok());
  EXPECT_NE(paths.status().message().find("--root"), absl::string_view::npos);
  EXPECT_TRUE(Resolve({}, 1000, "/store").ok());
}

TEST(PathsTest, OptionsWinAndAreMadeAbsolute) {
  auto paths = Resolve({}, 0, "store/", "../run");
  ASSERT_TRUE(paths.ok());
  EXPECT_EQ(paths->root, "/home/u/work/store");
  EXPECT_EQ(paths->run, "/home/u/run");
}

TEST(CleanPathTest, RemovesDotsAndSlashes) {
  EXPECT_EQ(CleanPath("/a//b/./c/../d/", "/x"), "/a/b/d");
  EXPECT_EQ(CleanPath("../..", "/x"), "/");
  EXPECT_EQ(CleanPath(".", "/x/y"), "/x/y");
  EXPECT_EQ(CleanPath("/", "/x"), "/");
}

class RunDirTest : public testing::Test {
 protected:
  void SetUp() override {
    dir_ = testing::TempDir() + "/rundir-" + RandomHex(6);
    ASSERT_TRUE(MakeDirs(dir_).ok());
  }
  void TearDown() override { (void)RemoveTree(dir_); }
  std::string dir_;
};

TEST_F(RunDirTest, MadeOnceAndAcceptedAgain) {
  const std::string run = dir_ + "/a/run";
  ASSERT_TRUE(PrepareRunDir(run, geteuid()).ok());
  struct stat st;
  ASSERT_EQ(stat(run.c_str(), &st), 0);
  EXPECT_EQ(st.st_mode & 0777, geteuid() == 0 ? 0711u : 0700u);
  EXPECT_TRUE(PrepareRunDir(run, geteuid()).ok());
}

TEST_F(RunDirTest, RefusesWhatOthersMayWriteOrOwn) {
  const std::string run = dir_ + "/run";
  ASSERT_TRUE(PrepareRunDir(run, geteuid()).ok());
  ASSERT_EQ(chmod(run.c_str(), 0777), 0);
  EXPECT_EQ(PrepareRunDir(run, geteuid()).code(), absl::StatusCode::kFailedPrecondition);
  ASSERT_EQ(chmod(run.c_str(), 0700), 0);
  EXPECT_EQ(PrepareRunDir(run, geteuid() + 1).code(), absl::StatusCode::kFailedPrecondition);
}

TEST_F(RunDirTest, RefusesALinkAndAFile) {
  const std::string link = dir_ + "/link";
  ASSERT_EQ(symlink(dir_.c_str(), link.c_str()), 0);
  EXPECT_EQ(PrepareRunDir(link, geteuid()).code(), absl::StatusCode::kFailedPrecondition);
}

TEST(PathsTest, RelativePathsNeedADirectory) {
  const auto resolve = [](std::string_view root, std::string_view run) {
    return ResolvePaths(root, run, "", {true, 0}, [](const char*) { return std::string(); });
  };
  EXPECT_TRUE(resolve("/a", "/b").ok());
  EXPECT_TRUE(resolve("", "").ok());
  EXPECT_TRUE(absl::IsFailedPrecondition(resolve("a", "/b").status()));
  EXPECT_TRUE(absl::IsFailedPrecondition(resolve("/a", "b").status()));
  EXPECT_TRUE(resolve("/a", "")->root_named);
  EXPECT_FALSE(resolve("", "/b")->root_named);
}

TEST(AbsolutePathTest, WhereTheDirectoryIsThereAndWhereItIsGone) {
  EXPECT_EQ(AbsolutePath("/a/./b/../c/").value(), "/a/c");
  EXPECT_EQ(AbsolutePath("").status().code(), absl::StatusCode::kInvalidArgument);
  const std::string directory = CleanPath(StrCat(testing::TempDir(), "/gone-", RandomHex(6)), "/");
  ASSERT_EQ(mkdir(directory.c_str(), 0700), 0);
  EXPECT_EXIT(
      {
        bool right = chdir(directory.c_str()) == 0 && AbsolutePath("x").value() == directory + "/x";
        right &= rmdir(directory.c_str()) == 0;
        right &= absl::IsFailedPrecondition(AbsolutePath("x").status());
        right &= AbsolutePath("/x").value() == "/x";
        _exit(right ? 0 : 1);
      },
      testing::ExitedWithCode(0), "");
}

TEST(ProxyDigestTest, TellsOneEnvironmentFromAnother) {
  for (const char* name : {"http_proxy", "https_proxy", "all_proxy", "no_proxy", "HTTPS_PROXY",
                           "ALL_PROXY", "NO_PROXY"}) {
    unsetenv(name);
  }
  EXPECT_EQ(ProxyDigest(), "");
  setenv("HTTPS_PROXY", "http://user:secret@proxy:3128", 1);
  const std::string one = ProxyDigest();
  EXPECT_EQ(one.find("secret"), std::string::npos);
  EXPECT_NE(one, "");
  setenv("https_proxy", "http://user:secret@proxy:3128", 1);
  EXPECT_EQ(ProxyDigest(), one);
  setenv("https_proxy", "http://other:3128", 1);
  EXPECT_NE(ProxyDigest(), one);
  unsetenv("https_proxy");
  unsetenv("HTTPS_PROXY");
}

}  // namespace
}  // namespace imagefs
