// SPDX-License-Identifier: Apache-2.0
#include "fetch/connection_shares.h"

#include <gtest/gtest.h>

#include <random>
#include <set>
#include <vector>

#include "base/text.h"

namespace imagefs {
namespace {

using Clock = ConnectionShares::Clock;
using Step = ConnectionShares::Step;
using std::chrono::milliseconds;
using std::chrono::seconds;

// Executes the policy's decisions, with its own clock.
class Machine {
 public:
  explicit Machine(const ConnectionShares::Options& options = {}) : shares_(options) {}

  uint64_t Ask(const std::string& registry, const std::string& repository, const std::string& host,
               Priority priority = Priority::kForeground,
               ConnectionShares::Cut cut = ConnectionShares::Cut::kResumes) {
    const uint64_t id = next_++;
    Again(id, {host, registry, repository, std::make_shared<LivePriority>(priority), cut});
    return id;
  }
  void Again(uint64_t id, ConnectionShares::Claim claim) {
    claims_[id] = claim;
    shares_.Add(id, std::move(claim));
  }
  // Runs the policy until it waits. Requests that are cut ask again, like the caller's retries.
  void Settle(bool ask_again = true) {
    for (int steps = 0; steps < 10'000; ++steps) {
      const Step step = shares_.Next(now_);
      look_again_ = step.look_again;
      if (step.kind == Step::Kind::kWait) return;
      if (step.kind == Step::Kind::kStart) {
        EXPECT_TRUE(running_.insert(step.id).second);
        continue;
      }
      EXPECT_EQ(running_.erase(step.id), 1u);
      cut_.push_back(step.id);
      shares_.Remove(step.id);
      if (ask_again) Again(next_++, claims_[step.id]);
    }
    ADD_FAILURE() << "the policy does not come to rest";
  }
  void End(uint64_t id) {
    shares_.Remove(id);
    running_.erase(id);
  }
  void Pass(milliseconds time) { now_ += time; }
  bool Runs(uint64_t id) const { return running_.contains(id); }
  int Running(const std::string& registry) const {
    int count = 0;
    for (const uint64_t id : running_) count += claims_.at(id).registry == registry;
    return count;
  }

  ConnectionShares shares_;
  Clock::time_point now_ = Clock::time_point() + seconds(1000);
  Clock::time_point look_again_;
  std::map<uint64_t, ConnectionShares::Claim> claims_;
  std::set<uint64_t> running_;
  std::vector<uint64_t> cut_;

 private:
  uint64_t next_ = 1;
};

// Silent on-demand requests of a source that uses all the connections its host allows.
TEST(ConnectionSharesTest, OnlySilentOnesOfItsSourceGiveWayToAHedge) {
  Machine machine;
  std::vector<uint64_t> running;
  for (int i = 0; i < 8; ++i) {
    running.push_back(machine.Ask("a", i < 4 ? "x" : "y", "http://a:80", Priority::kOnDemand));
  }
  machine.Settle();
  const auto hedge = [&](const std::string& repository) {
    const uint64_t id = machine.Ask("a", repository, "http://a:80", Priority::kOnDemand);
    ConnectionShares::Claim claim = machine.claims_[id];
    claim.hedge = true;
    machine.shares_.Remove(id);
    machine.Again(id, std::move(claim));
    machine.Settle();
    return id;
  };
  const uint64_t first = hedge("x");
  EXPECT_FALSE(machine.Runs(first));
  machine.shares_.SetSilent(running[7], true);
  machine.Settle();
  EXPECT_FALSE(machine.Runs(first)) << "it is another repository's";
  machine.shares_.SetSilent(running[2], true);
  machine.Settle();
  EXPECT_TRUE(machine.Runs(first));
  EXPECT_EQ(machine.cut_, std::vector<uint64_t>({running[2]}));
}

// An image with many layers, each redirected to another host, whose transfers never end.
void Hog(Machine& machine, const std::string& registry, int count,
         Priority priority = Priority::kForeground) {
  for (int i = 0; i < count; ++i) {
    machine.Ask(registry, "evil", StrCat("http://", registry, "-", i, ":80"), priority);
  }
  machine.Settle();
}

TEST(ConnectionSharesTest, HostsAndRegistriesHaveLimits) {
  Machine machine;
  for (int i = 0; i < 20; ++i) machine.Ask("r", "a", "https://r:443");
  machine.Settle();
  EXPECT_EQ(machine.running_.size(), 8u);
  Hog(machine, "evil.example", 80);
  EXPECT_EQ(machine.Running("evil.example"), 20);  // the last are reserved for readers
  Machine alone;
  Hog(alone, "evil.example", 80, Priority::kOnDemand);
  EXPECT_EQ(alone.Running("evil.example"), 24);
}

TEST(ConnectionSharesTest, AnotherSourceStartsAtOnceOrSoon) {
  for (const Priority hog : {Priority::kOnDemand, Priority::kForeground, Priority::kBackground}) {
    for (const Priority honest : {Priority::kOnDemand, Priority::kForeground}) {
      Machine machine;
      Hog(machine, "evil.example", 200, hog);
      std::vector<uint64_t> ids;
      for (int i = 0; i < 8; ++i) ids.push_back(machine.Ask("r", "a", "https://r:443", honest));
      if (honest != Priority::kOnDemand) machine.Pass(seconds(1));
      machine.Settle();
      for (const uint64_t id : ids) EXPECT_TRUE(machine.Runs(id));
    }
  }
}

TEST(ConnectionSharesTest, SourcesOfOneRegistryHaveSharesToo) {
  Machine machine;
  for (int i = 0; i < 80; ++i) machine.Ask("r", "evil", StrCat("http://cdn-", i, ":80"));
  machine.Settle();
  const uint64_t read = machine.Ask("r", "honest", "https://r:443", Priority::kOnDemand);
  const uint64_t ask = machine.Ask("r", "honest", "https://r:443", Priority::kForeground);
  machine.Pass(seconds(1));
  machine.Settle();
  EXPECT_TRUE(machine.Runs(read));
  EXPECT_TRUE(machine.Runs(ask));
  EXPECT_LE(machine.cut_.size(), 2u);
}

TEST(ConnectionSharesTest, AHostsLimitIsSharedAsWell) {
  Machine machine;
  for (int i = 0; i < 30; ++i) machine.Ask("evil.example", "evil", "https://cdn:443");
  machine.Settle();
  EXPECT_EQ(machine.running_.size(), 8u);
  const uint64_t read = machine.Ask("r", "a", "https://cdn:443", Priority::kOnDemand);
  machine.Settle();
  EXPECT_TRUE(machine.Runs(read));
  for (int i = 0; i < 10; ++i) machine.Ask("r", "a", "https://cdn:443");
  machine.Pass(seconds(1));
  machine.Settle();
  EXPECT_EQ(machine.Running("r"), 4);
  EXPECT_EQ(machine.Running("evil.example"), 4);
}

TEST(ConnectionSharesTest, UrgentRequestsOfASourceGoFirst) {
  Machine machine;
  for (int i = 0; i < 8; ++i) machine.Ask("r", "a", "https://r:443", Priority::kBackground);
  machine.Settle();
  const uint64_t read = machine.Ask("r", "a", "https://r:443", Priority::kOnDemand);
  machine.Settle();
  EXPECT_FALSE(machine.Runs(read));  // the running one may finish soon
  EXPECT_EQ(machine.look_again_, machine.now_ + seconds(1));
  machine.Pass(seconds(1));
  machine.Settle();
  EXPECT_TRUE(machine.Runs(read));
  EXPECT_EQ(machine.cut_.size(), 1u);
}

TEST(ConnectionSharesTest, BackgroundWorkGetsItsTurnAndNoMore) {
  Machine machine;
  Hog(machine, "evil.example", 80);
  Hog(machine, "evil2.example", 80);
  const uint64_t fill = machine.Ask("r", "a", "https://r:443", Priority::kBackground);
  const uint64_t more = machine.Ask("r", "a", "https://r:443", Priority::kBackground);
  machine.Settle();
  EXPECT_FALSE(machine.Runs(fill));
  machine.Pass(seconds(6));
  machine.Settle();
  machine.Pass(seconds(6));
  machine.Settle();
  EXPECT_TRUE(machine.Runs(fill));
  EXPECT_FALSE(machine.Runs(more));
}

TEST(ConnectionSharesTest, SlowTransfersMakeRoom) {
  Machine machine(
      {.total = 4, .per_host = 8, .per_registry = 4, .kept_on_demand = 0, .kept_foreground = 0});
  const uint64_t slow = machine.Ask("a", "x", "h1");
  for (const char* host : {"h2", "h3", "h4"}) machine.Ask(host, "x", host);
  machine.Settle();
  const uint64_t next = machine.Ask("b", "x", "h5", Priority::kBackground);
  machine.Settle();
  EXPECT_FALSE(machine.Runs(next));
  machine.shares_.SetSlow(slow, true);
  machine.Settle();
  EXPECT_TRUE(machine.Runs(next));
  EXPECT_EQ(machine.cut_, std::vector<uint64_t>{slow});
}

TEST(ConnectionSharesTest, WithMoreSourcesThanConnectionsEachHasItsTurn) {
  Machine machine;
  for (int i = 0; i < 60; ++i) machine.Ask(StrCat("evil", i), "x", StrCat("h", i));
  machine.Settle();
  const uint64_t ask = machine.Ask("r", "a", "https://r:443");
  for (int i = 0; i < 20 && !machine.Runs(ask); ++i) {
    machine.Pass(seconds(1));
    machine.Settle();
  }
  EXPECT_TRUE(machine.Runs(ask));
}

TEST(ConnectionSharesTest, WhatCannotBeCutIsNot) {
  using Cut = ConnectionShares::Cut;
  Machine machine(
      {.total = 2, .per_host = 2, .per_registry = 2, .kept_on_demand = 0, .kept_foreground = 0});
  const uint64_t push = machine.Ask("a", "x", "h", Priority::kBackground, Cut::kNever);
  const uint64_t whole = machine.Ask("b", "x", "h", Priority::kBackground, Cut::kRestarts);
  machine.Settle();
  machine.shares_.SetSlow(push, true);
  const uint64_t read = machine.Ask("c", "x", "h", Priority::kOnDemand);
  machine.Pass(seconds(100));
  machine.Settle();
  EXPECT_FALSE(machine.Runs(read));
  machine.shares_.SetSlow(whole, true);
  machine.Settle();
  EXPECT_TRUE(machine.Runs(read));
  EXPECT_TRUE(machine.Runs(push));
}

TEST(ConnectionSharesTest, NothingIsLeftOfWhatEnded) {
  Machine machine;
  const uint64_t a = machine.Ask("r", "a", "h");
  machine.Settle();
  machine.Ask("r", "b", "h2");
  machine.End(a);
  machine.shares_.Remove(999);
  machine.Settle();
  EXPECT_EQ(machine.shares_.running(), 1u);
  EXPECT_EQ(machine.shares_.waiting(), 0u);
}

// Whatever a hostile registry requests, another source's reader starts with the next decision, and
// the limits hold.
TEST(ConnectionSharesTest, EndlessTransfersNeverDelayAReader) {
  for (uint32_t seed = 0; seed < 100; ++seed) {
    std::minstd_rand random(seed + 1);
    const auto below = [&random](int n) {
      return static_cast<int>(random() % static_cast<uint32_t>(n));
    };
    Machine machine;
    for (int round = 0; round < 30; ++round) {
      const int registry = below(3);
      for (int i = below(12); i > 0; --i) {
        machine.Ask(
            StrCat("evil", registry), StrCat("r", below(4)),
            below(3) == 0 ? std::string("https://cdn:443") : StrCat("h", below(200)),
            static_cast<Priority>(below(4)),
            below(4) == 0 ? ConnectionShares::Cut::kRestarts : ConnectionShares::Cut::kResumes);
      }
      if (below(3) == 0 && !machine.running_.empty()) {
        machine.shares_.SetSlow(*machine.running_.begin(), below(2) == 0);
      }
      if (below(3) == 0 && !machine.running_.empty()) machine.End(*machine.running_.rbegin());
      machine.Settle();
      machine.Pass(milliseconds(below(2000)));
      const uint64_t read =
          machine.Ask("honest", "a", below(2) == 0 ? "https://cdn:443" : "https://honest:443",
                      below(2) == 0 ? Priority::kOnDemand : Priority::kForeground);
      if (machine.claims_[read].priority->get() != Priority::kOnDemand) machine.Pass(seconds(1));
      machine.Settle();
      EXPECT_TRUE(machine.Runs(read)) << "seed " << seed << " round " << round;
      machine.End(read);
      EXPECT_LE(machine.running_.size(), 32u);
    }
    machine.Settle();
    std::map<std::string, int> hosts;
    for (const uint64_t id : machine.running_) ++hosts[machine.claims_[id].host];
    for (const auto& [host, count] : hosts) EXPECT_LE(count, 8) << host;
  }
}

}  // namespace
}  // namespace imagefs
