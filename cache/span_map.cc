// SPDX-License-Identifier: Apache-2.0
#include "cache/span_map.h"

#include <algorithm>

namespace imagefs {

void SpanMap::SetTable(const SpanTableReader& table) {
  table_ = &table;
  spans_.resize(table.span_count());
  for (size_t i = 0; i < spans_.size(); ++i) blob_bytes_ += table.span(i).blob_bytes;
}

void SpanMap::SetFound(uint32_t span, bool verified) {
  if (verified) return SetPresent(span);
  spans_[span].state = State::kUnverified;
  const SpanEntry entry = table_->span(span);
  blob_bytes_present_ += entry.blob_bytes;
  data_bytes_present_ += entry.data_bytes;
}

void SpanMap::Queue(uint32_t span, Priority priority, Moment now) {
  Span& queued = spans_[span];
  const auto wanted = static_cast<uint8_t>(priority);
  if (queued.state == State::kQueued) {
    if (queued.priority <= wanted) return;
  } else if (queued.state != State::kAbsent) {
    return;
  }
  if (Paused(span, priority, now)) return;
  queued.state = State::kQueued;
  queued.priority = wanted;
  queues_[wanted].push_back(span);
}

void SpanMap::Unqueue(uint32_t span) {
  if (state(span) == State::kQueued) SetAbsent(span);
}

void SpanMap::Unqueue(uint32_t span, Priority priority) {
  if (spans_[span].priority == static_cast<uint8_t>(priority)) Unqueue(span);
}

void SpanMap::UnqueueReadahead() {
  for (size_t priority = 1; priority < queues_.size(); ++priority) {
    for (const uint32_t span : queues_[priority]) Unqueue(span, static_cast<Priority>(priority));
    queues_[priority].clear();
  }
}

std::optional<uint32_t> SpanMap::NextQueued(Priority priority) {
  const auto wanted = static_cast<uint8_t>(priority);
  std::deque<uint32_t>& queue = queues_[wanted];
  while (!queue.empty()) {
    const uint32_t span = queue.front();
    if (spans_[span].state == State::kQueued && spans_[span].priority == wanted) return span;
    queue.pop_front();
  }
  return std::nullopt;
}

bool SpanMap::MayRequest(uint32_t span, Priority priority, Moment now) {
  if (wrong_.empty()) return true;
  const Moment end = wrong_.PauseEnd(span, priority);
  if (end > now) rescan_at_ = std::min(rescan_at_, end);
  return end <= now;
}

std::optional<uint32_t> SpanMap::NextMissing(Priority priority, Moment now) {
  for (; scan_ < spans_.size(); ++scan_) {
    if (spans_[scan_].state != State::kAbsent && spans_[scan_].state != State::kUnverified) {
      continue;
    }
    if (MayRequest(scan_, priority, now)) return scan_;
  }
  return std::nullopt;
}

void SpanMap::RescanIfDue(Moment now) {
  if (now < rescan_at_) return;
  scan_ = 0;
  rescan_at_ = Moment::InfiniteFuture();
}

bool SpanMap::MayBringAlong(uint32_t span, Priority priority, bool missing_too, Moment now) const {
  if (Paused(span, priority, now)) return false;
  return state(span) == State::kQueued || (missing_too && state(span) == State::kAbsent);
}

void SpanMap::SetInFlight(uint32_t span, Priority priority) {
  Span& one = spans_[span];
  const auto asked = static_cast<uint8_t>(priority);
  one.priority = one.state == State::kAbsent ? asked : std::min(one.priority, asked);
  one.state = State::kInFlight;
}

ByteState SpanMap::byte_state(uint32_t span) const {
  const Span& one = spans_[span];
  if (!readable(span) && one.state != State::kUnverified) return ByteState::kAbsent;
  if (one.was_read) return ByteState::kNeeded;
  return one.priority < static_cast<uint8_t>(Priority::kBackground) ? ByteState::kPrefetched
                                                                    : ByteState::kFetched;
}

bool SpanMap::Take(uint32_t span, State from) {
  if (spans_[span].state != from) return false;
  if (from == State::kPresent) --present_;
  spans_[span].state = State::kBusy;
  return true;
}

void SpanMap::Uncount(uint32_t span) {
  const SpanEntry entry = table_->span(span);
  blob_bytes_present_ -= entry.blob_bytes;
  data_bytes_present_ -= entry.data_bytes;
}

void SpanMap::SetPresent(uint32_t span) {
  spans_[span].state = State::kPresent;
  if (!wrong_.empty()) wrong_.Remove(span);
  const SpanEntry entry = table_->span(span);
  ++present_;
  blob_bytes_present_ += entry.blob_bytes;
  data_bytes_present_ += entry.data_bytes;
}

void SpanMap::SetAbsent(uint32_t span) {
  spans_[span].state = State::kAbsent;
  scan_ = std::min(scan_, span);
}

absl::Status SpanMap::WhyPaused(uint32_t span, Priority priority, Moment now) const {
  return Paused(span, priority, now) ? wrong_.Why(span) : absl::OkStatus();
}

void SpanMap::NoteRead(uint32_t span, Moment now) {
  spans_[span].recent = true;
  last_use_ = now;
  if (was_read(span)) return;
  spans_[span].was_read = true;
  last_read_ = now;
  blob_bytes_read_ += table_->span(span).blob_bytes;
}

std::vector<uint32_t> SpanMap::TakeForEviction(uint64_t bytes,
                                               const absl::flat_hash_set<uint32_t>& wanted) {
  std::vector<uint32_t> taken;
  uint64_t freed = 0;
  for (size_t tried = 0; tried < 2 * spans_.size() && freed < bytes; ++tried) {
    const auto span = static_cast<uint32_t>(evict_from_++ % spans_.size());
    if (spans_[span].recent) {
      spans_[span].recent = false;
      continue;
    }
    if (wanted.contains(span) || !Take(span, State::kPresent)) continue;
    Uncount(span);
    freed += table_->span(span).data_bytes;
    taken.push_back(span);
  }
  return taken;
}

}  // namespace imagefs
