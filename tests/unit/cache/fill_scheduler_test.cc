#include "cache/fill_scheduler.h"

#include <gtest/gtest.h>

#include <map>
#include <random>
#include <string>
#include <vector>

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

// A source without a request in flight always gets one, whatever the others hold; each has no more
// than the slots, and the whole no more than the slots and a few for each source.
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

// Wants `wanted` requests, and keeps those that it launched until it is told to end one.
class FakeClient : public FillClient {
 public:
  FakeClient(std::string source, int wanted) : source_(std::move(source)), wanted_(wanted) {}
  std::optional<Want> MostUrgent(Moment, Moment&) override {
    absl::MutexLock lock(&mu_);
    if (wanted_ == 0) return std::nullopt;
    return Want{Priority::kOnDemand, source_};
  }
  void Launch(Priority, FillSlot slot) override {
    absl::MutexLock lock(&mu_);
    if (wanted_ == 0) return;
    --wanted_;
    ++launched_;
    slots_.push_back(std::move(slot));
  }
  void Cancel() override { EndAll(); }
  void EndAll() {
    std::vector<FillSlot> ended;
    absl::MutexLock lock(&mu_);
    ended.swap(slots_);
  }
  bool AwaitLaunched(int count) {
    absl::MutexLock lock(&mu_);
    auto enough = [&] { return launched_ >= count; };
    return mu_.AwaitWithTimeout(absl::Condition(&enough), absl::Seconds(20));
  }
  int launched() {
    absl::MutexLock lock(&mu_);
    return launched_;
  }

 private:
  const std::string source_;
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

}  // namespace
}  // namespace imagefs
