#include "base/thread_role.h"

#include <fcntl.h>
#include <gtest/gtest.h>

#include <thread>

#include "base/digest.h"
#include "base/fd.h"
#include "base/timer_queue.h"

namespace imagefs {
namespace {

TEST(ThreadRoleDeathTest, WhatBlocksWhereItMayNotEndsTheTest) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_DEATH(
      {
        NeverBlockHere("this thread");
        (void)OpenFile("/proc/self/stat", O_RDONLY);
      },
      "opening a file, where this thread may not block");
  EXPECT_DEATH(
      {
        TimerQueue timers("test");
        const Timer timer = timers.After(absl::ZeroDuration(), [] { (void)FsyncFd(-1, "x"); });
        std::this_thread::sleep_for(std::chrono::seconds(60));
      },
      "a sync, where the timers' thread may not block");
}

TEST(ThreadRoleTest, OnlyThatThreadAndOnlyForThatLong) {
  std::thread other([] {
    NeverBlockHere("another thread");
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
