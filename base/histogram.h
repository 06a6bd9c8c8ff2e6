// SPDX-License-Identifier: Apache-2.0
// Counts values by size, for metrics. Lock-free: measuring costs a few atomic additions, so that
// threads that never block can do it. Owned by the part that measures; there is no global registry.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/types/span.h"

namespace imagefs {

// Upper bounds in seconds: of work of this machine and of single requests, and of whole commands.
inline constexpr std::array<double, 14> kShortTimes = {
    0.0001, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5, 20};
inline constexpr std::array<double, 15> kLongTimes = {0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1,  2.5,
                                                      5,    10,    20,   60,  120,  300, 900};

class Histogram {
 public:
  static constexpr size_t kMaxBounds = 16;
  // `bounds` ascend, are at most kMaxBounds, and outlive this object: they are constants.
  explicit Histogram(absl::Span<const double> bounds);
  Histogram(const Histogram&) = delete;
  Histogram& operator=(const Histogram&) = delete;

  // A value counts in the first bucket whose bound is not below it. Negative values count as 0.
  void Observe(double value);

  struct Reading {
    absl::Span<const double> bounds;
    std::vector<uint64_t> counts;  // one more than `bounds`: the last is of what exceeds them all
    double sum = 0;
    uint64_t count() const;
  };
  // While values are being added, `sum` may lack some that `counts` has.
  Reading Read() const;

 private:
  const absl::Span<const double> bounds_;
  std::array<std::atomic<uint64_t>, kMaxBounds + 1> counts_{};
  std::atomic<double> sum_{0};
};

// One histogram of a part of the program, for display.
struct HistogramReport {
  std::string_view name;  // "read_wait", ...
  std::vector<std::pair<std::string_view, std::string>> labels;
  Histogram::Reading reading;
};

}  // namespace imagefs
