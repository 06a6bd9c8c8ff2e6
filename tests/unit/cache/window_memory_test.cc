// SPDX-License-Identifier: Apache-2.0
#include "cache/window_memory.h"

#include <gtest/gtest.h>

#include <optional>
#include <thread>

namespace imagefs {
namespace {

constexpr uint64_t kMiB = 1 << 20;

TEST(WindowMemoryTest, NoSourceTakesAllOfIt) {
  WindowMemory memory;
  const auto first = memory.Wait("hostile", 512 * kMiB, CancelToken());
  ASSERT_TRUE(first.ok());
  // Its second window waits; another source gets one at once.
  CancelSource cancel;
  absl::Status second;
  std::thread waiting(
      [&] { second = memory.Wait("hostile", 512 * kMiB, cancel.token()).status(); });
  const auto other = memory.Wait("other", 128 * kMiB, CancelToken());
  EXPECT_TRUE(other.ok());
  EXPECT_EQ(memory.held(), 640 * kMiB);
  cancel.Cancel();
  waiting.join();
  EXPECT_TRUE(absl::IsCancelled(second)) << second;
  EXPECT_EQ(memory.held(), 640 * kMiB);
}

TEST(WindowMemoryTest, WhoWaitsGetsWhatIsGivenBack) {
  WindowMemory memory;
  std::optional<absl::StatusOr<ByteBudget::Lease>> first =
      memory.Wait("a", 512 * kMiB, CancelToken());
  absl::StatusOr<ByteBudget::Lease> second = absl::UnknownError("not yet");
  std::thread waiting([&] { second = memory.Wait("b", 512 * kMiB, CancelToken()); });
  first.reset();
  waiting.join();
  ASSERT_TRUE(second.ok()) << second.status();
  EXPECT_EQ(memory.held(), 512 * kMiB);
}

TEST(WindowMemoryTest, MoreThanThereIsIsAnError) {
  WindowMemory memory;
  EXPECT_TRUE(absl::IsResourceExhausted(
      memory.Wait("a", WindowMemory::kTotal + 1, CancelToken()).status()));
}

}  // namespace
}  // namespace imagefs
