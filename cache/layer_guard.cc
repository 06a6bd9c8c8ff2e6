// SPDX-License-Identifier: Apache-2.0
#include "cache/layer_guard.h"

#include <fcntl.h>

#include <utility>

#include "base/failure.h"
#include "base/fd.h"
#include "base/log.h"

namespace imagefs {

void LayerGuard::Ensure(ByteRange range, ReaderId reader, CancelToken cancel, Done done) {
  absl::Status failed;
  LayerRef layer;
  {
    absl::MutexLock lock(&mu_);
    failed = failed_;
    layer = filling_;
  }
  if (!failed.ok()) return done(failed);
  if (layer != nullptr)
    return layer->keeper()->Ensure(range, reader, std::move(cancel), std::move(done));
  if (readable()) return done(ReadPin());
  work_.Submit(
      std::make_shared<LivePriority>(Priority::kOnDemand),
      [self = shared_from_this(), range, reader, cancel = std::move(cancel),
       done = std::move(done)]() mutable { self->Check(range, reader, cancel, std::move(done)); });
}

bool LayerGuard::complete() const {
  // The usual case takes no lock.
  if (readable()) return true;
  absl::MutexLock lock(&mu_);
  return failed_.ok() && (filling_ == nullptr || filling_->complete());
}

void LayerGuard::AllowWaiting(absl::Duration at_most) {
  LayerRef layer;
  {
    absl::MutexLock lock(&mu_);
    deadline_ = std::max(deadline_, at_most);
    layer = filling_;
  }
  if (layer != nullptr && layer->fill != nullptr) layer->fill->AllowWaiting(at_most);
}

void LayerGuard::Check(ByteRange range, ReaderId reader, const CancelToken& cancel, Done done) {
  if (SpansHold(range)) return done(ReadPin());
  check_whole_();
  absl::Status failed;
  LayerRef layer;
  {
    absl::MutexLock lock(&mu_);
    failed = failed_;
    layer = filling_;
  }
  if (layer != nullptr) return layer->keeper()->Ensure(range, reader, cancel, std::move(done));
  if (failed.ok() && !readable()) {
    failed = WithKind(absl::UnavailableError("the layer was changed while it was checked"),
                      FailureKind::kOther);
  }
  failed.ok() ? done(ReadPin()) : done(failed);
}

// Returns whether all of the range is in spans that match their digests. Data behind the last span
// are copies that no span digest covers.
bool LayerGuard::SpansHold(ByteRange range) {
  std::shared_ptr<const SpanTableReader> span_table;
  const uint64_t rechecks = this->rechecks();
  {
    absl::MutexLock lock(&mu_);
    if (table_ == nullptr) {
      absl::StatusOr<std::unique_ptr<SpanTableReader>> opened =
          SpanTableReader::Open(directory_ + "/access");
      if (!opened.ok()) return false;
      table_ = *std::move(opened);
      right_.assign(table_->span_count(), false);
    }
    span_table = table_;
  }
  const absl::StatusOr<Fd> data = OpenFile(directory_ + "/data", O_RDONLY);
  const auto [first, last] = span_table->SpansOf(range);
  if (!data.ok() || first == last || span_table->span(last - 1).data_end() < range.end)
    return false;
  std::string bytes;
  for (size_t i = first; i < last; ++i) {
    const SpanEntry span = span_table->span(i);
    {
      absl::MutexLock lock(&mu_);
      if (right_[i]) continue;
    }
    if (span.digest_of != SpanDigest::kOfData) return false;
    bytes.resize(span.data_bytes);
    if (!PreadExact(data->get(), absl::MakeSpan(bytes), span.data_begin, "data").ok() ||
        Sha256Of(bytes) != span.digest) {
      return false;
    }
    absl::MutexLock lock(&mu_);
    if (this->rechecks() != rechecks) return false;
    right_[i] = true;
  }
  return true;
}

void LayerGuard::Recheck() {
  absl::MutexLock lock(&mu_);
  rechecks_.fetch_add(1, std::memory_order_acq_rel);
  trusted_.store(false, std::memory_order_release);
  right_.assign(right_.size(), false);
}

void LayerGuard::Trust(uint64_t rechecks) {
  absl::MutexLock lock(&mu_);
  if (rechecks != this->rechecks() || filling_ != nullptr || !failed_.ok()) return;
  trusted_.store(true, std::memory_order_release);
}

void LayerGuard::FillFrom(LayerRef layer) {
  absl::MutexLock lock(&mu_);
  trusted_.store(false, std::memory_order_release);
  if (deadline_ > absl::ZeroDuration() && layer->fill != nullptr) {
    layer->fill->AllowWaiting(deadline_);
  }
  filling_ = std::move(layer);
}

void LayerGuard::Fail(const absl::Status& why) {
  absl::MutexLock lock(&mu_);
  trusted_.store(false, std::memory_order_release);
  failed_ = why;
}

void LayerGuard::Heal() {
  absl::MutexLock lock(&mu_);
  failed_ = absl::OkStatus();
  trusted_.store(true, std::memory_order_release);
}

LayerRef LayerGuard::filling() const {
  absl::MutexLock lock(&mu_);
  return filling_;
}

}  // namespace imagefs
