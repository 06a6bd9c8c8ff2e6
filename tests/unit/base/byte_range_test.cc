// SPDX-License-Identifier: Apache-2.0
#include "base/byte_range.h"

#include <gtest/gtest.h>

#include <random>
#include <vector>

namespace imagefs {
namespace {

using Ranges = std::vector<ByteRange>;

TEST(RangeSetTest, TouchingAndOverlappingRangesBecomeOne) {
  RangeSet set;
  set.Add({10, 20});
  set.Add({30, 40});
  set.Add({20, 25});
  EXPECT_EQ(set.ranges(), (Ranges{{10, 25}, {30, 40}}));
  set.Add({5, 35});
  EXPECT_EQ(set.ranges(), (Ranges{{5, 40}}));
  EXPECT_EQ(set.total_bytes(), 35u);
  set.Add({7, 7});
  EXPECT_EQ(set.total_bytes(), 35u);
}

TEST(RangeSetTest, RemoveSplits) {
  RangeSet set;
  set.Add({0, 100});
  set.Remove({40, 60});
  EXPECT_EQ(set.ranges(), (Ranges{{0, 40}, {60, 100}}));
  EXPECT_EQ(set.total_bytes(), 80u);
  EXPECT_EQ(set.Missing({30, 70}), (Ranges{{40, 60}}));
  EXPECT_EQ(set.ContiguousEnd(10), 40u);
  EXPECT_EQ(set.ContiguousEnd(40), 40u);
  EXPECT_TRUE(set.Contains({60, 100}));
  EXPECT_FALSE(set.Contains({39, 41}));
  EXPECT_TRUE(set.Contains({50, 50})) << "nothing is always there";
}

TEST(RangeSetTest, AgreesWithABitmap) {
  constexpr uint64_t kSize = 64;
  std::mt19937 random(1);
  RangeSet set;
  std::vector<bool> model(kSize, false);
  for (int round = 0; round < 5000; ++round) {
    uint64_t begin = random() % kSize;
    uint64_t end = begin + random() % (kSize - begin + 1);
    const bool add = random() % 2 == 0;
    add ? set.Add({begin, end}) : set.Remove({begin, end});
    for (uint64_t i = begin; i < end; ++i) model[i] = add;
    uint64_t total = 0;
    for (uint64_t i = 0; i < kSize; ++i) {
      total += model[i] ? 1 : 0;
      uint64_t run = i;
      while (run < kSize && model[run]) ++run;
      ASSERT_EQ(set.ContiguousEnd(i), run);
    }
    ASSERT_EQ(set.total_bytes(), total);
    uint64_t absent = 0;
    for (const ByteRange& gap : set.Missing({0, kSize})) {
      absent += gap.size();
      for (uint64_t i = gap.begin; i < gap.end; ++i) ASSERT_FALSE(model[i]);
    }
    ASSERT_EQ(absent, kSize - total);
  }
}

}  // namespace
}  // namespace imagefs
