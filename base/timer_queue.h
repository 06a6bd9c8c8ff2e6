// SPDX-License-Identifier: Apache-2.0
// Delayed calls on one thread, each cancellable until it starts. Independent of the wall clock.
// Setting, cancelling and running a timer cost O(log n); a cancelled one leaves nothing behind.
//
//   Timer timer = timers.At(Moment::Now() + absl::Seconds(60), [weak] { ... });
//   timer.Cancel();  // or destroy it
//
// Thread-safe; each Timer is used by one thread at a time.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <thread>
#include <utility>

#include "absl/functional/any_invocable.h"
#include "base/monotonic.h"
#include "base/thread_role.h"

namespace imagefs {

class TimerQueue;

// Handle to cancel one call. May outlive the queue.
class Timer {
 public:
  Timer() = default;  // empty
  Timer(Timer&& other) noexcept { *this = std::move(other); }
  Timer& operator=(Timer&& other) noexcept;
  ~Timer() { Cancel(); }

  // Prevents the call from starting; its closure has been destroyed when this returns. Does not
  // wait for a call that is already running, so it may be called from the call itself and under
  // locks that the call takes. Closures must therefore own what they use, or check a weak pointer.
  void Cancel();
  // Like Cancel, but also waits for a running call. REQUIRES: not on the queue's thread; the caller
  // holds no lock that the call takes.
  void Stop();

 private:
  friend class TimerQueue;
  struct Shared;
  Timer(std::shared_ptr<Shared> shared, Moment when, uint64_t id)
      : shared_(std::move(shared)), when_(when), id_(id) {}

  std::shared_ptr<Shared> shared_;  // null: empty
  Moment when_ = Moment::InfiniteFuture();
  uint64_t id_ = 0;
};

class TimerQueue {
 public:
  explicit TimerQueue(ThreadRole role);
  ~TimerQueue() { Close(); }
  TimerQueue(const TimerQueue&) = delete;
  TimerQueue& operator=(const TimerQueue&) = delete;

  // `call` must not block, since it delays all others. Calls run in order of time, then of
  // creation; calls whose time has passed run immediately.
  [[nodiscard]] Timer At(Moment when, absl::AnyInvocable<void()> call);
  [[nodiscard]] Timer After(absl::Duration pause, absl::AnyInvocable<void()> call) {
    return At(Moment::Now() + pause, std::move(call));
  }
  // Waits for the running call and drops the pending ones; calls set from now on are dropped as
  // well. Idempotent. REQUIRES: not on the queue's thread.
  void Close();
  // Number of calls that have not started.
  size_t pending() const;

 private:
  void Loop();
  const std::shared_ptr<Timer::Shared> shared_;
  std::thread thread_;
};

}  // namespace imagefs
