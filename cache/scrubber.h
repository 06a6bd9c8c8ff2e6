// SPDX-License-Identifier: Apache-2.0
// Checks layers that nobody opens or reads: each is read from the disk periodically, slowly, on an
// idle-priority thread. Owned by LayerStore. Thread-safe.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/functional/function_ref.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "base/digest.h"
#include "base/monotonic.h"

namespace imagefs {

class Scrubber {
 public:
  struct Options {
    absl::Duration interval = absl::Hours(7 * 24);  // between checks of one layer; 0 = never
    uint64_t bytes_per_second = 16 << 20;
  };
  // Waits until that many more bytes may be read; returns false if the check must stop.
  using Pace = absl::FunctionRef<bool(size_t bytes)>;
  // Returns the layer to check next, or nullopt if none is due.
  using Next = std::function<std::optional<Digest>()>;
  // Checks the layer. One that was not checked then may be returned by Next again.
  using Check = std::function<void(const Digest& id, Pace pace)>;

  Scrubber(const Options& options, Next next, Check check);
  ~Scrubber();
  Scrubber(const Scrubber&) = delete;
  Scrubber& operator=(const Scrubber&) = delete;

 private:
  void Loop();
  bool Sleep(absl::Duration pause);

  const Options options_;
  const Next next_;
  const Check check_;
  absl::Mutex mu_;
  TimedCondition stop_;
  bool stopping_ ABSL_GUARDED_BY(mu_) = false;
  std::thread thread_;  // last
};

}  // namespace imagefs
