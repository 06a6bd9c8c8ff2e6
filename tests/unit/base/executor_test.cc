// SPDX-License-Identifier: Apache-2.0
#include "base/executor.h"

#include <gtest/gtest.h>
#include <pthread.h>
#include <signal.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <filesystem>
#include <iterator>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/synchronization/barrier.h"
#include "absl/synchronization/notification.h"

namespace imagefs {
namespace {

size_t ThreadsOfProcess() {
  const std::filesystem::directory_iterator tasks("/proc/self/task");
  return static_cast<size_t>(std::distance(begin(tasks), end(tasks)));
}

PriorityRef At(Priority priority) { return std::make_shared<LivePriority>(priority); }

TEST(LivePriorityTest, OnlyRises) {
  LivePriority priority(Priority::kReadahead);
  priority.RaiseTo(Priority::kBackground);
  EXPECT_EQ(priority.get(), Priority::kReadahead);
  priority.RaiseTo(Priority::kOnDemand);
  EXPECT_EQ(priority.get(), Priority::kOnDemand);
}

TEST(ExecutorTest, PriorityThenOrderOfSubmission) {
  std::vector<int> order;
  {
    absl::Notification release;
    absl::Notification busy;
    Executor executor(ThreadRole::kTest, 1);
    executor.Submit([&] {
      busy.Notify();
      release.WaitForNotification();
    });
    busy.WaitForNotification();
    const PriorityRef raised = At(Priority::kBackground);
    executor.Submit(At(Priority::kReadahead), [&] { order.push_back(4); });
    executor.Submit(raised, [&] { order.push_back(1); });
    executor.Submit([&] { order.push_back(2); });
    executor.Submit(At(Priority::kForeground), [&] { order.push_back(3); });
    EXPECT_EQ(executor.queued(), 4u);
    raised->RaiseTo(Priority::kOnDemand);  // while it is queued
    release.Notify();
  }
  EXPECT_EQ(order, (std::vector<int>{1, 2, 3, 4}));
}

TEST(ExecutorTest, DestructorRunsWhatIsQueuedAndWhatThatSubmits) {
  std::atomic<int> ran{0};
  {
    Executor executor(ThreadRole::kTest, 2);
    for (int i = 0; i < 100; ++i) {
      executor.Submit([&] {
        ++ran;
        executor.Submit([&] { ++ran; });
      });
    }
  }
  EXPECT_EQ(ran.load(), 200);
}

TEST(ExecutorTest, AllThreadsWorkAtOnceAndAreNamed) {
  std::string name;
  {
    Executor executor(ThreadRole::kTest, 2);
    absl::Barrier* barrier = new absl::Barrier(3);
    auto meet = [barrier] {
      if (barrier->Block()) delete barrier;
    };
    executor.Submit(meet);
    executor.Submit(meet);
    meet();
    executor.Submit([&] {
      char text[16];
      if (pthread_getname_np(pthread_self(), text, sizeof(text)) == 0) name = text;
    });
  }
  EXPECT_EQ(name, "test");
}

TEST(ExecutorTest, ThreadsStartWhenTheyAreNeeded) {
  const size_t before = ThreadsOfProcess();
  Executor executor(ThreadRole::kTest, 4);
  EXPECT_EQ(ThreadsOfProcess(), before + 1);
  absl::Notification release;
  for (size_t i = 1; i <= 4; ++i) {
    absl::Notification busy;
    executor.Submit([&] {
      busy.Notify();
      release.WaitForNotification();
    });
    busy.WaitForNotification();
    EXPECT_EQ(ThreadsOfProcess(), before + std::min<size_t>(i + 1, 4));
  }
  executor.Submit([] {});
  EXPECT_EQ(executor.queued(), 1u);
  release.Notify();
}

TEST(ExecutorTest, ThreadsInheritNothingFromWhoSubmits) {
  std::array<bool, 3> blocked{true, true, true};
  {
    Executor executor(ThreadRole::kTest, 3);
    absl::Barrier* barrier = new absl::Barrier(3);
    std::thread submitter([&] {
      sigset_t signals;
      sigemptyset(&signals);
      sigaddset(&signals, SIGUSR1);
      ASSERT_EQ(pthread_sigmask(SIG_BLOCK, &signals, nullptr), 0);
      for (int i = 0; i < 3; ++i) {
        executor.Submit([&blocked, barrier, i] {
          sigset_t own;
          pthread_sigmask(SIG_BLOCK, nullptr, &own);
          blocked[static_cast<size_t>(i)] = sigismember(&own, SIGUSR1) != 0;
          if (barrier->Block()) delete barrier;
        });
      }
    });
    submitter.join();
  }
  EXPECT_EQ(blocked, (std::array<bool, 3>{}));
}

}  // namespace
}  // namespace imagefs
