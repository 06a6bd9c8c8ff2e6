// SPDX-License-Identifier: Apache-2.0
#include "base/metrics.h"

namespace imagefs {

void Counters::Add(std::string_view name, uint64_t n) {
  absl::MutexLock lock(&mu_);
  const auto it = values_.find(name);
  if (it != values_.end()) {
    it->second += n;
  } else {
    values_.emplace(name, n);
  }
}

std::vector<std::pair<std::string, uint64_t>> Counters::Snapshot() const {
  absl::MutexLock lock(&mu_);
  return {values_.begin(), values_.end()};
}

}  // namespace imagefs
