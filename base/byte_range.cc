// SPDX-License-Identifier: Apache-2.0
#include "base/byte_range.h"

#include <algorithm>
#include <iterator>

namespace imagefs {

void RangeSet::Add(ByteRange range) {
  if (range.empty()) return;
  auto it = runs_.upper_bound(range.begin);
  if (it != runs_.begin() && std::prev(it)->second >= range.begin) --it;
  while (it != runs_.end() && it->first <= range.end) {
    range.begin = std::min(range.begin, it->first);
    range.end = std::max(range.end, it->second);
    total_ -= it->second - it->first;
    it = runs_.erase(it);
  }
  runs_.emplace(range.begin, range.end);
  total_ += range.size();
}

void RangeSet::Remove(ByteRange range) {
  if (range.empty()) return;
  auto it = runs_.upper_bound(range.begin);
  if (it != runs_.begin() && std::prev(it)->second > range.begin) --it;
  while (it != runs_.end() && it->first < range.end) {
    const ByteRange run{it->first, it->second};
    total_ -= run.size();
    it = runs_.erase(it);
    for (const ByteRange& rest : {ByteRange{run.begin, std::min(run.end, range.begin)},
                                  ByteRange{std::max(run.begin, range.end), run.end}}) {
      if (rest.empty()) continue;
      runs_.emplace(rest.begin, rest.end);
      total_ += rest.size();
    }
  }
}

bool RangeSet::Contains(ByteRange range) const {
  return range.empty() || ContiguousEnd(range.begin) >= range.end;
}

uint64_t RangeSet::ContiguousEnd(uint64_t offset) const {
  auto it = runs_.upper_bound(offset);
  if (it == runs_.begin()) return offset;
  --it;
  return std::max(offset, it->second);
}

std::vector<ByteRange> RangeSet::Missing(ByteRange range) const {
  std::vector<ByteRange> missing;
  uint64_t at = range.begin;
  while (at < range.end) {
    const uint64_t end = ContiguousEnd(at);
    if (end > at) {
      at = end;
      continue;
    }
    const auto next = runs_.upper_bound(at);
    const uint64_t stop = next == runs_.end() ? range.end : std::min(range.end, next->first);
    missing.push_back({at, stop});
    at = stop;
  }
  return missing;
}

std::vector<ByteRange> RangeSet::ranges() const {
  std::vector<ByteRange> ranges;
  for (const auto& [begin, end] : runs_) ranges.push_back({begin, end});
  return ranges;
}

}  // namespace imagefs
