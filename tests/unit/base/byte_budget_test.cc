// SPDX-License-Identifier: Apache-2.0
#include "base/byte_budget.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <deque>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/synchronization/mutex.h"
#include "base/text.h"

namespace imagefs {
namespace {

class ByteBudgetTest : public ::testing::Test {
 protected:
  // Bytes that one lease returns may be granted to another waiter.
  ~ByteBudgetTest() override {
    while (!leases_.empty()) (void)std::exchange(leases_, {});
  }
  void Take(ByteBudget& budget, const std::string& source, uint64_t bytes,
            const CancelToken& cancel = CancelToken()) {
    budget.Take(source, bytes, cancel,
                [this, source, bytes](absl::StatusOr<ByteBudget::Lease> lease) {
                  if (!lease.ok()) return refused_.push_back(lease.status());
                  EXPECT_EQ(lease->bytes(), bytes);
                  order_.push_back(source);
                  leases_[source].push_back(*std::move(lease));
                });
  }
  void Return(const std::string& source) {
    ByteBudget::Lease lease = std::move(leases_[source].front());
    leases_[source].pop_front();
  }
  size_t Held(const std::string& source) { return leases_[source].size(); }

  std::vector<std::string> order_;
  std::vector<absl::Status> refused_;
  std::map<std::string, std::deque<ByteBudget::Lease>> leases_;
};

TEST_F(ByteBudgetTest, GivesAtOnceWhileThereIsSome) {
  ByteBudget budget(100, 100);
  Take(budget, "a", 60);
  Take(budget, "a", 40);
  EXPECT_EQ(budget.held(), 100U);
  Take(budget, "a", 1);
  EXPECT_EQ(Held("a"), 2U);
  Return("a");
  EXPECT_EQ(Held("a"), 2U);
  EXPECT_EQ(budget.held(), 41U);
}

TEST_F(ByteBudgetTest, WhatCanNeverBeHadIsRefusedAtOnce) {
  ByteBudget budget(100, 50);
  Take(budget, "a", 101);
  ASSERT_EQ(refused_.size(), 1U);
  EXPECT_TRUE(absl::IsResourceExhausted(refused_[0]));
  Take(budget, "a", 100);  // a single request may exceed the share
  EXPECT_EQ(Held("a"), 1U);
}

TEST_F(ByteBudgetTest, ASourceWithManyRequestsWaitsForItself) {
  ByteBudget budget(100, 50);
  for (int i = 0; i < 48; ++i) Take(budget, "many", 25);
  EXPECT_EQ(Held("many"), 2U);
  Take(budget, "other", 50);
  EXPECT_EQ(Held("other"), 1U);
  Return("many");
  EXPECT_EQ(Held("many"), 2U);
  EXPECT_EQ(budget.held(), 100U);
}

TEST_F(ByteBudgetTest, SourcesTakeTurns) {
  ByteBudget budget(10, 10);
  Take(budget, "first", 10);
  for (int i = 0; i < 3; ++i) Take(budget, "a", 10);
  for (int i = 0; i < 3; ++i) Take(budget, "b", 10);
  Return("first");
  while (order_.size() < 7) Return(order_.back());
  EXPECT_EQ(order_, (std::vector<std::string>{"first", "a", "b", "a", "b", "a", "b"}));
}

TEST_F(ByteBudgetTest, ALargeRequestIsNotPassedOverForEver) {
  ByteBudget budget(100, 100);
  Take(budget, "small", 60);
  Take(budget, "large", 90);
  for (int i = 0; i < 5; ++i) Take(budget, "small", 30);
  EXPECT_EQ(Held("small"), 1U);  // 40 are free, but it is the other source's turn
  Return("small");
  EXPECT_EQ(Held("large"), 1U);
}

TEST_F(ByteBudgetTest, WhoCancelsNoLongerWaits) {
  ByteBudget budget(100, 100);
  Take(budget, "a", 60);
  CancelSource cancel;
  Take(budget, "b", 90, cancel.token());
  Take(budget, "c", 40);
  EXPECT_EQ(Held("c"), 0U);
  cancel.Cancel();
  ASSERT_EQ(refused_.size(), 1U);
  EXPECT_TRUE(absl::IsCancelled(refused_[0]));
  EXPECT_EQ(Held("c"), 1U);  // was behind it
  Take(budget, "d", 1, cancel.token());
  EXPECT_EQ(refused_.size(), 2U);
}

TEST_F(ByteBudgetTest, ALeaseOutlivesTheBudget) {
  auto budget = std::make_unique<ByteBudget>(100, 100);
  Take(*budget, "a", 60);
  budget.reset();
  Return("a");
}

// A thousand queued requests that end as soon as they are granted must not nest a thousand calls.
TEST_F(ByteBudgetTest, GrantsDoNotNest) {
  ByteBudget budget(10, 10);
  Take(budget, "first", 10);
  int depth = 0, deepest = 0, runs = 0;
  for (int i = 0; i < 1000; ++i) {
    budget.Take("a", 10, CancelToken(), [&](absl::StatusOr<ByteBudget::Lease> lease) {
      deepest = std::max(deepest, ++depth);
      ++runs;
      lease->Return();
      --depth;
    });
  }
  Return("first");
  EXPECT_EQ(runs, 1000);
  EXPECT_EQ(deepest, 1);
  EXPECT_EQ(budget.held(), 0U);
}

TEST_F(ByteBudgetTest, ManyThreads) {
  ByteBudget budget(1000, 400);
  std::atomic<uint64_t> held{0}, answers{0};
  std::atomic<bool> over{false};
  std::vector<std::thread> threads;
  for (uint32_t t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      std::mt19937 random(t);
      for (int i = 0; i < 2000; ++i) {
        const uint64_t bytes = 1 + random() % 600;
        CancelSource cancel;
        absl::Mutex mu;
        bool done = false;
        budget.Take(StrCat("s", random() % 3), bytes, cancel.token(),
                    [&](absl::StatusOr<ByteBudget::Lease> lease) {
                      if (lease.ok()) {
                        if (held.fetch_add(bytes) + bytes > 1000) over = true;
                        held -= bytes;
                      }
                      lease = absl::CancelledError("");
                      ++answers;
                      absl::MutexLock lock(&mu);
                      done = true;
                    });
        if (random() % 4 == 0) cancel.Cancel();
        absl::MutexLock lock(&mu);
        mu.Await(absl::Condition(&done));
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_FALSE(over);
  EXPECT_EQ(answers, 8000U);
  EXPECT_EQ(budget.held(), 0U);
}

}  // namespace
}  // namespace imagefs
