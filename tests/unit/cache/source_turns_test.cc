// SPDX-License-Identifier: Apache-2.0
#include "cache/source_turns.h"

#include <gtest/gtest.h>

#include <map>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "absl/synchronization/notification.h"
#include "base/text.h"
#include "cache/fair_workers.h"

namespace imagefs {
namespace {

SourceTurns::Claim Claim(const std::string& registry, const std::string& auth_scope, bool whole,
                         Priority priority = Priority::kForeground) {
  return {registry, auth_scope, std::make_shared<LivePriority>(priority), whole};
}

class SourceTurnsTest : public ::testing::Test {
 protected:
  uint64_t Add(const SourceTurns::Claim& claim) {
    turns_.Add(++last_, claim);
    return last_;
  }
  // Returns what starts now.
  std::vector<uint64_t> Starts() {
    std::vector<uint64_t> started;
    while (const std::optional<uint64_t> id = turns_.Next()) started.push_back(*id);
    return started;
  }
  SourceTurns turns_{{4, 8}};
  uint64_t last_ = 0;
};

TEST_F(SourceTurnsTest, OneSourceAloneHasAllWorkers) {
  for (int i = 0; i < 10; ++i) Add(Claim("a", "x", i % 2 == 0));
  EXPECT_EQ(Starts(), (std::vector<uint64_t>{1, 2, 3, 4}));
  turns_.Remove(2);
  EXPECT_EQ(Starts(), std::vector<uint64_t>{5});
}

TEST_F(SourceTurnsTest, AStreamThatWaitsIsNotBusy) {
  for (int i = 0; i < 10; ++i) Add(Claim("a", "x", false));
  for (const uint64_t id : Starts()) turns_.SetStarved(id, true);
  EXPECT_TRUE(Starts().empty());  // the source's half of the streams
  turns_.SetWhole(9);
  EXPECT_EQ(Starts(), std::vector<uint64_t>{9});
  // Another repository of the same registry.
  const uint64_t other = Add(Claim("a", "y", false));
  EXPECT_EQ(Starts(), std::vector<uint64_t>{other});
}

TEST_F(SourceTurnsTest, BusyWorkersMakeWayForASourceThatHasNone) {
  for (int i = 0; i < 10; ++i) Add(Claim("a", StrCat("x", i % 2), true));
  EXPECT_EQ(Starts().size(), 4U);
  const uint64_t third = Add(Claim("a", "y", true));
  EXPECT_EQ(Starts(), std::vector<uint64_t>{third});
  EXPECT_TRUE(turns_.waiting() == 6);
  const uint64_t unwanted = Add(Claim("b", "y", true, Priority::kBackground));
  EXPECT_TRUE(Starts().empty());
  const uint64_t wanted = Add(Claim("b", "z", true));
  EXPECT_EQ(Starts(), std::vector<uint64_t>{wanted});
  // When a task ends, the source with the fewest comes first, but tasks with waiters precede all
  // others.
  for (uint64_t id = 1; id <= 3; ++id) turns_.Remove(id);
  EXPECT_EQ(Starts().size(), 1U);
  EXPECT_EQ(turns_.running(), 4U);
  EXPECT_EQ(turns_.waiting(), 6U);
  (void)unwanted;
}

TEST_F(SourceTurnsTest, APriorityThatIsRaisedCounts) {
  for (int i = 0; i < 4; ++i) Add(Claim("a", "x", true));
  Starts();
  const SourceTurns::Claim claim = Claim("b", "y", true, Priority::kBackground);
  const uint64_t id = Add(claim);
  EXPECT_TRUE(Starts().empty());
  claim.priority->RaiseTo(Priority::kForeground);
  EXPECT_EQ(Starts(), std::vector<uint64_t>{id});
}

// Sources of four hostile registries, whose streams wait forever once started, and honest ones,
// whose blobs become whole eventually. All honest work ends, and no limit is exceeded.
TEST(SourceTurnsRandomTest, StreamsThatNeverEndHoldNobodyUp) {
  for (uint32_t seed = 0; seed < 300; ++seed) {
    std::mt19937 random(seed);
    const int workers = 1 + static_cast<int>(random() % 6);
    SourceTurns turns({workers, 2 * workers});
    struct Work {
      SourceTurns::Claim claim;
      bool hostile = false, running = false, starved = false;
    };
    std::map<uint64_t, Work> alive;
    uint64_t last = 0;
    int honest_left = 0;
    for (int step = 0; step < 2000; ++step) {
      const bool arrivals = step < 400;
      if (arrivals && random() % 3 == 0) {
        Work work;
        work.hostile = random() % 2 == 0;
        work.claim =
            Claim(StrCat(work.hostile ? "bad" : "good", random() % 4), StrCat(random() % 5),
                  !work.hostile && random() % 4 == 0, static_cast<Priority>(random() % 4));
        honest_left += work.hostile ? 0 : 1;
        turns.Add(++last, work.claim);
        alive[last] = work;
      } else if (!alive.empty()) {
        auto it = std::next(alive.begin(), static_cast<long>(random() % alive.size()));
        Work& work = it->second;
        if (work.hostile) {
          // Is busy for a moment each time a byte arrives.
          work.starved = !work.starved || random() % 8 != 0;
          if (work.running) turns.SetStarved(it->first, work.starved);
        } else if (!work.claim.whole) {
          work.claim.whole = true;
          turns.SetWhole(it->first);
        } else if (work.running) {
          turns.Remove(it->first);
          alive.erase(it);
          --honest_left;
        }
      }
      while (const std::optional<uint64_t> id = turns.Next()) {
        ASSERT_FALSE(alive.at(*id).running);
        alive.at(*id).running = true;
      }
      std::map<std::string, int> streams;
      for (const auto& [id, work] : alive) {
        if (!work.running || work.claim.whole) continue;
        ++streams["all"];
        ++streams[work.claim.registry];
        ++streams[StrCat(work.claim.registry, " ", work.claim.auth_scope)];
      }
      for (const auto& [who, count] : streams) ASSERT_LE(count, 2 * workers) << who;
      ASSERT_LE(turns.running(), static_cast<size_t>(turns.most_running()));
    }
    // Hostile tasks wait now; honest and whole ones must proceed.
    for (auto& [id, work] : alive) {
      if (work.hostile) turns.SetStarved(id, true);
      if (!work.hostile) turns.SetWhole(id);
    }
    for (bool more = true; more;) {
      more = false;
      while (const std::optional<uint64_t> id = turns.Next()) {
        alive.at(*id).running = true;
        if (alive.at(*id).hostile) turns.SetStarved(*id, true);
      }
      for (auto it = alive.begin(); it != alive.end();) {
        const bool ends = it->second.running && !it->second.hostile;
        if (ends) turns.Remove(it->first);
        honest_left -= ends ? 1 : 0;
        more |= ends;
        it = ends ? alive.erase(it) : std::next(it);
      }
    }
    ASSERT_EQ(honest_left, 0) << "seed " << seed;
  }
}

TEST(FairWorkersTest, RunsEverythingBeforeItEnds) {
  std::atomic<int> ran = 0;
  {
    FairWorkers workers(ThreadRole::kTest, {2, 0});
    for (int i = 0; i < 20; ++i) {
      workers.Submit(Claim(StrCat(i % 3), "", true), [&](FairWorkers::Id) {
        workers.Submit(Claim("again", "", true), [&](FairWorkers::Id) { ++ran; });
        ++ran;
      });
    }
  }
  EXPECT_EQ(ran, 40);
}

TEST(FairWorkersTest, WhatWaitsForBytesHoldsNobodyUp) {
  absl::Notification go;
  FairWorkers workers(ThreadRole::kTest, {2, 4});
  for (int i = 0; i < 30; ++i) {
    workers.Submit(Claim(StrCat("bad", i % 5), "", false), [&](FairWorkers::Id id) {
      const FairWorkers::Starved starved(workers, id);
      go.WaitForNotification();
    });
  }
  for (int i = 0; i < 10; ++i) {
    absl::Notification ran;
    const FairWorkers::Id id =
        workers.Submit(Claim("bad0", "", false), [&](FairWorkers::Id) { ran.Notify(); });
    workers.SetWhole(id);
    const bool in_time = ran.WaitForNotificationWithTimeout(absl::Seconds(20));
    EXPECT_TRUE(in_time);
    if (in_time) continue;
    go.Notify();
    return ran.WaitForNotification();
  }
  go.Notify();
}

}  // namespace
}  // namespace imagefs
