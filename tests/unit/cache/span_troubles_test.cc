#include "cache/span_troubles.h"

#include <gtest/gtest.h>

#include "cache/read_streams.h"

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

TEST(LateReadsTest, TheSameReadIsTheSameThreadAtTheSameBytesSoonAfter) {
  LateReads late;
  const Moment now = Moment::Now();
  const absl::Status why = absl::DeadlineExceededError("late");
  late.Add(11, {{4, 8}, {20, 21}}, why, now);
  EXPECT_EQ(late.Find(11, {{7, 12}}, now), why);
  EXPECT_EQ(late.Find(11, {{0, 1}, {20, 30}}, now), why);
  EXPECT_TRUE(late.Find(11, {{8, 20}}, now).ok());
  EXPECT_TRUE(late.Find(12, {{4, 8}}, now).ok());
  EXPECT_TRUE(late.Find(0, {{4, 8}}, now).ok());
  // It is told again without having more time for that.
  EXPECT_EQ(late.Find(11, {{4, 5}}, now + absl::Milliseconds(900)), why);
  EXPECT_TRUE(late.Find(11, {{4, 5}}, now + LateReads::kSameRead).ok());
}

TEST(LateReadsTest, NobodyInParticularIsNotRemembered) {
  LateReads late;
  late.Add(0, {{4, 8}}, absl::DeadlineExceededError("late"), Moment::Now());
  EXPECT_TRUE(late.Find(0, {{4, 8}}, Moment::Now()).ok());
}

TEST(ReadStreamsTest, TwiceAsFarEachTime) {
  ReadStreams streams;
  EXPECT_EQ(streams.Advance(10, 11, false), 0U);
  EXPECT_EQ(streams.Advance(11, 12, false), 1U);
  EXPECT_EQ(streams.Advance(12, 13, false), 2U);
  EXPECT_EQ(streams.Advance(100, 101, false), 0U);
  EXPECT_EQ(streams.Advance(13, 14, false), 4U);
  EXPECT_EQ(streams.Advance(13, 14, false), 0U) << "the same again";
}

TEST(ReadStreamsTest, WhereAProfileSaysWhatComesGoingOnIsChanceAtFirst) {
  ReadStreams streams;
  for (uint32_t at = 10; at < 14; ++at) EXPECT_EQ(streams.Advance(at, at + 1, true), 0U);
  EXPECT_EQ(streams.Advance(14, 15, true), 1U);
}

}  // namespace
}  // namespace imagefs
