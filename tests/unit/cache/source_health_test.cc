// SPDX-License-Identifier: Apache-2.0
#include "cache/source_health.h"

#include <gtest/gtest.h>

#include <string>

#include "base/status.h"
#include "base/text.h"
#include "fetch/source.h"

namespace imagefs {
namespace {

class SourceHealthTest : public ::testing::Test {
 protected:
  static SourceHealth::Place Place(const std::string& source, const std::string& blob = "a") {
    return {source, Sha256Of(blob)};
  }
  // Returns how long a request of that priority must wait from `now_` on.
  absl::Duration Pause(const SourceHealth::Place& place, Priority priority) const {
    return health_.MayBegin(place, priority) - now_;
  }
  bool Begin(const SourceHealth::Place& place, Priority priority = Priority::kOnDemand) {
    return health_.Begin(place, priority, now_);
  }
  int Fail(const SourceHealth::Place& place, const absl::Status& why) {
    return health_.Failed(place, why, now_, now_, false);
  }

  SourceHealth health_{SourceHealth::Limits()};
  Moment now_ = Moment::Now();
  const SourceHealth::Place place_ = Place("reg alice");
  const absl::Status away_ = absl::UnavailableError("away");
};

TEST_F(SourceHealthTest, WhereAllIsWellNobodyWaits) {
  EXPECT_TRUE(Begin(place_));
  EXPECT_TRUE(Begin(place_));
  EXPECT_EQ(health_.MayBegin(place_, Priority::kBackground), Moment::InfinitePast());
  EXPECT_EQ(health_.Describe(place_, now_), "");
  EXPECT_FALSE(health_.Certain(place_).has_value());
}

TEST_F(SourceHealthTest, PausesGrowToALimitByUrgency) {
  const SourceHealth::Limits limits;
  absl::Duration before[4] = {};
  for (int failures = 1; failures <= 20; ++failures) {
    EXPECT_EQ(Fail(place_, away_), failures);
    for (int p = 0; p < 4; ++p) {
      const absl::Duration pause = Pause(place_, static_cast<Priority>(p));
      EXPECT_GT(pause, absl::ZeroDuration());
      EXPECT_LE(pause, limits.most[static_cast<size_t>(p)]);
      EXPECT_GE(pause * 4, before[p]);  // the jitter is up to half of it
      if (p > 0) {
        EXPECT_GE(pause, Pause(place_, static_cast<Priority>(p - 1)));
      }
      before[p] = pause;
    }
    now_ = now_ + absl::Minutes(10);
  }
  now_ = now_ - absl::Minutes(10);
  EXPECT_GE(Pause(place_, Priority::kBackground), absl::Seconds(150));
  EXPECT_LE(Pause(place_, Priority::kOnDemand), absl::Seconds(2));
}

// A registry that is unavailable for an hour, by the test's own clock: it is retried neither too
// often nor too rarely, the failure is never taken for certain, and the first answer ends it.
TEST_F(SourceHealthTest, ARegistryThatIsAwayForAnHour) {
  const SourceHealth::Limits limits;
  for (const Priority priority : {Priority::kOnDemand, Priority::kBackground}) {
    const SourceHealth::Place place = Place(StrCat("away ", static_cast<int>(priority)));
    const absl::Duration most = limits.most[static_cast<size_t>(priority)];
    const Moment began = now_;
    int requests = 0;
    while (now_ < began + absl::Hours(1)) {
      ASSERT_TRUE(Begin(place, priority));
      now_ = now_ + absl::Milliseconds(5);
      Fail(place, away_);
      ++requests;
      EXPECT_FALSE(health_.Certain(place).has_value());
      const absl::Duration pause = Pause(place, priority);
      ASSERT_GT(pause, absl::ZeroDuration());
      ASSERT_LE(pause, most);
      now_ = now_ + pause;
    }
    EXPECT_GE(requests, absl::Hours(1) / most);
    EXPECT_LE(requests, 4 * (absl::Hours(1) / most) + 20) << "the jitter is half of a pause";
    EXPECT_NE(health_.Describe(place, now_), "");
    ASSERT_TRUE(Begin(place, priority));
    health_.Succeeded(place);
    EXPECT_EQ(health_.MayBegin(place, Priority::kBackground), Moment::InfinitePast());
    EXPECT_EQ(health_.Describe(place, now_), "");
  }
}

TEST_F(SourceHealthTest, NoUrgencyPassesAPauseAndOneRequestFindsOut) {
  Fail(place_, away_);
  EXPECT_FALSE(Begin(place_));
  now_ = now_ + absl::Seconds(1);
  EXPECT_TRUE(Begin(place_));
  // No other request may begin, for this blob or another one, unless the probe is silent.
  now_ = now_ + absl::Milliseconds(900);
  EXPECT_FALSE(Begin(place_));
  EXPECT_FALSE(Begin(Place("reg alice", "b")));
  now_ = now_ + absl::Milliseconds(100);
  EXPECT_TRUE(Begin(place_));
  EXPECT_FALSE(Begin(place_));
  // Another identity is another source.
  EXPECT_TRUE(Begin(Place("reg bob")));
  EXPECT_TRUE(health_.Answered(place_, absl::Milliseconds(10)));
  EXPECT_FALSE(health_.Answered(place_, absl::Milliseconds(10)));
  EXPECT_TRUE(Begin(place_));
  EXPECT_TRUE(Begin(Place("reg alice", "b")));
}

TEST_F(SourceHealthTest, OneThatIsGivenUpLetsTheNextGo) {
  Fail(place_, away_);
  now_ = now_ + absl::Seconds(1);
  EXPECT_TRUE(Begin(place_));
  health_.Ended(place_);
  EXPECT_TRUE(Begin(place_));
}

TEST_F(SourceHealthTest, RightBytesEndTheTrouble) {
  for (int i = 0; i < 5; ++i) Fail(place_, away_);
  EXPECT_NE(health_.Describe(place_, now_), "");
  health_.Succeeded(place_);
  EXPECT_EQ(health_.Describe(place_, now_), "");
  EXPECT_EQ(Fail(place_, away_), 1);
}

TEST_F(SourceHealthTest, WhatFailsTogetherIsOneFailure) {
  const Moment began = now_ - absl::Seconds(1);
  EXPECT_EQ(health_.Failed(place_, away_, began, now_, false), 1);
  EXPECT_EQ(health_.Failed(place_, away_, began, now_ + absl::Seconds(1), false), 1);
  now_ = now_ + absl::Seconds(1);
  EXPECT_EQ(health_.Failed(place_, away_, now_, now_, false), 2);
}

TEST_F(SourceHealthTest, ARequestThatBroughtSomethingMakesNoPauseLonger) {
  for (int i = 0; i < 10; ++i) EXPECT_EQ(health_.Failed(place_, away_, now_, now_, true), 1);
  EXPECT_LE(Pause(place_, Priority::kBackground), absl::Seconds(2));
}

TEST_F(SourceHealthTest, AnAnswerAboutABlobIsOfThatBlobOnly) {
  Fail(place_, absl::NotFoundError("unknown"));
  EXPECT_FALSE(Begin(place_));
  EXPECT_TRUE(Begin(Place("reg alice", "b")));
  Fail(Place("reg alice", "b"), absl::PermissionDeniedError("no"));
  EXPECT_FALSE(Begin(Place("reg alice", "c")));
}

TEST_F(SourceHealthTest, WhatStaysTheSameForAMinuteIsCertain) {
  for (int i = 0; i < 6; ++i) {
    EXPECT_FALSE(health_.Certain(place_).has_value()) << i;
    Fail(place_, absl::NotFoundError("unknown"));
    now_ = now_ + absl::Seconds(11);
  }
  EXPECT_FALSE(health_.Certain(place_).has_value());
  Fail(place_, absl::NotFoundError("unknown still"));
  ASSERT_TRUE(health_.Certain(place_).has_value());
  EXPECT_EQ(health_.Certain(place_)->message(), "unknown still");
  EXPECT_NE(health_.Describe(place_, now_).find("certain for 66 s, 7 times"), std::string::npos)
      << health_.Describe(place_, now_);
  // Then a reader's attempts are rarer, and a successful one ends the trouble.
  EXPECT_LE(Pause(place_, Priority::kOnDemand), absl::Seconds(10));
  health_.Succeeded(place_);
  EXPECT_FALSE(health_.Certain(place_).has_value());
}

TEST_F(SourceHealthTest, WhatMayPassOrChangesIsNeverCertain) {
  const absl::Status refused[] = {absl::NotFoundError("a"), absl::DataLossError("b")};
  for (int i = 0; i < 100; ++i) {
    Fail(place_, away_);
    Fail(Place("reg alice", "b"), refused[i % 2]);
    now_ = now_ + absl::Seconds(11);
  }
  EXPECT_FALSE(health_.Certain(place_).has_value());
  EXPECT_FALSE(health_.Certain(Place("reg alice", "b")).has_value());
}

TEST_F(SourceHealthTest, RetryAfterIsObeyedWithinReason) {
  const auto asks = [&](int seconds) {
    Fail(place_,
         WithRetryAfter(absl::ResourceExhaustedError("too many"), std::chrono::seconds(seconds)));
  };
  asks(5);
  EXPECT_EQ(Pause(place_, Priority::kOnDemand), absl::Seconds(5));
  EXPECT_EQ(Pause(place_, Priority::kBackground), absl::Seconds(5));
  asks(86'400);
  EXPECT_LE(Pause(place_, Priority::kOnDemand), absl::Seconds(1));
  EXPECT_EQ(Pause(place_, Priority::kForeground), absl::Minutes(1));
  EXPECT_EQ(Pause(place_, Priority::kBackground), absl::Minutes(5));
}

TEST_F(SourceHealthTest, SilenceIsMeasuredByWhatAnswersTookLately) {
  EXPECT_EQ(health_.Silence(place_), absl::Seconds(1));
  health_.Answered(place_, absl::Milliseconds(50));
  EXPECT_EQ(health_.Silence(place_), absl::Seconds(1));
  health_.Answered(place_, absl::Milliseconds(600));
  EXPECT_EQ(health_.Silence(place_), absl::Milliseconds(2400));
  health_.Answered(place_, absl::Seconds(20));
  EXPECT_EQ(health_.Silence(place_), absl::Seconds(10));
  for (int i = 0; i < 20; ++i) health_.Answered(place_, absl::Milliseconds(50));
  EXPECT_EQ(health_.Silence(place_), absl::Seconds(1));
}

}  // namespace
}  // namespace imagefs
