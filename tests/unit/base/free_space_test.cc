// SPDX-License-Identifier: Apache-2.0
#include "base/free_space.h"

#include <fcntl.h>
#include <gtest/gtest.h>

#include <string>

#include "base/fd.h"

namespace imagefs {
namespace {

class FreeSpaceTest : public testing::Test {
 protected:
  void SetUp() override {
    auto fd = OpenFile(testing::TempDir(), O_RDONLY | O_DIRECTORY);
    ASSERT_TRUE(fd.ok()) << fd.status();
    directory_ = *std::move(fd);
  }
  Fd directory_;
};

TEST_F(FreeSpaceTest, RefusesWhatDoesNotFit) {
  FreeSpaceGuard guard(directory_.get(), {});
  EXPECT_TRUE(guard.Allow(0).ok());
  const absl::Status refused = guard.Allow(uint64_t{1} << 62);
  EXPECT_TRUE(absl::IsResourceExhausted(refused)) << refused;
  EXPECT_NE(std::string(refused.message()).find("imagefs rm"), std::string::npos) << refused;
}

TEST_F(FreeSpaceTest, KeepsAReserveWhateverIsWritten) {
  // The size of the whole disk: more than is ever free.
  FreeSpaceGuard guard(directory_.get(),
                       {.max_reserve = UINT64_MAX, .reserve_divisor = 1, .check_bytes = 1});
  EXPECT_TRUE(absl::IsResourceExhausted(guard.Allow(1)));
}

TEST_F(FreeSpaceTest, AsksOnlyNowAndThen) {
  FreeSpaceGuard guard(directory_.get(),
                       {.max_reserve = UINT64_MAX, .reserve_divisor = 1, .check_bytes = 100});
  EXPECT_TRUE(guard.Allow(60).ok());
  EXPECT_TRUE(guard.Allow(39).ok());
  EXPECT_FALSE(guard.Allow(1).ok());
  EXPECT_TRUE(guard.Allow(60).ok());
}

}  // namespace
}  // namespace imagefs
