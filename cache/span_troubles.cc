// SPDX-License-Identifier: Apache-2.0
#include "cache/span_troubles.h"

#include <algorithm>

namespace imagefs {
namespace {

constexpr absl::Duration kFirstPause = absl::Seconds(1);

}  // namespace

bool WrongSpans::Add(uint32_t span, const absl::Status& why, Moment now) {
  Wrong& wrong = wrong_[span];
  wrong.why = why;
  wrong.last = now;
  return ++wrong.times >= kTries;
}

bool WrongSpans::Any(uint32_t first, uint32_t last) const {
  return std::any_of(wrong_.begin(), wrong_.end(),
                     [&](const auto& one) { return first <= one.first && one.first < last; });
}

Moment WrongSpans::PauseEnd(uint32_t span, Priority priority) const {
  const auto it = wrong_.find(span);
  if (it == wrong_.end() || it->second.times < kTries) return Moment::InfinitePast();
  const absl::Duration pause =
      kFirstPause * (int64_t{1} << std::min(it->second.times - kTries, 20));
  return it->second.last + std::min(pause, most_[static_cast<size_t>(priority)]);
}

void TimedOutReads::Add(ReaderId reader, ByteRange range, const absl::Status& why, Moment now) {
  if (reader == 0) return;
  timed_out_.push_back({reader, range, now + kSameRead, why});
  if (timed_out_.size() > kMaxEntries) timed_out_.pop_front();
}

absl::Status TimedOutReads::Find(ReaderId reader, ByteRange range, Moment now) {
  while (!timed_out_.empty() && timed_out_.front().until <= now) timed_out_.pop_front();
  if (reader == 0) return absl::OkStatus();
  for (Entry& entry : timed_out_) {
    if (entry.reader != reader || range.end <= entry.range.begin ||
        range.begin >= entry.range.end + kReach) {
      continue;
    }
    entry.range = {std::min(entry.range.begin, range.begin), std::max(entry.range.end, range.end)};
    return entry.why;
  }
  return absl::OkStatus();
}

}  // namespace imagefs
