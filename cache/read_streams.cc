// SPDX-License-Identifier: Apache-2.0
#include "cache/read_streams.h"

#include <algorithm>

namespace imagefs {

uint64_t ReadStreams::Advance(uint32_t first, uint32_t last, bool profiled) {
  constexpr uint32_t kChanceSteps = 3;
  for (Stream& stream : streams_) {
    // Reads of one span, or of its neighbours in any order, are still in sequence.
    if (stream.next == 0 || first > stream.next || first + 2 < stream.next) continue;
    if (last <= stream.next) return 0;
    stream.next = last;
    const bool chance = profiled && stream.steps++ < kChanceSteps;
    stream.ahead = chance ? 0 : std::min(std::max(2 * stream.ahead, kLeast), kMost);
    return stream.ahead;
  }
  streams_[oldest_++ % streams_.size()] = {last, 0, 0};
  return 0;
}

uint64_t ReadStreams::AheadOf(uint32_t span) const {
  constexpr uint32_t kMostSpansOfARead = 16;
  for (const Stream& stream : streams_) {
    if (span < stream.next && stream.next - span <= kMostSpansOfARead) return stream.ahead;
  }
  return 0;
}

}  // namespace imagefs
