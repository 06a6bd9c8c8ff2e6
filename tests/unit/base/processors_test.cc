// SPDX-License-Identifier: Apache-2.0
#include "base/processors.h"

#include <gtest/gtest.h>
#include <sched.h>

#include <thread>

#include "base/fd.h"
#include "base/text.h"

namespace imagefs {
namespace {

class ProcessorsTest : public testing::Test {
 protected:
  void SetUp() override { root_ = StrCat(testing::TempDir(), "/processors-", RandomHex(6)); }
  void TearDown() override { (void)RemoveTree(root_); }

  void Limit(const std::string& group, const std::string& text) {
    ASSERT_TRUE(MakeDirs(root_ + group, 0700).ok());
    ASSERT_TRUE(WriteFileDurably(StrCat(root_, group, "/cpu.max"), text).ok());
  }

  std::string root_;
};

TEST_F(ProcessorsTest, AQuotaIsRoundedUp) {
  Limit("/pod", "250000 100000\n");
  EXPECT_EQ(ProcessorsOfQuota("0::/pod\n", root_), 3);
  Limit("/pod", "50000 100000\n");
  EXPECT_EQ(ProcessorsOfQuota("0::/pod\n", root_), 1);
}

TEST_F(ProcessorsTest, TheTightestGroupAroundItCounts) {
  Limit("", "700000 100000\n");  // as seen in a namespace of control groups
  Limit("/a", "200000 100000\n");
  Limit("/a/b", "max 100000\n");
  EXPECT_EQ(ProcessorsOfQuota("12:cpu:/x\n0::/a/b\n", root_), 2);
  EXPECT_EQ(ProcessorsOfQuota("0::/c\n", root_), 7);
  EXPECT_EQ(ProcessorsOfQuota("0::/\n", root_), 7);
}

TEST_F(ProcessorsTest, WithoutAQuotaThereIsNone) {
  Limit("/a", "max 100000\n");
  EXPECT_EQ(ProcessorsOfQuota("0::/a\n", root_), 0);
  EXPECT_EQ(ProcessorsOfQuota("0::/gone\n", root_), 0);
  EXPECT_EQ(ProcessorsOfQuota("4:cpu:/a\n", root_), 0);
  EXPECT_EQ(ProcessorsOfQuota("", root_), 0);
  for (const char* text : {"", "\n", "1\n", "0 100000\n", "100000 0\n", "-1 100000\n"}) {
    Limit("/odd", text);
    EXPECT_EQ(ProcessorsOfQuota("0::/odd\n", root_), 0) << text;
  }
}

TEST_F(ProcessorsTest, TheAffinityOfTheThreadCounts) {
  int of_one = 0;
  std::thread([&of_one] {
    cpu_set_t all, one;
    ASSERT_EQ(sched_getaffinity(0, sizeof(all), &all), 0);
    CPU_ZERO(&one);
    for (int i = 0; i < CPU_SETSIZE && CPU_COUNT(&one) == 0; ++i) {
      if (CPU_ISSET(i, &all)) CPU_SET(i, &one);
    }
    ASSERT_EQ(sched_setaffinity(0, sizeof(one), &one), 0);
    of_one = UsableProcessors();
  }).join();
  EXPECT_EQ(of_one, 1);
}

}  // namespace
}  // namespace imagefs
