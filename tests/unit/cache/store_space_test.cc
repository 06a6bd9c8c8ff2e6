// SPDX-License-Identifier: Apache-2.0
#include "cache/store_space.h"

#include <gtest/gtest.h>

#include <atomic>
#include <string>
#include <thread>
#include <vector>

#include "base/fd.h"
#include "base/text.h"

namespace imagefs {
namespace {

constexpr uint64_t kMiB = 1 << 20;
using Writer = StoreSpace::Writer;

class StoreSpaceTest : public ::testing::Test {
 protected:
  void SetUp() override { ASSERT_TRUE(MakeDirs(root_, 0700).ok()); }
  void TearDown() override { ASSERT_TRUE(RemoveTree(root_).ok()); }
  std::unique_ptr<StoreSpace> Open(SpaceLimits limits) {
    auto space = StoreSpace::Open(root_, limits);
    EXPECT_TRUE(space.ok()) << space.status();
    (*space)->OnPressure([this] { ++pressed_; });
    return *std::move(space);
  }
  static SpaceLimits Limit(uint64_t bytes) {
    SpaceLimits limits;
    limits.limit.bytes = bytes;
    limits.reserve = {0, 0};
    return limits;
  }

  const std::string root_ = StrCat(::testing::TempDir(), "/store-space-", RandomHex(6));
  std::atomic<int> pressed_{0};
};

TEST(SpaceAmountTest, IsTheSmallerOfBytesAndPercent) {
  EXPECT_EQ((SpaceAmount{100, 100}.Of(50)), 50u);
  EXPECT_EQ((SpaceAmount{100, 100}.Of(1000)), 100u);
  EXPECT_EQ((SpaceAmount{UINT64_MAX, 5}.Of(1000)), 50u);
  EXPECT_EQ((SpaceAmount{10, 5}.Of(1000)), 10u);
  EXPECT_EQ((SpaceAmount{UINT64_MAX, 80}.Of(UINT64_MAX)), UINT64_MAX / 100 * 80 + 12);
  EXPECT_TRUE(SpaceAmount().all());
  EXPECT_FALSE((SpaceAmount{UINT64_MAX, 99}.all()));
}

TEST_F(StoreSpaceTest, WithoutALimitOnlyTheReserveCounts) {
  const auto space = Open({});
  EXPECT_TRUE(space->Admit(100 * kMiB, Writer::kPart).ok());
  const absl::Status refused = space->Admit(uint64_t{1} << 62, Writer::kPart);
  EXPECT_TRUE(absl::IsResourceExhausted(refused)) << refused;
  EXPECT_NE(refused.message().find("store.reserve"), std::string::npos) << refused;
  EXPECT_EQ(pressed_, 1);
}

TEST_F(StoreSpaceTest, PartsEndAtTheLimitAndNothingOfARefusedWriteCounts) {
  const auto space = Open(Limit(100 * kMiB));
  EXPECT_TRUE(space->Admit(95 * kMiB, Writer::kPart).ok());
  EXPECT_EQ(pressed_, 0);
  EXPECT_TRUE(space->Admit(kMiB, Writer::kPart).ok());
  EXPECT_EQ(pressed_, 1);  // above 95 %
  EXPECT_TRUE(space->Admit(kMiB, Writer::kPart).ok());
  EXPECT_EQ(pressed_, 1);  // told once
  const absl::Status refused = space->Admit(4 * kMiB, Writer::kPart);
  EXPECT_TRUE(absl::IsResourceExhausted(refused)) << refused;
  EXPECT_NE(refused.message().find("100.0 MiB (store.limit)"), std::string::npos) << refused;
  EXPECT_EQ(pressed_, 2);
  EXPECT_EQ(space->refused(), 1u);
  EXPECT_TRUE(space->Admit(3 * kMiB, Writer::kPart).ok());
  EXPECT_EQ(space->Read()->used, 100 * kMiB);
}

TEST_F(StoreSpaceTest, AWholeMayExceedTheLimitWhileSomethingCanBeGivenBack) {
  const auto space = Open(Limit(100 * kMiB));
  space->SetMeasured(100 * kMiB, /*exhausted=*/false);
  EXPECT_TRUE(space->Admit(StoreSpace::kOvershoot, Writer::kWhole).ok());
  EXPECT_FALSE(space->Admit(1, Writer::kWhole).ok());
  space->SetMeasured(100 * kMiB, /*exhausted=*/true);
  EXPECT_FALSE(space->Admit(1, Writer::kWhole).ok());
  space->SetMeasured(99 * kMiB, /*exhausted=*/true);
  EXPECT_TRUE(space->Admit(kMiB, Writer::kWhole).ok());
}

TEST_F(StoreSpaceTest, TheReserveIsKeptWhateverIsWritten) {
  SpaceLimits limits;
  limits.reserve = {};  // the size of the whole disk: more than is ever free
  limits.check_bytes = 100;
  const auto space = Open(limits);
  EXPECT_TRUE(space->Admit(60, Writer::kPart).ok());
  EXPECT_TRUE(space->Admit(39, Writer::kPart).ok());
  EXPECT_FALSE(space->Admit(1, Writer::kPart).ok());
  // From then on every write is checked.
  EXPECT_FALSE(space->Admit(1, Writer::kPart).ok());
  EXPECT_EQ(space->Read()->used, 99u);
}

TEST_F(StoreSpaceTest, ExcessAndSpare) {
  StoreSpace::Reading now;
  now.total = 1000 * kMiB;
  now.free = 500 * kMiB;
  now.limit = 100 * kMiB, now.high = 95 * kMiB, now.low = 85 * kMiB;
  now.used = 95 * kMiB;
  EXPECT_EQ(now.Excess(), 0u);
  now.used = 96 * kMiB;
  EXPECT_EQ(now.Excess(), 11 * kMiB);
  EXPECT_FALSE(now.Spare(true));
  now.used = 85 * kMiB;
  EXPECT_TRUE(now.Spare(true));
  EXPECT_FALSE(now.Spare(false));  // only when clearly less is used
  now.used = 80 * kMiB;
  EXPECT_TRUE(now.Spare(false));
  now.background_min_free = 495 * kMiB;
  EXPECT_TRUE(now.Spare(true));
  EXPECT_FALSE(now.Spare(false));
  now.reserve = 500 * kMiB;
  EXPECT_FALSE(now.Spare(true));
  now.reserve = 580 * kMiB;
  EXPECT_EQ(now.Excess(), 80 * kMiB + 580 * kMiB / 8);
}

TEST_F(StoreSpaceTest, ManyWritersNeverExceedTheLimit) {
  const auto space = Open(Limit(100 * kMiB));
  std::atomic<uint64_t> admitted{0};
  std::vector<std::thread> writers;
  for (int i = 0; i < 8; ++i) {
    writers.emplace_back([&] {
      for (int k = 0; k < 10'000; ++k) {
        if (space->Admit(4096, Writer::kPart).ok()) admitted += 4096;
      }
    });
  }
  for (std::thread& writer : writers) writer.join();
  EXPECT_LE(admitted.load(), 100 * kMiB);
  EXPECT_GE(admitted.load(), 99 * kMiB);
  EXPECT_EQ(space->Read()->used, admitted.load());
}

TEST(StoreSpaceOpenTest, NamesTheDirectoryThatIsMissing) {
  const auto space = StoreSpace::Open("/does/not/exist", {});
  ASSERT_FALSE(space.ok());
  EXPECT_NE(space.status().message().find("/does/not/exist"), std::string::npos);
}

}  // namespace
}  // namespace imagefs
