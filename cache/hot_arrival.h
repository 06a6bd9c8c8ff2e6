// SPDX-License-Identifier: Apache-2.0
// How far a hot pack has arrived, and how long the rest will take. Thread-safe.
#pragma once

#include <algorithm>
#include <cstdint>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "base/monotonic.h"

namespace imagefs {

class HotArrival {
 public:
  explicit HotArrival(Moment asked) : asked_(asked) {}

  // The pack's first `end` bytes arrived. REQUIRES: neither argument decreases.
  void Note(uint64_t end, Moment now) {
    absl::MutexLock lock(&mu_);
    if (first_byte_ == Moment::InfiniteFuture()) first_byte_ = from_.when = now;
    if (now - from_.when >= kWindow) from_ = {last_.end, last_.when};
    last_ = {end, now};
  }
  // Returns when the pack's first `end` bytes will be here if it goes on as lately. Infinite if
  // nothing has come for a while.
  absl::Duration Until(uint64_t end, Moment now) const {
    absl::MutexLock lock(&mu_);
    if (end <= last_.end) return absl::ZeroDuration();
    if (last_.end == 0 || now - last_.when > SilenceLocked()) return absl::InfiniteDuration();
    return TimeOfLocked(end - last_.end);
  }
  // Returns how long a request for so many bytes would take next to the pack.
  absl::Duration OfRequest(uint64_t bytes) const {
    absl::MutexLock lock(&mu_);
    if (last_.end == 0) return absl::ZeroDuration();
    return first_byte_ - asked_ + 2 * TimeOfLocked(bytes);
  }

 private:
  static constexpr absl::Duration kWindow = absl::Milliseconds(100);
  static constexpr absl::Duration kLeastSilence = absl::Milliseconds(50);
  struct Mark {
    uint64_t end = 0;
    Moment when = Moment::InfinitePast();
  };
  absl::Duration SilenceLocked() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    return std::max(kLeastSilence, 2 * (first_byte_ - asked_));
  }
  absl::Duration TimeOfLocked(uint64_t bytes) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    const uint64_t came = std::max<uint64_t>(last_.end - from_.end, 1);
    return (last_.when - from_.when) * (static_cast<double>(bytes) / static_cast<double>(came));
  }

  mutable absl::Mutex mu_;
  const Moment asked_;
  Moment first_byte_ ABSL_GUARDED_BY(mu_) = Moment::InfiniteFuture();
  Mark from_ ABSL_GUARDED_BY(mu_), last_ ABSL_GUARDED_BY(mu_);  // the rate is that between them
};

}  // namespace imagefs
