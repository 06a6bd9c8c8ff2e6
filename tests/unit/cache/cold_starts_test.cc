// SPDX-License-Identifier: Apache-2.0
#include "cache/cold_starts.h"

#include <gtest/gtest.h>

#include "base/text.h"

namespace imagefs {
namespace {

void Step(const LogContext& context, const std::string& detail) {
  const LogContext::Scope scope(context);
  const TimedStep step(TimelineEvent::Step::kLayers, detail);
}

TEST(ColdStartsTest, KeepsTheLastOfEachImage) {
  Timelines timelines;
  ColdStarts starts(timelines);
  const Digest one = Sha256Of("one"), two = Sha256Of("two");
  EXPECT_TRUE(starts.Read(one).events.empty());
  const LogContext first = starts.Begin(), second = starts.Begin();
  Step(first, "first");
  Step(second, "second");
  starts.Keep(one, first);
  EXPECT_EQ(starts.Read(one).events.at(0).detail, "first");
  EXPECT_TRUE(starts.Read(two).events.empty());
  starts.Keep(one, second);
  EXPECT_EQ(starts.Read(one).events.at(0).detail, "second");
  Step(second, "later");
  EXPECT_EQ(starts.Read(one).events.size(), 2U);
}

TEST(ColdStartsTest, GoesOnInTheContextOfAStart) {
  Timelines timelines;
  ColdStarts starts(timelines);
  const LogContext start = starts.Begin();
  EXPECT_NE(starts.Continue().timeline(), start.timeline());
  const LogContext::Scope scope(start);
  EXPECT_EQ(starts.Continue().timeline(), start.timeline());
  EXPECT_NE(starts.Begin().timeline(), start.timeline());
}

TEST(ColdStartsTest, ForgetsTheOldest) {
  Timelines timelines;
  ColdStarts starts(timelines);
  for (size_t i = 0; i <= ColdStarts::kMost; ++i) {
    const LogContext start = starts.Begin();
    Step(start, StrCat(i));
    starts.Keep(Sha256Of(StrCat(i)), start);
  }
  EXPECT_TRUE(starts.Read(Sha256Of("0")).events.empty());
  EXPECT_EQ(starts.Read(Sha256Of("1")).events.size(), 1U);
  EXPECT_EQ(timelines.events(), ColdStarts::kMost);
}

}  // namespace
}  // namespace imagefs
