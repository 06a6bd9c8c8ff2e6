// SPDX-License-Identifier: Apache-2.0
// Half-open byte ranges and sets of them. Value types, not thread-safe.
#pragma once

#include <compare>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace imagefs {

struct ByteRange {
  uint64_t begin = 0;
  uint64_t end = 0;  // one past the last byte
  uint64_t size() const { return end - begin; }
  bool empty() const { return end <= begin; }
  auto operator<=>(const ByteRange&) const = default;  // NOLINT(modernize-use-nullptr)
};

// Disjoint, sorted, coalesced.
class RangeSet {
 public:
  void Add(ByteRange range);
  void Remove(ByteRange range);
  bool Contains(ByteRange range) const;
  // Returns the end of the run that starts at or covers `offset`, or `offset` if it is absent.
  uint64_t ContiguousEnd(uint64_t offset) const;
  // Returns the parts of `range` that are absent, in order.
  std::vector<ByteRange> Missing(ByteRange range) const;
  uint64_t total_bytes() const { return total_; }
  std::vector<ByteRange> ranges() const;

 private:
  std::map<uint64_t, uint64_t> runs_;  // begin -> end
  uint64_t total_ = 0;
};

}  // namespace imagefs
