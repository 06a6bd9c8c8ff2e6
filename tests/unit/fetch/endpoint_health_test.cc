// SPDX-License-Identifier: Apache-2.0
#include "fetch/endpoint_health.h"

#include <gtest/gtest.h>

namespace imagefs {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

class EndpointHealthTest : public testing::Test {
 protected:
  // Fails once, `times` times in a row.
  void Fail(int times) {
    for (int i = 0; i < times; ++i) {
      now_ += milliseconds(1);
      health_.Failed("m", absl::UnavailableError("gone"), std::nullopt, now_, now_);
    }
  }
  milliseconds LeftOutFor() {
    const auto rows = health_.Rows(now_);
    return rows.empty() ? milliseconds(0) : rows.front().left_out_for;
  }

  EndpointHealth health_{{.first = milliseconds(1'000),
                          .most = milliseconds(8'000),
                          .first_lie = milliseconds(60'000),
                          .most_lie = milliseconds(120'000),
                          .longest_try = milliseconds(5'000)}};
  EndpointHealth::Clock::time_point now_ = EndpointHealth::Clock::now();
};

TEST_F(EndpointHealthTest, PausesGrowToALimitAndHaveJitter) {
  for (const auto& [failures, full] : {std::pair(1, 1'000), {1, 2'000}, {1, 4'000}, {3, 8'000}}) {
    Fail(failures);
    EXPECT_GE(LeftOutFor(), milliseconds(full / 2));
    EXPECT_LE(LeftOutFor(), milliseconds(full));
    EXPECT_FALSE(health_.MayTry("m", now_));
  }
  EXPECT_TRUE(health_.MayTry("other", now_));
}

TEST_F(EndpointHealthTest, OneTriesAgainAndTheOthersFollowItsAnswer) {
  Fail(1);
  now_ += milliseconds(1'001);
  EXPECT_TRUE(health_.MayTry("m", now_));
  EXPECT_FALSE(health_.MayTry("m", now_));
  health_.Worked("m", now_);
  EXPECT_TRUE(health_.MayTry("m", now_));
  EXPECT_TRUE(health_.MayTry("m", now_));
  EXPECT_TRUE(health_.Rows(now_).empty());
}

TEST_F(EndpointHealthTest, ATryThatNeverEndsIsNotWaitedForForever) {
  Fail(1);
  now_ += milliseconds(1'001);
  EXPECT_TRUE(health_.MayTry("m", now_));
  now_ += milliseconds(5'000);
  EXPECT_TRUE(health_.MayTry("m", now_));
  health_.Abandoned("m");
  EXPECT_TRUE(health_.MayTry("m", now_));
}

TEST_F(EndpointHealthTest, WhatFailsTogetherCountsOnce) {
  const auto began = now_;
  for (int i = 0; i < 8; ++i) {
    now_ += milliseconds(1);
    health_.Failed("m", absl::UnavailableError("gone"), std::nullopt, began, now_);
  }
  EXPECT_LE(LeftOutFor(), milliseconds(1'000));
  EXPECT_EQ(health_.Rows(now_).front().failures, 1);
}

TEST_F(EndpointHealthTest, WhatTheServerAsksForIsObeyed) {
  health_.Failed("m", absl::ResourceExhaustedError("busy"), seconds(30), now_, now_);
  EXPECT_EQ(LeftOutFor(), seconds(30));
}

TEST_F(EndpointHealthTest, WrongBytesAreCountedAgainstWhoDeliveredThem) {
  const Digest blob = Sha256Of("blob");
  health_.Serves("a", blob, {0, 100});
  health_.Serves("a", blob, {100, 200});
  health_.Serves("b", blob, {200, 300});
  EXPECT_EQ(health_.Blame(blob, {{150, 160}}, now_), std::vector<std::string>{"a"});
  EXPECT_FALSE(health_.MayTry("a", now_));
  EXPECT_TRUE(health_.MayTry("b", now_));
  // Forgotten, so that it is not blamed for the same bytes twice.
  EXPECT_TRUE(health_.Blame(blob, {{150, 160}}, now_).empty());
  EXPECT_EQ(health_.Blame(blob, {{0, 300}}, now_), std::vector<std::string>{"b"});
  EXPECT_TRUE(health_.Blame(Sha256Of("another"), {{0, 300}}, now_).empty());
}

TEST_F(EndpointHealthTest, AnAnswerDoesNotEndThePauseOfALiar) {
  health_.Lied("m", now_);
  health_.Worked("m", now_);
  EXPECT_FALSE(health_.MayTry("m", now_));
  EXPECT_GE(LeftOutFor(), milliseconds(30'000));
  health_.Lied("m", now_);
  EXPECT_GE(LeftOutFor(), milliseconds(60'000));
  EXPECT_EQ(health_.Rows(now_).front().lies, 2);
}

}  // namespace
}  // namespace imagefs
