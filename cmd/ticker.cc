// SPDX-License-Identifier: Apache-2.0
#include "cmd/ticker.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include "absl/time/time.h"
#include "base/thread_role.h"

namespace imagefs {

Ticker::Ticker(std::chrono::milliseconds interval)
    : interval_(interval), thread_([this] { Loop(); }) {}

Ticker::~Ticker() {
  {
    absl::MutexLock lock(&mu_);
    stopping_ = true;
  }
  stop_.SignalAll();
  thread_.join();
}

void Ticker::Listen(Tick tick) {
  absl::MutexLock lock(&mu_);
  added_.push_back(std::move(tick));
}

void Ticker::Loop() {
  EnterThread(ThreadRole::kTicker);
  std::vector<Tick> listeners;  // used by this thread only
  while (true) {
    {
      absl::MutexLock lock(&mu_);
      auto wanted = [this]()
                        ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) { return stopping_ || !added_.empty(); };
      if (listeners.empty()) mu_.Await(absl::Condition(&wanted));
      const Moment next = Moment::Now() + absl::FromChrono(interval_);
      while (!stopping_ && stop_.WaitUntil(&mu_, next)) {
      }
      if (stopping_) return;
      std::move(added_.begin(), added_.end(), std::back_inserter(listeners));
      added_.clear();
    }
    std::erase_if(listeners, [](Tick& tick) { return !tick(); });
  }
}

}  // namespace imagefs
