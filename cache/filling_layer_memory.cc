// SPDX-License-Identifier: Apache-2.0
// The part of FillingLayer for a disk that takes no bytes: it is full, over quota or read-only.
// Readers get their bytes from memory; nothing is recorded as present; spans that nobody waits for
// are not requested. The bytes are stored once the disk accepts writes again.
#include <memory>
#include <string>
#include <utility>

#include "base/failure.h"
#include "base/log.h"
#include "base/status.h"
#include "base/text.h"
#include "cache/filling_layer.h"
#include "cache/filling_layer_parts.h"

namespace imagefs {
namespace {

constexpr absl::Duration kStorePause = absl::Seconds(2);
constexpr absl::Duration kNoRoomPause = absl::Seconds(30);
constexpr absl::Duration kTellPause = absl::Minutes(10);  // between log lines of a layer

absl::Status NoRoom(const std::string& directory, const absl::Status& why) {
  return WithKind(
      absl::ResourceExhaustedError(StrCat("data of a layer cannot be stored below ", directory,
                                          ": ", ToStd(why.message()), "; make room there")),
      FailureKind::kNoSpace);
}

}  // namespace

// All spans of current waiters. Dropping one that arrived while its waiter still needs others could
// make readers wait for each other forever.
absl::flat_hash_set<uint32_t> FillingLayer::WantedLocked() const {
  absl::flat_hash_set<uint32_t> wanted;
  for (const auto& [index, list] : waiters_) {
    for (const WaiterRef& waiter : list) {
      for (const auto& [first, last] : waiter->parts) {
        for (uint32_t i = first; i < last; ++i) wanted.insert(i);
      }
    }
  }
  return wanted;
}

// Notifies those who waited only for this span, which is now present.
void FillingLayer::SettleLocked(uint32_t index, std::vector<uint32_t>& unverified,
                                Finished& finished) {
  const auto it = waiters_.find(index);
  if (it == waiters_.end()) return;
  const std::vector<WaiterRef> waited = std::move(it->second);
  waiters_.erase(it);
  for (const WaiterRef& waiter : waited) {
    if (--waiter->missing > 0 || waiter->over) continue;
    // An earlier span may have been evicted before the last one arrived.
    if (!ArmLocked(waiter, unverified)) continue;
    waiter->over = true;
    --waiting_;
    finished.emplace_back(waiter, absl::OkStatus());
  }
}

// The disk does not accept a span's bytes, which are right.
void FillingLayer::OnUnstored(uint32_t index, std::string bytes, const absl::Status& why) {
  const absl::Status cause = NoRoom(options_.directory, why);
  if (download_ != nullptr) {
    const SpanEntry span = table_->span(index);
    const absl::Status dropped = download_->Drop({span.blob_begin, span.blob_end()});
    if (!dropped.ok()) LogDebug("blob_not_dropped cause=", dropped.message());
  }
  Finished finished;
  std::vector<uint32_t> unverified;
  bool first, waited;
  {
    absl::MutexLock lock(&mu_);
    const Moment now = Moment::Now();
    first = !readahead_->stopped() && now - unstored_told_ >= kTellPause;
    if (first) unstored_told_ = now;
    readahead_->StopUntil(now + kNoRoomPause);
    reason_ = std::string(cause.message());
    waited = waiters_.contains(index);
    if (waited) {
      spans_.SetInMemory(index);
      memory_.Add(index, table_->span(index).data_begin, std::move(bytes));
      SettleLocked(index, unverified, finished);
      if (memory_.over()) {
        for (const uint32_t gone : memory_.Trim(WantedLocked())) spans_.SetAbsent(gone);
      }
    } else {
      spans_.SetAbsent(index);
      // Fetch nothing more that nobody waits for.
      readahead_->StopWantingAll();
      spans_.UnqueueReadahead();
      frames_.StopWanting(Priority::kForeground, Priority::kBackground);
    }
  }
  if (first) LogWarning("span_not_stored cause=", cause.message());
  CheckUnverified(unverified);
  Deliver(std::move(finished));
  if (waited) scheduler_.counters().memory_spans++;
  if (waited) StoreLater();
  if (!waited) TellFailing(cause, true);
}

void FillingLayer::StoreLater() {
  absl::MutexLock lock(&mu_);
  if (memory_.empty() || cancelled_ || std::exchange(store_later_, true)) return;
  store_timer_ = scheduler_.At(Moment::Now() + kStorePause, [weak = weak_from_this()] {
    const auto self = weak.lock();
    if (self == nullptr) return;
    self->scheduler_.work().Submit(std::make_shared<LivePriority>(Priority::kBackground),
                                   [self] { self->StoreFromMemory(); });
  });
}

void FillingLayer::StoreFromMemory() {
  while (true) {
    SpanMemory::Entry next;
    {
      absl::MutexLock lock(&mu_);
      store_later_ = false;
      if (memory_.empty() || cancelled_) return;
      next = memory_.oldest();
    }
    const absl::Status status = Store(next.span, *next.bytes);
    if (absl::IsDataLoss(status)) return OnDamage(status);
    if (!status.ok()) {
      StoreLater();
      bool wanted;
      {
        absl::MutexLock lock(&mu_);
        wanted = readahead_->StopWantingAll();
      }
      if (wanted) TellFailing(NoRoom(options_.directory, status), true);
      return;
    }
    bool mine;
    {
      absl::MutexLock lock(&mu_);
      mine = memory_.Remove(next.span);  // else it was removed concurrently
    }
    if (mine) OnSpan(next.span, absl::OkStatus(), nullptr);
  }
}

// The layer's own files are damaged. Only this layer is abandoned, to be fetched again.
void FillingLayer::OnDamage(const absl::Status& why) {
  if (Fail(why) && options_.damaged) options_.damaged(why);
}

}  // namespace imagefs
