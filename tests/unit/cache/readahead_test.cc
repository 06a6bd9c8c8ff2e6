// SPDX-License-Identifier: Apache-2.0
#include "cache/readahead.h"

#include <gtest/gtest.h>

namespace imagefs {
namespace {

const Moment kNow = Moment::Now();

TEST(ReadaheadTest, WithoutAWishTheBackgroundFetches) {
  EXPECT_TRUE(Readahead(true).Fetches(Priority::kBackground, kNow));
  EXPECT_FALSE(Readahead(true).Fetches(Priority::kForeground, kNow));
  EXPECT_FALSE(Readahead(false).Fetches(Priority::kBackground, kNow));
}

TEST(ReadaheadTest, TheMostUrgentWishCounts) {
  Readahead readahead(false);
  EXPECT_TRUE(readahead.WantAll(Priority::kReadahead));
  EXPECT_FALSE(readahead.awaited());
  EXPECT_TRUE(readahead.WantAll(Priority::kForeground));
  EXPECT_FALSE(readahead.WantAll(Priority::kReadahead));
  EXPECT_TRUE(readahead.awaited());
  EXPECT_TRUE(readahead.Fetches(Priority::kForeground, kNow));
  EXPECT_FALSE(readahead.Fetches(Priority::kReadahead, kNow));
  EXPECT_TRUE(readahead.StopWantingAll());
  EXPECT_FALSE(readahead.StopWantingAll());
  EXPECT_FALSE(readahead.Fetches(Priority::kBackground, kNow));
}

TEST(ReadaheadTest, AFullDiskStopsItUntilThen) {
  Readahead readahead(true);
  ASSERT_EQ(readahead.Advance(0, 1), 0u);
  ASSERT_GT(readahead.Advance(1, 2), 0u);
  readahead.StopUntil(kNow + absl::Seconds(30));
  EXPECT_EQ(readahead.Advance(2, 3), 0u);
  EXPECT_FALSE(readahead.Fetches(Priority::kBackground, kNow));
  EXPECT_TRUE(readahead.Fetches(Priority::kBackground, kNow + absl::Seconds(30)));
  readahead.Resume();
  EXPECT_FALSE(readahead.stopped());
  EXPECT_TRUE(readahead.Fetches(Priority::kBackground, kNow));
}

}  // namespace
}  // namespace imagefs
