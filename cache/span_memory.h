// SPDX-License-Identifier: Apache-2.0
// Spans of a layer that did not fit on the disk, in memory. Not thread-safe.
#pragma once

#include <atomic>
#include <cstdint>
#include <deque>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_set.h"
#include "cache/chain.h"

namespace imagefs {

class SpanMemory {
 public:
  // Over all layers; spans that somebody waits for may exceed it.
  static constexpr uint64_t kMaxBytes = 64 << 20;
  using Total =
      std::shared_ptr<std::atomic<uint64_t>>;  // bytes of all layers that are still referenced
  explicit SpanMemory(Total total) : total_(std::move(total)) {}

  struct Entry {
    uint32_t span = 0;
    uint64_t begin = 0;  // in the data file
    std::shared_ptr<const std::string> bytes;
  };
  void Add(uint32_t span, uint64_t begin, std::string bytes);
  // Returns false if it was not there.
  bool Remove(uint32_t span);
  bool empty() const { return entries_.empty(); }
  const Entry& oldest() const { return entries_.front(); }
  // Returns the entries among the spans [first, second) of each part.
  std::vector<ReadPin::Memory> Of(const LayerFill* layer,
                                  const std::vector<std::pair<uint32_t, uint32_t>>& parts) const;
  bool over() const { return total_->load() > kMaxBytes; }
  // Removes the oldest unwanted entries while the total is over the limit, and returns their spans.
  std::vector<uint32_t> Trim(const absl::flat_hash_set<uint32_t>& wanted);

 private:
  const Total total_;
  std::deque<Entry> entries_;
};

}  // namespace imagefs
