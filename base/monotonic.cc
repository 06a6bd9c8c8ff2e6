// SPDX-License-Identifier: Apache-2.0
#include "base/monotonic.h"

namespace imagefs {

Moment Moment::Now() {
  return Moment(absl::FromChrono(std::chrono::steady_clock::now().time_since_epoch()));
}

bool TimedCondition::WaitUntil(absl::Mutex* mu, Moment deadline) {
  // Acquired before `mu` is released, so that a later signal finds this thread waiting.
  std::unique_lock<std::mutex> lock(mu_);
  mu->Unlock();
  bool in_time = true;
  if (deadline == Moment::InfiniteFuture()) {
    signalled_.wait(lock);
  } else {
    using Clock = std::chrono::steady_clock;
    const Clock::time_point until(std::chrono::nanoseconds(deadline.ToNanos()));
    in_time = signalled_.wait_until(lock, until) == std::cv_status::no_timeout;
  }
  lock.unlock();
  mu->Lock();
  return in_time;
}

void TimedCondition::SignalAll() {
  { const std::lock_guard<std::mutex> lock(mu_); }
  signalled_.notify_all();
}

}  // namespace imagefs
