// SPDX-License-Identifier: Apache-2.0
#include "base/timeline.h"

#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "base/log_context.h"
#include "base/thread_role.h"

namespace imagefs {
namespace {

TimelineEvent Wait(uint64_t begin) {
  TimelineEvent event;
  event.step = TimelineEvent::Step::kWait;
  event.bytes = {begin, begin + 1};
  return event;
}

TEST(TimelineTest, KeepsTheFirstEventsAndCountsTheOthers) {
  Timelines timelines;
  const std::shared_ptr<Timeline> timeline = timelines.New(3);
  for (uint64_t i = 0; i < 5; ++i) timeline->Add(Wait(i));
  const Timeline::Reading reading = timeline->Read();
  ASSERT_EQ(reading.events.size(), 3U);
  EXPECT_EQ(reading.events[0].bytes.begin, 0U);
  EXPECT_EQ(reading.events[2].bytes.begin, 2U);
  EXPECT_EQ(reading.dropped, 2U);
  EXPECT_EQ(timelines.events(), 3U);
}

TEST(TimelineTest, TheOldestGiveBackWhatExceedsTheLimit) {
  Timelines timelines(10);
  const std::shared_ptr<Timeline> oldest = timelines.New(100), older = timelines.New(100),
                                  newest = timelines.New(100);
  for (uint64_t i = 0; i < 4; ++i) older->Add(Wait(i));
  for (uint64_t i = 0; i < 4; ++i) oldest->Add(Wait(i));
  for (uint64_t i = 0; i < 3; ++i) newest->Add(Wait(i));
  EXPECT_EQ(oldest->Read().events.size(), 0U);
  EXPECT_EQ(oldest->Read().dropped, 4U);
  EXPECT_EQ(older->Read().events.size(), 4U);
  EXPECT_EQ(newest->Read().events.size(), 3U);
  EXPECT_EQ(timelines.events(), 7U);
  oldest->Add(Wait(9));  // it is over
  EXPECT_EQ(oldest->Read().events.size(), 0U);
  EXPECT_EQ(oldest->Read().dropped, 5U);
  EXPECT_EQ(timelines.events(), 7U);
}

TEST(TimelineTest, ATimelineThatIsGoneCountsNoMore) {
  Timelines timelines(10);
  for (int i = 0; i < 1000; ++i) timelines.New(100)->Add(Wait(0));
  EXPECT_EQ(timelines.events(), 0U);
  std::shared_ptr<Timeline> timeline = timelines.New(100);
  {
    const Timelines shorter(1);  // timelines may outlive it
    timeline = Timelines(1).New(5);
  }
  timeline->Add(Wait(0));
  EXPECT_EQ(timeline->Read().events.size(), 1U);
}

TEST(TimelineTest, AStepIsRecordedInTheTimelineOfItsContext) {
  Timelines timelines;
  const std::shared_ptr<Timeline> timeline = timelines.New(10);
  { const TimedStep nowhere(TimelineEvent::Step::kMerge); }
  std::unique_ptr<TimedStep> pending;
  {
    const LogContext::Scope scope(LogContext(" call=7").With(timeline));
    EXPECT_EQ(LogContext::Current().text(), " call=7");
    { const TimedStep step(TimelineEvent::Step::kMount, "/mnt"); }
    { const TimedStep cached(TimelineEvent::Step::kToken, "r", absl::Hours(1)); }
    TimedStep step(TimelineEvent::Step::kRegistry, std::string(500, 'x'));
    step.Failed();
    pending = std::make_unique<TimedStep>(std::move(step));
  }
  EXPECT_EQ(timeline->Read().events.size(), 1U);
  std::thread([pending = std::move(pending)]() mutable { pending.reset(); }).join();
  const std::vector<TimelineEvent> events = timeline->Read().events;
  ASSERT_EQ(events.size(), 2U);
  EXPECT_EQ(StepName(events[0].step), "mount");
  EXPECT_EQ(events[0].detail, "/mnt");
  EXPECT_FALSE(events[0].failed);
  EXPECT_LE(events[0].began, events[0].ended);
  EXPECT_EQ(StepName(events[1].step), "registry");
  EXPECT_TRUE(events[1].failed);
  EXPECT_EQ(events[1].detail, std::string(TimelineEvent::kMaxDetail, 'x'));
}

TEST(TimelineTest, ManyThreadsAddToManyTimelines) {
  Timelines timelines(200);
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&timelines] {
      for (int round = 0; round < 50; ++round) {
        const std::shared_ptr<Timeline> timeline = timelines.New(20);
        for (uint64_t j = 0; j < 30; ++j) timeline->Add(Wait(j));
        EXPECT_LE(timeline->Read().events.size(), 20U);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(timelines.events(), 0U);
}

}  // namespace
}  // namespace imagefs
