// What the two .cc files of FillingLayer share: who waits, and what is under way.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/byte_budget.h"
#include "base/byte_range.h"
#include "cache/filling_layer.h"

namespace imagefs {

struct FillingLayer::Waiter {
  size_t missing = 0;  // spans; guarded by mu_ of the layer, as is `over`
  bool over = false;
  std::vector<std::pair<uint32_t, uint32_t>> parts;  // spans [first, second)
  std::vector<uint32_t> moves;                       // to be made before it is told
  FillPin pin;
  Done done;
  CancelToken::Registration on_cancel;
  Timer deadline;
};

// One request: neighbouring spans. It is larger than what a source asks for at once only where a
// single span is, so its bytes are decoded from the front on, in whatever order they come.
struct FillingLayer::Batch {
  uint32_t first = 0, last = 0;  // spans [first, last)
  ByteRange blob;
  PriorityRef priority;
  ByteBudget::Lease room;         // of a large one, until its last span is decoded
  std::unique_ptr<char[]> bytes;  // of `blob`; not touched, and no memory, before they come
  RangeSet received;              // touched by the transfer's calls only, as is `next`
  uint32_t next = 0;              // the first span that is not wholly here
  std::shared_ptr<ImageSource> source;

  // What it takes while the largest of its spans is decoded.
  uint64_t memory = 0;
};

}  // namespace imagefs
