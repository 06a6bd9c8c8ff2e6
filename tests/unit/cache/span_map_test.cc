// SPDX-License-Identifier: Apache-2.0
#include "cache/span_map.h"

#include <gtest/gtest.h>

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "tests/fakes/cache/lazy_blob.h"

namespace imagefs {
namespace {

using State = SpanMap::State;

constexpr uint32_t kSpans = 6;
constexpr uint32_t kDataBytes = 1024, kBlobBytes = 100;

class SpanMapTest : public ::testing::Test {
 protected:
  SpanMapTest() { map_.SetTable(*table_); }
  std::optional<uint32_t> NextMissing() { return map_.NextMissing(Priority::kBackground, now_); }
  void Fetch(uint32_t span) {
    map_.SetInFlight(span, Priority::kOnDemand);
    ASSERT_TRUE(map_.Take(span, State::kInFlight));
    map_.SetPresent(span);
  }

  const std::unique_ptr<SpanTableReader> table_ = EvenTable(kSpans, kBlobBytes, kDataBytes);
  const Moment now_ = Moment::Now();
  SpanMap map_{{absl::Seconds(1), absl::Seconds(2), absl::Seconds(3), absl::Seconds(4)}};
};

TEST_F(SpanMapTest, SaysWhatBroughtASpan) {
  const auto fetch = [this](uint32_t span, std::optional<Priority> queued, Priority priority) {
    if (queued.has_value()) map_.Queue(span, *queued, now_);
    map_.SetInFlight(span, priority);
    EXPECT_EQ(map_.byte_state(span), ByteState::kAbsent);
    ASSERT_TRUE(map_.Take(span, State::kInFlight));
    map_.SetPresent(span);
  };
  fetch(0, std::nullopt, Priority::kBackground);
  EXPECT_EQ(map_.byte_state(0), ByteState::kFetched);
  fetch(1, Priority::kForeground, Priority::kForeground);
  EXPECT_EQ(map_.byte_state(1), ByteState::kPrefetched);
  // A request in the background may bring along what was queued more urgently.
  fetch(2, Priority::kReadahead, Priority::kBackground);
  EXPECT_EQ(map_.byte_state(2), ByteState::kPrefetched);
  map_.NoteRead(2, now_);
  EXPECT_EQ(map_.byte_state(2), ByteState::kNeeded);
  map_.SetFound(3, /*verified=*/false);
  EXPECT_EQ(map_.byte_state(3), ByteState::kFetched);
  map_.NoteRead(4, now_);
  EXPECT_EQ(map_.byte_state(4), ByteState::kAbsent);
  // Given back, and fetched again for another reason.
  const std::vector<uint32_t> taken = map_.TakeForEviction(kDataBytes, {});
  ASSERT_EQ(taken, (std::vector<uint32_t>{0}));
  map_.SetAbsent(0);
  EXPECT_EQ(map_.byte_state(0), ByteState::kAbsent);
  fetch(0, std::nullopt, Priority::kForeground);
  EXPECT_EQ(map_.byte_state(0), ByteState::kPrefetched);
}

TEST_F(SpanMapTest, StartsWithNothing) {
  EXPECT_EQ(map_.size(), kSpans);
  EXPECT_EQ(map_.blob_bytes(), uint64_t{kSpans} * kBlobBytes);
  EXPECT_EQ(map_.blob_bytes_present(), 0u);
  EXPECT_FALSE(map_.all_present());
  EXPECT_EQ(map_.NextQueued(Priority::kOnDemand), std::nullopt);
  EXPECT_EQ(NextMissing(), 0u);
}

TEST_F(SpanMapTest, QueuesInOrderOfAskingByPriority) {
  map_.Queue(4, Priority::kReadahead, now_);
  map_.Queue(2, Priority::kReadahead, now_);
  map_.Queue(3, Priority::kOnDemand, now_);
  EXPECT_EQ(map_.NextQueued(Priority::kOnDemand), 3u);
  EXPECT_EQ(map_.NextQueued(Priority::kReadahead), 4u);
  // More urgent now; it is not requested twice.
  map_.Queue(4, Priority::kOnDemand, now_);
  EXPECT_EQ(map_.NextQueued(Priority::kReadahead), 2u);
  map_.SetInFlight(3, Priority::kOnDemand);
  EXPECT_EQ(map_.NextQueued(Priority::kOnDemand), 4u);
  // Less urgent: nothing changes.
  map_.Queue(4, Priority::kBackground, now_);
  EXPECT_EQ(map_.NextQueued(Priority::kOnDemand), 4u);
}

TEST_F(SpanMapTest, OnlyAbsentSpansAreQueued) {
  Fetch(0);
  map_.SetInFlight(1, Priority::kOnDemand);
  map_.SetFound(2, /*verified=*/false);
  for (const uint32_t span : {0u, 1u, 2u}) map_.Queue(span, Priority::kOnDemand, now_);
  EXPECT_EQ(map_.NextQueued(Priority::kOnDemand), std::nullopt);
}

TEST_F(SpanMapTest, UnqueueTakesOffWhatIsThatUrgent) {
  map_.Queue(0, Priority::kReadahead, now_);
  map_.Unqueue(0, Priority::kOnDemand);
  EXPECT_EQ(map_.state(0), State::kQueued);
  map_.Unqueue(0, Priority::kReadahead);
  EXPECT_EQ(map_.state(0), State::kAbsent);
  map_.Queue(0, Priority::kOnDemand, now_);
  map_.Queue(1, Priority::kForeground, now_);
  map_.Queue(2, Priority::kBackground, now_);
  map_.UnqueueReadahead();
  EXPECT_EQ(map_.state(0), State::kQueued);
  EXPECT_EQ(map_.state(1), State::kAbsent);
  EXPECT_EQ(map_.state(2), State::kAbsent);
}

TEST_F(SpanMapTest, ScansForWhatIsMissingAndGoesBackForWhatIsLost) {
  for (const uint32_t span : {0u, 1u, 2u}) Fetch(span);
  EXPECT_EQ(NextMissing(), 3u);
  map_.SetInFlight(3, Priority::kOnDemand);
  EXPECT_EQ(NextMissing(), 4u);
  map_.SetAbsent(1);
  EXPECT_EQ(NextMissing(), 1u);
  map_.SetFound(1, /*verified=*/false);
  EXPECT_EQ(NextMissing(), 1u) << "what is not verified is looked at as well";
}

TEST_F(SpanMapTest, WhatWasWrongIsLeftAloneForAWhile) {
  const absl::Status why = absl::DataLossError("wrong");
  for (int i = 1; i < WrongSpans::kTries; ++i) EXPECT_FALSE(map_.AddWrong(0, why, now_));
  EXPECT_TRUE(map_.WhyPaused(0, Priority::kOnDemand, now_).ok());
  EXPECT_TRUE(map_.AddWrong(0, why, now_));
  EXPECT_EQ(map_.WhyPaused(0, Priority::kOnDemand, now_), why);
  map_.Queue(0, Priority::kOnDemand, now_);
  EXPECT_EQ(map_.state(0), State::kAbsent);
  EXPECT_FALSE(map_.MayBringAlong(0, Priority::kOnDemand, /*missing_too=*/true, now_));
  EXPECT_EQ(NextMissing(), 1u);
  const Moment later = map_.rescan_at();
  ASSERT_GT(later, now_);
  ASSERT_LT(later, Moment::InfiniteFuture());
  map_.RescanIfDue(later);
  EXPECT_EQ(map_.rescan_at(), Moment::InfiniteFuture());
  EXPECT_EQ(map_.NextMissing(Priority::kBackground, later), 0u);
  Fetch(0);
  EXPECT_FALSE(map_.any_wrong());
}

TEST_F(SpanMapTest, ASpanIsTakenOnce) {
  map_.SetInFlight(0, Priority::kOnDemand);
  EXPECT_TRUE(map_.Take(0, State::kInFlight));
  EXPECT_FALSE(map_.Take(0, State::kInFlight));
  EXPECT_EQ(map_.state(0), State::kBusy);
}

TEST_F(SpanMapTest, CountsWhatIsPresent) {
  map_.SetFound(0, /*verified=*/true);
  map_.SetFound(1, /*verified=*/false);
  EXPECT_EQ(map_.data_bytes_present(), 2u * kDataBytes);
  ASSERT_TRUE(map_.Take(1, State::kUnverified));
  EXPECT_EQ(map_.blob_bytes_present(), 2u * kBlobBytes);
  map_.Uncount(1);
  map_.SetAbsent(1);
  EXPECT_EQ(map_.blob_bytes_present(), 1u * kBlobBytes);
  for (uint32_t span = 1; span < kSpans; ++span) Fetch(span);
  EXPECT_TRUE(map_.all_present());
  EXPECT_EQ(map_.blob_bytes_present(), map_.blob_bytes());
  ASSERT_TRUE(map_.Take(3, State::kPresent));
  EXPECT_FALSE(map_.all_present());
}

TEST_F(SpanMapTest, WhatIsInMemoryIsReadableAndNotPresent) {
  map_.SetInMemory(0);
  EXPECT_TRUE(map_.readable(0));
  EXPECT_EQ(map_.data_bytes_present(), 0u);
}

TEST_F(SpanMapTest, EvictsFirstWhatWasNotReadLately) {
  for (uint32_t span = 0; span < kSpans; ++span) Fetch(span);
  map_.NoteRead(0, now_);
  map_.NoteRead(2, now_);
  EXPECT_EQ(map_.TakeForEviction(kDataBytes, {}), std::vector<uint32_t>{1});
  map_.SetAbsent(1);
  EXPECT_EQ(map_.TakeForEviction(kDataBytes, {3}), std::vector<uint32_t>{4});
  map_.SetAbsent(4);
  // The whole: reads protect a span for one round only.
  std::vector<uint32_t> rest = map_.TakeForEviction(kSpans * kDataBytes, {});
  EXPECT_EQ(rest.size(), kSpans - 2);
  EXPECT_EQ(map_.last_use(), now_);
}

TEST_F(SpanMapTest, RemembersWhenItWasRead) {
  EXPECT_EQ(map_.last_read(), Moment::InfinitePast());
  map_.NoteRead(3, now_);
  map_.NoteRead(1, now_);
  map_.NoteRead(3, now_ + absl::Seconds(1));
  EXPECT_EQ(map_.blob_bytes_read(), 2u * kBlobBytes);
  EXPECT_EQ(map_.last_read(), now_);
}

TEST_F(SpanMapTest, EvictsInTurnWhatNobodyWants) {
  for (uint32_t span = 0; span < kSpans; ++span) Fetch(span);
  EXPECT_EQ(map_.TakeForEviction(2 * kDataBytes, {1}), (std::vector<uint32_t>{0, 2}));
  EXPECT_EQ(map_.state(0), State::kBusy);
  EXPECT_EQ(map_.data_bytes_present(), 4u * kDataBytes);
  EXPECT_EQ(map_.TakeForEviction(1, {}), (std::vector<uint32_t>{3}));
  EXPECT_EQ(map_.TakeForEviction(100 * kDataBytes, {}), (std::vector<uint32_t>{4, 5, 1}));
  EXPECT_TRUE(map_.TakeForEviction(1, {}).empty());
}

}  // namespace
}  // namespace imagefs
