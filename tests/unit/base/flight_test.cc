// SPDX-License-Identifier: Apache-2.0
// Tests of the rules of base/flight.h, each named by its number, and of races between threads.
#include "base/flight.h"

#include <gtest/gtest.h>

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
#include "absl/synchronization/notification.h"
#include "base/text.h"

namespace imagefs {
namespace {

using Table = FlightTable<int>;

// One caller and the results it received.
struct Probe {
  std::vector<absl::StatusOr<int>> results;
  FlightTicket ticket;
  bool led = false;
  int value() const { return results.size() == 1 && results[0].ok() ? *results[0] : -1; }
  absl::StatusCode code() const {
    return results.size() == 1 ? results[0].status().code() : absl::StatusCode::kUnknown;
  }
};

class FlightTest : public ::testing::Test {
 protected:
  // Joins with work that runs until the test finishes it; `started_` holds one context per start.
  std::unique_ptr<Probe> Join(const std::string& key, const std::string& auth_scope = "",
                              Priority priority = Priority::kForeground) {
    auto probe = std::make_unique<Probe>();
    Table::Caller caller;
    caller.priority = priority;
    caller.auth_scope = auth_scope;
    caller.start = [this, auth_scope](Table::Context context) {
      started_.push_back(std::move(context));
      started_for_.push_back(auth_scope);
    };
    caller.done = [probe = probe.get()](absl::StatusOr<int> result) {
      probe->results.push_back(std::move(result));
    };
    const Table::JoinResult result = table_.Join(key, std::move(caller));
    probe->ticket = result.ticket;
    probe->led = result.led;
    return probe;
  }

  void ExpectEmpty() {
    EXPECT_TRUE(table_.Running().empty());
    EXPECT_EQ(table_.counters().active, 0u);
    EXPECT_EQ(table_.counters().waiting, 0u);
  }

  std::deque<Table::Context> started_;
  std::vector<std::string> started_for_;
  Table table_{"test"};
};

TEST_F(FlightTest, OneWorkServesEveryCallerWithOneResult) {
  auto a = Join("k");
  auto b = Join("k");
  auto c = Join("k");
  EXPECT_TRUE(a->led);
  EXPECT_FALSE(b->led);
  ASSERT_EQ(started_.size(), 1u);
  EXPECT_EQ(started_[0].key, "k");
  EXPECT_TRUE(a->results.empty());
  started_[0].finish(7);
  EXPECT_EQ(a->value(), 7);
  EXPECT_EQ(b->value(), 7);
  EXPECT_EQ(c->value(), 7);
  ExpectEmpty();
}

TEST_F(FlightTest, Rule1CallerThatLeavesGetsCancelledAtOnceAndDisturbsNobody) {
  auto a = Join("k");
  auto b = Join("k");
  b->ticket.Leave();
  EXPECT_EQ(b->code(), absl::StatusCode::kCancelled);
  EXPECT_TRUE(a->results.empty());
  EXPECT_FALSE(started_[0].cancel.cancelled());
  b->ticket.Leave();
  started_[0].finish(1);
  EXPECT_EQ(b->results.size(), 1u);
  EXPECT_EQ(a->value(), 1);
  EXPECT_EQ(table_.counters().cancelled, 0u);
  ExpectEmpty();
}

TEST_F(FlightTest, Rule1LastCallerLeavingCancels) {
  auto a = Join("k");
  auto b = Join("k");
  int told = 0;
  const CancelToken::Registration registration = started_[0].cancel.OnCancel([&] { ++told; });
  a->ticket.Leave();
  EXPECT_EQ(told, 0);
  b->ticket.Leave();
  EXPECT_EQ(told, 1);
  EXPECT_EQ(b->code(), absl::StatusCode::kCancelled);
  EXPECT_EQ(table_.Running().size(), 1u) << "the work has not ended yet";
  started_[0].finish(absl::CancelledError("stopped"));
  ExpectEmpty();
  EXPECT_EQ(table_.counters().cancelled, 1u);
  EXPECT_EQ(table_.counters().failed, 0u);
}

TEST_F(FlightTest, Rule1WorkMayFinishInsideItsCancellation) {
  auto a = Join("k");
  const CancelToken::Registration registration =
      started_[0].cancel.OnCancel([this] { started_[0].finish(absl::CancelledError("stopped")); });
  a->ticket.Leave();
  EXPECT_EQ(a->code(), absl::StatusCode::kCancelled);
  ExpectEmpty();
}

TEST_F(FlightTest, Rule2LeaderMayLeaveWithoutFailingTheOthers) {
  auto leader = Join("k");
  auto other = Join("k");
  leader->ticket.Leave();
  EXPECT_FALSE(started_[0].cancel.cancelled());
  EXPECT_EQ(started_.size(), 1u) << "the work that runs goes on";
  started_[0].finish(5);
  EXPECT_EQ(other->value(), 5);
  EXPECT_EQ(leader->code(), absl::StatusCode::kCancelled);
}

TEST_F(FlightTest, Rule3FailureReachesAllOnceAndStartsNothing) {
  auto a = Join("k", "alice");
  auto b = Join("k", "bob");
  started_[0].finish(absl::UnavailableError("gone after retries"));
  EXPECT_EQ(a->code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(b->code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(started_.size(), 1u);
  EXPECT_EQ(table_.counters().failed, 1u);
  ExpectEmpty();
  auto later = Join("k");
  EXPECT_TRUE(later->led) << "a failure is not remembered";
  started_[1].finish(1);
}

TEST_F(FlightTest, Rule4CredentialFailureStaysWithItsAudience) {
  auto a1 = Join("k", "alice");
  auto b1 = Join("k", "bob");
  auto a2 = Join("k", "alice");
  auto b2 = Join("k", "bob");
  started_[0].finish(absl::UnauthenticatedError("alice's password is wrong"));
  EXPECT_EQ(a1->code(), absl::StatusCode::kUnauthenticated);
  EXPECT_EQ(a2->code(), absl::StatusCode::kUnauthenticated);
  EXPECT_TRUE(b1->results.empty());
  ASSERT_EQ(started_for_, (std::vector<std::string>{"alice", "bob"}));
  started_[1].finish(3);
  EXPECT_EQ(b1->value(), 3);
  EXPECT_EQ(b2->value(), 3);
  EXPECT_EQ(table_.counters().handovers, 1u);
  EXPECT_EQ(table_.counters().failed, 0u);
  ExpectEmpty();
}

TEST_F(FlightTest, Rule4SeveralHandoversInARow) {
  auto a = Join("k", "alice");
  auto b = Join("k", "bob");
  auto c = Join("k", "carol");
  started_[0].finish(absl::UnauthenticatedError("a"));
  started_[1].finish(absl::PermissionDeniedError("b"));
  auto late = Join("k", "alice");
  started_[2].finish(absl::PermissionDeniedError("c"));
  EXPECT_EQ(a->code(), absl::StatusCode::kUnauthenticated);
  EXPECT_EQ(b->code(), absl::StatusCode::kPermissionDenied);
  EXPECT_EQ(c->code(), absl::StatusCode::kPermissionDenied);
  EXPECT_TRUE(late->results.empty());
  ASSERT_EQ(started_for_, (std::vector<std::string>{"alice", "bob", "carol", "alice"}));
  started_[3].finish(absl::UnauthenticatedError("still wrong"));
  EXPECT_EQ(late->code(), absl::StatusCode::kUnauthenticated);
  EXPECT_EQ(table_.counters().handovers, 3u);
  EXPECT_EQ(table_.counters().failed, 1u);
  ExpectEmpty();
}

TEST_F(FlightTest, Rule4WhoLeftIsNotAskedToTakeOver) {
  auto a = Join("k", "alice");
  auto b = Join("k", "bob");
  auto c = Join("k", "carol");
  b->ticket.Leave();
  started_[0].finish(absl::UnauthenticatedError("a"));
  ASSERT_EQ(started_for_, (std::vector<std::string>{"alice", "carol"}));
  started_[1].finish(1);
  EXPECT_EQ(c->value(), 1);
}

TEST_F(FlightTest, Rule4AudienceIsThatOfTheRunningStartNotOfWhoIsLeft) {
  auto a = Join("k", "alice");
  auto b = Join("k", "bob");
  a->ticket.Leave();  // its Start keeps running
  started_[0].finish(absl::UnauthenticatedError("alice"));
  EXPECT_TRUE(b->results.empty());
  ASSERT_EQ(started_for_.size(), 2u);
  EXPECT_EQ(started_for_[1], "bob");
  started_[1].finish(2);
  EXPECT_EQ(b->value(), 2);
}

TEST_F(FlightTest, Rule4LeavingWhileTheFailureIsDeliveredEndsTheFlight) {
  std::unique_ptr<Probe> b;
  Table::Caller alice;
  alice.auth_scope = "alice";
  alice.start = [this](Table::Context context) { started_.push_back(std::move(context)); };
  alice.done = [&](const absl::StatusOr<int>&) { b->ticket.Leave(); };
  table_.Join("k", std::move(alice));
  b = Join("k", "bob");
  started_[0].finish(absl::UnauthenticatedError("a"));
  EXPECT_EQ(b->code(), absl::StatusCode::kCancelled);
  EXPECT_EQ(started_.size(), 1u);
  ExpectEmpty();
}

TEST_F(FlightTest, Rule5JoinRaisesThePriorityAndNeverLowersIt) {
  auto a = Join("k", "", Priority::kBackground);
  EXPECT_EQ(started_[0].priority->get(), Priority::kBackground);
  auto b = Join("k", "", Priority::kOnDemand);
  EXPECT_EQ(started_[0].priority->get(), Priority::kOnDemand);
  auto c = Join("k", "", Priority::kReadahead);
  EXPECT_EQ(started_[0].priority->get(), Priority::kOnDemand);
  started_[0].finish(1);
}

TEST_F(FlightTest, Rule5NewRunHasThePriorityOfThoseWhoAreLeft) {
  auto a = Join("k", "alice", Priority::kOnDemand);
  auto b = Join("k", "bob", Priority::kBackground);
  auto c = Join("k", "carol", Priority::kReadahead);
  started_[0].finish(absl::UnauthenticatedError("a"));
  ASSERT_EQ(started_.size(), 2u);
  EXPECT_EQ(started_[1].priority->get(), Priority::kReadahead);
  started_[1].finish(1);
}

// Rule 6 is implemented by the caches; this is what they need from a flight.
TEST_F(FlightTest, Rule6EveryCallerHoldsTheResultBeforeTheFlightLetsItGo) {
  FlightTable<std::shared_ptr<int>> table("pins");
  std::shared_ptr<int> first;
  std::shared_ptr<int> second;
  std::function<void(absl::StatusOr<std::shared_ptr<int>>)> finish;
  for (std::shared_ptr<int>* into : {&first, &second}) {
    FlightTable<std::shared_ptr<int>>::Caller caller;
    caller.start = [&](const auto& context) { finish = context.finish; };
    caller.done = [into](absl::StatusOr<std::shared_ptr<int>> result) { *into = *result; };
    table.Join("k", std::move(caller));
  }
  std::weak_ptr<int> pinned;
  {
    auto made = std::make_shared<int>(1);
    pinned = made;
    finish(std::move(made));
  }
  EXPECT_EQ(pinned.use_count(), 2) << "one for each caller, none kept by the table";
}

TEST_F(FlightTest, Rule7TableIsEmptyWhenNothingRunsAndKeysDoNotTouch) {
  auto a = Join("sha256:a");
  auto b = Join("sha256:b");
  EXPECT_TRUE(b->led);
  EXPECT_EQ(table_.Running().size(), 2u);
  started_[0].finish(1);
  EXPECT_EQ(table_.Running(), (std::vector<std::pair<std::string, size_t>>{{"sha256:b", 1}}));
  EXPECT_TRUE(b->results.empty());
  started_[1].finish(2);
  ExpectEmpty();
}

TEST_F(FlightTest, Rule9CountersTell) {
  auto a = Join("k", "alice");
  auto b = Join("k", "bob");
  auto c = Join("other");
  EXPECT_EQ(table_.counters().active, 2u);
  EXPECT_EQ(table_.counters().waiting, 3u);
  c->ticket.Leave();
  started_[0].finish(absl::UnauthenticatedError("a"));
  started_[2].finish(1);
  started_[1].finish(absl::CancelledError("stopped"));
  const FlightCounters counters = table_.counters();
  EXPECT_EQ(counters.leaders, 2u);
  EXPECT_EQ(counters.joins, 1u);
  EXPECT_EQ(counters.handovers, 1u);
  EXPECT_EQ(counters.cancelled, 1u);
  EXPECT_EQ(counters.failed, 0u);
  ExpectEmpty();
}

TEST_F(FlightTest, RejoinWhileDrainingWaitsAndStartsAfresh) {
  auto a = Join("k", "", Priority::kOnDemand);
  a->ticket.Leave();
  EXPECT_TRUE(started_[0].cancel.cancelled());
  auto b = Join("k", "", Priority::kBackground);
  EXPECT_FALSE(b->led);
  EXPECT_EQ(started_.size(), 1u) << "the old work still has the files";
  started_[0].finish(absl::CancelledError("stopped"));
  EXPECT_TRUE(b->results.empty()) << "the end of the old work is not its result";
  ASSERT_EQ(started_.size(), 2u);
  EXPECT_FALSE(started_[1].cancel.cancelled());
  EXPECT_EQ(started_[1].priority->get(), Priority::kBackground);
  started_[1].finish(4);
  EXPECT_EQ(b->value(), 4);
  EXPECT_EQ(table_.counters().leaders, 2u);
  ExpectEmpty();
}

TEST_F(FlightTest, RejoinAndLeaveWhileDrainingStartsNothing) {
  auto a = Join("k");
  a->ticket.Leave();
  auto b = Join("k");
  b->ticket.Leave();
  EXPECT_EQ(b->code(), absl::StatusCode::kCancelled);
  started_[0].finish(1);
  EXPECT_EQ(started_.size(), 1u);
  ExpectEmpty();
}

TEST_F(FlightTest, FlightRestartedAfterDrainingIsCancelledLikeAny) {
  auto a = Join("k");
  a->ticket.Leave();
  auto b = Join("k");
  started_[0].finish(1);
  b->ticket.Leave();
  EXPECT_TRUE(started_[1].cancel.cancelled());
  started_[1].finish(absl::CancelledError("stopped"));
  ExpectEmpty();
}

TEST_F(FlightTest, FinishInsideStart) {
  int result = 0;
  Table::Caller caller;
  caller.start = [](const Table::Context& context) { context.finish(9); };
  caller.done = [&](absl::StatusOr<int> value) { result = *value; };
  const Table::JoinResult joined = table_.Join("k", std::move(caller));
  EXPECT_EQ(result, 9);
  EXPECT_TRUE(joined.led);
  joined.ticket.Leave();
  ExpectEmpty();
}

TEST_F(FlightTest, LeaveInsideDone) {
  FlightTicket own;
  std::unique_ptr<Probe> other;
  int calls = 0;
  Table::Caller caller;
  caller.start = [this](Table::Context context) { started_.push_back(std::move(context)); };
  caller.done = [&](const absl::StatusOr<int>&) {
    ++calls;
    own.Leave();
    other->ticket.Leave();  // its result is being delivered
  };
  own = table_.Join("k", std::move(caller)).ticket;
  other = Join("k");
  started_[0].finish(6);
  EXPECT_EQ(calls, 1);
  EXPECT_EQ(other->value(), 6);
  ExpectEmpty();
}

TEST_F(FlightTest, JoinInsideDoneStartsAnotherFlight) {
  std::unique_ptr<Probe> next;
  Table::Caller caller;
  caller.start = [this](Table::Context context) { started_.push_back(std::move(context)); };
  caller.done = [&](const absl::StatusOr<int>&) { next = Join("k"); };
  table_.Join("k", std::move(caller));
  started_[0].finish(1);
  ASSERT_NE(next, nullptr);
  EXPECT_TRUE(next->led);
  started_[1].finish(2);
  EXPECT_EQ(next->value(), 2);
  ExpectEmpty();
}

TEST_F(FlightTest, SecondFinishDoesNothing) {
  auto a = Join("k", "alice");
  auto b = Join("k", "bob");
  started_[0].finish(absl::UnauthenticatedError("a"));
  started_[0].finish(1);  // while the second run is running
  EXPECT_TRUE(b->results.empty());
  started_[1].finish(2);
  auto c = Join("k");
  started_[1].finish(3);  // while another flight of the key is running
  EXPECT_TRUE(c->results.empty());
  started_[2].finish(4);
  started_[2].finish(5);
  EXPECT_EQ(b->value(), 2);
  EXPECT_EQ(c->value(), 4);
}

TEST_F(FlightTest, TicketAndContextMayOutliveTheTable) {
  auto table = std::make_unique<Table>("gone");
  Table::Context context;
  int calls = 0;
  Table::Caller caller;
  caller.start = [&](Table::Context c) { context = std::move(c); };
  caller.done = [&](const absl::StatusOr<int>&) { ++calls; };
  const FlightTicket ticket = table->Join("k", std::move(caller)).ticket;
  context.finish(1);
  table.reset();
  ticket.Leave();
  context.finish(2);
  EXPECT_EQ(calls, 1);
}

// Whoever wins the race, every caller gets exactly one answer, and the winner decides which.
TEST_F(FlightTest, LeaveRacingFinish) {
  for (int round = 0; round < 500; ++round) {
    std::atomic<int> calls{0};
    std::atomic<int> cancelled{0};
    std::function<void(absl::StatusOr<int>)> finish;
    std::vector<FlightTicket> tickets;
    for (int i = 0; i < 3; ++i) {
      Table::Caller caller;
      caller.start = [&](const Table::Context& context) { finish = context.finish; };
      caller.done = [&](const absl::StatusOr<int>& result) {
        ++calls;
        if (absl::IsCancelled(result.status())) ++cancelled;
      };
      tickets.push_back(table_.Join("k", std::move(caller)).ticket);
    }
    std::atomic<int> ready{0};
    auto meet = [&] {
      ++ready;
      while (ready.load() < 2) std::this_thread::yield();
    };
    std::thread leaver([&] {
      meet();
      for (const FlightTicket& ticket : tickets) ticket.Leave();
    });
    meet();
    finish(round);
    leaver.join();
    ASSERT_EQ(calls.load(), 3);
    ASSERT_TRUE(cancelled.load() >= 0 && cancelled.load() <= 3);
    ExpectEmpty();
  }
}

// Random joins, leaves, results, credential failures and inline completions on several threads.
class Storm {
 public:
  static constexpr int kThreads = 4;
  static constexpr int kRounds = 3000;

  void Run() {
    // Cover these cases even if the random part does not: no worker is running yet, so these
    // callers leave before their flights end.
    const FlightTicket deserted = Join(0, "0", /*at_once=*/false).ticket;
    const FlightTicket leader = Join(1, "1", /*at_once=*/false).ticket;
    const FlightTicket heir = Join(2, "1", /*at_once=*/false).ticket;
    deserted.Leave();
    leader.Leave();
    std::vector<std::thread> workers;
    for (int i = 0; i < 2; ++i) workers.emplace_back([this] { Work(); });
    std::vector<std::thread> callers;
    for (unsigned i = 0; i < kThreads; ++i) callers.emplace_back([this, i] { Call(i); });
    for (std::thread& thread : callers) thread.join();
    {
      absl::MutexLock lock(&mu_);
      auto idle = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) { return open_ == 0; };
      mu_.Await(absl::Condition(&idle));
      stop_ = true;
    }
    for (std::thread& thread : workers) thread.join();
  }

  Table table{"storm"};
  // How often each caller's Done ran.
  std::vector<std::atomic<int>> answers = std::vector<std::atomic<int>>(3 + kThreads * kRounds);
  std::atomic<int> overlaps{0};

 private:
  void Start(Table::Context context, bool at_once) {
    // Flights must run one task per key at a time.
    if (running_[Slot(context.key)]++ != 0) ++overlaps;
    {
      absl::MutexLock lock(&mu_);
      ++open_;
      if (!at_once) {
        queue_.push_back(std::move(context));
        return;
      }
    }
    End(context, 0);
  }

  void End(const Table::Context& context, unsigned dice) {
    absl::StatusOr<int> result = 1;
    if (context.cancel.cancelled()) {
      result = absl::CancelledError("stopped");
    } else if (dice % 4 == 1) {
      result = absl::UnauthenticatedError("no");
    } else if (dice % 4 == 2) {
      result = absl::UnavailableError("away");
    }
    --running_[Slot(context.key)];
    context.finish(std::move(result));
    absl::MutexLock lock(&mu_);
    --open_;
  }

  void Work() {
    std::mt19937 random(99);
    while (true) {
      Table::Context context;
      {
        absl::MutexLock lock(&mu_);
        auto ready = [this]()
                         ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) { return stop_ || !queue_.empty(); };
        mu_.Await(absl::Condition(&ready));
        if (queue_.empty()) return;
        context = std::move(queue_.front());
        queue_.pop_front();
      }
      End(context, static_cast<unsigned>(random()));
    }
  }

  Table::JoinResult Join(size_t id, const std::string& key, bool at_once,
                         Priority priority = Priority::kForeground,
                         const std::string& auth_scope = "user") {
    Table::Caller caller;
    caller.priority = priority;
    caller.auth_scope = auth_scope;
    caller.start = [this, at_once](Table::Context context) { Start(std::move(context), at_once); };
    caller.done = [this, id](const absl::StatusOr<int>&) { ++answers[id]; };
    return table.Join(key, std::move(caller));
  }

  void Call(unsigned seed) {
    std::mt19937 random(seed);
    std::vector<FlightTicket> tickets;
    for (unsigned round = 0; round < kRounds; ++round) {
      const size_t id = 3 + seed * kRounds + round;
      const auto priority = static_cast<Priority>(random() % 4);
      const std::string auth_scope = StrCat("user", random() % 3);
      const bool at_once = random() % 8 == 0;
      tickets.push_back(Join(id, StrCat(random() % kKeys), at_once, priority, auth_scope).ticket);
      if (random() % 2 == 0) tickets[random() % tickets.size()].Leave();
      if (tickets.size() > 16) tickets.erase(tickets.begin());
    }
    for (const FlightTicket& ticket : tickets) ticket.Leave();
  }

  static constexpr int kKeys = 3;
  static size_t Slot(const std::string& key) { return static_cast<size_t>(key[0] - '0'); }
  std::atomic<int> running_[kKeys] = {};
  absl::Mutex mu_;
  std::deque<Table::Context> queue_ ABSL_GUARDED_BY(mu_);
  int open_ ABSL_GUARDED_BY(mu_) = 0;
  bool stop_ ABSL_GUARDED_BY(mu_) = false;
};

TEST(FlightStormTest, EveryDoneRunsOnceOneWorkAKeyAndTheTableEndsEmpty) {
  Storm storm;
  storm.Run();
  for (const std::atomic<int>& answer : storm.answers) ASSERT_EQ(answer.load(), 1);
  EXPECT_EQ(storm.overlaps.load(), 0);
  EXPECT_TRUE(storm.table.Running().empty());
  const FlightCounters counters = storm.table.counters();
  EXPECT_GT(counters.joins, 0u);
  EXPECT_GT(counters.handovers, 0u);
  EXPECT_GT(counters.cancelled, 0u);
}

}  // namespace
}  // namespace imagefs
