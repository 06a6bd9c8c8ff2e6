// SPDX-License-Identifier: Apache-2.0
// Which spans of a layer are in its data file, which are wanted and how urgently, and which readers
// have used. Bookkeeping only: sends no requests and reads no files.
//
// Not thread-safe: guarded by the layer's lock.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <optional>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_set.h"
#include "absl/status/status.h"
#include "base/executor.h"
#include "base/monotonic.h"
#include "cache/fill_report.h"
#include "cache/span_troubles.h"
#include "image/span_table.h"

namespace imagefs {

class SpanMap {
 public:
  enum class State : uint8_t {
    kAbsent,
    kQueued,
    kInFlight,
    kBusy,  // a worker is decoding, verifying or evicting it and has exclusive use of it
    kPresent,
    kUnverified,  // marked as present by a file that may be wrong
    kInMemory,    // it did not fit on the disk
  };
  // `pauses` limit how long a span whose bytes were wrong is not requested.
  explicit SpanMap(const WrongSpans::Pauses& pauses) : wrong_(pauses) {}
  // Starts with every span absent. REQUIRES: called once, before everything else. `table` must
  // outlive this.
  void SetTable(const SpanTableReader& table);
  // Marks a span as left by the last process. REQUIRES: the span is absent.
  void SetFound(uint32_t span, bool verified);

  size_t size() const { return spans_.size(); }
  State state(uint32_t span) const { return spans_[span].state; }
  // True if its bytes are available to readers now.
  bool readable(uint32_t span) const {
    return state(span) == State::kPresent || state(span) == State::kInMemory;
  }
  bool all_present() const { return present_ == spans_.size(); }
  // Unverified spans count until they turn out to be wrong.
  uint64_t blob_bytes_present() const { return blob_bytes_present_; }
  uint64_t data_bytes_present() const { return data_bytes_present_; }
  uint64_t blob_bytes() const { return blob_bytes_; }  // of all spans

  // Queues a span that is absent or queued less urgently. Does nothing otherwise, or if its bytes
  // were wrong just now.
  void Queue(uint32_t span, Priority priority, Moment now);
  // Removes a span from its queue; the second form only if it is queued at that priority.
  void Unqueue(uint32_t span);
  void Unqueue(uint32_t span, Priority priority);
  // Removes all spans that no reader waits for.
  void UnqueueReadahead();
  // Returns the span to fetch next among those queued at that priority, in order of request.
  std::optional<uint32_t> NextQueued(Priority priority);
  // Returns the next absent or unverified span, for fetching the whole layer. Starts over after
  // Rescan and after a span became absent.
  std::optional<uint32_t> NextMissing(Priority priority, Moment now);
  void Rescan() { scan_ = 0; }
  // When the first span that NextMissing skipped may be requested again; InfiniteFuture: none.
  Moment rescan_at() const { return rescan_at_; }
  void RescanIfDue(Moment now);
  // True if the span may be requested at that priority now; else it is looked at again when it may.
  bool MayRequest(uint32_t span, Priority priority, Moment now);
  // True if a request of that priority may include this span; `missing_too`: even if it is not
  // queued.
  bool MayBringAlong(uint32_t span, Priority priority, bool missing_too, Moment now) const;

  // It is being requested at that priority, or at the more urgent one that it was queued with.
  void SetInFlight(uint32_t span, Priority priority);
  // Gives the span to the caller, a worker, if it is in state `from`; it is then busy.
  bool Take(uint32_t span, State from);
  // A busy span is being verified again: it counts as present only after SetPresent.
  void Uncount(uint32_t span);
  void SetPresent(uint32_t span);
  void SetInMemory(uint32_t span) { spans_[span].state = State::kInMemory; }
  void SetAbsent(uint32_t span);

  // The bytes of that span were wrong once more. Returns true if it is now paused.
  bool AddWrong(uint32_t span, const absl::Status& why, Moment now) {
    return wrong_.Add(span, why, now);
  }
  bool any_wrong() const { return !wrong_.empty(); }
  bool AnyWrong(uint32_t first, uint32_t last) const { return wrong_.Any(first, last); }
  // Returns why a request of that priority may not include it now; OK if it may.
  absl::Status WhyPaused(uint32_t span, Priority priority, Moment now) const;

  void NoteRead(uint32_t span, Moment now);      // a reader requested it
  void NoteUse(Moment now) { last_use_ = now; }  // a reader got bytes that came without their span
  bool was_read(uint32_t span) const { return spans_[span].was_read; }
  // It was requested because a reader might need it (cache/readahead.h).
  void SetGuessed(uint32_t span) { spans_[span].guessed = true; }
  bool guessed(uint32_t span) const { return spans_[span].guessed; }
  uint64_t blob_bytes_read() const { return blob_bytes_read_; }
  // When a span was last read that had not been read before, and any span. InfinitePast: none yet.
  Moment last_read() const { return last_read_; }
  Moment last_use() const { return last_use_; }

  // Whether it is present, and who asked for it.
  ByteState byte_state(uint32_t span) const;

  // Takes present spans that are not in `wanted`, with about `bytes` of data, in round-robin order;
  // those that were read since the last round pass once. They become busy and are no longer
  // counted.
  std::vector<uint32_t> TakeForEviction(uint64_t bytes,
                                        const absl::flat_hash_set<uint32_t>& wanted);

 private:
  struct Span {
    State state = State::kAbsent;
    uint8_t priority = 3;  // kQueued: the queue; then that of its last request
    bool was_read : 1 = false, recent : 1 = false, guessed : 1 = false;
  };
  bool Paused(uint32_t span, Priority priority, Moment now) const {
    return !wrong_.empty() && wrong_.PauseEnd(span, priority) > now;
  }

  const SpanTableReader* table_ = nullptr;
  std::vector<Span> spans_;
  // By priority; entries whose span is no longer queued at that priority are skipped.
  std::array<std::deque<uint32_t>, 4> queues_;
  uint32_t scan_ = 0;
  Moment rescan_at_ = Moment::InfiniteFuture();
  WrongSpans wrong_;
  size_t present_ = 0;
  uint64_t blob_bytes_ = 0, blob_bytes_present_ = 0, data_bytes_present_ = 0;
  uint64_t blob_bytes_read_ = 0;
  Moment last_read_ = Moment::InfinitePast(), last_use_ = Moment::InfinitePast();
  size_t evict_from_ = 0;
};

}  // namespace imagefs
