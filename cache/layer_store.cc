// SPDX-License-Identifier: Apache-2.0
#include "cache/layer_store.h"

#include <fcntl.h>
#include <malloc.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <ctime>
#include <thread>
#include <utility>

#include "base/directory.h"
#include "base/json.h"
#include "base/log.h"
#include "base/status.h"
#include "base/text.h"
#include "base/thread_role.h"
#include "base/units.h"
#include "cache/identity.h"
#include "cache/image_row.h"
#include "cache/layer_store_job.h"
#include "cache/layer_store_shared.h"
#include "cache/layer_store_unhashed.h"

namespace imagefs {
LayerStore::LayerStore(Options options, KeyValueStore& kv)
    : options_(std::move(options)), kv_(kv) {}

absl::StatusOr<std::unique_ptr<LayerStore>> LayerStore::Open(Options options, KeyValueStore& kv) {
  std::unique_ptr<LayerStore> store(new LayerStore(std::move(options), kv));
  IMAGEFS_ASSIGN_OR_RETURN(store->boot_id_, BootId());
  store->downloads_ = std::make_unique<Downloads>(store->options_.root + "/blobs", store->boot_id_,
                                                  store->options_.space);
  for (const char* sub : {"/layers", "/blobs"}) {
    IMAGEFS_RETURN_IF_ERROR(MakeDirs(store->options_.root + sub, 0700));
  }
  const int workers = store->options_.workers > 0
                          ? store->options_.workers
                          : static_cast<int>(std::thread::hardware_concurrency()) + 2;
  FillScheduler::Options fill = store->options_.fill;
  fill.space = store->options_.space;
  store->fill_ = std::make_unique<FillScheduler>(fill);
  store->parallel_ = std::make_unique<ParallelPasses>(store->options_.parallel, *store->fill_);
  if (store->options_.keep_blobs) {
    store->kept_ =
        KeptBlobs::Open({store->options_.root + "/blobs", store->boot_id_}, *store->fill_);
  } else {
    KeptBlobs::RemoveAll(store->options_.root + "/blobs");
  }
  store->span_tables_ = std::make_unique<SpanTableBuilder>(store->options_.root, store->windows_);
  // Twice as many may start before their blobs are complete, since those wait for bytes.
  store->passes_ =
      std::make_unique<FairWorkers>(ThreadRole::kPass, SourceTurns::Options{workers, 2 * workers});
  store->work_ = std::make_unique<Executor>(ThreadRole::kLayer, workers);
  store->hashing_ = std::make_unique<Hashing>(*store);
  store->sharing_ = std::make_unique<Sharing>(*store);
  store->watch_ = std::make_unique<WriteWatch>();
  store->syncer_ = std::make_unique<LayerSyncer>(
      LayerSyncer::Options(),
      [raw = store.get()](const Digest& id, bool careful) { return raw->SyncToDisk(id, careful); });
  IMAGEFS_RETURN_IF_ERROR(store->Load());
  store->RemoveUnknown();
  store->hashing_->BeginRecorded();
  store->scrubber_ = std::make_unique<Scrubber>(
      store->options_.scrub, [raw = store.get()] { return raw->NextToScrub(); },
      [raw = store.get()](const Digest& id, Scrubber::Pace pace) {
        raw->Scrub(id, pace).IgnoreError();  // it has logged the outcome
      });
  return store;
}

LayerStore::~LayerStore() {
  {
    absl::MutexLock lock(&mu_);
    auto none = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) { return jobs_alive_ == 0; };
    mu_.Await(absl::Condition(&none));
    closing_ = true;
  }
  scrubber_.reset();
  if (syncer_ != nullptr) syncer_->Finish();  // opens layers, which uses everything below
  watch_.reset();
  work_.reset();
  passes_.reset();
  hashing_.reset();
  fill_.reset();  // may still prove a layer, whose span table is then built by span_tables_
  span_tables_.reset();
  syncer_.reset();
  StampFilling();
}

std::string LayerStore::DirectoryOf(const Digest& id) const {
  return StrCat(options_.root, "/layers/", id.hex());
}

// Keeps complete layers, and layers written in this boot (the page cache still has their unsynced
// data); everything else is fetched again on demand.
absl::Status LayerStore::Load() {
  std::vector<std::string> dead;
  {
    absl::MutexLock lock(&mu_);
    IMAGEFS_RETURN_IF_ERROR(
        kv_.ForEachWithPrefix(kRecordPrefix, [&](std::string_view key, std::string_view value) {
          mu_.AssertHeld();
          if (!ReadRecord(key, value).ok()) dead.emplace_back(key);
          return true;
        }));
  }
  WriteBatch batch;
  for (const std::string& key : dead) {
    batch.Delete(key);
    dropped_++;
    LogWarning("layer.dropped layer=", key, " reason=not synced before a crash, or damaged");
  }
  return kv_.Write(batch, true);
}

std::vector<std::string> LayerStore::Strays() {
  std::vector<std::string> strays;
  // Held while a layer gets its name and its record.
  absl::MutexLock records(&records_mu_);
  absl::MutexLock lock(&mu_);
  for (const std::string& name : ListDirOrWarn(options_.root + "/layers")) {
    const absl::StatusOr<Digest> id = Digest::Parse(StrCat("sha256:", name));
    // Temporary files of this process are still being written.
    if (name.starts_with("tmp-") || (id.ok() && layers_.contains(*id))) continue;
    strays.push_back("layers/" + name);
  }
  for (const std::string& name : downloads_->Strays()) strays.push_back("blobs/" + name);
  return strays;
}

// Removes unfinished layers, and blobs of another boot.
void LayerStore::RemoveUnknown() {
  absl::flat_hash_set<std::string> known;
  {
    absl::MutexLock lock(&mu_);
    for (const auto& [id, entry] : layers_) known.insert(id.hex());
  }
  std::vector<std::string> strays;
  for (const std::string& name : ListDirOrWarn(options_.root + "/layers")) {
    if (!known.contains(name)) strays.push_back("/layers/" + name);
  }
  for (const std::string& name : downloads_->Strays()) strays.push_back("/blobs/" + name);
  for (const std::string& stray : strays) {
    // It does no harm: the layers can be used anyway.
    if (absl::Status status = RemoveTree(options_.root + stray); !status.ok()) {
      LogWarning("layer.cleanup_failed path=", stray, " error=", status.message());
    }
  }
}

absl::StatusOr<LayerRef> LayerStore::OpenLocked(const Digest& id, Entry& entry) {
  if (LayerRef open = entry.open.lock(); open != nullptr && HealIndexLocked(*open, entry)) {
    return open;
  }
  auto layer = std::make_shared<Layer>();
  layer->use = std::make_shared<const LayerUseNote>(DirectoryOf(id), released_);
  layer->id = id;
  layer->diff_id = entry.diff_id;
  layer->form = entry.form;
  layer->source = entry.source;
  layer->by_pass = entry.by_pass;
  layer->directory = DirectoryOf(id);
  layer->data_bytes = entry.data_bytes;
  IMAGEFS_ASSIGN_OR_RETURN(layer->data, OpenFile(layer->directory + "/data", O_RDONLY));
  IMAGEFS_ASSIGN_OR_RETURN(layer->index, ErofsImage::Open(layer->directory + "/index"));
  if (entry.sums.index.has_value() && layer->index->Checksum() != *entry.sums.index) {
    return absl::DataLossError("its index is not as it was written");
  }
  if (entry.hashing) {
    layer->fill = std::make_shared<UnhashedFill>(entry.data_bytes);
  } else if (entry.state == LayerState::kFilling) {
    IMAGEFS_RETURN_IF_ERROR(OpenFilling(id, *layer, entry));
  }
  layer->guard = MakeGuard(id, entry);
  entry.open = layer;
  return LayerRef(std::move(layer));
}

absl::StatusOr<LayerRef> LayerStore::Find(const Digest& id) {
  if (IsUnverified(id)) CheckNow(id, false).IgnoreError();  // a damaged one is no longer unverified
  absl::MutexLock lock(&mu_);
  const auto it = layers_.find(id);
  if (it == layers_.end()) {
    return absl::NotFoundError(StrCat("layer ", id.ToString(), " is not present"));
  }
  absl::StatusOr<LayerRef> layer = OpenLocked(id, it->second);
  if (absl::IsResourceExhausted(layer.status())) return layer;  // says nothing about the layer
  if (!layer.ok()) {
    // Its files were removed or damaged externally: forget it, so that it is fetched again.
    LogError("layer.damaged layer=", id.Short(), " error=", layer.status().message());
    layers_.erase(it);
    return absl::NotFoundError(StrCat("layer ", id.ToString(), " is damaged"));
  }
  return layer;
}

LayerRequest RequestOf(const ResolvedImage& image, size_t layer,
                       std::shared_ptr<ImageSource> source) {
  LayerRequest request;
  request.diff_id = image.config.diff_ids[layer];
  request.blob = image.manifest.layers[layer];
  request.form = image.FormOf(layer);
  request.source = std::move(source);
  return request;
}

std::string LayerRequest::Registry() const { return source == nullptr ? "" : source->registry(); }

Digest LayerRequest::UnprovenId() const {
  return found == nullptr ? UnhashedLayerId(blob.digest, diff_id, Registry())
                          : UnprovenLayerId(blob.digest, diff_id, *found, Registry());
}

bool LayerRequest::Suffices(const LayerEntry& entry) const {
  return trust.AllowsUnproven(entry.by_pass, entry.source);
}

const BlobOrigin* OriginOf(const std::vector<BlobOrigin>& origins, const LayerRequest& request) {
  const std::string registry = request.Registry();
  for (const BlobOrigin& origin : origins) {
    if (origin.blob == request.blob.digest && (origin.open || origin.registry == registry)) {
      return &origin;
    }
  }
  return nullptr;
}

LayerStore::Verdict LayerStore::Judge(const Request& request) const {
  absl::MutexLock lock(&mu_);
  return JudgeLocked(request);
}

// The only place that decides what a request may have (docs/security.md).
LayerStore::Verdict LayerStore::JudgeLocked(const Request& request) const {
  using Kind = Verdict::Kind;
  // A lazy layer can be read only from its own blob. The form is part of a name, which an image may
  // claim as a DiffID nevertheless.
  const auto readable = [&](const Entry& entry) {
    if (entry.form.kind != request.form.kind) return false;
    return entry.state != LayerState::kFilling || entry.fill_blob == request.blob.digest;
  };
  const auto recorded =
      request.recorded.has_value() ? layers_.find(*request.recorded) : layers_.end();
  if (recorded != layers_.end()) {
    const auto& [id, entry] = *recorded;
    if (entry.diff_id == id) {
      if (readable(entry)) return {Kind::kDeliver, id};
    } else if (entry.form.kind != request.form.kind) {
      // As if it were not recorded.
    } else if (!entry.was_proven()) {
      if (request.Suffices(entry)) return {Kind::kDeliver, id};
      if (request.trust.empty()) return {Kind::kProve, id};
    } else {
      // Proven since: the layer that was given, under either name.
      const auto proven = layers_.find(entry.diff_id);
      const bool both = proven != layers_.end() && proven->second.diff_id == proven->first &&
                        proven->second.state != LayerState::kFilling;
      return {Kind::kDeliver, both ? proven->first : id};
    }
  }
  const auto may = [&](const Origin& origin) {
    return origin.open || (request.source != nullptr &&
                           possession_.Known(request.source->auth_scope(), origin.blob));
  };
  const auto proven = layers_.find(request.diff_id);
  if (proven != layers_.end() && proven->second.diff_id == proven->first &&
      readable(proven->second)) {
    if (options_.share_all) return {Kind::kDeliver, proven->first};
    const Origin* origin = OriginOf(proven->second.origins, request);
    if (origin != nullptr)
      return {may(*origin) ? Kind::kDeliver : Kind::kAskRegistry, proven->first};
  }
  if (request.source == nullptr) return {};
  if (request.trust.empty()) return JudgeUnprovenLocked(request);
  const auto described = layers_.find(request.UnprovenId());
  if (described == layers_.end() || !readable(described->second)) return {};
  const Origin* origin = OriginOf(described->second.origins, request);
  return {origin != nullptr && may(*origin) ? Kind::kDeliver : Kind::kAskRegistry,
          described->first};
}

// A layer that must be proven may already be in progress for another user.
LayerStore::Verdict LayerStore::JudgeUnprovenLocked(const Request& request) const {
  const auto shown = unproven_.find({request.diff_id, request.blob.digest});
  if (shown == unproven_.end()) return {};
  const auto it = layers_.find(shown->second);
  const bool fills = it != layers_.end() && it->second.state == LayerState::kFilling &&
                     it->second.form.kind == request.form.kind;
  if (!fills || OriginOf(it->second.origins, request) == nullptr) return {};
  return {Verdict::Kind::kProve, it->first};
}

bool LayerStore::Has(const Request& request) const {
  const Verdict verdict = Judge(request);
  if (verdict.kind == Verdict::Kind::kFetch) return sharing_->Find(request).has_value();
  return verdict.kind == Verdict::Kind::kDeliver ||
         (verdict.kind == Verdict::Kind::kAskRegistry && request.source != nullptr);
}

FlightTicket LayerStore::Ensure(Request request, Priority priority, Done done) {
  auto call = std::make_shared<Call>();
  call->request = std::move(request);
  call->priority = priority;
  call->done = std::move(done);
  if (call->request.source != nullptr) call->request.source->LearnUrls(call->request.blob);
  if (const FoundIndexRef& found = call->request.found; found != nullptr) {
    const bool trusted = Trusts(call->request.UnprovenId()) &&
                         (found->source != IndexSource::kUnverified ||
                          Trusts(UnverifiedBlobKey(call->request.blob.digest)));
    if (!trusted) call->request.found = nullptr;
  }
  Continue(call);
  return TicketGroup::TicketOf(call->group);
}

void LayerStore::Continue(const std::shared_ptr<Call>& call) {
  const Verdict verdict = Judge(call->request);
  switch (verdict.kind) {
    case Verdict::Kind::kDeliver:
      if (!IsUnverified(verdict.id)) return Deliver(call, verdict.id);
      // Reading all of it takes time.
      return work_->Submit(std::make_shared<LivePriority>(call->priority),
                           [this, call, id = verdict.id] { Deliver(call, id); });
    case Verdict::Kind::kProve:
      return call->waited ? Fetch(call) : AwaitProof(call, verdict.id);
    case Verdict::Kind::kAskRegistry:
      if (call->request.source == nullptr) return Fetch(call);
      asked_++;
      return call->group->Add(possession_.Ask(call->request.blob, call->request.source,
                                              [this, call](const absl::Status& status) {
                                                // If the registry does not have it, the fetch
                                                // reports that.
                                                if (!status.ok() || call->group->left())
                                                  return Fetch(call);
                                                // Access is now known: judge again, which delivers
                                                // the layer unless it was removed.
                                                Continue(call);
                                              }));
    case Verdict::Kind::kFetch:
      return sharing_->empty() || call->asked_shared ? Fetch(call) : sharing_->Use(call);
  }
}

void LayerStore::Deliver(const std::shared_ptr<Call>& call, const Digest& id) {
  absl::StatusOr<LayerRef> layer = Find(id);
  if (!layer.ok()) return Fetch(call);
  reused_++;
  call->Finish(std::move(layer));
}

void LayerStore::Fetch(const std::shared_ptr<Call>& call) {
  const Request& request = call->request;
  if (request.source == nullptr) {
    if (!call->shared_trouble.ok()) {
      return call->Finish(Annotate(call->shared_trouble, "its layer in the shared store"));
    }
    return call->Finish(absl::NotFoundError(StrCat("layer ", request.diff_id.ToString(),
                                                   " is not in the store; pull the image again")));
  }
  FlightTable<LayerRef>::Caller caller;
  caller.priority = call->priority;
  caller.auth_scope = request.source->auth_scope();
  caller.start = [this, call](FlightTable<LayerRef>::Context context) {
    call->leads = true;
    const Request& request = call->request;
    auto job = std::make_shared<Job>(*this, request, std::move(context));
    {
      absl::MutexLock lock(&mu_);
      jobs_[LayerKey{request.diff_id, request.blob.digest}] = job;
    }
    job->Start();
  };
  caller.done = [this, call](absl::StatusOr<LayerRef> layer) { OnFetched(call, std::move(layer)); };
  // Requests with different claims, descriptions or registries do not share work.
  const std::string key =
      request.found != nullptr
          ? request.UnprovenId().ToString()
          : StrCat(request.diff_id.ToString(), " ", request.blob.digest.hex(), " ",
                   static_cast<int>(request.form.kind), " ", request.Registry());
  call->group->Add(layer_flights_.Join(key, std::move(caller)).ticket);
}

// A flight works with one auth scope; each other caller must show that it may have the blob, too.
void LayerStore::OnFetched(const std::shared_ptr<Call>& call, absl::StatusOr<LayerRef> layer) {
  if (!layer.ok()) return call->Finish(std::move(layer));
  const Request& request = call->request;
  const Verdict verdict = Judge(request);
  const bool given = verdict.kind == Verdict::Kind::kDeliver && verdict.id == (*layer)->id;
  // The flight is also of callers that may be given what is not proven.
  if (request.trust.empty() && !(*layer)->proven() && !(*layer)->complete()) return Continue(call);
  // A lazy layer has no bytes yet except those that this request fetches.
  const bool own = call->leads && !(*layer)->proven() && !(*layer)->by_pass;
  if (given || own || options_.share_all) return call->Finish(std::move(layer));
  asked_++;
  call->group->Add(possession_.Ask(
      request.blob, request.source,
      [this, call, layer = std::move(layer)](const absl::Status& status) mutable {
        if (status.ok()) return call->Finish(std::move(layer));
        // A blob that no registry has is fetched by each caller from the image's URLs.
        const bool foreign = absl::IsNotFound(status) && !call->request.blob.urls.empty();
        if (!foreign || call->group->left()) return call->Finish(status);
        Fetch(call);
      }));
}

// Fetches all of a layer in use, and continues once it is proven or turns out to be false.
void LayerStore::AwaitProof(const std::shared_ptr<Call>& call, const Digest& id) {
  const absl::StatusOr<LayerRef> layer = Find(id);
  const std::shared_ptr<FillingLayer> filling = layer.ok() ? FillingOf(*layer) : nullptr;
  const bool hashing = layer.ok() && (*layer)->by_pass && !(*layer)->complete();
  // Only a request that was given the layer before fetches bytes for it.
  const bool recorded = std::exchange(call->request.recorded, std::nullopt) == id;
  call->waited = true;
  if (recorded && filling != nullptr) filling->AddSource(call->request.source);
  if (!hashing && (filling == nullptr || filling->AuthScopes().empty())) return Continue(call);
  FlightTable<bool>::Caller caller;
  caller.priority = call->priority;
  caller.start = [this, id, filling, layer](FlightTable<bool>::Context context) {
    CancelToken::Registration on_cancel = context.cancel.OnCancel(
        [this, id] { EndProofs(id, absl::CancelledError("the layer is no longer wanted")); });
    {
      absl::MutexLock lock(&mu_);
      proofs_[id] = {context.finish, std::move(on_cancel)};
    }
    if (context.cancel.cancelled()) EndProofs(id, absl::CancelledError("cancelled"));
    if (filling != nullptr) filling->WantAll(Priority::kForeground);
    // It may have ended before this was in the list.
    if ((*layer)->complete()) EndProofs(id, absl::OkStatus());
    if (!Trusts(id)) EndProofs(id, absl::DataLossError("it did not match its description"));
  };
  caller.done = [this, call, layer](const absl::StatusOr<bool>& proven) {
    if (absl::IsCancelled(proven.status())) return call->Finish(proven.status());
    Continue(call);
  };
  call->group->Add(proof_flights_.Join(id.ToString(), std::move(caller)).ticket);
}

void LayerStore::EndProofs(const Digest& id, const absl::Status& status) {
  ProofWait proof;
  {
    absl::MutexLock lock(&mu_);
    const auto it = proofs_.find(id);
    if (it == proofs_.end()) return;
    proof = std::move(it->second);
    proofs_.erase(it);
  }
  status.ok() ? proof.finish(true) : proof.finish(status);
}

absl::StatusOr<LayerRef> LayerStore::Publish(const Digest& diff_id, const std::string& directory,
                                             const LayerOutput& made, const Origin& origin) {
  absl::MutexLock records(&records_mu_);
  Entry entry;
  bool here = false;
  {
    absl::MutexLock lock(&mu_);
    const auto it = layers_.find(diff_id);
    here = it != layers_.end() && it->second.state != LayerState::kFilling &&
           it->second.form.kind == made.form.kind;
    if (it != layers_.end()) entry.origins = it->second.origins;
    if (here) entry = it->second;
  }
  std::erase_if(entry.origins, [&](const Origin& other) {
    return other.blob == origin.blob && other.registry == origin.registry && !other.open;
  });
  if (std::find(entry.origins.begin(), entry.origins.end(), origin) == entry.origins.end()) {
    entry.origins.push_back(origin);
  }
  if (!here) {
    const std::string target = DirectoryOf(diff_id);
    IMAGEFS_RETURN_IF_ERROR(RemoveTree(target));
    if (rename(directory.c_str(), target.c_str()) != 0) return ErrnoStatus(errno, target);
    entry.diff_id = diff_id;
    entry.data_bytes = made.data_bytes;
    entry.tar_bytes = made.tar_bytes;
    entry.form = made.form;
    entry.index_bytes = made.index_bytes;
    entry.sums = made.sums;
    entry.stamp = StampOf(target + "/data");
    entry.checked = time(nullptr);
  }
  // Not synced: the record only has to outlive this process. SyncToDisk makes it survive a crash of
  // the machine.
  WriteBatch batch;
  batch.Put(StrCat(kRecordPrefix, diff_id.hex()), RecordOf(diff_id, entry));
  IMAGEFS_RETURN_IF_ERROR(kv_.Write(batch, false));
  absl::StatusOr<LayerRef> layer;
  {
    absl::MutexLock lock(&mu_);
    if (!here) entry.instance = ++instances_;
    Entry& slot = layers_[diff_id];
    slot = std::move(entry);
    layer = OpenLocked(diff_id, slot);
    if (!layer.ok()) {
      layers_.erase(diff_id);
    } else if (!here) {
      syncer_->Add(diff_id, false);
    }
  }
  return layer;
}

absl::Status LayerStore::SyncToDisk(const Digest& id, bool careful) {
  Entry before;
  {
    absl::MutexLock lock(&mu_);
    const auto it = layers_.find(id);
    if (it == layers_.end() || it->second.state != LayerState::kWritten) {
      return absl::NotFoundError(StrCat("layer ", id.ToString(), " was removed"));
    }
    it->second.syncing = true;  // keeps the collector away while the files are synced
    before = it->second;
  }
  const absl::Status synced = SyncLayer(DirectoryOf(id), before.sums, careful);
  {
    absl::MutexLock lock(&mu_);
    if (!IsStillLocked(id, before)) {
      return absl::NotFoundError(StrCat("layer ", id.ToString(), " was removed"));
    }
    layers_[id].syncing = false;
  }
  if (absl::IsDataLoss(synced)) {
    absl::MutexLock one_at_a_time(&checks_mu_);
    Repair(id, before, Annotate(synced, "a layer that could not be synced"));
  }
  IMAGEFS_RETURN_IF_ERROR(synced);
  absl::MutexLock records(&records_mu_);
  Entry entry;
  {
    absl::MutexLock lock(&mu_);
    if (!IsStillLocked(id, before)) return absl::NotFoundError("the layer was just removed");
    entry = layers_[id];  // another pass may have added an origin
  }
  entry.state = LayerState::kComplete;
  if (careful) entry.stamp = StampOf(DirectoryOf(id) + "/data");
  WriteBatch batch;
  batch.Put(StrCat(kRecordPrefix, id.hex()), RecordOf(id, entry));
  IMAGEFS_RETURN_IF_ERROR(kv_.Write(batch, true));
  absl::MutexLock lock(&mu_);
  if (!IsStillLocked(id, before)) return absl::OkStatus();
  Entry& durable = layers_[id];
  durable.state = LayerState::kComplete;
  durable.stamp = entry.stamp;
  durable.other_boot = durable.syncing = false;
  return absl::OkStatus();
}

void LayerStore::WaitDurable(const std::vector<Digest>& ids,
                             absl::AnyInvocable<void(absl::Status)> done) {
  std::vector<std::shared_ptr<FillingLayer>> filling;
  for (const Digest& id : ids) {
    const absl::StatusOr<LayerRef> layer = Find(id);
    if (layer.ok() && FillingOf(*layer) != nullptr) filling.push_back(FillingOf(*layer));
  }
  absl::Status status;
  absl::flat_hash_set<Digest> missing;
  {
    absl::MutexLock lock(&mu_);
    for (const Digest& id : ids) {
      const auto it = layers_.find(id);
      if (it == layers_.end()) {
        status = absl::NotFoundError(StrCat("layer ", id.ToString(), " is gone"));
      } else if (it->second.state != LayerState::kComplete) {
        missing.insert(id);
      }
    }
    // Under the lock, so that none of them becomes durable before the wait is registered.
    if (status.ok() && !missing.empty()) {
      syncer_->Wait(std::move(missing), std::exchange(done, nullptr));
    }
  }
  // After the wait: a layer that cannot fetch them notifies the waiters.
  for (const auto& one : filling) one->WantAll(Priority::kForeground);
  if (done) done(status);
}

// Returns the entry for the layer that an image claims: proven, or in use unproven.
const LayerStore::Entry* LayerStore::EntryLocked(const LayerKey& key) const {
  if (const auto it = layers_.find(key.diff_id);
      it != layers_.end() && it->second.diff_id == it->first) {
    const std::vector<Origin>& origins = it->second.origins;
    const bool same_blob =
        origins.empty() || std::any_of(origins.begin(), origins.end(), [&](const Origin& origin) {
          return origin.blob == key.blob;
        });
    if (same_blob || options_.share_all) return &it->second;
  }
  const auto shown = unproven_.find(key);
  if (shown == unproven_.end()) return nullptr;
  const auto it = layers_.find(shown->second);
  return it == layers_.end() ? nullptr : &it->second;
}

LayerState LayerStore::StateOf(const LayerKey& key) const {
  std::shared_ptr<Job>
      job;  // destroyed after the lock is released, because its destructor takes it
  absl::MutexLock lock(&mu_);
  if (const Entry* entry = EntryLocked(key); entry != nullptr) {
    return entry->hashing ? LayerState::kWritten : entry->state;
  }
  if (const auto it = jobs_.find(key); it != jobs_.end()) job = it->second.lock();
  return job != nullptr && !job->over() ? LayerState::kFilling : LayerState::kAbsent;
}

LayerState LayerStore::StateOfName(const Digest& id) const {
  absl::MutexLock lock(&mu_);
  const auto it = layers_.find(id);
  return it == layers_.end() ? LayerState::kAbsent : it->second.state;
}

std::string_view LayerStore::SourceOf(const LayerKey& key) const {
  absl::MutexLock lock(&mu_);
  const Entry* entry = EntryLocked(key);
  if (entry == nullptr) return "";
  // An unproven layer is stored under a key that is not its DiffID.
  const auto proven = layers_.find(key.diff_id);
  const bool is_proven = proven != layers_.end() && &proven->second == entry;
  return is_proven ? kProvenSource : SourceLocked(Digest(), *entry);
}

std::string_view LayerStore::SourceLocked(const Digest& id, const Entry& entry) const {
  const bool proven = id == entry.diff_id || entry.was_proven();
  return proven ? kProvenSource : IndexSourceName(entry.source);
}

std::optional<LayerProgress> LayerStore::Progress(const LayerKey& key) const {
  std::shared_ptr<Job> job;
  {
    absl::MutexLock lock(&mu_);
    if (const auto it = jobs_.find(key); it != jobs_.end()) job = it->second.lock();
  }
  if (job != nullptr) return job->progress();
  if (auto progress = sharing_->Progress(key.diff_id); progress.has_value()) return progress;
  return FillProgress(key);
}

std::vector<LayerInfo> LayerStore::List() const {
  absl::MutexLock lock(&mu_);
  std::vector<LayerInfo> list;
  for (const auto& [id, entry] : layers_) {
    list.push_back({id, entry.diff_id, entry.state, entry.data_bytes, entry.index_bytes,
                    SourceLocked(id, entry)});
  }
  std::sort(list.begin(), list.end(), [](const auto& a, const auto& b) { return a.id < b.id; });
  return list;
}

std::vector<FlightReport> LayerStore::Flights() const {
  return {{"layer", layer_flights_.counters(), layer_flights_.Running()},
          sharing_->Flights(),
          {"blob", blob_flights_.counters(), blob_flights_.Running()},
          {"proof", proof_flights_.counters(), proof_flights_.Running()},
          {"possession", possession_.counters(), possession_.Running()},
          span_tables_->Flights()};
}

void LayerStore::AppendCounters(std::vector<std::pair<std::string, uint64_t>>& out) const {
  out.emplace_back("layers_built", built_.load());
  out.emplace_back("layers_reused", reused_.load());
  out.emplace_back("layers_dropped", dropped_.load());
  parallel_->AppendCounters(out);
  out.emplace_back("layers_refetched", refetched_.load());
  out.emplace_back("blob_bytes_fetched", blob_bytes_.load());
  out.emplace_back("tar_bytes_written", tar_bytes_.load());
  out.emplace_back("layers_lazy", filling_made_.load());
  out.emplace_back("layers_filled", filled_.load());
  out.emplace_back("layers_failed", damaged_.load());
  out.emplace_back("layers_evicted", evicted_.load());
  out.emplace_back("layers_damaged", checked_bad_.load());
  out.emplace_back("possession_asked", asked_.load());
  out.emplace_back("indexes_useless", index_useless_.load());
  span_tables_->AppendCounters(out);
  fill_->AppendCounters(out);
}

uint64_t LayerStore::Collect(const absl::flat_hash_set<Digest>& keep) {
  // Users of a layer that was proven since will want it under its DiffID.
  absl::flat_hash_set<Digest> proven;
  {
    absl::MutexLock lock(&mu_);
    for (const auto& [id, entry] : layers_) {
      const bool shown = keep.contains(id) || !entry.open.expired();
      if (shown && entry.diff_id != id) proven.insert(entry.diff_id);
    }
  }
  return CollectIf(
      [&](const Digest& id, const Entry&) { return !keep.contains(id) && !proven.contains(id); });
}

uint64_t LayerStore::CollectProvenTwice(const absl::flat_hash_set<Digest>& keep) {
  return CollectIf([&](const Digest& id, const Entry& entry) {
    return !keep.contains(id) && entry.diff_id != id && entry.state != LayerState::kFilling;
  });
}

std::vector<std::pair<Digest, Digest>> LayerStore::ProvenTwice() const {
  std::vector<std::pair<Digest, Digest>> twice;
  absl::MutexLock lock(&mu_);
  for (const auto& [id, entry] : layers_) {
    const bool shown = entry.diff_id != id && entry.state == LayerState::kComplete;
    const auto proven = layers_.find(entry.diff_id);
    if (shown && entry.open.expired() && proven != layers_.end() &&
        proven->second.diff_id == proven->first) {
      twice.emplace_back(id, entry.diff_id);
    }
  }
  return twice;
}

uint64_t LayerStore::CollectIf(absl::FunctionRef<bool(const Digest& id, const Entry& entry)> goes) {
  uint64_t freed = 0;
  std::vector<std::pair<Digest, std::string>> removable;
  absl::flat_hash_set<Digest> claims;
  absl::ReleasableMutexLock records(&records_mu_);
  {
    absl::MutexLock lock(&mu_);
    for (auto it = layers_.begin(); it != layers_.end();) {
      if (!it->second.open.expired() || it->second.syncing || !goes(it->first, it->second)) {
        ++it;
        continue;
      }
      // Renamed under the lock: from here on the layer is absent, and a new one may be made.
      const std::string removed = StrCat(options_.root, "/layers/tmp-", RandomHex(8));
      if (rename(DirectoryOf(it->first).c_str(), removed.c_str()) != 0 && errno != ENOENT) {
        LogWarning("layer.not_removed layer=", it->first.Short(), " errno=", errno);
        ++it;
        continue;
      }
      removable.emplace_back(it->first, removed);
      claims.insert(it->second.diff_id);
      freed += BytesFreedWith(removed);
      layers_.erase(it++);
    }
    for (auto it = jobs_.begin(); it != jobs_.end();) {
      if (it->second.expired()) {
        jobs_.erase(it++);
      } else {
        ++it;
      }
    }
  }
  WriteBatch batch;
  for (const auto& [id, removed] : removable) {
    batch.Delete(StrCat(kRecordPrefix, id.hex()));
    batch.Delete(StrCat(kUnclaimedKeyPrefix, id.hex()));
    LogInfo("layer.removed layer=", id.Short());
  }
  if (removable.empty()) return freed;
  if (absl::Status status = kv_.Write(batch, true); !status.ok()) {
    LogError("layer.forget_failed error=", status.message());
  }
  records.Release();
  // Removing another name of a file changes its timestamps.
  const std::vector<Digest> siblings = UnchangedLayersOf(claims);
  for (const auto& [id, removed] : removable) {
    if (absl::Status status = RemoveTree(removed); !status.ok()) {
      LogWarning("layer.cleanup_failed directory=", removed, " error=", status.message());
    }
  }
  if (absl::Status status = Restamp(siblings); !status.ok()) {
    LogWarning("layer.stamp_failed error=", status.message());
  }
  return freed;
}

}  // namespace imagefs
