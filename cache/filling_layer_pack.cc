// SPDX-License-Identifier: Apache-2.0
// The part of FillingLayer for pages of a hot pack. They are written to the data file before their
// spans come, and readers get them from there; nothing is recorded as present. When a span comes,
// what the pack brought of it is compared. If it differs, the pack has lied: if a reader got any
// page of it, the layer is damaged, as by a false index; otherwise nothing more of it is used.
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <string>
#include <utility>

#include "base/log.h"
#include "base/status.h"
#include "cache/filling_layer_parts.h"

namespace imagefs {
namespace {

// Unpacking a frame takes less, and so does decoding a span.
constexpr absl::Duration kUnpacking = absl::Milliseconds(5);

ByteRange Intersection(ByteRange a, ByteRange b) {
  return {std::max(a.begin, b.begin), std::min(a.end, b.end)};
}

}  // namespace

bool FillingLayer::ExpectHot(HotOffer offer, uint32_t number) {
  absl::MutexLock lock(&mu_);
  const HotPack::Layer& layer = offer.pack->layers[number];
  if (hot_.coming() || hot_.distrusted() || cancelled_ || !failure_.ok() || complete() ||
      table_->layout() != DataLayout::kTar || layer.diff_id != table_->diff_id() ||
      layer.data_bytes != table_->data_bytes()) {
    return false;
  }
  readahead_->SetProfiled();
  return hot_.Expect(std::move(offer), number, [this](ByteRange page) {
    mu_.AssertHeld();
    return AllReadableLocked(page);
  });
}

bool FillingLayer::AllReadableLocked(ByteRange range) const {
  const auto [first, last] = table_->SpansOf(range);
  for (size_t i = first; i < last; ++i) {
    if (!spans_.readable(static_cast<uint32_t>(i))) return false;
  }
  return true;
}

// Returns up to which byte the pack must arrive before the waiter can have its bytes: 0 if it can
// now, nullopt if the pack does not bring all that it lacks.
std::optional<uint64_t> FillingLayer::HotEndLocked(const Waiter& waiter) const {
  if (hot_.empty() || !waiter.moves.empty()) return std::nullopt;
  uint64_t end = 0;
  for (uint64_t at = waiter.range.begin; at < waiter.range.end;) {
    const uint64_t page = at / kHotPageBytes;
    const ByteRange part = {at, std::min(waiter.range.end, (page + 1) * kHotPageBytes)};
    at = part.end;
    const std::optional<uint64_t> comes_with = hot_.ComesWith(page);
    if (comes_with == 0) continue;
    if (AllReadableLocked(part)) continue;
    if (!comes_with.has_value()) return std::nullopt;
    end = std::max(end, *comes_with);
  }
  return end;
}

void FillingLayer::ServeHotLocked(Waiter& waiter) {
  waiter.over = true;
  waiter.pin.data_file = epoch_;
  if (!memory_.empty()) waiter.pin.memory = memory_.Of(this, waiter.parts);
  hot_.SetServed();
  spans_.NoteUse(Moment::Now());
  scheduler_.counters().hot_reads++;
  scheduler_.NoteDemand();
}

// Gives the waiter its bytes if pages of a pack suffice. Otherwise returns how long it should wait
// for those that are coming: not longer than its spans would take, and zero if these are faster.
absl::Duration FillingLayer::TryHotLocked(const WaiterRef& waiter) {
  if (hot_.empty() || AllHereLocked(*waiter)) return absl::ZeroDuration();
  const std::optional<uint64_t> end = HotEndLocked(*waiter);
  if (!end.has_value()) return absl::ZeroDuration();
  if (*end == 0) {
    ServeHotLocked(*waiter);
    return absl::InfiniteDuration();
  }
  waiter->cause = FillScheduler::WaitCause::kInFlight;
  hot_waiters_.push_back(waiter);
  uint64_t bytes = 0;
  const auto [first, last] = waiter->parts.front();
  for (uint32_t i = first; i < last; ++i) {
    if (!spans_.readable(i)) bytes += table_->span(i).blob_bytes;
  }
  const HotArrival& arrival = *hot_.offer().arrival;
  const absl::Duration patience = kUnpacking + arrival.OfRequest(bytes);
  return arrival.Until(*end, Moment::Now()) <= patience ? patience : absl::ZeroDuration();
}

// Gives waiters what has come; those whose pages do not come any more ask for their spans.
void FillingLayer::SettleHotLocked(Spans& unverified, Finished& finished) {
  std::vector<WaiterRef> rest;
  for (const WaiterRef& waiter : std::exchange(hot_waiters_, {})) {
    if (waiter->over) continue;
    const std::optional<uint64_t> end = HotEndLocked(*waiter);
    if (end == 0) {
      ForsakeLocked(waiter);
      ServeHotLocked(*waiter);
      finished.emplace_back(waiter, absl::OkStatus());
    } else if (end.has_value()) {
      rest.push_back(waiter);
    } else if (!waiter->asked) {
      absl::Status status = AskLocked(waiter, unverified);
      if (!waiter->over) continue;
      --waiting_;
      finished.emplace_back(waiter, std::move(status));
    }
  }
  hot_waiters_ = std::move(rest);
}

// The pack is slower than was expected. Whichever comes first now serves the waiter.
void FillingLayer::AskInstead(const WaiterRef& waiter) {
  Spans unverified;
  Finished finished;
  {
    absl::MutexLock lock(&mu_);
    if (waiter->over || waiter->asked) return;
    absl::Status status = AskLocked(waiter, unverified);
    if (waiter->over) {
      --waiting_;
      finished.emplace_back(waiter, std::move(status));
    }
  }
  scheduler_.counters().hot_late++;
  scheduler_.NoteDemand();
  CheckUnverified(unverified);
  Deliver(std::move(finished));
  scheduler_.Wake();
}

void FillingLayer::FailHotLocked(const absl::Status& why, Finished& finished) {
  for (const WaiterRef& waiter : std::exchange(hot_waiters_, {})) {
    if (waiter->over) continue;
    ForsakeLocked(waiter);
    finished.emplace_back(waiter, why);
  }
}

// Writes the pages of `range` where nobody else writes: a span that is being decoded or verified
// belongs to that worker, which waits for hot_mu_ before it compares and writes.
void FillingLayer::AddHot(ByteRange range, std::string_view bytes) {
  Spans unverified;
  Finished finished;
  {
    absl::MutexLock writing(&hot_mu_);
    std::vector<ByteRange> parts;
    {
      absl::MutexLock lock(&mu_);
      if (cancelled_ || !failure_.ok() || !hot_.coming()) return;
      const auto [first, last] = table_->SpansOf(range);
      for (auto i = static_cast<uint32_t>(first); i < last; ++i) {
        const SpanEntry span = table_->span(i);
        const ByteRange part = Intersection(range, {span.data_begin, span.data_end()});
        const State state = spans_.state(i);
        if (spans_.readable(i)) continue;
        if (state == State::kBusy || state == State::kUnverified) {
          hot_.Forget(part);
        } else if (!parts.empty() && parts.back().end == part.begin) {
          parts.back().end = part.end;
        } else {
          parts.push_back(part);
        }
      }
    }
    const absl::Status status = WriteHot(range, bytes, parts);
    if (!status.ok()) LogDebug("hot_pack.not_stored cause=", status.message());
    absl::MutexLock lock(&mu_);
    status.ok() ? hot_.SetHere(range) : hot_.Forget(range);
    SettleHotLocked(unverified, finished);
  }
  scheduler_.counters().hot_bytes += bytes.size();
  scheduler_.NoteDemand();
  CheckUnverified(unverified);
  Deliver(std::move(finished));
  scheduler_.Wake();
}

absl::Status FillingLayer::WriteHot(ByteRange range, std::string_view bytes,
                                    const std::vector<ByteRange>& parts) {
  if (parts.empty()) return absl::OkStatus();
  struct stat st;
  if (fstat(data_.get(), &st) != 0) return ErrnoStatus(errno, "the data file");
  if (static_cast<uint64_t>(st.st_size) < table_->data_bytes()) {
    return absl::DataLossError("the data file was truncated");
  }
  IMAGEFS_RETURN_IF_ERROR(scheduler_.Admit(range.size()));
  for (const ByteRange& part : parts) {
    IMAGEFS_RETURN_IF_ERROR(
        PwriteFull(data_.get(), bytes.substr(part.begin - range.begin, part.size()), part.begin));
  }
  return hot_marks_.Set(range);
}

// The data file does not have the bytes of that span any more, or not the right ones.
absl::Status FillingLayer::ForgetHot(uint32_t index) {
  const SpanEntry span = table_->span(index);
  absl::MutexLock writing(&hot_mu_);
  {
    absl::MutexLock lock(&mu_);
    hot_.Forget({span.data_begin, span.data_end()});
  }
  return hot_marks_.Clear({span.data_begin, span.data_end()});
}

void FillingLayer::EndHot(bool lied) {
  Spans unverified;
  Finished finished;
  {
    absl::MutexLock lock(&mu_);
    lied ? hot_.Distrust() : hot_.EndComing();
    SettleHotLocked(unverified, finished);
  }
  CheckUnverified(unverified);
  Deliver(std::move(finished));
  scheduler_.Wake();
}

// Compares what a pack brought of a span with its right bytes, before they take its place. Returns
// kDataLoss if a reader may have got wrong ones.
absl::Status FillingLayer::CompareHot(uint32_t index, std::string_view right) {
  const SpanEntry span = table_->span(index);
  std::vector<ByteRange> parts;
  {
    absl::MutexLock writing(&hot_mu_);
    absl::MutexLock lock(&mu_);
    parts = hot_.Here({span.data_begin, span.data_end()});
  }
  bool same = true;
  std::string bytes;
  for (const ByteRange& part : parts) {
    bytes.resize(part.size());
    IMAGEFS_ASSIGN_OR_RETURN(const size_t got,
                             PreadFull(data_.get(), absl::MakeSpan(bytes), part.begin));
    same &= got == bytes.size() && right.substr(part.begin - span.data_begin, got) == bytes;
  }
  if (same) return absl::OkStatus();
  bool served;
  std::function<void()> lied;
  {
    absl::MutexLock lock(&mu_);
    served = hot_.served();
    lied = hot_.offer().lied;
    hot_.Distrust();
  }
  scheduler_.counters().hot_wrong++;
  LogError("hot_pack.wrong layer=", table_->diff_id().Short(), " span=", index,
           " served=", served ? "yes" : "no");
  EndHot(true);
  if (lied) lied();
  if (!served) return absl::OkStatus();
  return absl::DataLossError("its hot pack had bytes that its blob does not have");
}

}  // namespace imagefs
