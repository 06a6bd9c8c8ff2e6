// SPDX-License-Identifier: Apache-2.0
#include "cache/fill_scheduler.h"

#include <fcntl.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "base/fd.h"
#include "base/text.h"
#include "cache/fill_shares.h"

namespace imagefs {
namespace {

constexpr FillShares::Slots kSlots = {8, 4, 3, 2};

TEST(FillSharesTest, OneSourceAloneHasAllSlots) {
  FillShares shares(kSlots);
  for (int i = 0; i < 8; ++i) {
    EXPECT_TRUE(shares.MayTake("a", Priority::kOnDemand, 1));
    shares.Take("a", Priority::kOnDemand);
  }
  EXPECT_FALSE(shares.MayTake("a", Priority::kOnDemand, 1));
  EXPECT_TRUE(shares.MayTake("b", Priority::kOnDemand, 1));
  EXPECT_TRUE(shares.MayTake("c", Priority::kBackground, 1));
}

TEST(FillSharesTest, AReaderDoesNotWaitForWhatIsLessUrgent) {
  FillShares shares(kSlots);
  for (int i = 0; i < 8; ++i) shares.Take(StrCat(i), Priority::kOnDemand);
  for (int i = 0; i < 2; ++i) shares.Take("a", Priority::kForeground);
  EXPECT_FALSE(shares.MayTake("a", Priority::kForeground, 1));
  EXPECT_TRUE(shares.MayTake("a", Priority::kOnDemand, 1));
}

TEST(FillSharesTest, OthersThatWantSomeLeaveAnEqualShare) {
  FillShares shares(kSlots);
  for (int i = 0; i < 5; ++i) shares.Take("a", Priority::kOnDemand);
  EXPECT_TRUE(shares.MayTake("a", Priority::kOnDemand, 1));
  EXPECT_FALSE(shares.MayTake("a", Priority::kOnDemand, 2));
}

// A source without a request in flight always gets one, whatever the others hold. Each source has
// at most the slots, and all together at most the slots and a few per source.
TEST(FillSharesTest, NobodyIsKeptOut) {
  for (uint32_t seed = 0; seed < 300; ++seed) {
    std::mt19937 random(seed);
    FillShares shares(kSlots);
    std::vector<std::pair<std::string, Priority>> held;
    std::map<std::string, int> count;
    for (int step = 0; step < 500; ++step) {
      const std::string source = StrCat(random() % 6);
      const auto priority = static_cast<Priority>(random() % 4);
      const int wanting = 1 + static_cast<int>(random() % 6);
      if (random() % 4 == 0 && !held.empty()) {
        const size_t i = random() % held.size();
        shares.Release(held[i].first, held[i].second);
        --count[held[i].first];
        held.erase(held.begin() + static_cast<ptrdiff_t>(i));
      } else {
        const bool may = shares.MayTake(source, priority, wanting);
        ASSERT_TRUE(may || count[source] > 0);
        if (!may) continue;
        shares.Take(source, priority);
        held.emplace_back(source, priority);
        ++count[source];
      }
      ASSERT_EQ(shares.total(), static_cast<int>(held.size()));
      for (const auto& [who, n] : count) {
        ASSERT_EQ(shares.Of(who), n);
        ASSERT_LE(n, 8 + FillShares::kMostBeyond);
      }
      ASSERT_LE(shares.total(), 8 + 6 * FillShares::kMostBeyond);
    }
  }
}

// Records what clients of one scheduler launched, in order.
class Launches {
 public:
  void Add(const std::string& name) {
    absl::MutexLock lock(&mu_);
    names_.push_back(name);
  }
  std::vector<std::string> Await(size_t count) {
    absl::MutexLock lock(&mu_);
    auto enough = [&] { return names_.size() >= count; };
    EXPECT_TRUE(mu_.AwaitWithTimeout(absl::Condition(&enough), absl::Minutes(1)));
    return names_;
  }

 private:
  absl::Mutex mu_;
  std::vector<std::string> names_;
};

// Wants `wanted` requests, and keeps the launched ones until it is told to end one.
class FakeClient : public FillClient {
 public:
  FakeClient(std::string source, int wanted, Priority priority = Priority::kOnDemand,
             Launches* launches = nullptr)
      : source_(std::move(source)), priority_(priority), launches_(launches), wanted_(wanted) {}
  std::optional<Want> MostUrgent(Moment, Moment&) override {
    absl::MutexLock lock(&mu_);
    if (wanted_ == 0) return std::nullopt;
    return Want{priority_, source_};
  }
  void Launch(Priority, FillSlot slot) override {
    absl::MutexLock lock(&mu_);
    if (wanted_ == 0) return;
    --wanted_;
    ++launched_;
    slots_.push_back(std::move(slot));
    if (launches_ != nullptr) launches_->Add(source_);
  }
  void Cancel() override {
    {
      absl::MutexLock lock(&mu_);
      wanted_ = 0;  // affects a launch in progress
    }
    EndAll();
  }
  void EndAll() {
    std::vector<FillSlot> ended;
    absl::MutexLock lock(&mu_);
    ended.swap(slots_);
  }
  FillSlot TakeOne() {
    absl::MutexLock lock(&mu_);
    FillSlot slot = std::move(slots_.back());
    slots_.pop_back();
    return slot;
  }
  void WantMore(int count) {
    absl::MutexLock lock(&mu_);
    wanted_ += count;
  }
  bool AwaitLaunched(int count) {
    absl::MutexLock lock(&mu_);
    auto enough = [&] { return launched_ >= count; };
    return mu_.AwaitWithTimeout(absl::Condition(&enough), absl::Minutes(1));
  }
  int launched() {
    absl::MutexLock lock(&mu_);
    return launched_;
  }

 private:
  const std::string source_;
  const Priority priority_;
  Launches* const launches_;
  absl::Mutex mu_;
  int wanted_;
  int launched_ = 0;
  std::vector<FillSlot> slots_;
};

TEST(FillSchedulerTest, ASourceWhoseRequestsNeverEndHoldsNobodyUp) {
  FillScheduler scheduler({});
  const auto bad = std::make_shared<FakeClient>("bad", 100);
  scheduler.Add(bad);
  scheduler.Wake();
  ASSERT_TRUE(bad->AwaitLaunched(8));
  std::vector<std::shared_ptr<FakeClient>> good;
  for (int i = 0; i < 5; ++i) {
    good.push_back(std::make_shared<FakeClient>(StrCat("good", i), 10));
    scheduler.Add(good.back());
  }
  scheduler.Wake();
  for (const auto& client : good) {
    for (int round = 2; round <= 10; round += 2) {
      ASSERT_TRUE(client->AwaitLaunched(round));
      client->EndAll();
    }
  }
  EXPECT_EQ(bad->launched(), 8);
}

// The scheduler sleeps until it is woken: clients added before are served by priority.
TEST(FillSchedulerTest, TheMostUrgentGoesFirst) {
  FillScheduler::Options options;
  options.quiet = absl::Hours(1);
  Launches launches;
  FillScheduler scheduler(options);
  std::vector<std::shared_ptr<FakeClient>> clients;
  for (const auto& [source, priority] :
       {std::pair("ahead", Priority::kReadahead), std::pair("pull", Priority::kForeground),
        std::pair("reader", Priority::kOnDemand), std::pair("rest", Priority::kBackground)}) {
    clients.push_back(std::make_shared<FakeClient>(source, 1, priority, &launches));
    scheduler.Add(clients.back());
  }
  scheduler.Wake();
  EXPECT_EQ(launches.Await(3), (std::vector<std::string>{"reader", "pull", "ahead"}));
  for (const auto& client : clients) client->EndAll();
}

TEST(FillSchedulerTest, EqualsTakeTurns) {
  Launches launches;
  FillScheduler scheduler({});
  // Of one source, so that the number of its requests in flight does not distinguish them.
  std::vector<std::shared_ptr<FakeClient>> clients;
  for (int i = 0; i < 3; ++i) {
    clients.push_back(std::make_shared<FakeClient>("same", 100, Priority::kOnDemand, &launches));
    scheduler.Add(clients.back());
  }
  scheduler.Wake();
  launches.Await(8);
  for (const auto& client : clients) EXPECT_GE(client->launched(), 2);
  for (const auto& client : clients) client->EndAll();
}

TEST(FillSchedulerTest, TheBackgroundWaitsUntilNobodyHasReadForAWhile) {
  FillScheduler::Options options;
  options.quiet = absl::Hours(1);
  {
    FillScheduler scheduler(options);
    const auto rest = std::make_shared<FakeClient>("a", 1, Priority::kBackground);
    const auto reader = std::make_shared<FakeClient>("a", 1);
    scheduler.Add(rest);
    scheduler.Add(reader);
    for (int round = 1; round <= 3; ++round) {
      scheduler.Wake();
      ASSERT_TRUE(reader->AwaitLaunched(round));
      reader->EndAll();
      reader->WantMore(1);
    }
    EXPECT_EQ(rest->launched(), 0);
  }
  options.quiet = absl::Milliseconds(1);
  FillScheduler scheduler(options);
  const auto rest = std::make_shared<FakeClient>("a", 1, Priority::kBackground);
  scheduler.Add(rest);  // no wake-up is needed
  EXPECT_TRUE(rest->AwaitLaunched(1));
}

TEST(FillSchedulerTest, WhatTimeAloneBringsIsLookedForInTime) {
  class Later : public FakeClient {
   public:
    using FakeClient::FakeClient;
    std::optional<Want> MostUrgent(Moment now, Moment& look_again) override {
      if (now >= due_) return FakeClient::MostUrgent(now, look_again);
      look_again = std::min(look_again, due_);
      return std::nullopt;
    }

   private:
    const Moment due_ = Moment::Now() + absl::Milliseconds(5);
  };
  FillScheduler::Options options;
  options.quiet = absl::Hours(1);
  FillScheduler scheduler(options);
  const auto client = std::make_shared<Later>("a", 1);
  scheduler.Add(client);
  scheduler.Wake();
  EXPECT_TRUE(client->AwaitLaunched(1));
}

TEST(FillSchedulerTest, ATimerWakesIt) {
  FillScheduler::Options options;
  options.quiet = absl::Hours(1);
  FillScheduler scheduler(options);
  const auto client = std::make_shared<FakeClient>("a", 1);
  scheduler.Add(client);
  const Timer never = scheduler.WakeAt(Moment::Now() + absl::Hours(1));
  EXPECT_EQ(scheduler.timers(), 1U);
  const Timer soon = scheduler.WakeAt(Moment::Now());
  EXPECT_TRUE(client->AwaitLaunched(1));
  EXPECT_EQ(scheduler.timers(), 1U);
}

TEST(FillSchedulerTest, ARequestThatStandsAsideLeavesItsPlaceOnce) {
  FillScheduler scheduler({});
  const auto client = std::make_shared<FakeClient>("a", 100);
  scheduler.Add(client);
  scheduler.Wake();
  ASSERT_TRUE(client->AwaitLaunched(8));
  FillSlot aside = client->TakeOne();
  aside.YieldSlot();
  aside.YieldSlot();
  scheduler.Wake();
  ASSERT_TRUE(client->AwaitLaunched(9));
  // Ending it does not free a second slot.
  aside.GiveBack();
  aside.GiveBack();
  const auto other = std::make_shared<FakeClient>("b", 1);
  scheduler.Add(other);
  scheduler.Wake();
  ASSERT_TRUE(other->AwaitLaunched(1));
  EXPECT_EQ(client->launched(), 9);
}

TEST(FillSchedulerTest, WhatIsOccupiedCounts) {
  FillScheduler scheduler({});
  std::vector<FillSlot> occupied;
  for (int i = 0; i < 100; ++i) occupied.push_back(scheduler.Occupy("a", Priority::kOnDemand));
  const auto same = std::make_shared<FakeClient>("a", 1),
             other = std::make_shared<FakeClient>("b", 1);
  scheduler.Add(same);
  scheduler.Add(other);
  scheduler.Wake();
  ASSERT_TRUE(other->AwaitLaunched(1));
  EXPECT_EQ(same->launched(), 0);
  occupied.clear();
  EXPECT_TRUE(same->AwaitLaunched(1));
}

TEST(FillSchedulerTest, WhoWantsNothingAfterAllCostsNoSlot) {
  // Wants a request nine times, but then launches nothing.
  class Fickle : public FillClient {
   public:
    std::optional<Want> MostUrgent(Moment, Moment&) override {
      if (said_ == 9) return std::nullopt;
      ++said_;
      return Want{Priority::kOnDemand, "a"};
    }
    void Launch(Priority, FillSlot) override {}
    void Cancel() override {}

   private:
    int said_ = 0;  // used by the scheduler's thread only
  };
  FillScheduler scheduler({});
  const auto fickle = std::make_shared<Fickle>();
  scheduler.Add(fickle);
  auto gone = std::make_shared<FakeClient>("a", 100);
  scheduler.Add(gone);
  gone.reset();
  const auto client = std::make_shared<FakeClient>("a", 8);
  scheduler.Add(client);
  scheduler.Wake();
  EXPECT_TRUE(client->AwaitLaunched(8));
}

TEST(FillSchedulerTest, TheEndCancelsAndWaitsForEverySlot) {
  class Slow : public FakeClient {
   public:
    using FakeClient::FakeClient;
    ~Slow() override { thread_.join(); }
    void Cancel() override {
      thread_ = std::thread([this] {
        ended_ = true;
        FakeClient::Cancel();
      });
    }
    bool ended() const { return ended_; }

   private:
    std::atomic<bool> ended_{false};
    std::thread thread_;
  };
  const auto client = std::make_shared<Slow>("a", 1);
  {
    FillScheduler scheduler({});
    scheduler.Add(client);
    scheduler.Wake();
    ASSERT_TRUE(client->AwaitLaunched(1));
    client->WantMore(100);  // none of them may begin now
  }
  EXPECT_TRUE(client->ended());
  EXPECT_LE(client->launched(), 8);
}

TEST(FillSchedulerDeathTest, ItsThreadDoesNotBlock) {
  class Opening : public FakeClient {
   public:
    using FakeClient::FakeClient;
    std::optional<Want> MostUrgent(Moment, Moment&) override {
      (void)OpenFile("/proc/self/stat", O_RDONLY);
      return std::nullopt;
    }
  };
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_DEATH(
      {
        FillScheduler scheduler({});
        const auto client = std::make_shared<Opening>("a", 1);
        scheduler.Add(client);
        scheduler.Wake();
        client->AwaitLaunched(1);
      },
      "opening a file, where scheduler may not block");
}

}  // namespace
}  // namespace imagefs
