// SPDX-License-Identifier: Apache-2.0
#include "cache/span_troubles.h"

#include <gtest/gtest.h>

namespace imagefs {
namespace {

const absl::Status kWrong = absl::DataLossError("wrong");

TEST(WrongSpansTest, AFewTriesThenPausesThatGrow) {
  WrongSpans wrong({absl::Seconds(2), absl::Seconds(15), absl::Minutes(1), absl::Minutes(5)});
  Moment now = Moment::Now();
  EXPECT_FALSE(wrong.Add(7, kWrong, now));
  EXPECT_FALSE(wrong.Add(7, kWrong, now));
  EXPECT_EQ(wrong.PauseEnd(7, Priority::kBackground), Moment::InfinitePast());
  EXPECT_TRUE(wrong.Add(7, kWrong, now));
  EXPECT_EQ(wrong.PauseEnd(7, Priority::kBackground), now + absl::Seconds(1));
  EXPECT_EQ(wrong.Why(7), kWrong);
  EXPECT_EQ(wrong.PauseEnd(8, Priority::kBackground), Moment::InfinitePast());
  for (int i = 0; i < 20; ++i) {
    now = now + absl::Minutes(10);
    EXPECT_TRUE(wrong.Add(7, kWrong, now));
  }
  EXPECT_EQ(wrong.PauseEnd(7, Priority::kOnDemand), now + absl::Seconds(2));
  EXPECT_EQ(wrong.PauseEnd(7, Priority::kBackground), now + absl::Minutes(5));
  wrong.Remove(7);
  EXPECT_TRUE(wrong.empty());
}

TEST(TimedOutReadsTest, TheSameReadIsTheSameThreadAtTheSameBytesSoonAfter) {
  TimedOutReads late;
  const Moment now = Moment::Now();
  const absl::Status why = absl::DeadlineExceededError("late");
  constexpr uint64_t kMiB = 1 << 20;
  late.Add(11, {4 * kMiB, 5 * kMiB}, why, now);
  late.Add(11, {20 * kMiB, 21 * kMiB}, why, now);
  EXPECT_EQ(late.Find(11, {5 * kMiB - 1, 6 * kMiB}, now), why);
  EXPECT_EQ(late.Find(11, {19 * kMiB, 20 * kMiB + 1}, now), why);
  EXPECT_TRUE(late.Find(11, {3 * kMiB, 4 * kMiB}, now).ok());
  EXPECT_TRUE(late.Find(11, {10 * kMiB, 11 * kMiB}, now).ok());
  EXPECT_TRUE(late.Find(12, {4 * kMiB, 5 * kMiB}, now).ok());
  EXPECT_TRUE(late.Find(0, {4 * kMiB, 5 * kMiB}, now).ok());
  // The retry gets the same error without any more time.
  EXPECT_EQ(late.Find(11, {4 * kMiB, 5 * kMiB}, now + absl::Milliseconds(900)), why);
  EXPECT_TRUE(late.Find(11, {4 * kMiB, 5 * kMiB}, now + TimedOutReads::kSameRead).ok());
}

// The requests that the daemon got from the kernel for one read by cat of a file on a kernel mount.
TEST(TimedOutReadsTest, WhatTheKernelReadsAheadAfterAFailureBelongsToTheRead) {
  TimedOutReads late;
  const Moment now = Moment::Now();
  const absl::Status why = absl::DeadlineExceededError("late");
  late.Add(11, {364544, 364544 + 69632}, why, now);
  for (const auto& [offset, size] : std::vector<std::pair<uint64_t, uint64_t>>{{364544, 4096},
                                                                               {430080, 4096},
                                                                               {495616, 69632},
                                                                               {495616, 4096},
                                                                               {561152, 4096},
                                                                               {626688, 69632},
                                                                               {364544, 4096}}) {
    EXPECT_EQ(late.Find(11, {offset, offset + size}, now + absl::Seconds(1)), why) << offset;
  }
  // The period is not extended: continued reads succeed once the registry has recovered.
  EXPECT_TRUE(late.Find(11, {626688, 700000}, now + TimedOutReads::kSameRead).ok());
}

TEST(TimedOutReadsTest, NobodyInParticularIsNotRemembered) {
  TimedOutReads late;
  late.Add(0, {4, 8}, absl::DeadlineExceededError("late"), Moment::Now());
  EXPECT_TRUE(late.Find(0, {4, 8}, Moment::Now()).ok());
}

}  // namespace
}  // namespace imagefs
