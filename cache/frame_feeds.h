// SPDX-License-Identifier: Apache-2.0
// The large zstd frames of a lazy layer, whose spans can only be decoded one after another
// (SpanTableReader::frames): up to where each is decoded, what of it is wanted beyond, and which
// parts are requested or here. Bookkeeping only, like cache/span_map.h, which says what readers can
// read: a part that is decoded again for the sake of a later one is present all the time.
//
// Once a part of a frame is wanted, all of it is, in the background: what was decoded need not be
// decoded again. Not thread-safe: guarded by the layer's lock.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <tuple>
#include <utility>

#include "absl/functional/function_ref.h"
#include "base/byte_budget.h"
#include "base/executor.h"
#include "image/span_table.h"
#include "image/zstd_parts.h"

namespace imagefs {

// What decodes one frame, with its memory. Used by one worker at a time.
struct FrameDecoder {
  ByteBudget::Lease room;
  std::unique_ptr<ZstdPartsDecoder> decoder;
};

template <typename Request>  // which fetches parts
class FrameFeeds {
 public:
  using RequestRef = std::shared_ptr<Request>;
  // How many parts from the one on that is decoded next are requested at most.
  static constexpr uint32_t kMostAhead = 64;
  // The same while the frame waits for a decoder: their bytes are in memory.
  static constexpr uint32_t kMostBefore = 8;

  // REQUIRES: called once, before everything else. `table` must outlive this.
  void SetTable(const SpanTableReader& table) { table_ = &table; }
  bool Has(uint32_t span) const { return !table_->frames().empty() && NumberOf(span).has_value(); }

  // All of its frame up to that span is wanted, and the rest in the background. REQUIRES: Has, as
  // everywhere below.
  void Want(uint32_t span, Priority priority) {
    Frame& frame = FrameOf(span);
    Raise(frame.goals[static_cast<size_t>(priority)], span + 1);
    Raise(frame.goals[static_cast<size_t>(Priority::kBackground)], frame.last);
    if (span >= frame.at) return;
    frame.start_over = frame.busy;
    if (!frame.busy) frame.Rewind();
  }
  // Nothing is wanted at those priorities.
  void StopWanting(Priority from, Priority to) {
    for (auto& [number, frame] : active_) {
      for (auto p = static_cast<size_t>(from); p <= static_cast<size_t>(to); ++p) {
        frame.goals[p] = 0;
      }
    }
  }
  bool Awaited(uint32_t span) const {
    const Frame* const frame = ActiveOf(span);
    return frame != nullptr && span < frame->goals[static_cast<size_t>(Priority::kOnDemand)];
  }

  // Returns the next spans to request at that priority, [first, second), as many as `fits`.
  using Run = SpanTableReader::Frame;
  std::optional<Run> Next(Priority priority, absl::FunctionRef<bool(Run)> fits) const {
    for (const auto& [number, frame] : active_) {
      const uint32_t most = frame.decoder == nullptr ? kMostBefore : kMostAhead;
      const uint32_t end = std::min(frame.goals[static_cast<size_t>(priority)], frame.at + most);
      uint32_t first = frame.at;
      while (first < end && frame.parts.contains(first)) ++first;
      // By halves: else each part would be requested alone, when the one before it was decoded.
      if (first >= end || first - frame.at > most / 2) continue;
      uint32_t last = first + 1;
      while (last < end && !frame.parts.contains(last) && fits(Run(first, last + 1))) ++last;
      return Run(first, last);
    }
    return std::nullopt;
  }
  void SetInFlight(uint32_t span) { FrameOf(span).parts.try_emplace(span); }
  bool in_flight(uint32_t span) const {
    const Frame* const frame = ActiveOf(span);
    if (frame == nullptr) return false;
    const auto it = frame->parts.find(span);
    return it != frame->parts.end() && it->second == nullptr;
  }
  void SetAbsent(uint32_t span) { FrameOf(span).parts.erase(span); }  // it was not received
  void SetHere(uint32_t span, RequestRef request) {
    const auto it = active_.find(*NumberOf(span));
    // A second request for it may come after the frame was decoded.
    if (it == active_.end() || span < it->second.at) return;
    it->second.parts[span] = std::move(request);
  }

  // A part to decode now.
  struct Part {
    uint32_t span = 0;
    bool last = false;  // of its frame
    RequestRef request;
    std::shared_ptr<FrameDecoder> decoder;  // null: the frame begins, and needs one
  };
  // Returns the next part of the frame of `span`, if it was received. Until the caller calls
  // SetDecoder, Decoded or Failed, nobody else is given one of this frame.
  std::optional<Part> Begin(uint32_t span) {
    Frame& frame = FrameOf(span);
    if (frame.busy) return std::nullopt;
    if (std::exchange(frame.start_over, false)) frame.Rewind();
    const auto it = frame.parts.find(frame.at);
    if (it == frame.parts.end() || it->second == nullptr) return std::nullopt;
    frame.busy = true;
    return Part{frame.at, frame.at + 1 == frame.last, it->second, frame.decoder};
  }
  // The part, which had no decoder, is decoded with this one when it is given by Begin again.
  void SetDecoder(const Part& part, FrameDecoder decoder) {
    Frame& frame = FrameOf(part.span);
    frame.busy = false;
    frame.decoder = std::make_shared<FrameDecoder>(std::move(decoder));
  }
  // `part.decoder` is now where the next one goes on.
  void Decoded(const Part& part) {
    Frame& frame = FrameOf(part.span);
    frame.busy = false;
    frame.parts.erase(frame.at++);
    frame.decoder = part.decoder;
    if (part.last) active_.erase(*NumberOf(part.span));
  }
  // Its bytes are not right, and have to be requested again.
  void Failed(const Part& part) {
    Frame& frame = FrameOf(part.span);
    frame.busy = false;
    frame.parts.erase(part.span);
  }
  // The spans of its frame from the one on that is decoded next.
  Run Rest(uint32_t span) const {
    const Frame* const frame = ActiveOf(span);
    return frame != nullptr ? Run(frame->at, frame->last) : table_->frames()[*NumberOf(span)];
  }
  // The span that must be decoded next for that one: itself, if it is no part of a frame.
  uint32_t NextOf(uint32_t span) const { return Has(span) ? Rest(span).first : span; }
  // Drops all of it, for good.
  void Clear() { active_.clear(); }

 private:
  struct Frame {
    uint32_t first = 0, last = 0;          // spans [first, last)
    uint32_t at = 0;                       // is decoded next
    std::array<uint32_t, 4> goals = {};    // by priority: all before that span is wanted
    std::map<uint32_t, RequestRef> parts;  // from `at` on; null: requested
    std::shared_ptr<FrameDecoder> decoder;
    bool busy = false;        // a part is being decoded
    bool start_over = false;  // when it is not any more

    void Rewind() {
      at = first;
      decoder = nullptr;
    }
  };
  static void Raise(uint32_t& goal, uint32_t to) { goal = std::max(goal, to); }

  std::optional<size_t> NumberOf(uint32_t span) const {
    const auto& frames = table_->frames();
    const auto it = std::upper_bound(frames.begin(), frames.end(), span,
                                     [](uint32_t at, const Run& run) { return at < run.second; });
    if (it == frames.end() || span < it->first) return std::nullopt;
    return static_cast<size_t>(it - frames.begin());
  }
  Frame& FrameOf(uint32_t span) {
    const size_t number = *NumberOf(span);
    const auto [it, is_new] = active_.try_emplace(number);
    if (is_new) {
      std::tie(it->second.first, it->second.last) = table_->frames()[number];
      it->second.at = it->second.first;
    }
    return it->second;
  }
  const Frame* ActiveOf(uint32_t span) const {
    const auto it = active_.find(*NumberOf(span));
    return it == active_.end() ? nullptr : &it->second;
  }

  const SpanTableReader* table_ = nullptr;
  std::map<size_t, Frame> active_;  // by their numbers: those of which something is wanted or here
};

}  // namespace imagefs
