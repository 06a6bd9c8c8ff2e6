// SPDX-License-Identifier: Apache-2.0
#include "base/disk_usage.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/text.h"

namespace imagefs {
namespace {

class DiskUsageTest : public ::testing::Test {
 protected:
  void SetUp() override { ASSERT_TRUE(MakeDirs(root_ + "/a/b", 0700).ok()); }
  void TearDown() override { ASSERT_TRUE(RemoveTree(root_).ok()); }
  void Write(const std::string& name, size_t bytes) const {
    const auto fd = OpenFile(root_ + name, O_WRONLY | O_CREAT, 0600);
    ASSERT_TRUE(fd.ok()) << fd.status();
    ASSERT_TRUE(PwriteFull(fd->get(), std::string(bytes, 'x'), 0).ok());
    ASSERT_EQ(fsync(fd->get()), 0);
  }
  uint64_t Blocks(const std::string& name) const {
    struct stat st;
    EXPECT_EQ(lstat((root_ + name).c_str(), &st), 0);
    return static_cast<uint64_t>(st.st_blocks) * 512;
  }

  const std::string root_ = StrCat(::testing::TempDir(), "/disk-usage-", RandomHex(6));
};

TEST_F(DiskUsageTest, CountsAsDuDoes) {
  Write("/a/one", 100'000);
  Write("/a/b/two", 1);
  ASSERT_EQ(link((root_ + "/a/one").c_str(), (root_ + "/a/b/again").c_str()), 0);
  ASSERT_EQ(symlink("/", (root_ + "/a/link").c_str()), 0);
  ASSERT_EQ(truncate((root_ + "/a/b/two").c_str(), 1 << 30), 0);  // a hole occupies nothing
  const auto usage = DiskUsageOf(root_);
  ASSERT_TRUE(usage.ok()) << usage.status();
  EXPECT_EQ(usage->files, 3u);  // one, two and the link
  EXPECT_EQ(usage->bytes, Blocks("") + Blocks("/a") + Blocks("/a/b") + Blocks("/a/one") +
                              Blocks("/a/b/two") + Blocks("/a/link"));
}

TEST_F(DiskUsageTest, WhatDoesNotExistIsEmpty) {
  const auto usage = DiskUsageOf(root_ + "/absent");
  ASSERT_TRUE(usage.ok()) << usage.status();
  EXPECT_EQ(usage->bytes, 0u);
  EXPECT_EQ(usage->files, 0u);
}

}  // namespace
}  // namespace imagefs
