// What of a layer is fetched although no reader waits for it: what follows a sequential reader, all
// of the layer, or, while the disk is full, nothing.
//
// Not thread-safe: the layer's lock guards it.
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
  // `background`: all of a layer is fetched in the background even if nobody asked for it.
  explicit Readahead(bool background) : background_(background) {}

  // From now on all of it is wanted, at least that urgently. Returns true if it was not before.
  bool WantAll(Priority priority) {
    if (want_all_.has_value() && *want_all_ <= priority) return false;
    want_all_ = priority;
    return true;
  }
  // Nobody waits for all of it any more. Returns true if somebody had asked for it.
  bool StopWantingAll() { return std::exchange(want_all_, std::nullopt).has_value(); }
  bool wants_all() const { return want_all_.has_value(); }
  // The urgency of fetching what no reader waits for.
  Priority priority() const { return want_all_.value_or(Priority::kBackground); }
  // True if a caller waits until all of it is local.
  bool awaited() const { return priority() <= Priority::kForeground; }
  // True if requests of that priority look for missing spans at `now`.
  bool Fetches(Priority at, Moment now) const {
    return at == priority() && (want_all_.has_value() || background_) && now >= no_room_until_;
  }

  // The disk is full: until then nothing is fetched that no reader waits for.
  void StopUntil(Moment when) { no_room_until_ = when; }
  void Resume() { no_room_until_ = Moment::InfinitePast(); }
  bool stopped() const { return no_room_until_ != Moment::InfinitePast(); }
  Moment stopped_until() const { return no_room_until_; }

  // What will be read next is known, and was asked for.
  void SetProfiled() { profiled_ = true; }
  // Spans [first, last) are read: how many of those that follow to fetch.
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
