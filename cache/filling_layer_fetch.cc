// SPDX-License-Identifier: Apache-2.0
// The part of FillingLayer that requests and receives bytes: chooses the spans of the next request,
// and handles its bytes and failures.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>

#include "base/log.h"
#include "base/monotonic.h"
#include "base/status.h"
#include "base/text.h"
#include "cache/filling_layer_parts.h"
#include "cache/received_bytes.h"

namespace imagefs {
namespace {

// Limit on the blob bytes of one request, by priority. A reader waits only for its own span,
// whatever follows in the same request, but the link is busy for the whole request.
constexpr std::array<uint64_t, 4> kMaxBatchBytes = {512 << 10, 512 << 10, 2 << 20, 4 << 20};
// Spans that are this close in the blob share a request: cheaper than another round trip.
constexpr uint64_t kMaxGapBytes = 16 << 10;
// A request that needs more memory than this waits for it.
constexpr uint64_t kLargeBytes = 8 << 20;
constexpr int kManyFailures = 8;  // of requests in a row
// After a failure on this machine, such as a full disk.
constexpr absl::Duration kLocalPause = absl::Seconds(1);
// Shorter silences of a request are not recorded as response times.
constexpr absl::Duration kPauseToNote = absl::Milliseconds(250);
// How long data of failed requests is kept, and of how many requests.
constexpr absl::Duration kLeftoverLife = absl::Minutes(1);
constexpr size_t kMaxLeftovers = 4;
// A request is hedged when it has been silent for this fraction of a read's time limit.
constexpr int kSilentPart = 3;
constexpr int kMaxDoublings = 10;

// Returns the bytes of a span: those of the request where they are stored, else in `buffer`.
absl::StatusOr<std::string_view> Decoded(const SpanTableReader& table, const SpanEntry& span,
                                         std::string_view blob_bytes, std::string& buffer) {
  if (span.codec == SpanCodec::kStored) return StoredData(span, blob_bytes);
  buffer.resize(span.data_bytes);
  IMAGEFS_RETURN_IF_ERROR(
      DecodeSpan(span, table.WindowOf(span), blob_bytes, absl::MakeSpan(buffer)));
  return buffer;
}

}  // namespace

// Returns the next span to request at that priority: a queued one, else a missing one.
std::optional<uint32_t> FillingLayer::NextLocked(Priority priority, Moment now) {
  if (const auto queued = spans_.NextQueued(priority); queued.has_value()) return queued;
  if (const auto parts = NextPartsLocked(priority, now); parts.has_value()) return parts->first;
  if (!readahead_->Fetches(priority, now)) return std::nullopt;
  const std::optional<uint32_t> missing = spans_.NextMissing(priority, now);
  if (!missing.has_value() || spans_.state(*missing) != State::kAbsent || !frames_.Has(*missing)) {
    return missing;
  }
  frames_.Want(frames_.Rest(*missing).second - 1, priority);
  frames_.Want(*missing, priority);  // enters the frame again, if that was evicted
  const auto parts = NextPartsLocked(priority, now);
  return parts.has_value() ? std::optional(parts->first) : std::nullopt;
}

std::optional<FillClient::Want> FillingLayer::MostUrgent(Moment now, Moment& look_again) {
  std::vector<BatchRef> silent_hedges;
  std::optional<Want> want;
  {
    absl::MutexLock lock(&mu_);
    if (cancelled_ || !failure_.ok() || sources_.empty()) return std::nullopt;
    std::erase_if(leftovers_,
                  [&](const BatchRef& batch) { return now - batch->last_byte > kLeftoverLife; });
    if (spans_.all_present()) return std::nullopt;
    // It is told when windows come.
    if (windows_ != nullptr && windows_->crowded()) return std::nullopt;
    if (now < not_before_) {
      look_again = std::min(look_again, not_before_);
      return std::nullopt;
    }
    spans_.RescanIfDue(now);
    AwaitPartsLocked();
    silent_hedges = SilentHedgesLocked(now, look_again);
    // Only after those have been counted as failures.
    const BatchRef silent = silent_hedges.empty() ? SilentLocked(now, look_again) : nullptr;
    if (silent != nullptr) want = Want{Priority::kOnDemand, silent->place.source};
    for (int p = 0; p < 4 && !want.has_value(); ++p) {
      const auto priority = static_cast<Priority>(p);
      const std::optional<uint32_t> next = NextLocked(priority, now);
      if (!next.has_value()) continue;
      const FillSources::Choice choice = sources_.Next(priority, now, nullptr);
      if (choice.when > now && spans_.state(*next) != State::kUnverified) {
        // Nothing less urgent may be requested earlier.
        look_again = std::min(look_again, choice.when);
        break;
      }
      want = Want{priority, SourceKey(*choice.source)};
    }
    look_again = std::min(look_again, spans_.rescan_at());
    if (now < readahead_->stopped_until()) {
      look_again = std::min(look_again, readahead_->stopped_until());
    }
  }
  for (const BatchRef& hedge : silent_hedges) {
    const absl::Status why = absl::DeadlineExceededError(
        StrCat(hedge->source->registry(), " is silent on two connections"));
    scheduler_.health().Failed(hedge->place, why, hedge->began, now, false);
    hedge->cancel.Cancel();
    look_again = now;
  }
  return want;
}

// Takes that span and adjacent ones that are wanted as well. After them, a low-priority request
// includes missing spans.
FillingLayer::BatchRef FillingLayer::TakeBatchLocked(uint32_t index, Priority priority,
                                                     Moment now) {
  const FillSources::Choice choice = sources_.Next(priority, now, nullptr);
  if (choice.when > now) return nullptr;
  if (!scheduler_.health().Begin(sources_.PlaceOf(*choice.source), priority, now)) return nullptr;
  uint64_t limit = kMaxBatchBytes[static_cast<size_t>(priority)];
  if (priority == Priority::kOnDemand) limit = std::max(limit, readahead_->RequestBytes(index));
  const bool missing_too = readahead_->priority() == priority;
  auto wanted = [&](uint32_t i) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    return spans_.MayBringAlong(i, priority, missing_too, now);
  };
  if (frames_.Has(index)) {
    const auto parts = NextPartsLocked(priority, now);
    if (!parts.has_value()) return nullptr;
    const auto [first, last] = *parts;
    return NewBatchLocked(first, last,
                          {table_->span(first).blob_begin, table_->span(last - 1).blob_end()},
                          priority, choice);
  }
  SpanEntry at = table_->span(index);
  ByteRange blob = {at.blob_begin, at.blob_end()};
  uint32_t first = index, last = index + 1;
  while (last < spans_.size() && wanted(last)) {
    const SpanEntry next = table_->span(last);
    if (next.blob_begin < blob.begin || next.blob_begin > blob.end + kMaxGapBytes ||
        next.blob_end() < blob.end || next.blob_end() - blob.begin > limit) {
      break;
    }
    blob.end = next.blob_end();
    ++last;
  }
  // A span that a reader waits for comes first.
  while (priority != Priority::kOnDemand && first > 0 && wanted(first - 1)) {
    const SpanEntry before = table_->span(first - 1);
    if (before.blob_begin > blob.begin || before.blob_end() + kMaxGapBytes < blob.begin ||
        before.blob_end() > blob.end || blob.end - before.blob_begin > limit) {
      break;
    }
    blob.begin = before.blob_begin;
    --first;
  }
  return NewBatchLocked(first, last, blob, priority, choice);
}

FillingLayer::BatchRef FillingLayer::NewBatchLocked(uint32_t first, uint32_t last, ByteRange blob,
                                                    Priority priority, FillSources::Choice choice) {
  auto batch = std::make_shared<Batch>();
  batch->first = batch->next = first;
  batch->last = last;
  batch->blob = blob;
  batch->priority = std::make_shared<LivePriority>(priority);
  batch->place = sources_.PlaceOf(*choice.source);
  anonymous_ &= choice.source->anonymous();
  batch->source = std::move(choice.source);
  batch->began = batch->last_byte = choice.when;
  uint64_t largest = 0;
  for (uint32_t i = first; i < last; ++i) {
    frames_.Has(i) ? frames_.SetInFlight(i) : spans_.SetInFlight(i, priority);
    largest = std::max<uint64_t>(largest, table_->span(i).data_bytes);
  }
  batch->memory = blob.size() + largest;
  batches_.push_back(batch);
  return batch;
}

FillingLayer::Run FillingLayer::AwaitedLocked(const Batch& batch) const {
  Run awaited = {0, 0};
  for (uint32_t i = batch.next; i < batch.last; ++i) {
    const bool needed = frames_.Has(i) ? frames_.Awaited(i) : waiters_.contains(i);
    if (!needed || !InFlightLocked(i)) continue;
    if (awaited.second == 0) awaited.first = i;
    awaited.second = i + 1;
  }
  return awaited;
}

absl::Duration FillingLayer::SilenceLocked(const Batch& batch) const {
  const absl::Duration deadline = deadline_.value_or(scheduler_.options().deadline);
  return std::min(scheduler_.health().Silence(batch.place), deadline / kSilentPart);
}

FillingLayer::BatchRef FillingLayer::SilentLocked(Moment now, Moment& look_again) {
  if (waiters_.empty()) return nullptr;
  for (const BatchRef& batch : batches_) {
    if (batch->hedge || batch->given_up || !batch->asked) continue;
    if (AwaitedLocked(*batch).second == 0) continue;
    const Moment silent_at = batch->last_byte + SilenceLocked(*batch);
    if (now < silent_at) {
      look_again = std::min(look_again, silent_at);
      continue;
    }
    batch->slot.YieldSlot();
    const BatchRef hedge = batch->twin.lock();
    if (hedge != nullptr && !hedge->given_up) continue;
    const Moment when = sources_.Next(Priority::kOnDemand, now, batch->source.get()).when;
    if (when <= now) return batch;
    look_again = std::min(look_again, when);
  }
  return nullptr;
}

// Returns the hedges that are as silent as the requests they were started for. They make way for
// the next attempt, which the source's pauses limit. Each may be silent for twice as long as the
// previous one: if the first request is lost, one of them must outlast a source that is slow to
// answer.
std::vector<FillingLayer::BatchRef> FillingLayer::SilentHedgesLocked(Moment now,
                                                                     Moment& look_again) {
  std::vector<BatchRef> silent;
  for (const BatchRef& batch : batches_) {
    if (!batch->hedge || batch->given_up || !batch->asked) continue;
    const int64_t times = int64_t{1} << std::min(batch->hedges - 1, kMaxDoublings);
    const Moment silent_at = batch->last_byte + SilenceLocked(*batch) * times;
    if (now < silent_at) {
      look_again = std::min(look_again, silent_at);
      continue;
    }
    batch->given_up = true;
    silent.push_back(batch);
  }
  return silent;
}

// Sends a second request for the spans of a silent request that readers wait for.
FillingLayer::BatchRef FillingLayer::TakeHedgeLocked(const BatchRef& silent, Moment now) {
  FillSources::Choice choice = sources_.Next(Priority::kOnDemand, now, silent->source.get());
  if (choice.when > now) return nullptr;
  const SourceHealth::Place place = sources_.PlaceOf(*choice.source);
  if (!scheduler_.health().Begin(place, Priority::kOnDemand, now)) return nullptr;
  const auto [first, end] = AwaitedLocked(*silent);
  ByteRange blob = {table_->span(first).blob_begin, table_->span(first).blob_end()};
  uint32_t last = first + 1;
  for (; last < end; ++last) {
    const SpanEntry next = table_->span(last);
    if (!InFlightLocked(last) || next.blob_begin < blob.begin || next.blob_end() < blob.end ||
        next.blob_end() - blob.begin > kMaxBatchBytes[0]) {
      break;
    }
    blob.end = next.blob_end();
  }
  BatchRef hedge = NewBatchLocked(first, last, blob, Priority::kOnDemand, std::move(choice));
  hedge->hedge = true;
  hedge->hedges = ++silent->hedges;
  hedge->twin = silent;
  silent->twin = hedge;
  scheduler_.counters().hedges++;
  return hedge;
}

void FillingLayer::Launch(Priority priority, FillSlot slot) {
  BatchRef batch;
  std::optional<uint32_t> unverified;
  {
    absl::MutexLock lock(&mu_);
    if (cancelled_ || sources_.empty()) return;
    const Moment now = Moment::Now();
    Moment later = Moment::InfiniteFuture();
    if (const BatchRef silent = SilentLocked(now, later)) {
      batch = TakeHedgeLocked(silent, now);
    } else if (const std::optional<uint32_t> next = NextLocked(priority, now); next.has_value()) {
      if (spans_.Take(*next, State::kUnverified)) {
        unverified = next;
      } else {
        batch = TakeBatchLocked(*next, priority, now);
      }
    }
    if (batch != nullptr) batch->slot = std::move(slot);
  }
  if (batch != nullptr) Begin(batch, priority);
  if (unverified.has_value()) {
    scheduler_.work().Submit(
        std::make_shared<LivePriority>(priority),
        [self = shared_from_this(), span = *unverified, slot = std::move(slot)]() mutable {
          self->Recheck(span);
          slot.GiveBack();
        });
  }
}

// A large request waits for memory.
void FillingLayer::Begin(const BatchRef& batch, Priority priority) {
  if (download_ != nullptr && IsZstdPart(table_->span(batch->first).codec)) {
    return scheduler_.work().Submit(
        batch->priority, [self = shared_from_this(), batch] { self->BeginFromDisk(batch); });
  }
  if (TakeOver(*batch) || batch->memory <= kLargeBytes) return Request(batch);
  scheduler_.memory(priority).Take(
      batch->place.source, batch->memory, batch->cancel.token(),
      [self = shared_from_this(), batch](absl::StatusOr<ByteBudget::Lease> room) {
        if (!room.ok()) return self->OnEnd(batch, room.status());
        {
          absl::MutexLock lock(&self->mu_);
          batch->room = *std::move(room);
        }
        self->Request(batch);
      });
}

// Takes over the matching bytes that earlier requests received before they failed. Returns true if
// their memory was taken over as well.
bool FillingLayer::TakeOver(Batch& batch) {
  std::vector<BatchRef> taken;
  {
    absl::MutexLock lock(&mu_);
    std::erase_if(leftovers_, [&](const BatchRef& one) {
      if (one->blob.end <= batch.blob.begin || one->blob.begin >= batch.blob.end) return false;
      taken.push_back(one);
      return true;
    });
    for (const BatchRef& one : taken) {
      if (one->blob == batch.blob && one->room.bytes() > 0) batch.room = std::move(one->room);
    }
  }
  if (taken.empty()) return false;
  batch.bytes = std::make_unique_for_overwrite<char[]>(batch.blob.size());
  for (const BatchRef& one : taken) {
    for (const ByteRange& run : one->received.ranges()) {
      const ByteRange part = {std::max(run.begin, batch.blob.begin),
                              std::min(run.end, batch.blob.end)};
      if (part.empty()) continue;
      std::memcpy(batch.bytes.get() + (part.begin - batch.blob.begin),
                  one->bytes.get() + (part.begin - one->blob.begin), part.size());
      batch.received.Add(part);
    }
  }
  return batch.room.bytes() > 0;
}

// Names who waits for the batch in the lines about its request.
LogContext FillingLayer::ContextLocked(const Batch& batch) const {
  if (!LogEnabled(LogLevel::kDebug)) return LogContext::Current();
  const std::string layer =
      StrCat(" layer=", table_->diff_id().Short(), " spans=", batch.first, "-", batch.last);
  for (uint32_t i = batch.first; i < batch.last; ++i) {
    const auto it = waiters_.find(i);
    if (it == waiters_.end() || it->second.empty()) continue;
    const Waiter& waiter = *it->second.front();
    return LogContext(StrCat(waiter.context.text(), layer, " reader=", waiter.reader));
  }
  return LogContext(StrCat(layer, " for=", PriorityName(batch.priority->get())));
}

void FillingLayer::Request(const BatchRef& batch) {
  LogContext context;
  if (batch->bytes == nullptr) {
    batch->bytes = std::make_unique_for_overwrite<char[]>(batch->blob.size());
  }
  ImageSource::ReadOptions options(batch->priority);
  {
    absl::MutexLock lock(&mu_);
    batch->asked = true;
    batch->began = batch->last_byte = Moment::Now();
    options.anew = spans_.AnyWrong(batch->first, batch->last);
    // Recorded in the layer's own timeline.
    context = ContextLocked(*batch).With(nullptr);
  }
  const LogContext::Scope scope(std::move(context));
  scheduler_.counters().requests++;
  if (windows_ != nullptr && !windows_->complete()) {
    for (uint32_t i = batch->first; i < batch->last; ++i) {
      windows_->Want(table_->span(i).window(), batch->priority->get() == Priority::kOnDemand);
    }
  }
  options.once = true;
  options.hedge = batch->hedge;
  batch->source->ReadBlob(
      blob_, batch->received.Missing(batch->blob), std::move(options), batch->cancel.token(),
      [self = shared_from_this(), batch](uint64_t offset, std::string_view data) {
        return self->OnBytes(batch, offset, data);
      },
      [self = shared_from_this(), batch](const absl::Status& status) {
        self->OnEnd(batch, status);
      });
}

// Spans are decoded as soon as their last byte has arrived, while the rest is still being received.
// A decoder may be reading the earlier bytes, so nothing is written twice.
absl::Status FillingLayer::OnBytes(const BatchRef& batch, uint64_t offset, std::string_view data) {
  const ByteRange& blob = batch->blob;
  IMAGEFS_RETURN_IF_ERROR(TakeReceived(blob, offset, data, batch->bytes.get(), batch->received));
  batch->progress = true;
  // The blob is needed only once the layer is whole. Bytes of it that do not fit on the disk are
  // fetched again then.
  if (download_ != nullptr && scheduler_.spare()) {
    if (absl::Status kept = download_->Write(offset, data); !absl::IsResourceExhausted(kept)) {
      batch->own_failure = kept;
      IMAGEFS_RETURN_IF_ERROR(batch->own_failure);
    }
  }
  scheduler_.counters().bytes += data.size();
  const Moment now = Moment::Now();
  absl::Duration waited;
  BatchRef hedge;
  {
    absl::MutexLock lock(&mu_);
    fetched_bytes_ += data.size();
    last_byte_ = now;
    waited = now - std::exchange(batch->last_byte, now);
    if (!std::exchange(batch->answered, true)) {
      batch->answered_at = now;
      waited = std::max(waited, kPauseToNote);
    }
    // It was slow but is no longer silent: its hedge is not needed.
    hedge = batch->hedge ? nullptr : batch->twin.lock();
    if (hedge != nullptr && (hedge->answered || std::exchange(hedge->given_up, true)))
      hedge.reset();
  }
  if (waited >= kPauseToNote && scheduler_.health().Answered(batch->place, waited)) {
    scheduler_.Wake();
  }
  if (hedge != nullptr) hedge->cancel.Cancel();
  OnReceived(batch);
  return absl::OkStatus();
}

// Decodes the spans whose last byte has been received since.
void FillingLayer::OnReceived(const BatchRef& batch) {
  const uint64_t end = batch->received.ContiguousEnd(batch->blob.begin);
  uint32_t from, to;
  {
    absl::MutexLock lock(&mu_);
    from = batch->next;
    while (batch->next < batch->last && table_->span(batch->next).blob_end() <= end) ++batch->next;
    to = batch->next;
  }
  for (uint32_t span = from; span < to; ++span) DecodeLater(batch, span);
}

// Its window may still be on its way, while the layer may be given up.
void FillingLayer::DecodeLater(const BatchRef& batch, uint32_t index) {
  auto decode = [weak = weak_from_this(), batch, index] {
    const auto self = weak.lock();
    if (self == nullptr) return;
    self->scheduler_.work().Submit(batch->priority,
                                   [self, batch, index] { self->Decode(batch, index); });
  };
  const SpanEntry span = table_->span(index);
  if (IsZstdPart(span.codec)) {
    absl::ReleasableMutexLock lock(&mu_);
    if (!cancelled_ && failure_.ok()) frames_.SetHere(index, batch);
    lock.Release();
    return Feed(index);
  }
  if (windows_ == nullptr) return decode();
  windows_->When(span.window(), span.blob_bytes, std::move(decode));
}

// The index names windows that it does not have, or they cannot be had now.
void FillingLayer::OnWindowsFailed(const absl::Status& why) {
  if (absl::IsDataLoss(why)) return OnDamage(why);
  Finished finished;
  {
    absl::MutexLock lock(&mu_);
    reason_ = std::string(why.message());
    FailAllLocked(why, finished);
  }
  Deliver(std::move(finished));
}

void FillingLayer::OnEnd(const BatchRef& batch, absl::Status status) {
  bool judged;
  {
    absl::MutexLock lock(&mu_);
    if (status.ok() && batch->received.ContiguousEnd(batch->blob.begin) < batch->blob.end) {
      status = absl::DataLossError("a range of the blob ended early");
    }
    judged = !status.ok() && !cancelled_ && !batch->given_up && batch->own_failure.ok();
    if (batch->asked) timeline_->Add(batch->Event(status.ok(), Moment::Now()));
  }
  SourceHealth& health = scheduler_.health();
  int failures = 0;
  if (judged) {
    failures = health.Failed(batch->place, status, batch->began, Moment::Now(), batch->progress);
  } else {
    health.Ended(batch->place);
  }
  Finished finished;
  BatchRef loser;
  std::optional<absl::Status> certain;
  FillSlot slot;
  {
    absl::MutexLock lock(&mu_);
    loser = EndBatchLocked(batch, status, finished);
    slot = std::move(batch->slot);
    if (judged) {
      reason_ = std::string(status.message());
      certain = sources_.Certain();
      if (certain.has_value()) FailAllLocked(*certain, finished);
      if (certain.has_value() && readahead_->awaited()) readahead_->StopWantingAll();
    }
  }
  if (loser != nullptr) loser->cancel.Cancel();
  Deliver(std::move(finished));
  if (certain.has_value() || failures >= kManyFailures) {
    TellFailing(certain.value_or(status), certain.has_value());
  }
  scheduler_.Wake();
  slot.GiveBack();
}

// The callback may open files, and this may be the network thread or the timer thread.
void FillingLayer::TellFailing(const absl::Status& why, bool for_good) {
  if (!options_.failing) return;
  scheduler_.work().Submit(
      [self = shared_from_this(), why, for_good] { self->options_.failing(why, for_good); });
}

bool FillingLayer::InFlightElsewhereLocked(uint32_t span) const {
  return std::any_of(batches_.begin(), batches_.end(), [span](const BatchRef& other) {
    return !other->given_up && other->next <= span && span < other->last;
  });
}

TimelineEvent FillingLayer::Batch::Event(bool ok, Moment ended) const {
  TimelineEvent event;
  event.step = TimelineEvent::Step::kRange;
  event.failed = !ok;
  event.hedge = hedge;
  event.priority = priority->get();
  event.began = began;
  event.answered = answered_at;
  event.ended = ended;
  event.bytes = blob;
  event.detail = source->registry();
  return event;
}

// Returns the hedge, or hedged request, that is no longer needed.
FillingLayer::BatchRef FillingLayer::EndBatchLocked(const BatchRef& batch,
                                                    const absl::Status& status,
                                                    Finished& finished) {
  std::erase(batches_, batch);
  batch->given_up = true;
  const bool local = !batch->own_failure.ok();
  if (local) not_before_ = Moment::Now() + kLocalPause;
  BatchRef other = status.ok() ? batch->twin.lock() : nullptr;
  if (other != nullptr) {
    // If it has received bytes since the hedge began, it also delivers the rest of its spans.
    const bool needed = batch->hedge && other->last_byte > batch->began;
    if (needed || std::exchange(other->given_up, true)) other.reset();
  }
  for (uint32_t i = batch->next; i < batch->last; ++i) {
    if (!InFlightLocked(i) || InFlightElsewhereLocked(i)) continue;
    if (frames_.Has(i)) {
      frames_.SetAbsent(i);
      if (local) FailAllLocked(batch->own_failure, finished, {i, frames_.Rest(i).second});
      continue;
    }
    spans_.SetAbsent(i);
    if (!waiters_.contains(i)) continue;
    if (cancelled_) {
      FailSpanLocked(i, absl::CancelledError("the store closes"), finished);
    } else if (local) {
      FailSpanLocked(i, batch->own_failure, finished);
    } else {
      QueueLocked(i, Priority::kOnDemand);
    }
  }
  if (status.ok()) return other;
  if (!cancelled_ && !local && batch->received.total_bytes() > 0 && batch->next < batch->last) {
    if (leftovers_.size() >= kMaxLeftovers) leftovers_.erase(leftovers_.begin());
    leftovers_.push_back(batch);
  }
  return other;
}

// The mark is written after the bytes: after a crash of this process a mark implies the bytes. A
// missing mark only costs another fetch.
absl::Status FillingLayer::Store(uint32_t index, std::string_view bytes) {
  struct stat st;
  if (fstat(data_.get(), &st) != 0) return ErrnoStatus(errno, "the data file");
  if (static_cast<uint64_t>(st.st_size) < table_->data_bytes()) {
    // Writing would turn the truncated part into zeros.
    return absl::DataLossError("the data file was truncated");
  }
  IMAGEFS_RETURN_IF_ERROR(scheduler_.Admit(bytes.size()));
  IMAGEFS_RETURN_IF_ERROR(PwriteFull(data_.get(), bytes, table_->span(index).data_begin));
  if (absl::Status mark = present_->Set(index, Crc32c(~0U, bytes)); !mark.ok()) {
    LogDebug("span_not_marked span=", index, " cause=", mark.message());
  }
  return absl::OkStatus();
}

void FillingLayer::Decode(const BatchRef& batch, uint32_t index) {
  {
    // Only one worker decodes a span, even if two requests deliver it.
    absl::MutexLock lock(&mu_);
    if (!spans_.Take(index, State::kInFlight)) return;
  }
  const SpanEntry span = table_->span(index);
  const std::string_view blob_bytes(batch->bytes.get() + (span.blob_begin - batch->blob.begin),
                                    span.blob_bytes);
  std::string decoded;
  const Moment began = Moment::Now();
  const absl::StatusOr<std::string_view> out = Decoded(*table_, span, blob_bytes, decoded);
  absl::Status status = out.status();
  scheduler_.counters().decode.Observe(absl::ToDoubleSeconds(Moment::Now() - began));
  if (absl::Status table = table_->CheckWhole(); !table.ok()) return OnDamage(table);
  if (status.ok()) {
    scheduler_.health().Succeeded(batch->place);
    status = CompareHot(index, *out);
    if (absl::IsDataLoss(status)) return OnDamage(status);
    if (status.ok()) status = Store(index, *out);
    if (absl::IsDataLoss(status)) return OnDamage(status);
    if (!status.ok()) return OnUnstored(index, std::string(*out), status);
  }
  OnSpan(index, status, batch->source.get());
}

// Verifies bytes left by an earlier process: they are wrong if they were not on disk before a
// crash, or were overwritten.
void FillingLayer::Recheck(uint32_t index) {
  const SpanEntry span = table_->span(index);
  std::string bytes(span.data_bytes, '\0');
  const absl::StatusOr<size_t> got = PreadFull(data_.get(), absl::MakeSpan(bytes), span.data_begin);
  const bool right = got.ok() && *got == bytes.size() && present_->Holds(index, bytes);
  if (!right) ForgetHot(index).IgnoreError();
  {
    absl::MutexLock lock(&mu_);
    spans_.Uncount(index);  // OnSpan counts it again
    if (!right) {
      spans_.SetAbsent(index);
      if (waiters_.contains(index)) QueueLocked(index, Priority::kOnDemand);
    }
  }
  if (right) return OnSpan(index, present_->Set(index, Crc32c(~0U, bytes)), nullptr);
  scheduler_.Wake();
}

void FillingLayer::OnSpan(uint32_t index, const absl::Status& status, const ImageSource* source) {
  Finished finished;
  std::vector<uint32_t> unverified;
  bool all_here = false, given_up = false;
  {
    absl::MutexLock lock(&mu_);
    if (status.ok()) {
      spans_.SetPresent(index);
      if (!spans_.any_wrong()) reason_.clear();
      scheduler_.counters().spans++;
      readahead_->Resume();
      SettleLocked(index, unverified, finished);
      SettleHotLocked(unverified, finished);
      all_here = spans_.all_present() && check_ == CheckPhase::kNone && failure_.ok();
      if (all_here) check_ = CheckPhase::kWaiting;
    } else {
      // A part of a frame may be present, and was decoded again for those after it.
      if (!frames_.Has(index)) spans_.SetAbsent(index);
      reason_ = std::string(status.message());
      if (absl::IsDataLoss(status)) {
        given_up = OnWrongLocked(index, status, source, finished);
      } else {
        FailSpanLocked(index, status, finished);
        not_before_ = Moment::Now() + kLocalPause;
      }
    }
  }
  if (!status.ok()) {
    LogWarning("span_refused layer=", table_->diff_id().Short(), " span=", index,
               " cause=", status.message());
    scheduler_.Wake();
  }
  CheckUnverified(unverified);
  Deliver(std::move(finished));
  if (given_up) TellFailing(status, true);
  if (all_here) BeginCheck();
}

// Another source may have the right bytes, or this one at the next attempt. Returns true if
// attempts are now paused.
bool FillingLayer::OnWrongLocked(uint32_t index, const absl::Status& status,
                                 const ImageSource* source, Finished& finished) {
  scheduler_.counters().wrong_spans++;
  if (source != nullptr) sources_.PutLast(*source);
  const bool part = frames_.Has(index);  // what is wanted of a frame stays wanted until a pause
  if (!spans_.AddWrong(index, status, Moment::Now())) {
    if (!part) {
      QueueLocked(index, waiters_.contains(index) ? Priority::kOnDemand : Priority::kBackground);
    }
    return false;
  }
  if (part) frames_.StopWanting(Priority::kOnDemand, Priority::kBackground);
  FailAllLocked(status, finished, {index, part ? frames_.Rest(index).second : index + 1});
  // Notify those who wait for the whole.
  if (readahead_->awaited()) readahead_->StopWantingAll();
  return true;
}

}  // namespace imagefs
