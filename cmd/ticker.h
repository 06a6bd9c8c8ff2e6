// SPDX-License-Identifier: Apache-2.0
// Calls its listeners periodically, on one thread. Thread-safe.
#pragma once

#include <chrono>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/functional/any_invocable.h"
#include "absl/synchronization/mutex.h"
#include "base/monotonic.h"

namespace imagefs {

class Ticker {
 public:
  // Starts the thread, which sleeps while there are no listeners.
  explicit Ticker(std::chrono::milliseconds interval);
  // Joins the thread; no callback runs afterwards.
  ~Ticker();
  Ticker(const Ticker&) = delete;
  Ticker& operator=(const Ticker&) = delete;

  // Calls `tick` at every interval until it returns false. `tick` runs without a lock held and must
  // not block.
  using Tick = absl::AnyInvocable<bool()>;
  void Listen(Tick tick);

 private:
  void Loop();
  const std::chrono::milliseconds interval_;
  absl::Mutex mu_;
  std::vector<Tick> added_ ABSL_GUARDED_BY(mu_);
  bool stopping_ ABSL_GUARDED_BY(mu_) = false;
  TimedCondition stop_;
  std::thread thread_;
};

}  // namespace imagefs
