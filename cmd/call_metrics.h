// SPDX-License-Identifier: Apache-2.0
// How long the commands took that clients asked the daemon for, by result, and the steps of those
// that succeeded. Thread-safe.
#pragma once

#include <array>
#include <chrono>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "base/histogram.h"

namespace imagefs {

class CallMetrics {
 public:
  // Each of these comes from a small set: none is a name from outside.
  struct Call {
    std::string_view command;  // "mount", "pull", ...
    std::string mode;          // of a mount that was made: "kernel" or "fuse"; else ""
    absl::Status status;
    std::chrono::steady_clock::duration took;
    std::vector<std::pair<std::string, std::chrono::microseconds>> steps;
  };
  void Ended(const Call& call) ABSL_LOCKS_EXCLUDED(mu_);

  // "command" by `command`, `mode` and `result` (ok, failed, cancelled); "step" by `command` and
  // `step`.
  void AppendHistograms(std::vector<HistogramReport>& out) const ABSL_LOCKS_EXCLUDED(mu_);

 private:
  using Key = std::array<std::string, 3>;  // command, mode, result; or command, step, ""
  using Table = std::map<Key, std::unique_ptr<Histogram>>;
  static Histogram& At(Table& table, Key key);

  mutable absl::Mutex mu_;
  Table calls_ ABSL_GUARDED_BY(mu_), steps_ ABSL_GUARDED_BY(mu_);
};

}  // namespace imagefs
