// SPDX-License-Identifier: Apache-2.0
#include "base/thread_role.h"

#include <fcntl.h>
#include <gtest/gtest.h>

#include <string>
#include <thread>

#include "base/digest.h"
#include "base/fd.h"
#include "base/mapped_file.h"
#include "base/text.h"
#include "base/timer_queue.h"

namespace imagefs {
namespace {

TEST(ThreadRoleDeathTest, WhatBlocksWhereItMayNotEndsTheTest) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_DEATH(
      {
        EnterThread(ThreadRole::kFuse);
        (void)OpenFile("/proc/self/stat", O_RDONLY);
      },
      "opening a file, where fuse may not block");
  EXPECT_DEATH(
      {
        TimerQueue timers(ThreadRole::kTimers);
        const Timer timer = timers.After(absl::ZeroDuration(), [] { (void)FsyncFd(-1, "x"); });
        std::this_thread::sleep_for(std::chrono::seconds(60));
      },
      "a sync, where timers may not block");
}

struct Blocking {
  const char* says;
  void (*call)();
};

class BlockingDeathTest : public testing::TestWithParam<Blocking> {};

TEST_P(BlockingDeathTest, EndsTheTestWhereNothingMayBlock) {
  // No other thread of this process is alive, so that the child need not begin anew.
  const auto here = [] {
    const NeverBlocks role("this thread");
    GetParam().call();
  };
  EXPECT_DEATH(here(), std::string(GetParam().says) + ", where this thread may not block");
}

INSTANTIATE_TEST_SUITE_P(
    Calls, BlockingDeathTest,
    testing::Values(
        Blocking{"opening a file", [] { (void)OpenFile("/proc/self/stat", O_RDONLY); }},
        Blocking{"opening a file", [] { (void)ReadFile("/proc/self/stat", 10); }},
        Blocking{"opening a file", [] { (void)WriteFileDurably("/nowhere/at/all", "x"); }},
        Blocking{"a sync", [] { (void)FsyncFd(-1, "x"); }},
        Blocking{"making folders", [] { (void)MakeDirs("/proc/self/nowhere"); }},
        Blocking{"removing files", [] { (void)RemoveTree("/proc/self/nowhere"); }},
        Blocking{"looking for a file", [] { (void)StatPath("/proc/self"); }},
        Blocking{"mapping a file", [] { (void)MappedFile::Map(-1, "x"); }},
        Blocking{"hashing a long text", [] { (void)Sha256Of(std::string(1 << 20, 'x')); }}));

// What waits for another thread asks as well.
TEST(ThreadRoleDeathTest, WaitingForAKeyIsSeen) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_DEATH(
      {
        EnterThread(ThreadRole::kNetwork);
        MayBlock("waiting for a key");
      },
      "waiting for a key, where network may not block");
}

TEST(ThreadRoleTest, EveryRoleHasANameThatTheKernelTakes) {
  for (int i = 0; i <= static_cast<int>(ThreadRole::kTest); ++i) {
    const ThreadRoleInfo& info = InfoOf(static_cast<ThreadRole>(i));
    EXPECT_GT(info.name.size(), 0u) << i;
    EXPECT_LE(info.name.size(), 15u) << info.name;
  }
  EXPECT_EQ(InfoOf(ThreadRole::kFuse).name, "fuse");
  EXPECT_EQ(InfoOf(ThreadRole::kLog).name, "log");
  EXPECT_EQ(InfoOf(ThreadRole::kTest).name, "test");
}

TEST(ThreadRoleTest, TheDocumentHasTheTable) {
  const absl::StatusOr<std::string> document =
      ReadFile(StrCat(IMAGEFS_SOURCE_DIR, "/docs/threading.md"), 1 << 20);
  ASSERT_TRUE(document.ok()) << document.status();
  EXPECT_NE(document->find(ThreadTable()), std::string::npos) << "put this in docs/threading.md:\n"
                                                              << ThreadTable();
}

TEST(ThreadRoleTest, OnlyThatThreadAndOnlyForThatLong) {
  std::thread other([] {
    EnterThread(ThreadRole::kNetwork);
    (void)Sha256Of("a short text is hashed anywhere");
  });
  other.join();
  {
    const NeverBlocks outer("an outer part");
    const NeverBlocks inner("an inner part");
  }
  EXPECT_TRUE(OpenFile("/proc/self/stat", O_RDONLY).ok());
}

}  // namespace
}  // namespace imagefs
