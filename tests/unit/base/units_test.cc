// SPDX-License-Identifier: Apache-2.0
#include "base/units.h"

#include <gtest/gtest.h>

#include <chrono>
#include <cstdint>
#include <limits>
#include <string_view>

#include "base/metrics.h"

namespace imagefs {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

TEST(UnitsTest, FormatBytes) {
  EXPECT_EQ(FormatBytes(0), "0 B");
  EXPECT_EQ(FormatBytes(1023), "1023 B");
  EXPECT_EQ(FormatBytes(1024), "1.0 KiB");
  EXPECT_EQ(FormatBytes(1024 * 1024 - 1), "1.0 MiB");
  EXPECT_EQ(FormatBytes(12'897'485), "12.3 MiB");
  EXPECT_EQ(FormatBytes(std::numeric_limits<uint64_t>::max()), "16.0 EiB");
}

TEST(UnitsTest, FormatDuration) {
  EXPECT_EQ(FormatDuration(std::chrono::microseconds(250)), "250us");
  EXPECT_EQ(FormatDuration(milliseconds(38)), "38ms");
  EXPECT_EQ(FormatDuration(milliseconds(1240)), "1.24s");
  EXPECT_EQ(FormatDuration(seconds(125)), "2m5s");
  EXPECT_EQ(FormatDuration(seconds(7260)), "2h1m");
}

TEST(UnitsTest, ParseBytes) {
  EXPECT_EQ(*ParseBytes("512"), 512u);
  EXPECT_EQ(*ParseBytes("64KiB"), 65536u);
  EXPECT_EQ(*ParseBytes("10G"), uint64_t{10} << 30);
  EXPECT_EQ(*ParseBytes("3 MB"), uint64_t{3} << 20);
  EXPECT_EQ(*ParseBytes("0B"), 0u);
  EXPECT_EQ(*ParseBytes("18446744073709551615"), std::numeric_limits<uint64_t>::max());
  for (const std::string_view bad :
       {"", "G", "-1", "1.5G", "10X", "10GG", "18446744073709551616", "16E", "1 ", "0x10"}) {
    EXPECT_FALSE(ParseBytes(bad).ok()) << bad;
  }
}

TEST(UnitsTest, BootIdIsTheSameTwice) {
  const absl::StatusOr<std::string> id = BootId();
  ASSERT_TRUE(id.ok()) << id.status();
  EXPECT_EQ(id->size(), 36u);
  EXPECT_EQ(*BootId(), *id);
}

TEST(CountersTest, SnapshotIsSortedAndSummed) {
  Counters counters;
  EXPECT_TRUE(counters.Snapshot().empty());
  counters.Add("b", 1);
  counters.Add("a", 0);
  counters.Add("b", 41);
  EXPECT_EQ(counters.Snapshot(),
            (std::vector<std::pair<std::string, uint64_t>>{{"a", 0}, {"b", 42}}));
}

}  // namespace
}  // namespace imagefs
