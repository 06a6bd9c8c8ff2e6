// SPDX-License-Identifier: Apache-2.0
// What a layer remembers of spans that could not be read: those whose bytes were wrong, and those
// whose reads timed out. Pure, with the time passed in; not thread-safe.
#pragma once

#include <array>
#include <cstdint>
#include <deque>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/time/time.h"
#include "base/byte_range.h"
#include "base/executor.h"
#include "base/monotonic.h"
#include "cache/chain.h"

namespace imagefs {

// Spans whose bytes did not match the table. The first kTries requests are made without pauses;
// then there is a pause, which grows with each further one, up to a limit by priority.
class WrongSpans {
 public:
  using Pauses = std::array<absl::Duration, 4>;  // by Priority
  static constexpr int kTries = 3;
  explicit WrongSpans(const Pauses& most) : most_(most) {}

  // Returns true if the span is now paused.
  bool Add(uint32_t span, const absl::Status& why, Moment now);
  void Remove(uint32_t span) { wrong_.erase(span); }
  bool empty() const { return wrong_.empty(); }
  bool Any(uint32_t first, uint32_t last) const;  // of the spans [first, last)
  // Returns InfinitePast if there is no pause.
  Moment PauseEnd(uint32_t span, Priority priority) const;
  // The last cause. REQUIRES: PauseEnd is not InfinitePast.
  const absl::Status& Why(uint32_t span) const { return wrong_.at(span).why; }

 private:
  struct Wrong {
    int times = 0;  // in a row
    Moment last = Moment::InfinitePast();
    absl::Status why;
  };
  const Pauses most_;
  absl::flat_hash_map<uint32_t, Wrong> wrong_;
};

// Reads that timed out. Before the kernel reports the error to the reader, it retries parts of what
// failed and of what it would have read ahead. These belong to the same read, whose time is used
// up.
class TimedOutReads {
 public:
  // A request after this long is a new read. On a busy machine the kernel takes a while to retry.
  static constexpr absl::Duration kSameRead = absl::Seconds(3);
  // How far behind a failed range its next request may begin: EROFS reads ahead in pieces of 64
  // KiB, and of a failed piece it may request only the first page.
  static constexpr uint64_t kReach = 128 << 10;

  // `range`: in the layer's data.
  void Add(ReaderId reader, ByteRange range, const absl::Status& why, Moment now);
  // Returns OK if it is another read. Otherwise data behind `range` counts as the same read, too.
  absl::Status Find(ReaderId reader, ByteRange range, Moment now);

 private:
  static constexpr size_t kMaxEntries = 1024;
  struct Entry {
    ReaderId reader;
    ByteRange range;
    Moment until;
    absl::Status why;
  };
  std::deque<Entry> timed_out_;  // by `until`
};

}  // namespace imagefs
