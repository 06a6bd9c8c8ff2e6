// SPDX-License-Identifier: Apache-2.0
#include "cache/span_memory.h"

#include <algorithm>

namespace imagefs {
namespace {

// Counted as long as somebody holds a reference.
struct CountedBytes {
  CountedBytes(std::string its, SpanMemory::Total sum)
      : bytes(std::move(its)), total(std::move(sum)) {
    *total += bytes.size();
  }
  ~CountedBytes() { *total -= bytes.size(); }
  CountedBytes(const CountedBytes&) = delete;
  CountedBytes& operator=(const CountedBytes&) = delete;

  const std::string bytes;
  const SpanMemory::Total total;
};

}  // namespace

void SpanMemory::Add(uint32_t span, uint64_t begin, std::string bytes) {
  const auto counted = std::make_shared<CountedBytes>(std::move(bytes), total_);
  entries_.push_back({span, begin, {counted, &counted->bytes}});
}

bool SpanMemory::Remove(uint32_t span) {
  const auto it = std::find_if(entries_.begin(), entries_.end(),
                               [&](const Entry& entry) { return entry.span == span; });
  if (it == entries_.end()) return false;
  entries_.erase(it);
  return true;
}

std::vector<ReadPin::Memory> SpanMemory::Of(
    const LayerFill* layer, const std::vector<std::pair<uint32_t, uint32_t>>& parts) const {
  std::vector<ReadPin::Memory> out;
  for (const Entry& entry : entries_) {
    const bool needed = std::any_of(parts.begin(), parts.end(), [&](const auto& part) {
      return part.first <= entry.span && entry.span < part.second;
    });
    if (needed) out.push_back({layer, entry.begin, entry.bytes});
  }
  return out;
}

std::vector<uint32_t> SpanMemory::Trim(const absl::flat_hash_set<uint32_t>& wanted) {
  std::vector<uint32_t> gone;
  for (auto it = entries_.begin(); it != entries_.end() && over();) {
    if (wanted.contains(it->span)) {
      ++it;
      continue;
    }
    gone.push_back(it->span);
    it = entries_.erase(it);
  }
  return gone;
}

}  // namespace imagefs
