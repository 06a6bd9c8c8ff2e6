// SPDX-License-Identifier: Apache-2.0
// Calls back at an interval, on one thread, while anyone listens. Thread-safe.
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
  // Starts the thread, which sleeps until somebody listens.
  explicit Ticker(std::chrono::milliseconds interval);
  // Joins; no callback runs afterwards.
  ~Ticker();
  Ticker(const Ticker&) = delete;
  Ticker& operator=(const Ticker&) = delete;

  // `tick` runs without a lock held and must not block; it listens for as long as it returns true.
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
