// SPDX-License-Identifier: Apache-2.0
// What is fetched of a layer although no reader waits for it: what readers will probably read next
// (docs/adr/0027-read-ahead.md), the whole layer, or nothing while the disk is full.
//
// Not thread-safe: guarded by the layer's lock.
#pragma once

#include <algorithm>
#include <cstdint>
#include <optional>
#include <utility>
#include <vector>

#include "base/byte_range.h"
#include "base/executor.h"
#include "base/monotonic.h"
#include "cache/file_runs.h"
#include "cache/read_streams.h"
#include "cache/span_map.h"
#include "image/span_table.h"

namespace imagefs {

class Readahead {
 public:
  // `background`: fetch the whole layer in the background even if nobody asked for it. Without
  // `guess`, only sequential readers are read ahead of.
  explicit Readahead(bool background, bool guess = true)
      : background_(background), guesses_(guess) {}

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

  // The upcoming reads are known from a profile and were requested: nothing is guessed.
  void SetProfiled() {
    profiled_ = true;
    guesses_ = false;
  }
  // Returns true, once, if guesses need the files of the layer.
  bool AsksForFiles() { return guesses_ && !std::exchange(asked_for_files_, true); }
  // Returns the absent spans to fetch of files that were read before the files were known.
  std::vector<uint32_t> SetFiles(FileRuns files, const SpanTableReader& table, SpanMap& spans);

  // Limits of what is guessed, in bytes of the blob. Guesses that no reader used yet are at most
  // kMostUnused, a quarter of what readers asked for beyond them, and as much as was used of
  // earlier ones.
  static constexpr uint64_t kWholeFileBytes = 4 << 20;  // a file up to this is read ahead whole
  static constexpr uint64_t kCheapBytes = 96 << 10;     // on either side of a read, in any case
  static constexpr uint64_t kLeastAroundBytes = 192 << 10, kMostAroundBytes = 2 << 20;
  static constexpr uint64_t kMostUnused = 8 << 20;

  // A reader requests `bytes` of the data file, which are in spans [first, last). Records that they
  // are read, and returns the absent spans to fetch ahead, most likely first.
  std::vector<uint32_t> OnRead(ByteRange bytes, uint32_t first, uint32_t last,
                               const SpanTableReader& table, SpanMap& spans, Moment now);
  // How many bytes of the blob, from that span on, a reader in sequence is best served with by one
  // request; 0 if it is no such reader.
  uint64_t RequestBytes(uint32_t span) const {
    return std::min(streams_.AheadOf(span) / 2, kMostAtOnce);
  }
  static constexpr uint64_t kMostAtOnce = 4 << 20;

 private:
  class Guesses;

  const bool background_;
  std::optional<Priority> want_all_;
  Moment no_room_until_ = Moment::InfinitePast();
  bool guesses_, profiled_ = false, asked_for_files_ = false;
  ReadStreams streams_;
  FileRuns files_;
  static constexpr size_t kMostEarly = 16;
  std::vector<ByteRange> early_;  // reads before the files were known
  int64_t credit_ = kMostUnused;  // bytes that may still be guessed
};

}  // namespace imagefs
