// What a layer remembers of spans that could not be read: those whose bytes were wrong, and those
// that somebody waited for in vain. Pure, with the time passed in; not thread-safe.
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

// Spans whose bytes were not what the table says. The first kTries requests follow each other; then
// there is a pause, which grows with each further one, up to a limit by urgency.
class WrongSpans {
 public:
  using Pauses = std::array<absl::Duration, 4>;  // by Priority
  static constexpr int kTries = 3;
  explicit WrongSpans(const Pauses& most) : most_(most) {}

  // True: there is a pause now.
  bool Add(uint32_t span, const absl::Status& why, Moment now);
  void Remove(uint32_t span) { wrong_.erase(span); }
  bool empty() const { return wrong_.empty(); }
  bool Any(uint32_t first, uint32_t last) const;  // of the spans [first, last)
  // InfinitePast: there is none.
  Moment PauseEnd(uint32_t span, Priority priority) const;
  // Of the last time. REQUIRES: PauseEnd is not InfinitePast.
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

// Reads that got no bytes in their time. Before the reader learns of that, the kernel asks again
// for parts of what failed, and for what it would have read ahead: that is the same read, and has
// no time left.
class LateReads {
 public:
  // Who asks later than that asks anew. On a busy machine it takes the kernel a while.
  static constexpr absl::Duration kSameRead = absl::Seconds(3);
  // How far behind what failed its next request may begin: EROFS reads ahead in pieces of 64 KiB,
  // and of one that fails it may ask for the first page only.
  static constexpr uint64_t kReach = 128 << 10;

  // `range`: of the layer's data.
  void Add(ReaderId reader, ByteRange range, const absl::Status& why, Moment now);
  // OK: it is another read. Otherwise what follows `range` belongs to the same read, too.
  absl::Status Find(ReaderId reader, ByteRange range, Moment now);

 private:
  static constexpr size_t kMost = 1024;
  struct Late {
    ReaderId reader;
    ByteRange range;
    Moment until;
    absl::Status why;
  };
  std::deque<Late> late_;  // by `until`
};

}  // namespace imagefs
