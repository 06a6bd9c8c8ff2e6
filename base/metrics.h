// SPDX-License-Identifier: Apache-2.0
// Named counters, for `imagefs status` and metrics. Thread-safe. A name exists from its first Add
// on.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"

namespace imagefs {

class Counters {
 public:
  void Add(std::string_view name, uint64_t n);
  // Returns a consistent snapshot, ordered by name.
  std::vector<std::pair<std::string, uint64_t>> Snapshot() const;

 private:
  mutable absl::Mutex mu_;
  std::map<std::string, uint64_t, std::less<>> values_ ABSL_GUARDED_BY(mu_);
};

}  // namespace imagefs
