// Time for whatever means an interval: deadlines, pauses, ages, timers. The wall clock may be set
// back or forward by an hour at any moment; this one is CLOCK_MONOTONIC, which only goes on. It is
// also the clock of std::chrono::steady_clock, which the transfers in fetch/ count by.
//
// absl::Now() is for moments of a calendar (a lease's end, a record's date), and absl::Mutex has no
// wait with a timeout that the wall clock leaves alone: tests/lint/clock.sh.
#pragma once

#include <chrono>
#include <compare>
#include <condition_variable>
#include <mutex>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"

namespace imagefs {

// A moment of this machine's monotonic clock. A value; no calendar, no meaning in another process.
class Moment {
 public:
  constexpr Moment() : Moment(-absl::InfiniteDuration()) {}
  static Moment Now();
  static constexpr Moment InfinitePast() { return Moment(-absl::InfiniteDuration()); }
  static constexpr Moment InfiniteFuture() { return Moment(absl::InfiniteDuration()); }

  // Infinite moments stay what they are, and an infinite duration leads to one.
  friend Moment operator+(Moment m, absl::Duration d) { return Moment(m.since_boot_ + d); }
  friend Moment operator-(Moment m, absl::Duration d) { return Moment(m.since_boot_ - d); }
  friend absl::Duration operator-(Moment a, Moment b) { return a.since_boot_ - b.since_boot_; }
  friend bool operator==(Moment a, Moment b) { return a.since_boot_ == b.since_boot_; }
  friend std::strong_ordering operator<=>(Moment a, Moment b) {
    if (a.since_boot_ < b.since_boot_) return std::strong_ordering::less;
    return a.since_boot_ == b.since_boot_ ? std::strong_ordering::equal
                                          : std::strong_ordering::greater;
  }
  // For atomics. Infinite moments become the furthest that the type has.
  int64_t ToNanos() const { return absl::ToInt64Nanoseconds(since_boot_); }
  static Moment FromNanos(int64_t nanos) { return Moment(absl::Nanoseconds(nanos)); }

 private:
  friend class TimedCondition;
  explicit constexpr Moment(absl::Duration since_boot) : since_boot_(since_boot) {}
  absl::Duration since_boot_;
};

// What absl::CondVar is, with deadlines by the monotonic clock. Thread-safe.
//
//   absl::MutexLock lock(&mu_);
//   while (!ready_ && changed_.WaitUntil(&mu_, deadline)) {
//   }
class TimedCondition {
 public:
  // Gives `mu` back, waits for a signal or that moment, and takes it again. False: the moment has
  // come. Wakes without a cause now and then: the caller looks again at what it waits for.
  bool WaitUntil(absl::Mutex* mu, Moment deadline) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu);
  // After the change of what is waited for, with or without the mutex that guards it.
  void SignalAll();

 private:
  // A leaf: held by nobody who waits for another lock.
  std::mutex mu_;
  std::condition_variable signalled_;
};

}  // namespace imagefs
