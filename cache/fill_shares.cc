// SPDX-License-Identifier: Apache-2.0
#include "cache/fill_shares.h"

#include <algorithm>

namespace imagefs {
namespace {

// Requests that a source may always have in flight, of that priority and more urgent ones.
constexpr std::array<int, 4> kAlways = {4, 2, 1, 1};

}  // namespace

void FillShares::Take(const std::string& source, Priority priority) {
  ++taken_[source][static_cast<size_t>(priority)];
  ++total_;
}

void FillShares::Release(const std::string& source, Priority priority) {
  const auto it = taken_.find(source);
  --it->second[static_cast<size_t>(priority)];
  --total_;
  if (it->second == Taken()) taken_.erase(it);
}

int FillShares::UpTo(const Taken& taken, Priority priority) {
  int count = 0;
  for (size_t p = 0; p <= static_cast<size_t>(priority); ++p) count += taken[p];
  return count;
}

int FillShares::Of(const std::string& source) const {
  const auto it = taken_.find(source);
  return it == taken_.end() ? 0 : UpTo(it->second, Priority::kBackground);
}

bool FillShares::MayTake(const std::string& source, Priority priority, int wanting) const {
  const auto it = taken_.find(source);
  if (it == taken_.end()) return true;
  const auto p = static_cast<size_t>(priority);
  if (UpTo(it->second, priority) < kAlways[p]) return true;
  const int share = std::max(kAlways[p], slots_[p] / std::max(wanting, 1));
  return total_ < slots_[p] && Of(source) < share;
}

}  // namespace imagefs
