// Calls that are made later, on one thread, unless they are cancelled first. The wall clock has no
// influence. Setting, cancelling and running a timer cost O(log n); a cancelled one leaves nothing.
//
//   Timer timer = timers.At(Moment::Now() + absl::Seconds(60), [weak] { ... });
//   timer.Cancel();  // as its destructor does
//
// Thread-safe; one Timer is used by one thread at a time.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <thread>
#include <utility>

#include "absl/functional/any_invocable.h"
#include "base/monotonic.h"

namespace imagefs {

class TimerQueue;

// The right to cancel one call. May outlive the queue.
class Timer {
 public:
  Timer() = default;  // of nothing
  Timer(Timer&& other) noexcept { *this = std::move(other); }
  Timer& operator=(Timer&& other) noexcept;
  ~Timer() { Cancel(); }

  // The call does not begin any more, and what its closure holds is released before this returns.
  // A call that has begun goes on, and is not waited for: so this may be called from the call
  // itself and under locks that it takes, and a closure holds what it needs or finds out by a weak
  // pointer that it is gone.
  void Cancel();
  // Waits, beyond that, for a call that has begun. REQUIRES: not on the queue's thread, and no lock
  // is held that the call takes.
  void Stop();

 private:
  friend class TimerQueue;
  struct Shared;
  Timer(std::shared_ptr<Shared> shared, Moment when, uint64_t id)
      : shared_(std::move(shared)), when_(when), id_(id) {}

  std::shared_ptr<Shared> shared_;  // null: of nothing
  Moment when_ = Moment::InfiniteFuture();
  uint64_t id_ = 0;
};

class TimerQueue {
 public:
  explicit TimerQueue(std::string name);
  ~TimerQueue() { Close(); }
  TimerQueue(const TimerQueue&) = delete;
  TimerQueue& operator=(const TimerQueue&) = delete;

  // `call` must not block: all others wait behind it. One whose time has passed is made at once, in
  // the order of their times; of equal ones in the order in which they were set.
  [[nodiscard]] Timer At(Moment when, absl::AnyInvocable<void()> call);
  [[nodiscard]] Timer After(absl::Duration pause, absl::AnyInvocable<void()> call) {
    return At(Moment::Now() + pause, std::move(call));
  }
  // Waits for the call that runs; those that have not begun are dropped, and so is what is set from
  // now on. Idempotent. REQUIRES: not on the queue's thread.
  void Close();
  // Calls that have not begun.
  size_t pending() const;

 private:
  void Loop();
  const std::shared_ptr<Timer::Shared> shared_;
  std::thread thread_;
};

}  // namespace imagefs
