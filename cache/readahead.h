// SPDX-License-Identifier: Apache-2.0
// What is fetched of a layer although no reader waits for it: the data after a sequential reader,
// the whole layer, or nothing while the disk is full.
//
// Not thread-safe: guarded by the layer's lock.
#pragma once

#include <cstdint>
#include <optional>
#include <utility>

#include "base/executor.h"
#include "base/monotonic.h"
#include "cache/read_streams.h"

namespace imagefs {

class Readahead {
 public:
  // `background`: fetch the whole layer in the background even if nobody asked for it.
  explicit Readahead(bool background) : background_(background) {}

  // From now on the whole layer is wanted, at that priority or higher. Returns true if this is new.
  bool WantAll(Priority priority) {
    if (want_all_.has_value() && *want_all_ <= priority) return false;
    want_all_ = priority;
    return true;
  }
  // Nobody waits for the whole layer any more. Returns true if somebody had asked for it.
  bool StopWantingAll() { return std::exchange(want_all_, std::nullopt).has_value(); }
  bool wants_all() const { return want_all_.has_value(); }
  // The priority of fetching what no reader waits for.
  Priority priority() const { return want_all_.value_or(Priority::kBackground); }
  // True if a caller waits until the whole layer is local.
  bool awaited() const { return priority() <= Priority::kForeground; }
  // True if requests of that priority look for missing spans at `now`.
  bool Fetches(Priority at, Moment now) const {
    return at == priority() && (want_all_.has_value() || background_) && now >= no_room_until_;
  }

  // The disk is full: until `when`, fetch only what a reader waits for.
  void StopUntil(Moment when) { no_room_until_ = when; }
  void Resume() { no_room_until_ = Moment::InfinitePast(); }
  bool stopped() const { return no_room_until_ != Moment::InfinitePast(); }
  Moment stopped_until() const { return no_room_until_; }

  // The upcoming reads are known from a profile and were requested.
  void SetProfiled() { profiled_ = true; }
  // Spans [first, last) are read. Returns how many of the following ones to fetch.
  uint32_t Advance(uint32_t first, uint32_t last) {
    return stopped() ? 0 : streams_.Advance(first, last, profiled_);
  }

 private:
  const bool background_;
  std::optional<Priority> want_all_;
  Moment no_room_until_ = Moment::InfinitePast();
  bool profiled_ = false;
  ReadStreams streams_;
};

}  // namespace imagefs
