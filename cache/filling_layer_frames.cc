// SPDX-License-Identifier: Apache-2.0
// The part of FillingLayer for zstd frames that can only be decoded from their beginning: their
// parts are requested in order, up to what readers wait for and then to the end, and are decoded
// one after another, each as it comes.
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/log.h"
#include "base/status.h"
#include "base/text.h"
#include "cache/filling_layer.h"
#include "cache/filling_layer_parts.h"

namespace imagefs {
namespace {

constexpr uint64_t kMaxPartsBytes = 4 << 20;  // of one request

}  // namespace

void FillingLayer::QueueLocked(uint32_t span, Priority priority) {
  if (!frames_.Has(span)) return spans_.Queue(span, priority, Moment::Now());
  // AwaitPartsLocked finds those that readers wait for.
  if (priority == Priority::kOnDemand || spans_.state(span) != State::kAbsent) return;
  if (spans_.WhyPaused(frames_.NextOf(span), priority, Moment::Now()).ok()) {
    frames_.Want(span, priority);
  }
}

void FillingLayer::AwaitPartsLocked() {
  if (table_->frames().empty()) return;
  frames_.StopWanting(Priority::kOnDemand, Priority::kOnDemand);
  for (const auto& [span, waiters] : waiters_) {
    if (!frames_.Has(span) || spans_.state(span) != State::kAbsent) continue;
    frames_.Want(span, Priority::kOnDemand);
  }
}

std::optional<FillingLayer::Run> FillingLayer::NextPartsLocked(Priority priority, Moment now) {
  auto fits = [this](Run run) {
    return table_->span(run.second - 1).blob_end() - table_->span(run.first).blob_begin <=
           kMaxPartsBytes;
  };
  const auto parts = frames_.Next(priority, fits);
  if (parts.has_value() && !spans_.MayRequest(parts->first, priority, now)) return std::nullopt;
  return parts;
}

bool FillingLayer::InFlightLocked(uint32_t span) const {
  return frames_.Has(span) ? frames_.in_flight(span) : spans_.state(span) == State::kInFlight;
}

// Decodes the next part of the frame of that span, if it is here and no other one is being decoded.
void FillingLayer::Feed(uint32_t span) {
  std::optional<FramePart> part;
  {
    absl::MutexLock lock(&mu_);
    if (!cancelled_ && failure_.ok()) part = frames_.Begin(span);
  }
  if (!part.has_value()) return;
  const PriorityRef priority = part->request->priority;
  scheduler_.work().Submit(priority, [weak = weak_from_this(), part = *std::move(part)] {
    if (const auto self = weak.lock()) self->DecodePart(part);
  });
}

// A frame that is entered again, after a restart, is not fetched again as far as its blob was kept.
void FillingLayer::BeginFromDisk(const BatchRef& batch) {
  TakeOver(*batch);
  if (batch->bytes == nullptr) {
    batch->bytes = std::make_unique_for_overwrite<char[]>(batch->blob.size());
  }
  const absl::StatusOr<size_t> kept = download_->ReadPresent(
      absl::MakeSpan(batch->bytes.get(), batch->blob.size()), batch->blob.begin);
  if (kept.ok()) batch->received.Add({batch->blob.begin, batch->blob.begin + *kept});
  OnReceived(batch);
  if (batch->received.Contains(batch->blob)) return OnEnd(batch, absl::OkStatus());
  Request(batch);
}

// Waits for the memory of a decoder, without a thread.
void FillingLayer::TakeDecoder(const FramePart& part) {
  const Batch& batch = *part.request;
  const SpanEntry span = table_->span(part.span);
  const absl::StatusOr<uint64_t> memory = ZstdPartsMemory(
      std::string_view(batch.bytes.get() + (span.blob_begin - batch.blob.begin), span.blob_bytes));
  if (!memory.ok()) return OnDamage(memory.status());
  auto got = [weak = weak_from_this(), part](absl::StatusOr<ByteBudget::Lease> room) {
    const auto self = weak.lock();
    if (self == nullptr || !room.ok()) return;  // the store closes
    auto decoder = ZstdPartsDecoder::Create();
    if (!decoder.ok()) return self->OnDamage(decoder.status());
    {
      absl::MutexLock lock(&self->mu_);
      self->frames_.SetDecoder(part, {*std::move(room), *std::move(decoder)});
    }
    self->Feed(part.span);
  };
  scheduler_.decoders_memory().Take(batch.place.source, *memory, cancel_.token(), std::move(got));
}

void FillingLayer::DecodePart(const FramePart& part) {
  const SpanEntry span = table_->span(part.span);
  const Batch& batch = *part.request;
  const std::string_view blob_bytes(batch.bytes.get() + (span.blob_begin - batch.blob.begin),
                                    span.blob_bytes);
  // A decoder that was given wrong bytes would have to begin anew.
  if (absl::Status right = CheckBlobBytes(span, blob_bytes); !right.ok()) {
    return OnWrongPart(part, right);
  }
  if (part.decoder == nullptr) return TakeDecoder(part);
  std::string data(span.data_bytes, '\0');
  const Moment began = Moment::Now();
  absl::Status status = part.decoder->decoder->Next(blob_bytes, absl::MakeSpan(data), part.last);
  scheduler_.counters().decode.Observe(absl::ToDoubleSeconds(Moment::Now() - began));
  // The bytes are those that the table names, so it is the table that is false.
  if (!status.ok()) return OnDamage(status);
  scheduler_.health().Succeeded(batch.place);
  bool missing;
  {
    // It may be there already, and be decoded for those after it.
    absl::MutexLock lock(&mu_);
    missing = spans_.Take(part.span, State::kAbsent);
  }
  if (missing) {
    status = CompareHot(part.span, data);
    if (status.ok()) status = Store(part.span, data);
    if (absl::IsDataLoss(status)) return OnDamage(status);
    status.ok() ? OnSpan(part.span, status, batch.source.get())
                : OnUnstored(part.span, std::move(data), status);
  }
  {
    absl::MutexLock lock(&mu_);
    frames_.Decoded(part);
  }
  if (!part.last) Feed(part.span + 1);
  scheduler_.Wake();
}

void FillingLayer::OnWrongPart(const FramePart& part, const absl::Status& why) {
  if (download_ != nullptr) {
    const SpanEntry span = table_->span(part.span);
    const absl::Status dropped = download_->Drop({span.blob_begin, span.blob_end()});
    if (!dropped.ok()) LogDebug("blob_not_dropped cause=", dropped.message());
  }
  {
    absl::MutexLock lock(&mu_);
    frames_.Failed(part);
  }
  OnSpan(part.span, why, part.request->source.get());
}

}  // namespace imagefs
