// Looks after layers that nobody opens or reads: once in a while each is read from the disk,
// slowly, on a thread that runs when nothing else does. Owned by LayerStore. Thread-safe.
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
    absl::Duration interval = absl::Hours(7 * 24);  // of one layer; 0 = never
    uint64_t bytes_per_second = 16 << 20;
  };
  // Waits until so many bytes more may be read; false: to be given up.
  using Pace = absl::FunctionRef<bool(size_t bytes)>;
  // The layer whose turn it is; nullopt: none.
  using Next = std::function<std::optional<Digest>()>;
  // Reads it. What is not checked then may be the next again.
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
