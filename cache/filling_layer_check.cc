// SPDX-License-Identifier: Apache-2.0
// The part of FillingLayer that checks the whole layer once every span is present, and fetches the
// parts of an unproven layer's blob that no span covers.
#include <utility>
#include <vector>

#include "base/log.h"
#include "base/status.h"
#include "base/text.h"
#include "cache/filling_layer_parts.h"

namespace imagefs {
namespace {

constexpr absl::Duration kCheckPause = absl::Seconds(1);
constexpr absl::Duration kCheckRetry = absl::Seconds(30);
constexpr uint64_t kManyFailedChecks = 3;   // in a row; a registry may have been unavailable
constexpr size_t kManyRests = 32;           // pieces of a blob
constexpr uint64_t kMaxRestGap = 64 << 10;  // cheaper to fetch again than to send two requests

}  // namespace

void FillingLayer::Start() {
  if (windows_ != nullptr) windows_->Start();
  {
    absl::MutexLock lock(&mu_);
    if (!spans_.all_present() || check_ != CheckPhase::kNone || !failure_.ok()) return;
    check_ = CheckPhase::kWaiting;
  }
  BeginCheck();
}

void FillingLayer::SubmitCheck(absl::AnyInvocable<void()> part) {
  SourceTurns::Claim claim;
  claim.whole = true;
  {
    absl::MutexLock lock(&mu_);
    if (!sources_.empty()) {
      claim.registry = sources_.first()->registry();
      claim.auth_scope = sources_.first()->auth_scope();
    }
    claim.priority = std::make_shared<LivePriority>(readahead_->priority());
  }
  scheduler_.slow_work().Submit(std::move(claim),
                                [part = std::move(part)](FairWorkers::Id) mutable { part(); });
}

// Rereading everything is deferred until there are no reads, unless somebody waits for the whole.
void FillingLayer::BeginCheck() {
  bool now;
  {
    absl::MutexLock lock(&mu_);
    now = readahead_->awaited();
  }
  auto check = [self = shared_from_this()] { self->SubmitCheck([self] { self->Check(); }); };
  if (now) return check();
  Timer timer = scheduler_.At(Moment::Now() + kCheckPause, check);
  absl::MutexLock lock(&mu_);
  check_timer_ = std::move(timer);
}

// Everything is present: makes all moves, then checks the whole.
void FillingLayer::Check() {
  std::vector<uint32_t> moves;
  {
    absl::MutexLock lock(&mu_);
    // A check that became urgent is started twice.
    if (check_ != CheckPhase::kWaiting) return;
    check_ = CheckPhase::kRunning;
    for (uint32_t i = 0; i < moved_.size(); ++i) {
      if (!moved_[i]) moves.push_back(i);
    }
  }
  const absl::Status status = RunMoves(moves);
  status.ok() ? CheckWhole() : EndCheck(status);
}

// Runs on a worker. Runs again after more of the blob was fetched.
void FillingLayer::CheckWhole() {
  absl::Status status;
  // The table is that of the layer under its DiffID as well.
  if (windows_ != nullptr && !windows_->complete()) {
    {
      absl::MutexLock lock(&mu_);
      check_ = CheckPhase::kFetching;
    }
    return windows_->WhenComplete([weak = weak_from_this()] {
      const auto self = weak.lock();
      if (self == nullptr) return;
      {
        absl::MutexLock lock(&self->mu_);
        self->check_ = CheckPhase::kRunning;
        self->last_byte_ = Moment::Now();
      }
      self->SubmitCheck([self] { self->CheckWhole(); });
    });
  }
  if (download_ != nullptr) {
    if (std::vector<ByteRange> rest = RestOfBlob(); !rest.empty()) {
      return FetchRest(std::move(rest));
    }
    status = CheckBlob();
    if (absl::IsAborted(status)) return FetchRest({{0, blob_.size}});
  }
  if (status.ok() && options_.check) status = options_.check(*this);
  EndCheck(status);
}

void FillingLayer::EndCheck(const absl::Status& status) {
  if (absl::IsDataLoss(status)) {
    // If the description was false, the spans are still as received. Otherwise somebody wrote to
    // the file.
    const absl::StatusOr<std::vector<uint32_t>> wrong =
        SpansNotAsMarked(options_.directory, *table_, [](size_t) { return true; });
    bool again = wrong.ok() && !wrong->empty();
    {
      absl::MutexLock lock(&mu_);
      again = again && ++failed_checks_ <= kManyFailedChecks;
      if (again) check_ = CheckPhase::kNone;
    }
    if (!again) return OnDamage(status);
    LogError("layer.written_to layer=", table_->diff_id().Short(), " spans=", wrong->size());
    return Recheck(*wrong);
  }
  if (!status.ok()) {
    LogWarning("layer.check_failed layer=", table_->diff_id().Short(), " cause=", status.message(),
               " next_try=", absl::FormatDuration(kCheckRetry));
  }
  bool tell = false;
  {
    absl::MutexLock lock(&mu_);
    check_ = CheckPhase::kNone;
    failed_checks_ = status.ok() ? 0 : failed_checks_ + 1;
    if (status.ok() && spans_.all_present()) {
      complete_.store(true, std::memory_order_release);
      reason_.clear();
      sources_.Clear();  // and the credentials that they hold
      leftovers_.clear();
      give_up_timer_.Cancel();
    } else if (!status.ok()) {
      // Not the fault of the bytes (for example, a full disk): retry later.
      reason_ = std::string(status.message());
      check_timer_ = scheduler_.At(Moment::Now() + kCheckRetry, [weak = weak_from_this()] {
        if (const auto self = weak.lock()) self->Start();
      });
      // Notify those who wait for the whole; what is missing is fetched in the background.
      tell = (absl::IsResourceExhausted(status) || failed_checks_ >= kManyFailedChecks) &&
             readahead_->awaited();
      if (tell) readahead_->StopWantingAll();
    }
  }
  if (tell) TellFailing(status, true);
  if (complete()) {
    absl::MutexLock lock(&hot_mu_);
    hot_marks_.Remove();
  }
}

// The parts of the blob that no span covers: headers, trailers, tables. If there are many, adjacent
// ones are combined into one request.
std::vector<ByteRange> FillingLayer::RestOfBlob() const {
  std::vector<ByteRange> missing = download_->Missing();
  if (missing.size() <= kManyRests) return missing;
  std::vector<ByteRange> rest;
  for (const ByteRange& range : missing) {
    if (!rest.empty() && range.begin - rest.back().end <= kMaxRestGap) {
      rest.back().end = range.end;
    } else {
      rest.push_back(range);
    }
  }
  return rest;
}

// Returns kAborted if the stored bytes are wrong, which a crash may have caused; they are
// discarded, at most once, to be fetched again.
absl::Status FillingLayer::CheckBlob() {
  IMAGEFS_ASSIGN_OR_RETURN(const Fd fd, download_->Duplicate());
  IMAGEFS_ASSIGN_OR_RETURN(const Digest digest, Sha256OfFile(fd.get()));
  if (digest == blob_.digest) return absl::OkStatus();
  {
    absl::MutexLock lock(&mu_);
    if (std::exchange(blob_again_, true)) {
      return absl::DataLossError(StrCat("what the registry sends as blob ", blob_.digest.ToString(),
                                        " has digest ", digest.ToString()));
    }
  }
  IMAGEFS_RETURN_IF_ERROR(download_->Discard());
  return absl::AbortedError("the blob is fetched again");
}

void FillingLayer::FetchRest(std::vector<ByteRange> ranges) {
  std::shared_ptr<ImageSource> source;
  bool urgent;
  {
    absl::MutexLock lock(&mu_);
    if (!cancelled_) source = sources_.Next(Priority::kForeground, Moment::Now(), nullptr).source;
    check_ = source == nullptr ? CheckPhase::kNeedsSource : CheckPhase::kFetching;
    if (source == nullptr) {
      reason_ = "the rest of the blob is missing, and there is no registry to ask";
      return;
    }
    anonymous_ &= source->anonymous();
    urgent = readahead_->awaited();
  }
  const Priority priority = urgent ? Priority::kForeground : Priority::kBackground;
  source->ReadBlob(
      blob_, std::move(ranges), std::make_shared<LivePriority>(priority), cancel_.token(),
      [self = shared_from_this()](uint64_t offset, std::string_view data) {
        {
          absl::MutexLock lock(&self->mu_);
          self->last_byte_ = Moment::Now();
        }
        return self->download_->Write(offset, data);
      },
      [self = shared_from_this(),
       slot = scheduler_.Occupy(SourceKey(*source), priority)](const absl::Status& status) mutable {
        {
          absl::MutexLock lock(&self->mu_);
          self->check_ = CheckPhase::kRunning;
        }
        self->SubmitCheck([self, status] {
          // A failed transfer says nothing about the layer.
          if (status.ok()) return self->CheckWhole();
          self->EndCheck(absl::IsResourceExhausted(status)
                             ? status
                             : absl::UnavailableError(status.message()));
        });
        slot.GiveBack();
      });
}

}  // namespace imagefs
