// SPDX-License-Identifier: Apache-2.0
#include "base/histogram.h"

#include <algorithm>
#include <numeric>

namespace imagefs {

Histogram::Histogram(absl::Span<const double> bounds)
    : bounds_(bounds.subspan(0, std::min(bounds.size(), kMaxBounds))) {}

void Histogram::Observe(double value) {
  // Not std::max: this also turns what is no number into 0.
  const double amount = value > 0 ? value : 0;
  const auto bound = std::lower_bound(bounds_.begin(), bounds_.end(), amount);
  counts_[static_cast<size_t>(bound - bounds_.begin())].fetch_add(1, std::memory_order_relaxed);
  sum_.fetch_add(amount, std::memory_order_relaxed);
}

Histogram::Reading Histogram::Read() const {
  Reading out;
  out.bounds = bounds_;
  out.sum = sum_.load(std::memory_order_relaxed);
  for (size_t i = 0; i <= bounds_.size(); ++i) {
    out.counts.push_back(counts_[i].load(std::memory_order_relaxed));
  }
  return out;
}

uint64_t Histogram::Reading::count() const {
  return std::accumulate(counts.begin(), counts.end(), uint64_t{0});
}

}  // namespace imagefs
