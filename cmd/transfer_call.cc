// Mount, Pull and Add: resolve, bring the chain here, then mount it, wait until it is durable, or
// give it to podman. Each
// step is started by the end of the one before, on whichever thread that ends; `stage_` tells the
// steps apart, so that a ticket which arrives after its step has ended is not kept.
#include <algorithm>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_set.h"
#include "absl/synchronization/mutex.h"
#include "base/directory.h"
#include "base/fd.h"
#include "base/log.h"
#include "base/status.h"
#include "base/text.h"
#include "cmd/calls.h"
#include "cmd/publish.h"

namespace imagefs {
namespace {

using control::v1::LayerEvent;
using control::v1::MountEvent;
using Clock = std::chrono::steady_clock;

// Without a byte for so long, the progress says so.
constexpr std::chrono::seconds kSilenceToTell(10);

std::string_view ActivityName(LayerProgress::Activity activity) {
  switch (activity) {
    case LayerProgress::Activity::kWaiting:
      return "waiting";
    case LayerProgress::Activity::kDownloading:
      return "downloading";
    case LayerProgress::Activity::kUnpacking:
      return "unpacking";
    case LayerProgress::Activity::kIndexing:
      return "indexing";
    case LayerProgress::Activity::kDone:
      return "done";
    case LayerProgress::Activity::kFailed:
      return "failed";
  }
  return "waiting";
}

bool IsHere(LayerState state) {
  return state == LayerState::kWritten || state == LayerState::kComplete;
}

class TransferCall : public grpc::ServerWriteReactor<MountEvent>,
                     public std::enable_shared_from_this<TransferCall> {
 public:
  static TransferCall* Start(const TransferContext& context, grpc::CallbackServerContext* call,
                             absl::StatusOr<TransferRequest> request) {
    auto self = std::make_shared<TransferCall>(context, call);
    self->self_ = self;
    context.counter.Begin();
    if (!request.ok()) {
      self->End(request.status());
    } else {
      self->request_ = *std::move(request);
      context.deps.executor.Submit([self] { self->Check(); });
    }
    return self.get();
  }

  TransferCall(const TransferContext& context, grpc::CallbackServerContext* call)
      : deps_(context.deps),
        auto_publish_(context.publish),
        ticker_(context.ticker),
        counter_(context.counter),
        call_(call) {}

  void OnWriteDone(bool ok) override {
    {
      absl::MutexLock lock(&mu_);
      writing_ = false;
      // The caller is gone; OnCancel says so too.
      if (!ok) pending_.reset();
    }
    Pump();
  }

  void OnCancel() override {
    FlightTicket ticket;
    bool waits_for_disk;
    {
      absl::MutexLock lock(&mu_);
      cancelled_ = true;
      ticket = ticket_;
      waits_for_disk = syncing_;
    }
    ticket.Leave();
    if (waits_for_disk) End(absl::CancelledError("the caller went away"));
  }

  void OnDone() override {
    bool undo;
    {
      absl::MutexLock lock(&mu_);
      undo = mounted_ && cancelled_;
    }
    if (undo) UndoMount();
    counter_.End();
    self_.reset();
  }

 private:
  struct LayerTrack {
    bool reused = false;  // here before this call
    bool shared = false;  // somebody else was seen waiting for it
    uint64_t downloaded = 0;
    uint64_t unpacked = 0;
    Clock::time_point moved;  // when `downloaded` has grown, or the layer was first seen
    std::string trouble;
  };

  std::shared_ptr<TransferCall> self() { return shared_from_this(); }

  // Begins a step, timed as one with the step before where that has the same name; false when the
  // caller is gone and the call was ended instead.
  bool Enter(std::string_view phase, std::string_view timing) {
    const Clock::time_point now = Clock::now();
    {
      absl::MutexLock lock(&mu_);
      ++stage_;
      ticket_ = FlightTicket();
      phase_ = phase;
      if (step_ != timing) {
        CloseStepLocked(now);
        step_ = timing;
        step_begin_ = now;
      }
      if (!cancelled_) return true;
    }
    End(absl::CancelledError("the caller went away"));
    return false;
  }
  void CloseStepLocked(Clock::time_point now) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    if (step_.empty()) return;
    timings_.emplace_back(step_,
                          std::chrono::duration_cast<std::chrono::microseconds>(now - step_begin_));
    step_.clear();
  }
  int stage() {
    absl::MutexLock lock(&mu_);
    return stage_;
  }
  // Keeps the ticket of a step that may have ended, or been cancelled, while it was being started.
  void Adopt(int stage, const FlightTicket& ticket) {
    {
      absl::MutexLock lock(&mu_);
      if (stage != stage_) return;
      ticket_ = ticket;
      if (!cancelled_) return;
    }
    ticket.Leave();
  }

  void Check();
  void Resolve();
  void Bring(const ImageStore::Resolved& resolved);
  void Mount(ChainRef chain);
  void Sync(ChainRef chain);
  void CompleteMount();
  void ListenToTicks();
  void TrackLayers();
  void MakeIndex();
  void SucceedIndex(const PublishResult& published);
  void PublishByItself(const ChainRef& chain);
  void BringForPodman(const ImageStore::Resolved& resolved);
  void AddToPodman(ImageUses::Use brought);
  void Succeed(std::optional<MountRecord> record, const PodmanStore::Entry* added = nullptr);
  void End(const absl::Status& status);
  void UndoMount();

  bool Tick();
  void Sample();
  void FillLayers(google::protobuf::RepeatedPtrField<LayerEvent>* out, bool all_here);
  void Pump();

  const ControlService::Deps deps_;
  const ControlService::AutoPublish& auto_publish_;
  Ticker& ticker_;
  CallCounter& counter_;
  grpc::CallbackServerContext* const call_;
  std::shared_ptr<TransferCall> self_;  // until OnDone
  TransferRequest request_;
  CheckedMount mount_;  // of a Mount, from Check on
  // Set by Bring before anything that reads it is started.
  ImageRef image_;
  std::shared_ptr<ImageSource> source_;
  CancelSource cancel_;
  bool synced_ = false;  // of the step that runs

  absl::Mutex mu_;
  int stage_ ABSL_GUARDED_BY(mu_) = 0;
  FlightTicket ticket_ ABSL_GUARDED_BY(mu_);
  bool cancelled_ ABSL_GUARDED_BY(mu_) = false;
  bool syncing_ ABSL_GUARDED_BY(mu_) = false;
  bool mounted_ ABSL_GUARDED_BY(mu_) = false;
  bool ended_ ABSL_GUARDED_BY(mu_) = false;     // final_ is set
  bool finished_ ABSL_GUARDED_BY(mu_) = false;  // gRPC was told
  bool writing_ ABSL_GUARDED_BY(mu_) = false;
  bool tracking_ ABSL_GUARDED_BY(mu_) = false;  // tracks_ is filled
  std::string phase_ ABSL_GUARDED_BY(mu_);
  std::string step_ ABSL_GUARDED_BY(mu_);
  Clock::time_point step_begin_ ABSL_GUARDED_BY(mu_);
  std::vector<std::pair<std::string, std::chrono::microseconds>> timings_ ABSL_GUARDED_BY(mu_);
  std::vector<LayerTrack> tracks_ ABSL_GUARDED_BY(mu_);
  std::optional<MountEvent> pending_ ABSL_GUARDED_BY(mu_);  // newest progress not yet written
  std::string last_progress_ ABSL_GUARDED_BY(mu_);
  absl::Status final_ ABSL_GUARDED_BY(mu_);
  std::optional<MountEvent> result_ ABSL_GUARDED_BY(mu_);
  MountEvent outgoing_;  // belongs to the write under way
};

void TransferCall::Check() {
  if (request_.mount.has_value()) {
    // Everything that can be known to fail is found before a byte is fetched.
    absl::StatusOr<CheckedMount> checked = deps_.mounts.Check(*request_.mount);
    if (!checked.ok()) return End(checked.status());
    mount_ = *std::move(checked);
  }
  if (!request_.complete.empty()) return CompleteMount();
  if (request_.mount.has_value() && request_.lazy) {
    request_.resolve.trust = deps_.trust_of(request_.resolve.reference);
  }
  if (!request_.add.empty()) {
    request_.resolve.trust = deps_.podman->TrustFor(request_.resolve.reference);
  }
  if (!request_.add.empty() && request_.resolve.policy == PullPolicy::kMissing) {
    // Held, not listed: the store does not find it by its reference.
    if (auto image = deps_.podman->Find(request_.add, request_.resolve.platform)) {
      ListenToTicks();
      return Bring({std::move(image), nullptr, true});
    }
  }
  Resolve();
}

void TransferCall::Resolve() {
  if (!Enter("resolving", "resolve")) return;
  const int stage = this->stage();
  ListenToTicks();
  Adopt(stage, deps_.store.Resolve(request_.resolve,
                                   [self = self()](absl::StatusOr<ImageStore::Resolved> result) {
                                     if (!result.ok()) return self->End(result.status());
                                     self->Bring(*std::move(result));
                                   }));
}

void TransferCall::ListenToTicks() {
  ticker_.Listen([weak = weak_from_this()] {
    std::shared_ptr<TransferCall> call = weak.lock();
    return call != nullptr && call->Tick();
  });
}

// From now on progress tells of the image's layers.
void TransferCall::TrackLayers() {
  std::vector<LayerTrack> tracks;
  for (size_t i = 0; i < image_->config.diff_ids.size(); ++i) {
    tracks.push_back({.reused = IsHere(deps_.store.StateOf(KeyOf(*image_, i)))});
  }
  {
    absl::MutexLock lock(&mu_);
    tracks_ = std::move(tracks);
    tracking_ = true;
  }
}

void TransferCall::Bring(const ImageStore::Resolved& resolved) {
  if (!Enter("layers", "layers")) return;
  const int stage = this->stage();
  image_ = resolved.image;
  source_ = resolved.source;
  TrackLayers();
  if (!request_.add.empty()) return BringForPodman(resolved);
  Adopt(stage, deps_.store.EnsureChain(image_, resolved.source, request_.resolve.trust,
                                       Priority::kForeground,
                                       [self = self()](absl::StatusOr<ChainRef> chain) {
                                         if (!chain.ok()) return self->End(chain.status());
                                         if (self->request_.mount.has_value()) {
                                           self->Mount(*std::move(chain));
                                         } else {
                                           self->Sync(*std::move(chain));
                                         }
                                       }));
  // The others that wait for the same layers are seen best right now.
  Tick();
}

void TransferCall::BringForPodman(const ImageStore::Resolved& resolved) {
  Adopt(stage(), deps_.podman->Bring(resolved.image, resolved.source, Priority::kForeground,
                                     [self = self()](absl::StatusOr<ImageUses::Use> brought) {
                                       if (!brought.ok()) return self->End(brought.status());
                                       self->AddToPodman(*std::move(brought));
                                     }));
}

void TransferCall::AddToPodman(ImageUses::Use brought) {
  if (!Enter("mounting", "mount")) return;
  deps_.executor.Submit([self = self(), brought = std::move(brought)]() mutable {
    const absl::StatusOr<PodmanStore::Entry> entry = self->deps_.podman->Add(
        self->request_.add, self->request_.resolve.reference.ToString(), brought);
    brought = {};
    if (!entry.ok()) return self->End(entry.status());
    self->Succeed(std::nullopt, &*entry);
  });
}

void TransferCall::Mount(ChainRef chain) {
  // Bytes of an earlier lazy mount may still be missing.
  if (!request_.lazy && chain != nullptr && !chain->complete() && !std::exchange(synced_, true)) {
    return Sync(std::move(chain));
  }
  if (!Enter("mounting", "mount")) return;
  deps_.executor.Submit([self = self(), chain = std::move(chain)]() mutable {
    chain->AllowWaiting(absl::Seconds(self->mount_.request.options.deadline_seconds));
    absl::StatusOr<MountRecord> mounted =
        self->deps_.mounts.Mount(chain, self->image_->manifest_digest, self->mount_);
    if (!mounted.ok()) return self->End(mounted.status());
    self->PublishByItself(chain);
    {
      absl::MutexLock lock(&self->mu_);
      // What was written before this call is not the caller's to take back.
      self->mounted_ = self->mount_.continued.empty();
    }
    self->Succeed(*std::move(mounted));
  });
}

void TransferCall::Sync(ChainRef chain) {
  if (!Enter("syncing", "sync")) return;
  bool cancelled;
  {
    absl::MutexLock lock(&mu_);
    syncing_ = true;
    cancelled = cancelled_;
  }
  // There is no ticket for this wait: from here on OnCancel ends the call by itself.
  if (cancelled) return End(absl::CancelledError("the caller went away"));
  deps_.store.WaitDurable(chain, [self = self(), chain](absl::Status status) {
    if (!status.ok()) return self->End(status);
    {
      absl::MutexLock lock(&self->mu_);
      self->syncing_ = false;
    }
    if (self->request_.index.has_value()) return self->MakeIndex();
    if (self->request_.mount.has_value()) return self->Mount(chain);
    self->Succeed(std::nullopt);
  });
}

// Pull of a directory: what the mount there shows is brought here entirely.
void TransferCall::CompleteMount() {
  if (!Enter("layers", "layers")) return;
  for (const MountState& mount : deps_.mounts.List()) {
    const MountRecord& record = mount.record;
    if (record.directory != request_.complete) continue;
    if (!mount.mounted()) {
      return End(absl::FailedPreconditionError(
          StrCat(record.directory, " is not mounted: ", mount.not_mounted)));
    }
    absl::StatusOr<Reference> reference = Reference::Parse(record.reference);
    if (!reference.ok()) return End(reference.status());
    absl::StatusOr<ImageRef> image = deps_.store.FindImage(*reference, request_.resolve.platform);
    absl::StatusOr<ChainRef> chain = mount.chain;
    if (*chain == nullptr) chain = deps_.store.FindChain(record.chain_id);
    if (!image.ok()) return End(image.status());
    if (!chain.ok()) return End(chain.status());
    image_ = *std::move(image);
    TrackLayers();
    ListenToTicks();
    return Sync(*std::move(chain));
  }
  End(absl::NotFoundError(
      StrCat(request_.complete, ": nothing of imagefs is mounted there; imagefs ls lists mounts")));
}

void TransferCall::MakeIndex() {
  if (!Enter("indexing", "index")) return;
  PublishRequest publish;
  publish.image = image_;
  publish.source = source_;
  const IndexTarget& target = *request_.index;
  if (target.push) publish.to = target.to.value_or(request_.resolve.reference);
  publish.access = target.to.has_value() ? target.access : request_.resolve.access;
  publish.file = target.file;
  publish.with_profile = target.profile;
  publish.statement_only = target.statement_only;
  publish.signatures = target.signatures;
  publish.statement_digest = target.statement_digest;
  const int stage = this->stage();
  deps_.publications.Start(std::move(publish), cancel_.token(),
                           [self = self()](absl::StatusOr<PublishResult> published) {
                             if (!published.ok()) return self->End(published.status());
                             self->SucceedIndex(*published);
                           });
  Adopt(stage, FlightTicket([cancel = cancel_]() mutable { cancel.Cancel(); }));
}

void TransferCall::SucceedIndex(const PublishResult& published) {
  MountEvent event;
  control::v1::MountResult* result = event.mutable_result();
  FillImage(*image_, result->mutable_image());
  FillLayers(result->mutable_layers(), /*all_here=*/true);
  control::v1::IndexResult* index = result->mutable_index();
  for (const PublishResult::Layer& layer : published.layers) {
    control::v1::IndexResult::Layer* out = index->add_layers();
    out->set_digest(layer.digest.ToString());
    out->set_blob_bytes(layer.blob_bytes);
    out->set_index_bytes(layer.index_bytes);
    out->set_reason(layer.reason);
  }
  index->set_artifact_digest(published.artifact);
  index->set_repository(published.repository);
  index->set_listed_by_tag(published.listed_by_tag);
  index->set_sent_bytes(published.sent_bytes);
  index->set_file(published.file);
  index->set_statement(published.statement);
  for (const std::string& id : published.signed_by) index->add_signed_by(id);
  for (const std::string& id : published.signatures_lost) index->add_signatures_lost(id);
  {
    absl::MutexLock lock(&mu_);
    if (!ended_) result_ = std::move(event);
  }
  End(absl::OkStatus());
}

// The first of a fleet to mount an image pays with a full pass and leaves the index for the others.
void TransferCall::PublishByItself(const ChainRef& chain) {
  if (!auto_publish_.enabled || chain == nullptr || source_ == nullptr || !source_->remote())
    return;
  const bool passed = std::any_of(chain->layers.begin(), chain->layers.end(),
                                  [](const LayerRef& layer) { return layer->fill == nullptr; });
  if (!passed) return;
  PublishRequest publish;
  publish.image = image_;
  publish.source = source_;
  publish.access = request_.resolve.access;
  publish.to = request_.resolve.reference;
  if (!auto_publish_.repository.empty()) {
    absl::StatusOr<Reference> to = Reference::Parse(auto_publish_.repository);
    if (!to.ok()) return;
    publish.to = *std::move(to);
  }
  publish.only_if_absent = true;
  deps_.publications.Start(
      std::move(publish), CancelToken(),
      [reference = image_->reference](const absl::StatusOr<PublishResult>& published) {
        if (absl::IsCancelled(published.status())) {
          LogInfo("index.publish_given_up reference=", reference);
        } else if (!published.ok()) {
          LogWarning("index.publish_failed reference=", reference,
                     " cause=", published.status().message());
        } else if (published->absent) {
          LogInfo("index.published reference=", reference, " to=", published->repository,
                  " artifact=", published->artifact);
        }
      });
}

void TransferCall::Succeed(std::optional<MountRecord> record, const PodmanStore::Entry* added) {
  MountEvent event;
  control::v1::MountResult* result = event.mutable_result();
  FillImage(*image_, result->mutable_image());
  if (record.has_value()) FillMount(*record, result->mutable_mount());
  if (added != nullptr) FillAdded(deps_.store, *added, result->mutable_added());
  FillLayers(result->mutable_layers(), /*all_here=*/true);
  absl::flat_hash_set<std::string> counted;
  uint64_t fetched = 0;
  for (const LayerEvent& layer : result->layers()) {
    if (!layer.reused() && counted.insert(layer.digest()).second) {
      fetched += layer.downloaded_bytes();
    }
  }
  result->set_fetched_bytes(fetched);
  {
    absl::MutexLock lock(&mu_);
    CloseStepLocked(Clock::now());
    for (const auto& [step, duration] : timings_) {
      control::v1::Timing* timing = result->add_timings();
      timing->set_step(step);
      timing->set_microseconds(duration.count());
    }
    if (!ended_) result_ = std::move(event);
  }
  End(absl::OkStatus());
}

void TransferCall::End(const absl::Status& status) {
  {
    absl::MutexLock lock(&mu_);
    if (ended_) return;
    ended_ = true;
    final_ = status;
    ticket_ = FlightTicket();
    pending_.reset();
    if (cancelled_ && status.ok()) final_ = absl::CancelledError("the caller went away");
    if (!final_.ok()) result_.reset();
  }
  Pump();
}

void TransferCall::UndoMount() {
  // Nothing of this object, and nothing that lives shorter than the executor, is used by the task.
  deps_.executor.Submit([&mounts = deps_.mounts, directory = mount_.request.directory] {
    const absl::Status status = mounts.Unmount(directory, /*lazy=*/true);
    if (!status.ok() && !absl::IsNotFound(status)) {
      LogWarning("undo_mount_failed directory=", directory, " cause=", status.message());
    }
  });
}

bool TransferCall::Tick() {
  Sample();
  MountEvent event;
  control::v1::Progress* progress = event.mutable_progress();
  FillLayers(progress->mutable_layers(), /*all_here=*/false);
  {
    absl::MutexLock lock(&mu_);
    if (ended_) return false;
    bool all_done = tracking_ && phase_ == "layers";
    for (const LayerEvent& layer : progress->layers()) all_done &= layer.activity() == "done";
    if (all_done) {
      const Clock::time_point now = Clock::now();
      CloseStepLocked(now);
      phase_ = "merging";
      step_ = "merge";
      step_begin_ = now;
    }
    progress->set_phase(phase_);
    if (!request_.progress) return true;
    std::string text = event.SerializeAsString();
    if (text == last_progress_) return true;
    last_progress_ = std::move(text);
    pending_ = std::move(event);
  }
  Pump();
  return true;
}

// Remembers what is seen of each layer's flight, which is gone when the call ends.
void TransferCall::Sample() {
  {
    absl::MutexLock lock(&mu_);
    if (!tracking_ || ended_) return;
  }
  std::vector<std::optional<LayerProgress>> seen;
  for (size_t i = 0; i < image_->config.diff_ids.size(); ++i) {
    seen.push_back(deps_.store.Progress(KeyOf(*image_, i)));
  }
  const Clock::time_point now = Clock::now();
  absl::MutexLock lock(&mu_);
  for (size_t i = 0; i < seen.size(); ++i) {
    LayerTrack& track = tracks_[i];
    if (!seen[i].has_value() || track.reused) continue;
    track.shared |= seen[i]->callers > 1;
    const bool moves = seen[i]->downloaded_bytes > track.downloaded;
    if (moves || track.moved == Clock::time_point()) track.moved = now;
    track.trouble = seen[i]->trouble;
    if (track.trouble.empty() && seen[i]->downloaded_bytes < seen[i]->blob_bytes &&
        now - track.moved >= kSilenceToTell) {
      track.trouble = StrCat("nothing has come for ", kSilenceToTell.count(), " s");
    }
    track.downloaded = std::max(track.downloaded, seen[i]->downloaded_bytes);
    track.unpacked = std::max(track.unpacked, seen[i]->unpacked_bytes);
  }
}

void TransferCall::FillLayers(google::protobuf::RepeatedPtrField<LayerEvent>* out, bool all_here) {
  std::vector<LayerTrack> tracks;
  {
    absl::MutexLock lock(&mu_);
    if (!tracking_) return;
    tracks = tracks_;
  }
  for (size_t i = 0; i < tracks.size(); ++i) {
    const Descriptor& blob = image_->manifest.layers[i];
    const Digest& diff_id = image_->config.diff_ids[i];
    const LayerKey key = KeyOf(*image_, i);
    LayerEvent* event = out->Add();
    event->set_digest(blob.digest.ToString());
    event->set_diff_id(diff_id.ToString());
    event->set_blob_bytes(blob.size);
    event->set_shared(tracks[i].shared);
    event->set_reused(tracks[i].reused);
    event->set_downloaded_bytes(tracks[i].downloaded);
    event->set_unpacked_bytes(tracks[i].unpacked);
    if (!all_here) event->set_trouble(tracks[i].trouble);
    if (all_here && deps_.store.StateOf(key) == LayerState::kFilling) {
      // Shown before its bytes are here.
      event->set_activity("filling");
      const std::optional<LayerProgress> progress = deps_.store.Progress(key);
      event->set_downloaded_bytes(progress.has_value() ? progress->downloaded_bytes : 0);
      continue;
    }
    if (all_here || tracks[i].reused) {
      event->set_activity("done");
      if (!tracks[i].reused) event->set_downloaded_bytes(blob.size);
      continue;
    }
    std::optional<LayerProgress> progress = deps_.store.Progress(key);
    if (progress.has_value()) {
      event->set_activity(std::string(ActivityName(progress->activity)));
    } else {
      event->set_activity(IsHere(deps_.store.StateOf(key)) ? "done" : "waiting");
    }
  }
}

// Hands gRPC the next thing: one write at a time, and the end only after the last of them.
void TransferCall::Pump() {
  enum { kWrite, kFinish, kWriteAndFinish } next = kWrite;
  absl::Status status;
  {
    absl::MutexLock lock(&mu_);
    if (writing_ || finished_) return;
    if (ended_) {
      finished_ = true;
      status = final_;
      next = result_.has_value() ? kWriteAndFinish : kFinish;
      if (result_.has_value()) outgoing_ = *std::move(result_);
    } else if (pending_.has_value()) {
      outgoing_ = *std::move(pending_);
      pending_.reset();
      writing_ = true;
    } else {
      return;
    }
  }
  // Once gRPC was told of the end, OnDone may drop the last reference at any moment.
  switch (next) {
    case kWrite:
      return StartWrite(&outgoing_);
    case kFinish:
      return Finish(AnswerOf(call_, status));
    case kWriteAndFinish:
      return StartWriteAndFinish(&outgoing_, grpc::WriteOptions(), AnswerOf(call_, status));
  }
}

}  // namespace

absl::StatusOr<std::string> ResolveParents(const std::string& directory) {
  IMAGEFS_RETURN_IF_ERROR(CheckPath(directory, "the directory"));
  if (!directory.starts_with('/')) {
    return absl::InvalidArgumentError(StrCat(PrintableName(directory), ": not an absolute path"));
  }
  const std::string name = directory.substr(directory.rfind('/') + 1);
  if (name.empty()) return absl::InvalidArgumentError("/ cannot be mounted on");
  const absl::StatusOr<Fd> parent = OpenPlace(ParentOf(directory));
  if (absl::IsNotFound(parent.status())) return directory;
  IMAGEFS_RETURN_IF_ERROR(parent.status());
  IMAGEFS_ASSIGN_OR_RETURN(const std::string resolved, PathOf(*parent, directory));
  return StrCat(resolved, resolved == "/" ? "" : "/", name);
}

grpc::ServerWriteReactor<MountEvent>* StartTransfer(const TransferContext& context,
                                                    grpc::CallbackServerContext* call,
                                                    absl::StatusOr<TransferRequest> request) {
  // Only who has come with a credential may use another one in its place later.
  if (request.ok() && context.deps.refresh_of && !request->resolve.access.credential.empty()) {
    request->resolve.access.refresh = context.deps.refresh_of(request->resolve.reference);
  }
  return TransferCall::Start(context, call, std::move(request));
}

}  // namespace imagefs
