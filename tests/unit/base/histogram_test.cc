// SPDX-License-Identifier: Apache-2.0
#include "base/histogram.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <thread>
#include <vector>

namespace imagefs {
namespace {

constexpr std::array<double, 3> kBounds = {1, 10, 100};

TEST(HistogramTest, AValueCountsInTheFirstBucketThatHoldsIt) {
  Histogram histogram(kBounds);
  for (const double value : {0.5, 1.0, 1.5, 10.0, 99.0, 100.5, 1e9}) histogram.Observe(value);
  const Histogram::Reading reading = histogram.Read();
  EXPECT_EQ(reading.counts, (std::vector<uint64_t>{2, 2, 1, 2}));
  EXPECT_EQ(reading.count(), 7U);
  EXPECT_DOUBLE_EQ(reading.sum, 0.5 + 1 + 1.5 + 10 + 99 + 100.5 + 1e9);
  EXPECT_EQ(reading.bounds.size(), kBounds.size());
}

TEST(HistogramTest, AnEmptyOneHasAllBuckets) {
  const Histogram::Reading reading = Histogram(kBounds).Read();
  EXPECT_EQ(reading.counts, (std::vector<uint64_t>{0, 0, 0, 0}));
  EXPECT_EQ(reading.sum, 0);
}

TEST(HistogramTest, WhatIsNegativeOrNoNumberCountsAsZero) {
  Histogram histogram(kBounds);
  histogram.Observe(-5);
  histogram.Observe(std::nan(""));
  histogram.Observe(std::numeric_limits<double>::infinity());
  const Histogram::Reading reading = histogram.Read();
  EXPECT_EQ(reading.counts, (std::vector<uint64_t>{2, 0, 0, 1}));
}

TEST(HistogramTest, NothingIsLostWithManyThreads) {
  Histogram histogram(kBounds);
  constexpr int kThreads = 8, kValues = 20'000;
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&histogram] {
      for (int i = 0; i < kValues; ++i) histogram.Observe(i % 2 == 0 ? 0.5 : 50);
    });
  }
  for (std::thread& thread : threads) thread.join();
  const Histogram::Reading reading = histogram.Read();
  EXPECT_EQ(reading.counts,
            (std::vector<uint64_t>{kThreads * kValues / 2, 0, kThreads * kValues / 2, 0}));
  EXPECT_DOUBLE_EQ(reading.sum, kThreads * kValues / 2 * 50.5);
}

TEST(HistogramTest, TheBoundsOfTheProgramAscendAndFit) {
  for (const absl::Span<const double> bounds :
       {absl::Span<const double>(kShortTimes), absl::Span<const double>(kLongTimes)}) {
    EXPECT_TRUE(std::is_sorted(bounds.begin(), bounds.end()));
    EXPECT_LE(bounds.size(), Histogram::kMaxBounds);
  }
}

}  // namespace
}  // namespace imagefs
