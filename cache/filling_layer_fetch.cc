// The part of FillingLayer that asks for bytes and takes them: which spans make the next request,
// what becomes of its bytes, and of its failures.
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstring>

#include "base/log.h"
#include "base/monotonic.h"
#include "base/status.h"
#include "base/text.h"
#include "cache/filling_layer_parts.h"

namespace imagefs {
namespace {

// Bytes of the blob that one request asks for at most, by priority. A reader waits for its own span
// only, whatever comes behind it in the same request, but the link is taken for so long.
constexpr std::array<uint64_t, 4> kMaxBatchBytes = {512 << 10, 512 << 10, 2 << 20, 4 << 20};
// Two spans of the blob so close to each other are one request: cheaper than another round trip.
constexpr uint64_t kMaxGapBytes = 16 << 10;
// A request that takes more memory than this waits until there is room for it.
constexpr uint64_t kLargeBytes = 8 << 20;
constexpr uint8_t kMaxWrong = 3;  // times that a span's bytes are wrong
constexpr int kManyFailures = 5;  // of requests in a row
constexpr absl::Duration kFirstBackoff = absl::Milliseconds(250);
constexpr absl::Duration kMaxBackoff = absl::Seconds(8);
// What nobody waits for is left alone for so long after a failure that does not pass by itself.
constexpr absl::Duration kIdlePause = absl::Seconds(30);

}  // namespace

// The next span to ask for at that priority: what was queued, else what is missing.
std::optional<uint32_t> FillingLayer::NextLocked(Priority priority) {
  const auto p = static_cast<size_t>(priority);
  std::deque<uint32_t>& queue = queues_[p];
  while (!queue.empty()) {
    const uint32_t index = queue.front();
    if (spans_[index].state == State::kQueued && spans_[index].priority == p) return index;
    queue.pop_front();
  }
  const Priority all = want_all_.value_or(Priority::kBackground);
  if (priority != all || (!want_all_.has_value() && !scheduler_.options().background)) {
    return std::nullopt;
  }
  for (; sweep_ < spans_.size(); ++sweep_) {
    if (spans_[sweep_].state == State::kAbsent) return sweep_;
    if (spans_[sweep_].state == State::kSuspect) return sweep_;
  }
  return std::nullopt;
}

std::optional<FillClient::Want> FillingLayer::MostUrgent(Moment now) {
  absl::MutexLock lock(&mu_);
  if (cancelled_ || !poison_.ok() || sources_.empty() || now < not_before_) return std::nullopt;
  if (present_count_ == spans_.size()) return std::nullopt;
  const int least = now < idle_before_ ? static_cast<int>(Priority::kReadahead) : 4;
  for (int p = 0; p < least; ++p) {
    const auto priority = static_cast<Priority>(p);
    if (NextLocked(priority).has_value()) return Want{priority, SourceKey(*SourceLocked())};
  }
  return std::nullopt;
}

// That span and its neighbours that are wanted as well. Behind them a request of low urgency takes
// what is missing.
std::shared_ptr<FillingLayer::Batch> FillingLayer::TakeBatchLocked(uint32_t index,
                                                                   Priority priority) {
  const uint64_t limit = kMaxBatchBytes[static_cast<size_t>(priority)];
  const bool sweeping = want_all_.value_or(Priority::kBackground) == priority;
  auto wanted = [&](uint32_t i) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    return spans_[i].state == State::kQueued || (sweeping && spans_[i].state == State::kAbsent);
  };
  AccessSpan at = access_->span(index);
  ByteRange blob = {at.blob_begin, at.blob_end()};
  uint32_t first = index, last = index + 1;
  while (last < spans_.size() && wanted(last)) {
    const AccessSpan next = access_->span(last);
    if (next.blob_begin < blob.begin || next.blob_begin > blob.end + kMaxGapBytes ||
        next.blob_end() < blob.end || next.blob_end() - blob.begin > limit) {
      break;
    }
    blob.end = next.blob_end();
    ++last;
  }
  // What a reader waits for comes first.
  while (priority != Priority::kOnDemand && first > 0 && wanted(first - 1)) {
    const AccessSpan before = access_->span(first - 1);
    if (before.blob_begin > blob.begin || before.blob_end() + kMaxGapBytes < blob.begin ||
        before.blob_end() > blob.end || blob.end - before.blob_begin > limit) {
      break;
    }
    blob.begin = before.blob_begin;
    --first;
  }
  for (uint32_t i = first; i < last; ++i) {
    spans_[i].state = State::kInFlight;
  }
  auto batch = std::make_shared<Batch>();
  batch->first = batch->next = first;
  batch->last = last;
  batch->blob = blob;
  batch->priority = std::make_shared<LivePriority>(priority);
  batch->source = SourceLocked();
  anonymous_ &= batch->source->anonymous();
  uint64_t largest = 0;
  for (uint32_t i = first; i < last; ++i) {
    largest = std::max<uint64_t>(largest, access_->span(i).data_bytes);
  }
  batch->memory = blob.size() + largest;
  batches_.push_back(batch);
  return batch;
}

void FillingLayer::Launch(Priority priority, FillSlot slot) {
  std::shared_ptr<Batch> batch;
  std::optional<uint32_t> suspect;
  {
    absl::MutexLock lock(&mu_);
    if (cancelled_ || sources_.empty()) return;
    const std::optional<uint32_t> next = NextLocked(priority);
    if (!next.has_value()) return;
    if (spans_[*next].state == State::kSuspect) {
      spans_[*next].state = State::kInFlight;
      suspect = next;
    } else {
      batch = TakeBatchLocked(*next, priority);
    }
  }
  if (suspect.has_value()) {
    return scheduler_.work().Submit(
        std::make_shared<LivePriority>(priority),
        [self = shared_from_this(), span = *suspect, slot = std::move(slot)]() mutable {
          self->Recheck(span);
          slot.GiveBack();
        });
  }
  if (batch->memory <= kLargeBytes) return Request(batch, std::move(slot));
  scheduler_.memory(priority).Take(SourceKey(*batch->source), batch->memory, cancel_.token(),
                                   [self = shared_from_this(), batch, slot = std::move(slot)](
                                       absl::StatusOr<ByteBudget::Lease> room) mutable {
                                     if (room.ok()) {
                                       batch->room = *std::move(room);
                                       return self->Request(batch, std::move(slot));
                                     }
                                     self->OnEnd(batch, room.status());
                                     slot.GiveBack();
                                   });
}

void FillingLayer::Request(const std::shared_ptr<Batch>& batch, FillSlot slot) {
  batch->bytes = std::make_unique_for_overwrite<char[]>(batch->blob.size());
  scheduler_.counters().requests++;
  batch->source->ReadBlob(
      blob_, {batch->blob}, batch->priority, cancel_.token(),
      [self = shared_from_this(), batch](uint64_t offset, std::string_view data) {
        return self->OnBytes(batch, offset, data);
      },
      [self = shared_from_this(), batch,
       slot = std::move(slot)](const absl::Status& status) mutable {
        self->OnEnd(batch, status);
        slot.GiveBack();
      });
}

// Spans are decoded as soon as their last byte is here, while the rest still comes. A decoder may
// be looking at what came before, so nothing is written twice.
absl::Status FillingLayer::OnBytes(const std::shared_ptr<Batch>& batch, uint64_t offset,
                                   std::string_view data) {
  const ByteRange& blob = batch->blob;
  if (offset < blob.begin || offset > blob.end || data.size() > blob.end - offset) {
    return absl::InternalError("bytes that were not asked for");
  }
  const ByteRange here = {offset, offset + data.size()};
  for (const ByteRange& part : batch->received.Missing(here)) {
    std::memcpy(batch->bytes.get() + (part.begin - blob.begin), data.data() + (part.begin - offset),
                part.size());
  }
  batch->received.Add(here);
  if (spool_ != nullptr) IMAGEFS_RETURN_IF_ERROR(spool_->Write(offset, data));
  scheduler_.counters().bytes += data.size();
  {
    absl::MutexLock lock(&mu_);
    fetched_bytes_ += data.size();
  }
  const uint64_t end = batch->received.ContiguousEnd(blob.begin);
  while (batch->next < batch->last && access_->span(batch->next).blob_end() <= end) {
    const uint32_t span = batch->next++;
    scheduler_.work().Submit(
        batch->priority, [self = shared_from_this(), batch, span] { self->Decode(batch, span); });
  }
  return absl::OkStatus();
}

void FillingLayer::OnEnd(const std::shared_ptr<Batch>& batch, absl::Status status) {
  if (status.ok() && batch->next < batch->last) {
    status = absl::DataLossError("a range of the blob ended early");
  }
  Finished finished;
  bool failing = false, later = false;
  {
    absl::MutexLock lock(&mu_);
    std::erase(batches_, batch);
    bool again = false;
    if (status.ok()) {
      failures_ = 0;
    } else if (!cancelled_) {
      reason_ = std::string(status.message());
      const absl::Duration pause =
          std::min(kMaxBackoff, kFirstBackoff * (1 << std::min(failures_++, 10)));
      if (IsCredentialFailure(status) && sources_.size() > 1) {
        // Somebody else's authorisation may do.
        std::erase(sources_, batch->source);
        again = true;
      } else if (IsRetriable(status)) {
        later = true;
        not_before_ = Moment::Now() + pause;
        not_before_timer_ = scheduler_.WakeAt(not_before_);
        std::rotate(sources_.begin(), sources_.begin() + 1, sources_.end());
        again = true;
      } else {
        // Readers are told and may ask again at once; what nobody waits for has time.
        later = true;
        idle_before_ = Moment::Now() + std::max(pause, kIdlePause);
        idle_timer_ = scheduler_.WakeAt(idle_before_);
      }
    }
    failing = !status.ok() && !cancelled_ && (!again || failures_ >= kManyFailures);
    for (uint32_t i = batch->next; i < batch->last; ++i) {
      if (spans_[i].state != State::kInFlight) continue;
      spans_[i].state = State::kAbsent;
      if (!waiters_.contains(i)) continue;
      if (again) {
        QueueLocked(i, Priority::kOnDemand);
      } else {
        FailSpanLocked(i, cancelled_ ? absl::CancelledError("the store closes") : status, finished);
      }
    }
    if (!status.ok()) sweep_ = 0;
  }
  if (later) {
    LogWarning("fill_failed layer=", access_->diff_id().Short(), " cause=", status.message());
  }
  Deliver(std::move(finished));
  if (failing && options_.failing) options_.failing(status);
}

absl::Status FillingLayer::Store(const AccessSpan& span, std::string_view blob_bytes) {
  std::string out(span.data_bytes, '\0');
  IMAGEFS_RETURN_IF_ERROR(
      DecodeSpan(span, access_->WindowOf(span), blob_bytes, absl::MakeSpan(out)));
  return PwriteFull(data_.get(), out, span.data_begin);
}

void FillingLayer::Decode(const std::shared_ptr<Batch>& batch, uint32_t index) {
  const AccessSpan span = access_->span(index);
  absl::Status status =
      Store(span, std::string_view(batch->bytes.get() + (span.blob_begin - batch->blob.begin),
                                   span.blob_bytes));
  // The mark is written after the bytes: whoever finds it, after a crash of this process, finds
  // them as well.
  if (status.ok()) status = PwriteFull(present_.get(), std::string_view("\1", 1), index);
  OnSpan(index, status);
}

// Bytes of an earlier boot: what was not on disk before the crash is not what it should be.
void FillingLayer::Recheck(uint32_t index) {
  const AccessSpan span = access_->span(index);
  std::string bytes(span.data_bytes, '\0');
  const absl::StatusOr<size_t> got = PreadFull(data_.get(), absl::MakeSpan(bytes), span.data_begin);
  if (got.ok() && *got == bytes.size() && Sha256Of(bytes) == span.digest) {
    return OnSpan(index, absl::OkStatus());
  }
  absl::MutexLock lock(&mu_);
  spans_[index].state = State::kAbsent;
  sweep_ = 0;
  if (waiters_.contains(index)) QueueLocked(index, Priority::kOnDemand);
  scheduler_.Wake();
}

void FillingLayer::OnSpan(uint32_t index, const absl::Status& status) {
  Finished finished;
  std::vector<uint32_t> suspects;
  bool all_here = false, failing = false;
  {
    absl::MutexLock lock(&mu_);
    Span& span = spans_[index];
    if (status.ok()) {
      const AccessSpan about = access_->span(index);
      span.state = State::kPresent;
      span.failures = 0;
      ++present_count_;
      present_blob_bytes_ += about.blob_bytes;
      present_data_bytes_ += about.data_bytes;
      scheduler_.counters().spans++;
      if (const auto it = waiters_.find(index); it != waiters_.end()) {
        const std::vector<WaiterRef> waited = std::move(it->second);
        waiters_.erase(it);
        for (const WaiterRef& waiter : waited) {
          if (--waiter->missing > 0 || waiter->over) continue;
          // What came first may have been evicted before the last came.
          if (!ArmLocked(waiter, suspects)) continue;
          waiter->over = true;
          --waiting_;
          finished.emplace_back(waiter, absl::OkStatus());
        }
      }
      all_here = present_count_ == spans_.size() && !checking_ && poison_.ok();
      checking_ |= all_here;
    } else {
      span.state = State::kAbsent;
      sweep_ = 0;
      reason_ = std::string(status.message());
      const bool wrong = absl::IsDataLoss(status);
      if (wrong) scheduler_.counters().wrong_spans++;
      if (wrong && ++span.failures < kMaxWrong) {
        QueueLocked(index, waiters_.contains(index) ? Priority::kOnDemand : Priority::kBackground);
      } else {
        FailSpanLocked(index, status, finished);
        failing = wrong;
        // Not for ever: whoever asks next gets three more tries.
        span.failures = 0;
        idle_before_ = Moment::Now() + kIdlePause;
        idle_timer_ = scheduler_.WakeAt(idle_before_);
      }
    }
  }
  if (!status.ok()) {
    LogWarning("span_refused layer=", access_->diff_id().Short(), " span=", index,
               " cause=", status.message());
    scheduler_.Wake();
  }
  CheckSuspects(suspects);
  Deliver(std::move(finished));
  if (failing && options_.failing) options_.failing(status);
  if (all_here) BeginCheck();
}

}  // namespace imagefs
