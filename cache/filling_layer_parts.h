// What the two .cc files of FillingLayer share: who waits, and what is under way.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

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
};

// One request: neighbouring spans.
struct FillingLayer::Batch {
  uint32_t first = 0, last = 0;  // spans [first, last)
  ByteRange blob;
  PriorityRef priority;
  std::unique_ptr<char[]> bytes;  // of `blob`; not touched before they come
  uint64_t received = 0;          // from blob.begin on
  uint32_t next = 0;              // the first span that is not wholly here
  std::shared_ptr<ImageSource> source;
};

}  // namespace imagefs
