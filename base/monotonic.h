// SPDX-License-Identifier: Apache-2.0
// Monotonic time, for deadlines, delays, ages and timers. The wall clock may be set forward or back
// at any moment; this is CLOCK_MONOTONIC, which std::chrono::steady_clock (used by the transfers in
// fetch/) is as well.
//
// Use absl::Now() for calendar time (the end of a lease, the date of a record). Timed waits of
// absl::Mutex depend on the wall clock and are banned by tests/lint/clock.sh.
#pragma once

#include <chrono>
#include <compare>
#include <condition_variable>
#include <mutex>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"

namespace imagefs {

// A point in this machine's monotonic time. A value type; not meaningful to another process.
class Moment {
 public:
  constexpr Moment() : Moment(-absl::InfiniteDuration()) {}
  static Moment Now();
  static constexpr Moment InfinitePast() { return Moment(-absl::InfiniteDuration()); }
  static constexpr Moment InfiniteFuture() { return Moment(absl::InfiniteDuration()); }

  // Infinite moments stay infinite, and adding an infinite duration yields one.
  friend Moment operator+(Moment m, absl::Duration d) { return Moment(m.since_boot_ + d); }
  friend Moment operator-(Moment m, absl::Duration d) { return Moment(m.since_boot_ - d); }
  friend absl::Duration operator-(Moment a, Moment b) { return a.since_boot_ - b.since_boot_; }
  friend bool operator==(Moment a, Moment b) { return a.since_boot_ == b.since_boot_; }
  friend std::strong_ordering operator<=>(Moment a, Moment b) {
    if (a.since_boot_ < b.since_boot_) return std::strong_ordering::less;
    return a.since_boot_ == b.since_boot_ ? std::strong_ordering::equal
                                          : std::strong_ordering::greater;
  }
  // For atomics. Infinite moments saturate.
  int64_t ToNanos() const { return absl::ToInt64Nanoseconds(since_boot_); }
  static Moment FromNanos(int64_t nanos) { return Moment(absl::Nanoseconds(nanos)); }

 private:
  friend class TimedCondition;
  explicit constexpr Moment(absl::Duration since_boot) : since_boot_(since_boot) {}
  absl::Duration since_boot_;
};

// Like absl::CondVar, with monotonic deadlines. Thread-safe.
//
//   absl::MutexLock lock(&mu_);
//   while (!ready_ && changed_.WaitUntil(&mu_, deadline)) {
//   }
class TimedCondition {
 public:
  // Releases `mu`, waits for a signal or the deadline, and reacquires `mu`. Returns false if the
  // deadline has passed. May wake spuriously; the caller must recheck its condition.
  bool WaitUntil(absl::Mutex* mu, Moment deadline) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu);
  // Call after changing the condition, with or without its mutex held.
  void SignalAll();

 private:
  // Leaf lock: no other lock is acquired while it is held.
  std::mutex mu_;
  std::condition_variable signalled_;
};

}  // namespace imagefs
