// SPDX-License-Identifier: Apache-2.0
// What the .cc files of FillingLayer share: waiters and requests in flight.
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
#include "cache/readahead.h"

namespace imagefs {

struct FillingLayer::Waiter {
  size_t missing = 0;  // spans; guarded by mu_ of the layer, as is `over`
  bool over = false;
  bool asked = false;  // its spans were requested; before, it waits for a hot pack only
  FillScheduler::WaitCause cause = FillScheduler::WaitCause::kRecheck;  // the worst of its spans
  Moment since = Moment::InfiniteFuture();                              // when it began to wait
  ByteRange range;                                                      // of the layer's data
  std::vector<std::pair<uint32_t, uint32_t>> parts;                     // spans [first, second)
  std::vector<uint32_t> moves;  // to be made before `done` runs
  ReaderId reader = 0;
  const LogContext context = LogContext::Current();
  ReadPin pin;
  Done done;
  CancelToken::Registration on_cancel;
  Timer deadline, patience;  // `patience`: for the pack
};

// One request for adjacent spans. It exceeds a source's usual request size only if a single span
// does, so its bytes are decoded from the front on, in whatever order they arrive.
struct FillingLayer::Batch {
  uint32_t first = 0, last = 0;  // spans [first, last)
  ByteRange blob;
  uint64_t memory = 0;  // needed while the largest of its spans is decoded
  PriorityRef priority;
  std::shared_ptr<ImageSource> source;
  SourceHealth::Place place;
  CancelSource cancel;
  bool hedge = false;
  int hedges = 0;  // begun for it; of a hedge, including it; guarded by mu_ of the layer

  // Accessed only by the transfer's callbacks, which run one at a time; unchanged after it ends.
  std::unique_ptr<char[]> bytes;  // of `blob`; untouched, and so without memory, until they arrive
  RangeSet received;
  absl::Status own_failure;  // a failure on this machine
  bool progress = false;

  // Guarded by mu_ of the layer.
  FillSlot slot;
  ByteBudget::Lease room;  // for a large request, until its last span is decoded
  uint32_t next = 0;       // the first span that is not fully received
  bool asked = false;      // it has its room, and the source was asked
  bool answered = false;
  bool given_up = false;  // it has ended or is being cancelled: nothing more is expected of it
  Moment began = Moment::InfinitePast(), last_byte = Moment::InfinitePast();
  Moment answered_at = Moment::InfinitePast();
  // REQUIRES: `asked`, and mu_ of the layer.
  TimelineEvent Event(bool ok, Moment ended) const;
  std::weak_ptr<Batch> twin;  // the hedge of a silent request, or the silent request of a hedge
};

}  // namespace imagefs
