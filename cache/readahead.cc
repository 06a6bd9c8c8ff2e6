// SPDX-License-Identifier: Apache-2.0
#include "cache/readahead.h"

#include <algorithm>

namespace imagefs {
namespace {

// Of a neighbourhood, on either side: spans may have a few bytes each.
constexpr uint32_t kMostSpansAround = 512;
// What is read ahead of a reader in sequence is added to at once as long as it is this little.
constexpr uint64_t kAheadAtOnce = 2 << 20;

}  // namespace

// The absent spans that one read brings along.
class Readahead::Guesses {
 public:
  Guesses(const SpanTableReader& table, SpanMap& spans) : table_(table), spans_(spans) {}

  // Adds absent ones of [first, last), of at most `bytes` of the blob. Returns how many bytes.
  int64_t Add(uint32_t first, uint32_t last, int64_t bytes, bool guessed) {
    int64_t added = 0;
    for (uint32_t i = first; i < last && added < bytes; ++i) {
      if (spans_.state(i) != SpanMap::State::kAbsent) continue;
      added += table_.span(i).blob_bytes;
      if (guessed) spans_.SetGuessed(i);
      out.push_back(i);
    }
    return added;
  }

  // The part of the file that has `read`, if the file is small enough to be read ahead whole.
  std::optional<std::pair<uint32_t, uint32_t>> File(std::optional<ByteRange> file) const {
    if (!file.has_value()) return std::nullopt;
    const auto [first, last] = table_.SpansOf(*file);
    if (first == last) return std::nullopt;
    const SpanEntry begin = table_.span(first), end = table_.span(last - 1);
    if (end.blob_end() < begin.blob_begin || end.blob_end() - begin.blob_begin > kWholeFileBytes) {
      return std::nullopt;
    }
    return std::pair(static_cast<uint32_t>(first), static_cast<uint32_t>(last));
  }

  // The widest neighbourhood of [first, last) of which readers used two fifths.
  // In any case it has what is cheaper than a round trip, if the read waits for one.
  std::pair<uint32_t, uint32_t> Around(uint32_t first, uint32_t last, bool missed) const {
    const uint64_t cheap = missed ? kCheapBytes : 0;
    uint32_t from = first, to = last;
    uint64_t used = 0, all = 0, before = 0, after = 0;
    auto count = [&](uint32_t i) {
      const uint64_t bytes = table_.span(i).blob_bytes;
      all += bytes;
      if (spans_.was_read(i)) used += bytes;
      return bytes;
    };
    const uint32_t least = first > kMostSpansAround ? first - kMostSpansAround : 0;
    const auto most =
        static_cast<uint32_t>(std::min<uint64_t>(spans_.size(), uint64_t{last} + kMostSpansAround));
    for (uint32_t i = first; i < last; ++i) count(i);
    while (from > least && before + table_.span(from - 1).blob_bytes <= cheap) {
      before += count(--from);
    }
    while (to < most && after + table_.span(to).blob_bytes <= cheap) after += count(to++);
    std::pair<uint32_t, uint32_t> widest = {from, to};
    for (uint64_t radius = kLeastAroundBytes; radius <= kMostAroundBytes; radius *= 2) {
      while (from > least && before < radius) before += count(--from);
      while (to < most && after < radius) after += count(to++);
      if (5 * used >= 2 * all) widest = {from, to};
    }
    return widest;
  }

  std::vector<uint32_t> out;

 private:
  const SpanTableReader& table_;
  SpanMap& spans_;
};

std::vector<uint32_t> Readahead::SetFiles(FileRuns files, const SpanTableReader& table,
                                          SpanMap& spans) {
  files_ = std::move(files);
  Guesses guesses(table, spans);
  for (const ByteRange& read : std::exchange(early_, {})) {
    const auto whole = guesses.File(files_.At(read));
    if (stopped() || !guesses_ || !whole.has_value()) continue;
    const auto first = static_cast<uint32_t>(table.SpansOf(read).first);
    credit_ -= guesses.Add(first, whole->second, credit_, true);
    credit_ -= guesses.Add(whole->first, first, credit_, true);
  }
  return std::move(guesses.out);
}

std::vector<uint32_t> Readahead::OnRead(ByteRange bytes, uint32_t first, uint32_t last,
                                        const SpanTableReader& table, SpanMap& spans, Moment now) {
  bool fresh = false, missed = false;
  for (uint32_t i = first; i < last; ++i) {
    const SpanMap::State state = spans.state(i);
    missed |= state == SpanMap::State::kAbsent || state == SpanMap::State::kQueued;
    if (!spans.was_read(i)) {
      fresh = true;
      const int64_t size = table.span(i).blob_bytes;
      credit_ += spans.guessed(i) ? 2 * size : size / 4;
    }
    spans.NoteRead(i, now);
  }
  credit_ = std::min<int64_t>(credit_, kMostUnused);
  if (stopped() || first >= last) return {};
  const uint64_t ahead = streams_.Advance(first, last, profiled_);
  const bool guess = fresh && guesses_;
  if (ahead == 0 && !guess) return {};
  if (guess && files_.size() == 0 && early_.size() < kMostEarly) {
    early_.push_back(bytes);
  }
  const std::optional<ByteRange> file = files_.At(bytes);
  uint32_t begin = 0, end = static_cast<uint32_t>(spans.size());
  if (file.has_value()) {
    const auto [from, to] = table.SpansOf(*file);
    begin = std::min(first, static_cast<uint32_t>(from));
    end = std::max(last, static_cast<uint32_t>(to));
  }
  Guesses guesses(table, spans);
  // By halves: else a fast reader would have each span requested alone.
  uint64_t size = 0;
  uint32_t to = last;
  while (to < end && size < ahead && spans.state(to) != SpanMap::State::kAbsent) {
    size += table.span(to++).blob_bytes;
  }
  if (ahead <= kAheadAtOnce || size < ahead / 2) {
    while (to < end && size < ahead) size += table.span(to++).blob_bytes;
    guesses.Add(last, to, INT64_MAX, false);
  }
  if (!guess) return std::move(guesses.out);
  auto whole = guesses.File(file);
  if (!whole.has_value()) whole = guesses.Around(first, last, missed);
  credit_ -= guesses.Add(last, std::min(whole->second, end), credit_, true);
  credit_ -= guesses.Add(std::max(whole->first, begin), first, credit_, true);
  return std::move(guesses.out);
}

}  // namespace imagefs
