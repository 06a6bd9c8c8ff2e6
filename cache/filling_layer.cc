// SPDX-License-Identifier: Apache-2.0
#include "cache/filling_layer.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "absl/container/flat_hash_set.h"
#include "absl/time/clock.h"
#include "base/failure.h"
#include "base/log.h"
#include "base/status.h"
#include "base/text.h"
#include "cache/filling_layer_parts.h"
#include "cache/layer_files.h"

namespace imagefs {
namespace {

// Layers up to this size are fetched whole on the first miss.
constexpr uint64_t kWholeBytes = 256 << 10;
// Once this fraction of a layer has been requested, the rest is fetched, too, in large requests.
constexpr double kMostOfIt = 0.6;
constexpr absl::Duration kSilenceToTell = absl::Seconds(3);

}  // namespace

absl::StatusOr<std::shared_ptr<FillingLayer>> FillingLayer::Open(Options options,
                                                                 FillScheduler& scheduler) {
  std::shared_ptr<FillingLayer> layer(new FillingLayer(std::move(options), scheduler));
  IMAGEFS_RETURN_IF_ERROR(layer->OpenFiles());
  scheduler.Add(layer);
  return layer;
}

FillingLayer::FillingLayer(Options options, FillScheduler& scheduler)
    : options_(std::move(options)),
      scheduler_(scheduler),
      timeline_(scheduler.timelines().New(FillPicture::kMostEvents)),
      spans_(scheduler.options().health.most),
      hot_marks_(options_.directory + "/hot"),
      memory_(scheduler.counters().memory_bytes),
      readahead_(
          std::make_unique<Readahead>(scheduler.options().background, scheduler.options().guess)),
      sources_(scheduler.health()) {}

FillingLayer::~FillingLayer() {
  if (windows_ != nullptr) windows_->Cancel();
}

absl::Status FillingLayer::OpenFiles() {
  const std::string& directory = options_.directory;
  IMAGEFS_ASSIGN_OR_RETURN(table_, SpanTableReader::Open(directory + "/access"));
  if (table_->late_windows()) {
    LateWindows::Options windows{directory, table_->windows(), options_.open,
                                 [weak = weak_from_this()](const absl::Status& why) {
                                   if (const auto self = weak.lock()) self->OnWindowsFailed(why);
                                 }};
    IMAGEFS_ASSIGN_OR_RETURN(windows_, LateWindows::Open(std::move(windows), scheduler_));
  }
  IMAGEFS_ASSIGN_OR_RETURN(data_, OpenOrCreate(directory + "/data"));
  struct stat st;
  if (fstat(data_.get(), &st) != 0) return ErrnoStatus(errno, directory + "/data");
  IMAGEFS_ASSIGN_OR_RETURN(present_, PresentMap::Open(directory + "/present", *table_));
  const size_t count = table_->span_count();
  if (static_cast<uint64_t>(st.st_size) != table_->data_bytes()) {
    for (size_t i = 0; i < count; ++i) {
      if (present_->mark(i).present)
        return absl::DataLossError(StrCat(directory, "/data was truncated"));
    }
    if (ftruncate(data_.get(), static_cast<off_t>(table_->data_bytes())) != 0) {
      return ErrnoStatus(errno, directory + "/data");
    }
  }
  blob_.digest = table_->blob_digest();
  blob_.size = table_->blob_size();
  {
    absl::MutexLock lock(&mu_);
    sources_.SetBlob(blob_.digest);
  }
  // The data file is enough where it has the blob's bytes.
  if (options_.unproven && !table_->data_is_blob()) {
    IMAGEFS_ASSIGN_OR_RETURN(
        download_, DownloadFile::Open(directory + "/blob", blob_.size, scheduler_.options().space,
                                      StoreSpace::Writer::kPart));
  }
  absl::MutexLock hot(&hot_mu_);
  IMAGEFS_ASSIGN_OR_RETURN(const std::vector<ByteRange> marked,
                           hot_marks_.Read(table_->data_bytes()));
  absl::MutexLock lock(&mu_);
  spans_.SetTable(*table_);
  frames_.SetTable(*table_);
  for (const ByteRange& range : marked) hot_.SetEarlier(range);
  moved_.resize(table_->moves().size());
  for (uint32_t i = 0; i < count; ++i) {
    const PresentMap::Mark& mark = present_->mark(i);
    if (!mark.present) continue;
    anonymous_ = false;  // it is unknown whose credentials fetched it
    const SpanEntry span = table_->span(i);
    const bool unverified = options_.unverified || !mark.sum.has_value();
    // Without a digest of the data, only the mark's checksum can tell.
    if (unverified && span.digest_of != SpanDigest::kOfData && !mark.sum.has_value()) continue;
    spans_.SetFound(i, !unverified);
    if (download_ != nullptr && !unverified) download_->Trust({span.blob_begin, span.blob_end()});
  }
  return absl::OkStatus();
}

void FillingLayer::Recheck(const std::vector<uint32_t>& spans) {
  std::vector<uint32_t> unverified;
  {
    absl::MutexLock lock(&mu_);
    // The check of the whole layer verifies all of them.
    if (check_ != CheckPhase::kNone || complete()) return;
    for (const uint32_t index : spans) {
      if (spans_.Take(index, State::kPresent)) unverified.push_back(index);
    }
  }
  CheckUnverified(unverified);
}

void FillingLayer::AddWindowsSource(std::shared_ptr<ImageSource> source) {
  if (windows_ != nullptr) windows_->AddSource(std::move(source), false);
}

void FillingLayer::AddSource(std::shared_ptr<ImageSource> source) {
  if (source == nullptr) return;
  if (windows_ != nullptr) windows_->AddSource(source, true);
  bool go_on = false;
  {
    absl::MutexLock lock(&mu_);
    sources_.Add(std::move(source));
    not_before_ = Moment::InfinitePast();
    go_on = check_ == CheckPhase::kNeedsSource;
    if (go_on) check_ = CheckPhase::kRunning;
  }
  if (go_on) SubmitCheck([self = shared_from_this()] { self->CheckWhole(); });
  scheduler_.Wake();
}

bool FillingLayer::anonymous() const {
  absl::MutexLock lock(&mu_);
  return anonymous_;
}

std::vector<std::string> FillingLayer::AuthScopes() const {
  absl::MutexLock lock(&mu_);
  return sources_.AuthScopes();
}

void FillingLayer::AllowWaiting(absl::Duration at_most) {
  absl::MutexLock lock(&mu_);
  deadline_ = std::max(deadline_.value_or(at_most), at_most);
}

LayerFill::Progress FillingLayer::progress() const {
  absl::MutexLock lock(&mu_);
  return {spans_.blob_bytes_present(), spans_.blob_bytes(), failure_};
}

// Records what a reader needs, and queues what it will probably need next. The rest of a layer of
// which most was requested comes as well, once no reader is in a hurry.
void FillingLayer::NoteReadLocked(const Waiter& waiter) {
  const Moment now = Moment::Now();
  for (const auto& [first, last] : waiter.parts) {
    for (const uint32_t span :
         readahead_->OnRead(waiter.range, first, last, *table_, spans_, now)) {
      QueueLocked(span, Priority::kReadahead);
      scheduler_.counters().prefetched_spans++;
    }
  }
  const uint64_t read = spans_.blob_bytes_read(), all = spans_.blob_bytes();
  const bool most = static_cast<double>(read) > kMostOfIt * static_cast<double>(all);
  const bool small = all <= kWholeBytes && read > 0;
  if ((small || (most && scheduler_.spare())) && !readahead_->wants_all()) {
    readahead_->WantAll(small ? Priority::kReadahead : Priority::kBackground);
    spans_.Rescan();
  }
}

// Reading ahead knows the files of a layer from its first missing bytes on.
void FillingLayer::FindFiles() {
  const auto index = ErofsImage::Open(options_.directory + "/index");
  if (!index.ok()) return LogDebug("files_not_read cause=", index.status().message());
  FileRuns files = FileRuns::Of(**index);
  {
    absl::MutexLock lock(&mu_);
    if (cancelled_ || !failure_.ok()) return;
    for (const uint32_t span : readahead_->SetFiles(std::move(files), *table_, spans_)) {
      QueueLocked(span, Priority::kReadahead);
      scheduler_.counters().prefetched_spans++;
    }
  }
  scheduler_.Wake();
}

// Registers the waiter for every missing span of its parts. Returns true, with the waiter pinned,
// if none is missing.
bool FillingLayer::ArmLocked(const WaiterRef& waiter, std::vector<uint32_t>& unverified) {
  for (const auto& [first, last] : waiter->parts) {
    for (uint32_t i = first; i < last; ++i) {
      if (spans_.readable(i)) continue;
      auto cause = FillScheduler::WaitCause::kFetch;
      if (spans_.Take(i, State::kUnverified)) {
        unverified.push_back(i);
        cause = FillScheduler::WaitCause::kRecheck;
      } else if (spans_.state(i) == State::kInFlight || spans_.state(i) == State::kBusy) {
        scheduler_.counters().joins++;
        cause = FillScheduler::WaitCause::kInFlight;
        RaiseLocked(i);
      } else if (frames_.Has(i)) {
        RaiseLocked(i);
      } else {
        QueueLocked(i, Priority::kOnDemand);
      }
      waiter->cause = std::max(waiter->cause, cause);
      waiters_[i].push_back(waiter);
      ++waiter->missing;
    }
  }
  if (waiter->missing > 0) return false;
  waiter->pin.data_file = epoch_;
  if (!memory_.empty()) waiter->pin.memory = memory_.Of(this, waiter->parts);
  return true;
}

// A request in the background now has a reader waiting for it.
void FillingLayer::RaiseLocked(uint32_t span) {
  const uint32_t from = frames_.NextOf(span);
  for (const auto& batch : batches_) {
    if (batch->first <= span && from < batch->last) batch->priority->RaiseTo(Priority::kOnDemand);
  }
}

bool FillingLayer::AllHereLocked(const Waiter& waiter) const {
  for (const auto& [first, last] : waiter.parts) {
    for (uint32_t i = first; i < last; ++i) {
      if (!spans_.readable(i)) return false;
    }
  }
  return true;
}

absl::Status FillingLayer::RefusalLocked(const Waiter& waiter) {
  const Moment now = Moment::Now();
  if (absl::Status late = timed_out_.Find(waiter.reader, waiter.range, now); !late.ok())
    return late;
  const std::optional<absl::Status> certain = sources_.Certain();
  for (const auto& [first, last] : waiter.parts) {
    for (uint32_t i = first; i < last; ++i) {
      if (spans_.readable(i)) continue;
      IMAGEFS_RETURN_IF_ERROR(spans_.WhyPaused(frames_.NextOf(i), Priority::kOnDemand, now));
      // A probe finds out whether this still holds, for later readers.
      if (!certain.has_value()) continue;
      QueueLocked(i, frames_.Has(i) ? Priority::kForeground : Priority::kOnDemand);
    }
  }
  return certain.value_or(absl::OkStatus());
}

// Requests the spans of a new waiter; its `over` says whether it need not wait. Returns why not all
// of them can come.
absl::Status FillingLayer::AskLocked(const WaiterRef& waiter, Spans& unverified) {
  waiter->asked = true;
  absl::Status refused;
  if (!AllHereLocked(*waiter)) refused = RefusalLocked(*waiter);
  waiter->over = !refused.ok() || ArmLocked(waiter, unverified);
  if (refused.ok()) NoteReadLocked(*waiter);
  return refused;
}

void FillingLayer::FindPartsLocked(Waiter& waiter) const {
  auto add = [&waiter](std::pair<size_t, size_t> spans) {
    waiter.parts.emplace_back(spans.first, spans.second);
  };
  const ByteRange& range = waiter.range;
  add(table_->SpansOf(range));
  for (uint32_t i = 0; i < table_->moves().size(); ++i) {
    const LayerBuilder::Move& move = table_->moves()[i];
    if (moved_[i] || move.to >= range.end || move.to + move.length <= range.begin) continue;
    waiter.moves.push_back(i);
    add(table_->SpansOf({move.from, move.from + move.length}));
  }
}

void FillingLayer::Ensure(ByteRange range, ReaderId reader, CancelToken cancel, Done done) {
  auto waiter = std::make_shared<Waiter>();
  waiter->range = range;
  waiter->reader = reader;
  waiter->done = std::move(done);
  Spans unverified;
  absl::Status failed;
  absl::Duration deadline, patience;
  bool ready, find_files;
  {
    absl::MutexLock lock(&mu_);
    failed = cancelled_ ? absl::CancelledError("the store closes") : failure_;
    FindPartsLocked(*waiter);
    if (failed.ok()) {
      touches_.Note(range, scheduler_.NextOrder());
      patience = TryHotLocked(waiter);
      if (patience == absl::ZeroDuration()) failed = AskLocked(waiter, unverified);
    }
    ready = waiter->over || !failed.ok();
    waiter->over = ready;
    if (!ready) {
      ++waiting_;
      waiter->since = Moment::Now();
    }
    find_files = !ready && readahead_->AsksForFiles();
    deadline = deadline_.value_or(scheduler_.options().deadline);
  }
  if (ready) {
    if (!failed.ok()) scheduler_.Wake();
    return Deliver({{waiter, failed}});
  }
  scheduler_.counters().waits++;
  scheduler_.NoteDemand();
  CheckUnverified(unverified);
  if (find_files) scheduler_.work().Submit([self = shared_from_this()] { self->FindFiles(); });
  Watch(waiter, cancel, deadline, patience);
  scheduler_.Wake();
}

void FillingLayer::CheckUnverified(const std::vector<uint32_t>& unverified) {
  for (const uint32_t span : unverified) {
    scheduler_.work().Submit(std::make_shared<LivePriority>(Priority::kOnDemand),
                             [self = shared_from_this(), span] { self->Recheck(span); });
  }
}

// A waiter leaves without its bytes on cancellation or at its deadline.
void FillingLayer::Watch(const WaiterRef& waiter, const CancelToken& cancel,
                         absl::Duration deadline, absl::Duration patience) {
  CancelToken::Registration registration =
      cancel.OnCancel([weak = weak_from_this(), waiter = std::weak_ptr(waiter)] {
        const auto self = weak.lock();
        const auto alive = waiter.lock();
        if (self != nullptr && alive != nullptr) {
          self->Leave(alive, absl::CancelledError("the reader went away"));
        }
      });
  Timer timer = scheduler_.At(Moment::Now() + deadline,
                              [weak = weak_from_this(), waiter = std::weak_ptr(waiter)] {
                                const auto self = weak.lock();
                                const auto alive = waiter.lock();
                                if (self != nullptr && alive != nullptr) self->Expire(alive);
                              });
  Timer late;
  if (patience > absl::ZeroDuration()) {
    late = scheduler_.At(Moment::Now() + patience,
                         [weak = weak_from_this(), waiter = std::weak_ptr(waiter)] {
                           const auto self = weak.lock();
                           const auto alive = waiter.lock();
                           if (self != nullptr && alive != nullptr) self->AskInstead(alive);
                         });
  }
  absl::MutexLock lock(&mu_);
  if (waiter->over) return;
  waiter->on_cancel = std::move(registration);
  waiter->deadline = std::move(timer);
  if (!waiter->asked) waiter->patience = std::move(late);
}

void FillingLayer::Expire(const WaiterRef& waiter) {
  const FillReport report = Report();
  const absl::Status why = absl::DeadlineExceededError(
      StrCat("bytes of layer ", table_->diff_id().Short(), " did not come in time",
             report.reason.empty() ? "" : StrCat("; last failure: ", report.reason)));
  {
    absl::MutexLock lock(&mu_);
    if (waiter->over) return;
    timed_out_.Add(waiter->reader, waiter->range, why, Moment::Now());
  }
  scheduler_.counters().expired++;
  Leave(waiter, why);
}

// Removes a waiter; spans that only it waited for are no longer requested.
void FillingLayer::ForsakeLocked(const WaiterRef& waiter) {
  waiter->over = true;
  --waiting_;
  for (auto it = waiters_.begin(); waiter->asked && it != waiters_.end();) {
    std::erase(it->second, waiter);
    if (!it->second.empty()) {
      ++it;
      continue;
    }
    spans_.Unqueue(it->first, Priority::kOnDemand);
    waiters_.erase(it++);
  }
}

void FillingLayer::Leave(const WaiterRef& waiter, const absl::Status& why) {
  {
    absl::MutexLock lock(&mu_);
    if (waiter->over) return;
    ForsakeLocked(waiter);
    std::erase(hot_waiters_, waiter);
  }
  Deliver({{waiter, why}});
}

// Notifies waiters; a worker notifies those whose bytes must be moved first.
void FillingLayer::Deliver(Finished finished) {
  for (auto& [waiter, status] : finished) {
    waiter->on_cancel.Reset();
    waiter->deadline.Cancel();
    waiter->patience.Cancel();
    NoteWait(*waiter, status.ok());
    if (status.ok() && !waiter->moves.empty()) {
      scheduler_.work().Submit(std::make_shared<LivePriority>(Priority::kOnDemand),
                               [self = shared_from_this(), waiter = waiter] {
                                 const absl::Status moved = self->RunMoves(waiter->moves);
                                 waiter->moves.clear();
                                 self->Deliver({{waiter, moved}});
                               });
      continue;
    }
    if (status.ok()) {
      waiter->done(std::move(waiter->pin));
    } else {
      if (!absl::IsCancelled(status)) scheduler_.counters().failed++;
      waiter->done(status);
    }
  }
}

void FillingLayer::NoteWait(Waiter& waiter, bool ok) {
  const Moment since = std::exchange(waiter.since, Moment::InfiniteFuture());
  if (since == Moment::InfiniteFuture()) return;  // it had all that it needed
  const Moment now = Moment::Now();
  scheduler_.counters()
      .waited.at(static_cast<size_t>(waiter.cause))
      .Observe(absl::ToDoubleSeconds(now - since));
  TimelineEvent event;
  event.step = TimelineEvent::Step::kWait;
  event.failed = !ok;
  event.began = since;
  event.ended = now;
  event.bytes = waiter.range;
  timeline_->Add(std::move(event));
}

absl::Status FillingLayer::RunMoves(const std::vector<uint32_t>& moves) {
  for (const uint32_t i : moves) {
    const LayerBuilder::Move& move = table_->moves()[i];
    {
      absl::MutexLock lock(&mu_);
      const auto [first, last] = table_->SpansOf({move.from, move.from + move.length});
      for (size_t span = first; span < last; ++span) {
        if (spans_.state(static_cast<uint32_t>(span)) == State::kPresent) continue;
        return WithKind(
            absl::ResourceExhaustedError("a sparse file cannot be laid out: the disk is full"),
            FailureKind::kNoSpace);
      }
    }
    IMAGEFS_RETURN_IF_ERROR(CopyBytes({data_.get(), move.from}, {data_.get(), move.to}, move.length,
                                      [](size_t) { return absl::OkStatus(); }));
    absl::MutexLock lock(&mu_);
    moved_[i] = true;
  }
  return absl::OkStatus();
}

void FillingLayer::Prefetch(ByteRange range, Priority priority) {
  {
    absl::MutexLock lock(&mu_);
    if (cancelled_ || !failure_.ok()) return;
    const auto [first, last] = table_->SpansOf(range);
    // Readers get it from the pack. Each call for an image replays its profile, also while the pack
    // of the first one is coming.
    if (hot_.Provides(range)) return;
    if (priority == Priority::kForeground) readahead_->SetProfiled();
    for (auto i = static_cast<uint32_t>(first); i < last; ++i) {
      if (spans_.state(i) == State::kAbsent) scheduler_.counters().prefetched_spans++;
      QueueLocked(i, priority);
    }
  }
  scheduler_.Wake();
}

void FillingLayer::WantAll(Priority priority) {
  bool check = false;
  {
    absl::MutexLock lock(&mu_);
    if (readahead_->WantAll(priority)) {
      spans_.Rescan();
      check = check_ == CheckPhase::kWaiting && priority <= Priority::kForeground;
    }
    if (priority <= Priority::kForeground) readahead_->Resume();
    if (priority <= Priority::kForeground && !complete()) {
      // Starting now: an earlier waiter had a timer of its own.
      last_byte_ = std::max(last_byte_, Moment::Now());
      give_up_timer_ =
          scheduler_.At(last_byte_ + scheduler_.options().give_up, [weak = weak_from_this()] {
            if (const auto self = weak.lock()) self->GiveUp();
          });
    }
  }
  if (windows_ != nullptr && priority <= Priority::kForeground) windows_->WantAll();
  if (check) BeginCheck();
  scheduler_.Wake();
}

// Somebody waits for the whole layer: reports if nothing arrives. Fetching continues in the
// background.
void FillingLayer::GiveUp() {
  const absl::Duration limit = scheduler_.options().give_up;
  const FillReport report = Report();
  {
    absl::MutexLock lock(&mu_);
    if (cancelled_ || !failure_.ok() || complete()) return;
    if (!readahead_->awaited()) return;
    // Local work is in progress.
    const bool works = check_ != CheckPhase::kNone && check_ != CheckPhase::kFetching;
    const Moment since = works ? Moment::Now() : last_byte_;
    if (Moment::Now() < since + limit) {
      give_up_timer_ = scheduler_.At(since + limit, [weak = weak_from_this()] {
        if (const auto self = weak.lock()) self->GiveUp();
      });
      return;
    }
    readahead_->StopWantingAll();
    spans_.Rescan();
  }
  TellFailing(absl::DeadlineExceededError(
                  StrCat("nothing was received of layer ", table_->diff_id().Short(), " for ",
                         absl::ToInt64Seconds(limit), " s",
                         report.reason.empty() ? "" : StrCat("; last failure: ", report.reason))),
              true);
}

void FillingLayer::FailAllLocked(const absl::Status& status, Finished& finished, Run spans) {
  std::vector<uint32_t> waited;
  for (const auto& [index, list] : waiters_) {
    if (spans.first <= index && index < spans.second) waited.push_back(index);
  }
  for (const uint32_t index : waited) FailSpanLocked(index, status, finished);
}

void FillingLayer::FailSpanLocked(uint32_t index, const absl::Status& status, Finished& finished) {
  spans_.Unqueue(index);
  const auto it = waiters_.find(index);
  if (it == waiters_.end()) return;
  const std::vector<WaiterRef> failed = std::move(it->second);
  waiters_.erase(it);
  for (const WaiterRef& waiter : failed) {
    if (waiter->over) continue;
    waiter->over = true;
    --waiting_;
    finished.emplace_back(waiter, status);
  }
}

bool FillingLayer::Fail(const absl::Status& why) {
  Finished finished;
  {
    absl::MutexLock lock(&mu_);
    if (!failure_.ok()) return false;
    failure_ = why;
    reason_ = std::string(why.message());
    frames_.Clear();
    FailAllLocked(why, finished);
    FailHotLocked(why, finished);
  }
  LogError("layer_damaged layer=", table_->diff_id().Short(), " cause=", why.message());
  if (windows_ != nullptr) windows_->Cancel();
  Deliver(std::move(finished));
  return true;
}

void FillingLayer::Cancel() {
  Finished finished;
  std::vector<BatchRef> batches;
  {
    absl::MutexLock lock(&mu_);
    cancelled_ = true;
    frames_.Clear();
    FailAllLocked(absl::CancelledError("the store closes"), finished);
    FailHotLocked(absl::CancelledError("the store closes"), finished);
    batches = batches_;
  }
  cancel_.Cancel();
  if (windows_ != nullptr) windows_->Cancel();
  for (const BatchRef& batch : batches) batch->cancel.Cancel();
  Deliver(std::move(finished));
}

uint64_t FillingLayer::Evict(uint64_t bytes) {
  std::vector<uint32_t> evicted;
  std::weak_ptr<const void> readers;
  uint64_t freed = 0;
  {
    absl::MutexLock lock(&mu_);
    if (check_ != CheckPhase::kNone || complete() || readahead_->awaited()) return 0;
    // What is given back must not be fetched again unless a reader needs it.
    readahead_->StopWantingAll();
    spans_.UnqueueReadahead();
    frames_.StopWanting(Priority::kForeground, Priority::kBackground);
    // Until the hole is punched, requests for these spans wait and nobody fetches them.
    evicted = spans_.TakeForEviction(bytes, WantedLocked());
    // From here on no reader is told that it may read them.
    for (const uint32_t index : evicted) {
      hot_.Forget({table_->span(index).data_begin, table_->span(index).data_end()});
    }
    // Moved data came from these spans and stays.
    readers = epoch_;
    epoch_ = std::make_shared<int>(0);
  }
  while (!readers.expired()) absl::SleepFor(absl::Microseconds(200));
  for (const uint32_t index : evicted) {
    const SpanEntry span = table_->span(index);
    absl::Status status = present_->Clear(index);
    if (status.ok()) status = ForgetHot(index);
    if (status.ok() &&
        fallocate(data_.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                  static_cast<off_t>(span.data_begin), static_cast<off_t>(span.data_bytes)) != 0) {
      status = ErrnoStatus(errno, "punching a hole");
    }
    freed += span.data_bytes;
    if (download_ != nullptr) {
      status.Update(download_->Drop({span.blob_begin, span.blob_end()}));
      freed += span.blob_bytes;
    }
    if (!status.ok()) LogWarning("evict_failed cause=", status.message());
    absl::MutexLock lock(&mu_);
    spans_.SetAbsent(index);
    if (waiters_.contains(index)) QueueLocked(index, Priority::kOnDemand);
  }
  scheduler_.counters().evicted_bytes += freed;
  scheduler_.Wake();
  return freed;
}

std::vector<std::pair<uint64_t, ByteRange>> FillingLayer::ReadParts() const {
  absl::MutexLock lock(&mu_);
  return touches_.parts();
}

Moment FillingLayer::last_read() const {
  absl::MutexLock lock(&mu_);
  return spans_.last_read();
}

Moment FillingLayer::last_use() const {
  absl::MutexLock lock(&mu_);
  return spans_.last_use();
}

FillReport FillingLayer::Report() const {
  absl::MutexLock lock(&mu_);
  FillReport report;
  report.state = !failure_.ok()                ? "damaged"
                 : complete()                  ? "complete"
                 : check_ != CheckPhase::kNone ? "checking"
                                               : "filling";
  const Moment now = Moment::Now();
  report.cause = report.reason = reason_;
  if (const std::string trouble = sources_.Trouble(now); !trouble.empty()) {
    report.reason = trouble;
  } else if (reason_.empty()) {
    for (const BatchRef& batch : batches_) {
      if (!batch->asked || now - batch->last_byte < kSilenceToTell) continue;
      report.cause = StrCat(batch->source->registry(), " sends nothing");
      report.reason = StrCat(batch->source->registry(), " has sent nothing for ",
                             absl::ToInt64Seconds(now - batch->last_byte), " s");
    }
  }
  if (report.reason.empty() && windows_ != nullptr)
    report.cause = report.reason = windows_->trouble();
  report.blob_bytes = spans_.blob_bytes();
  report.blob_bytes_present = spans_.blob_bytes_present();
  report.blob_bytes_fetched = fetched_bytes_;
  report.blob_bytes_needed = spans_.blob_bytes_read();
  report.data_bytes = table_->data_bytes();
  report.data_bytes_present = spans_.data_bytes_present();
  report.hot_bytes = hot_.bytes_here();
  report.waiting = waiting_;
  for (const auto& batch : batches_)
    report.in_flight.push_back({batch->blob, batch->priority->get()});
  return report;
}

FillPicture FillingLayer::Picture() const {
  FillPicture picture;
  picture.events = timeline_->Read();
  std::vector<TimelineEvent>& events = picture.events.events;
  absl::MutexLock lock(&mu_);
  for (uint32_t i = 0; i < spans_.size(); ++i) picture.spans.push_back(spans_.byte_state(i));
  for (const BatchRef& batch : batches_) {
    if (batch->asked) events.push_back(batch->Event(true, Moment::InfiniteFuture()));
  }
  absl::flat_hash_set<const Waiter*> seen;  // one that waits for many spans is listed with each
  auto all = waiters_;
  all.try_emplace(spans_.size(), hot_waiters_);
  for (const auto& [span, waiters] : all) {
    for (const WaiterRef& waiter : waiters) {
      if (waiter->over || !seen.insert(waiter.get()).second) continue;
      TimelineEvent event;
      event.step = TimelineEvent::Step::kWait;
      event.began = waiter->since;
      event.ended = Moment::InfiniteFuture();
      event.bytes = waiter->range;
      events.push_back(std::move(event));
    }
  }
  return picture;
}

}  // namespace imagefs
