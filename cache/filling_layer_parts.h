// What the two .cc files of FillingLayer share: who waits, and what is under way.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/byte_budget.h"
#include "base/byte_range.h"
#include "base/cancel.h"
#include "base/monotonic.h"
#include "cache/filling_layer.h"

namespace imagefs {

struct FillingLayer::Waiter {
  size_t missing = 0;  // spans; guarded by mu_ of the layer, as is `over`
  bool over = false;
  ByteRange range;                                   // of the layer's data
  std::vector<std::pair<uint32_t, uint32_t>> parts;  // spans [first, second)
  std::vector<uint32_t> moves;                       // to be made before it is told
  ReaderId reader = 0;
  ReadPin pin;
  Done done;
  CancelToken::Registration on_cancel;
  Timer deadline;
};

// One request: neighbouring spans. It is larger than what a source asks for at once only where a
// single span is, so its bytes are decoded from the front on, in whatever order they come.
struct FillingLayer::Batch {
  uint32_t first = 0, last = 0;  // spans [first, last)
  ByteRange blob;
  uint64_t memory = 0;  // that it takes while the largest of its spans is decoded
  PriorityRef priority;
  std::shared_ptr<ImageSource> source;
  SourceHealth::Place place;
  CancelSource cancel;
  bool hedge = false;
  int hedges = 0;  // that were begun beside it; of a hedge, with it; guarded by mu_ of the layer

  // Of the transfer's calls only, from one to the next; nobody changes them after its end.
  std::unique_ptr<char[]> bytes;  // of `blob`; not was_read, and no memory, before they come
  RangeSet received;
  absl::Status own_failure;  // of this machine
  bool progress = false;

  // Guarded by mu_ of the layer.
  FillSlot slot;
  ByteBudget::Lease room;  // of a large one, until its last span is decoded
  uint32_t next = 0;       // the first span that is not wholly here
  bool asked = false;      // it has its room, and the source was asked
  bool answered = false;
  bool given_up = false;  // it has ended or is being cancelled: nothing more is expected of it
  Moment began = Moment::InfinitePast(), last_byte = Moment::InfinitePast();
  std::weak_ptr<Batch> beside;  // of a silent one its hedge, of a hedge the silent one
};

}  // namespace imagefs
