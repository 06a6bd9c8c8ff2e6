// SPDX-License-Identifier: Apache-2.0
#include "fetch/transfer_phases.h"

#include <gtest/gtest.h>

namespace imagefs {
namespace {

using Clock = TransferPhases::Clock;
using Kind = TransferPhases::Verdict::Kind;
using std::chrono::milliseconds;
using std::chrono::seconds;

class TransferPhasesTest : public testing::Test {
 protected:
  // Sends `bytes` every `step` until the request is aborted or `most` has passed; returns the time
  // taken.
  seconds Trickle(uint64_t bytes, milliseconds step, seconds most) {
    const Clock::time_point began = now_;
    while (now_ - began < most) {
      now_ += step;
      phases_.BodyBytes(bytes, now_);
      last_ = phases_.Check(now_);
      if (last_.kind != Kind::kGoesOn) break;
      EXPECT_GT(last_.look_again, now_);
    }
    return std::chrono::duration_cast<seconds>(now_ - began);
  }
  Kind At(seconds time) {
    last_ = phases_.Check(began_ + time);
    return last_.kind;
  }

  const Clock::time_point began_ = Clock::time_point() + seconds(1000);
  Clock::time_point now_ = began_;
  TransferPhases phases_{{}, seconds(15), seconds(20), began_};
  TransferPhases::Verdict last_;
};

TEST_F(TransferPhasesTest, EachPhaseHasItsOwnTime) {
  EXPECT_EQ(At(seconds(14)), Kind::kGoesOn);
  EXPECT_EQ(last_.look_again, began_ + seconds(15));
  EXPECT_EQ(At(seconds(15)), Kind::kSilent);
  phases_.Connected(began_ + seconds(15));
  EXPECT_EQ(At(seconds(34)), Kind::kGoesOn);
  EXPECT_EQ(At(seconds(35)), Kind::kSilent);
  EXPECT_EQ(last_.what, "has sent nothing for 20 s");
}

TEST_F(TransferPhasesTest, HeaderLinesThatKeepComingAreNoProgress) {
  phases_.Connected(began_);
  for (int i = 1; i < 9; ++i) {
    phases_.HeaderBytes(began_ + seconds(2 * i));
    EXPECT_EQ(At(seconds(2 * i)), Kind::kGoesOn) << i;
  }
  EXPECT_EQ(At(seconds(17)), Kind::kTooSlow);
  EXPECT_EQ(last_.what, "has not completed the headers of its answer after 15 s");
}

TEST_F(TransferPhasesTest, ATricklingBodyIsEnded) {
  phases_.Connected(now_);
  phases_.HeaderBytes(now_);
  phases_.HeadersDone(std::nullopt, now_);
  EXPECT_LE(Trickle(1, seconds(3), seconds(600)), seconds(40));
  EXPECT_EQ(last_.kind, Kind::kTooSlow);
  EXPECT_EQ(last_.what, "has sent 7 bytes in 21 s, less than the least rate of 64 bytes a second");
}

TEST_F(TransferPhasesTest, ATrickleAfterAGoodStartIsEndedAsWell) {
  phases_.Connected(now_);
  phases_.HeaderBytes(now_);
  phases_.HeadersDone(std::nullopt, now_);
  phases_.BodyBytes(100 << 20, now_);
  EXPECT_LE(Trickle(1, seconds(1), seconds(600)), seconds(41));
  EXPECT_EQ(last_.kind, Kind::kTooSlow);
}

TEST_F(TransferPhasesTest, ASlowLineIsOnlySlow) {
  phases_.Connected(now_);
  phases_.HeaderBytes(now_);
  phases_.HeadersDone(std::nullopt, now_);
  // 1/32 of 60 kB/s, in bursts of four seconds.
  EXPECT_EQ(Trickle(7500, seconds(4), seconds(3600)), seconds(3600));
  EXPECT_FALSE(phases_.slow());
  // 1/8 of 1 kB/s.
  EXPECT_EQ(Trickle(250, seconds(2), seconds(3600)), seconds(3600));
  EXPECT_TRUE(phases_.slow());
  Trickle(20'000, seconds(1), seconds(11));
  EXPECT_FALSE(phases_.slow());
}

TEST_F(TransferPhasesTest, ACollectedBodyHasATimeByItsSize) {
  phases_.Connected(now_);
  phases_.HeaderBytes(now_);
  phases_.HeadersDone(160 << 10, now_);
  EXPECT_EQ(Trickle(500, seconds(1), seconds(600)), seconds(40));
  EXPECT_EQ(last_.what, "has not sent the whole of a small answer within 40 s");
  EXPECT_FALSE(phases_.slow());  // has a total time limit instead
}

TEST_F(TransferPhasesTest, WhatLeavesIsLife) {
  phases_.Connected(began_);
  for (int i = 1; i <= 100; ++i) {
    phases_.BytesLeft(began_ + seconds(10 * i));
    EXPECT_EQ(At(seconds(10 * i)), Kind::kGoesOn);
  }
  EXPECT_EQ(At(seconds(1020)), Kind::kSilent);
}

}  // namespace
}  // namespace imagefs
