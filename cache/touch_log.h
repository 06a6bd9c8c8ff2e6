// SPDX-License-Identifier: Apache-2.0
// Which bytes of a layer's data file readers requested, in the order of their first request.
//
// The kernel's own reading ahead looks like a reader and is part of it. Not thread-safe: guarded by
// the layer's lock.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#include "base/byte_range.h"

namespace imagefs {

class TouchLog {
 public:
  static constexpr size_t kMost = 100'000;  // parts; later ones are not recorded

  // `order` counts the reads of all layers. Bytes that were requested before keep their place.
  void Note(ByteRange range, uint64_t order) {
    if (parts_.size() >= kMost) return;
    for (const ByteRange& part : touched_.Missing(range)) parts_.emplace_back(order, part);
    touched_.Add(range);
  }
  const std::vector<std::pair<uint64_t, ByteRange>>& parts() const { return parts_; }

 private:
  RangeSet touched_;
  std::vector<std::pair<uint64_t, ByteRange>> parts_;
};

}  // namespace imagefs
