// SPDX-License-Identifier: Apache-2.0
// Tests which calls run, which do not, and that nothing is left behind.
#include "base/timer_queue.h"

#include <gtest/gtest.h>

#include <atomic>
#include <memory>
#include <random>
#include <thread>
#include <vector>

#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"

namespace imagefs {
namespace {

Moment In(absl::Duration pause) { return Moment::Now() + pause; }

TEST(MomentTest, InfiniteOnesStayInfinite) {
  EXPECT_EQ(Moment(), Moment::InfinitePast());
  EXPECT_LT(Moment::InfinitePast(), Moment::Now());
  EXPECT_LT(Moment::Now(), Moment::InfiniteFuture());
  EXPECT_EQ(Moment::InfiniteFuture() + absl::Hours(1), Moment::InfiniteFuture());
  EXPECT_EQ(Moment::InfinitePast() + absl::Hours(1), Moment::InfinitePast());
  EXPECT_EQ(Moment::Now() + absl::InfiniteDuration(), Moment::InfiniteFuture());
  EXPECT_EQ(Moment::Now() - Moment::InfinitePast(), absl::InfiniteDuration());
}

TEST(MomentTest, NanosecondsLeadThereAndBack) {
  const Moment now = Moment::Now();
  EXPECT_LT(now - Moment::FromNanos(now.ToNanos()), absl::Nanoseconds(1));
  EXPECT_EQ((now + absl::Seconds(2)) - now, absl::Seconds(2));
  EXPECT_GE(Moment::Now(), now);
}

TEST(TimedConditionTest, SaysThatTheMomentHasCome) {
  absl::Mutex mu;
  TimedCondition changed;
  absl::MutexLock lock(&mu);
  const Moment deadline = In(absl::Milliseconds(20));
  while (changed.WaitUntil(&mu, deadline)) {
  }
  EXPECT_GE(Moment::Now(), deadline);
  EXPECT_FALSE(changed.WaitUntil(&mu, Moment::InfinitePast()));
}

TEST(TimedConditionTest, ASignalIsNeverLost) {
  absl::Mutex mu;
  TimedCondition changed;
  int turn = 0;
  auto play = [&](int mine) {
    for (int i = 0; i < 2000; ++i) {
      {
        absl::MutexLock lock(&mu);
        while (turn != mine) changed.WaitUntil(&mu, Moment::InfiniteFuture());
        turn = 1 - mine;
      }
      changed.SignalAll();
    }
  };
  std::thread other([&] { play(1); });
  play(0);
  other.join();
  absl::MutexLock lock(&mu);
  EXPECT_EQ(turn, 0);
}

TEST(TimerQueueTest, CallsComeInTheOrderOfTheirTimes) {
  TimerQueue timers(ThreadRole::kTest);
  std::vector<int> order;
  absl::Notification over, begin;
  const Timer gate = timers.At(Moment::InfinitePast(), [&] { begin.WaitForNotification(); });
  const Moment now = Moment::Now();
  const Timer third = timers.At(now + absl::Milliseconds(2), [&] {
    order.push_back(3);
    over.Notify();
  });
  const Timer first = timers.At(now, [&] { order.push_back(1); });
  const Timer second = timers.At(now, [&] { order.push_back(2); });
  begin.Notify();
  over.WaitForNotification();
  EXPECT_EQ(order, (std::vector<int>{1, 2, 3}));
  EXPECT_EQ(timers.pending(), 0U);
}

TEST(TimerQueueTest, AnEarlierOneThatComesLaterIsNotLate) {
  TimerQueue timers(ThreadRole::kTest);
  const Timer hour = timers.After(absl::Hours(1), [] { FAIL() << "an hour has not passed"; });
  absl::Notification over;
  const Timer soon = timers.After(absl::Milliseconds(1), [&] { over.Notify(); });
  over.WaitForNotification();
}

TEST(TimerQueueTest, ACancelledOneIsNotCalledAndLeavesNothing) {
  TimerQueue timers(ThreadRole::kTest);
  auto held = std::make_shared<int>(0);
  Timer timer = timers.After(absl::Hours(1), [held] { FAIL(); });
  EXPECT_EQ(timers.pending(), 1U);
  EXPECT_EQ(held.use_count(), 2);
  timer.Cancel();
  EXPECT_EQ(timers.pending(), 0U);
  EXPECT_EQ(held.use_count(), 1);
  timer.Cancel();
  timer.Stop();
}

TEST(TimerQueueTest, TheEndOfTheHandleCancels) {
  TimerQueue timers(ThreadRole::kTest);
  auto held = std::make_shared<int>(0);
  {
    Timer timer = timers.After(absl::Hours(1), [held] { FAIL(); });
    Timer moved = std::move(timer);
    timer.Cancel();  // empty now
    EXPECT_EQ(timers.pending(), 1U);
    moved = timers.After(absl::Hours(2), [held] { FAIL(); });
    EXPECT_EQ(timers.pending(), 1U) << "the one before is cancelled";
    EXPECT_EQ(held.use_count(), 2);
  }
  EXPECT_EQ(timers.pending(), 0U);
  EXPECT_EQ(held.use_count(), 1);
}

TEST(TimerQueueTest, ACallMayCancelItselfAndSetAnother) {
  TimerQueue timers(ThreadRole::kTest);
  absl::Mutex mu;
  Timer timer;
  int calls = 0;
  absl::Notification over;
  std::function<void()> again = [&] {
    absl::MutexLock lock(&mu);
    timer.Cancel();
    if (++calls == 3) return over.Notify();
    timer = timers.After(absl::ZeroDuration(), again);
  };
  {
    absl::MutexLock lock(&mu);
    timer = timers.After(absl::ZeroDuration(), again);
  }
  over.WaitForNotification();
  timers.Close();
  EXPECT_EQ(calls, 3);
}

TEST(TimerQueueTest, CancelDoesNotWaitForACallThatRuns) {
  TimerQueue timers(ThreadRole::kTest);
  absl::Notification running, go_on;
  Timer timer = timers.After(absl::ZeroDuration(), [&] {
    running.Notify();
    go_on.WaitForNotification();
  });
  running.WaitForNotification();
  timer.Cancel();
  go_on.Notify();
}

TEST(TimerQueueTest, StopWaitsForACallThatRunsAndForWhatItHolds) {
  for (int round = 0; round < 100; ++round) {
    TimerQueue timers(ThreadRole::kTest);
    auto held = std::make_shared<int>(0);
    absl::Notification running;
    std::atomic<bool> over{false};
    Timer timer = timers.After(absl::ZeroDuration(), [&, held] {
      running.Notify();
      std::this_thread::yield();
      over = true;
    });
    running.WaitForNotification();
    timer.Stop();
    EXPECT_TRUE(over);
    EXPECT_EQ(held.use_count(), 1);
  }
}

TEST(TimerQueueTest, TheEndDropsWhatHasNotBegun) {
  auto held = std::make_shared<int>(0);
  Timer before, after;
  {
    TimerQueue timers(ThreadRole::kTest);
    before = timers.After(absl::Hours(1), [held] { FAIL(); });
    timers.Close();
    EXPECT_EQ(held.use_count(), 1);
    after = timers.At(Moment::InfinitePast(), [held] { FAIL(); });
    EXPECT_EQ(held.use_count(), 1);
    timers.Close();
  }
  before.Stop();
  after.Cancel();
}

TEST(TimerQueueTest, ManyThreadsSetAndCancel) {
  TimerQueue timers(ThreadRole::kTest);
  std::atomic<int> called{0}, set{0};
  auto held = std::make_shared<int>(0);
  std::vector<std::thread> threads;
  for (unsigned seed = 0; seed < 4; ++seed) {
    threads.emplace_back([&, seed] {
      std::minstd_rand random(seed + 1);
      std::vector<Timer> own(8);
      for (int i = 0; i < 3000; ++i) {
        Timer& timer = own[random() % own.size()];
        if (random() % 4 == 0) {
          timer.Stop();
        } else {
          timer = timers.After(absl::Microseconds(random() % 300), [&called, held] { ++called; });
          ++set;
        }
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  absl::Notification last;
  const Timer end = timers.After(absl::ZeroDuration(), [&] { last.Notify(); });
  last.WaitForNotification();
  timers.Close();
  EXPECT_LE(called, set);
  EXPECT_EQ(held.use_count(), 1);
}

}  // namespace
}  // namespace imagefs
