// SPDX-License-Identifier: Apache-2.0
#include "cache/image_store.h"

#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <tuple>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/synchronization/mutex.h"
#include "base/json.h"
#include "base/log.h"
#include "base/monotonic.h"
#include "base/status.h"
#include "base/text.h"
#include "base/thread_role.h"
#include "base/ticket_group.h"
#include "base/timeline.h"
#include "cache/chain_store.h"
#include "cache/cold_starts.h"
#include "cache/found_pack.h"
#include "cache/identity.h"
#include "cache/image_records.h"
#include "cache/image_row.h"
#include "cache/layer_repairer.h"
#include "cache/layer_store.h"
#include "cache/resolve_job.h"
#include "cache/shared_transfer.h"
#include "cache/space_keeper.h"
#include "cache/store_check.h"
#include "cache/store_lock.h"
#include "cache/store_version.h"

namespace imagefs {
namespace {

constexpr absl::Duration kCollectPause = absl::Seconds(10);
constexpr absl::Duration kProfilePause = absl::Seconds(2);
// Where indexes of our own are published.
constexpr IndexTrust kPublished = {IndexSource::kBeside, IndexSource::kConfigured,
                                   IndexSource::kSigned};

std::vector<Digest> NamesOf(const Chain& chain) {
  std::vector<Digest> names;
  for (const LayerRef& layer : chain.layers) names.push_back(layer->id);
  return names;
}

// The names of layers with these published descriptions.
std::vector<Digest> UnprovenIds(const ResolvedImage& image, const std::vector<FoundIndexRef>& found,
                                std::string_view registry) {
  std::vector<Digest> ids;
  for (size_t i = 0; i < found.size(); ++i) {
    if (found[i] == nullptr || found[i]->source == IndexSource::kUnverified) continue;
    ids.push_back(UnprovenLayerId(image.manifest.layers[i].digest, image.config.diff_ids[i],
                                  *found[i], registry));
  }
  return ids;
}

class ImageStoreImpl : public ImageStore {
 public:
  ImageStoreImpl(Options options, SourceFactory& sources)
      : options_(std::move(options)), sources_(sources), shared_(options_.shared) {}

  absl::Status Init() {
    const bool is_new = access(options_.root.c_str(), F_OK) != 0;
    IMAGEFS_RETURN_IF_ERROR(MakeDirs(options_.root, 0700));
    IMAGEFS_ASSIGN_OR_RETURN(lock_, LockStore(options_.root));
    IMAGEFS_ASSIGN_OR_RETURN(kv_, KeyValueStore::Open(options_.root + "/db"));
    records_ = std::make_unique<ImageRecords>(*kv_);
    IMAGEFS_ASSIGN_OR_RETURN(const bool same_version, CheckStoreVersion(*kv_, options_.root));
    ProfileKeeper::Options profiles;
    profiles.recorded = options_.events.profiled;
    profiles_ = std::make_unique<ProfileKeeper>(*kv_, std::move(profiles));
    IMAGEFS_ASSIGN_OR_RETURN(space_, StoreSpace::Open(options_.root, options_.space));
    IMAGEFS_ASSIGN_OR_RETURN(
        layers_,
        LayerStore::Open(
            {options_.root, options_.layer_workers, options_.share_all, options_.fill,
             options_.scrub, options_.keep_blobs, space_.get(), &shared_, options_.hash_behind,
             [this](const Reference& reference) { return Open(reference); }, options_.parallel},
            *kv_));
    starts_ = std::make_unique<ColdStarts>(layers_->scheduler().timelines());
    IMAGEFS_ASSIGN_OR_RETURN(chains_,
                             ChainStore::Open(options_.root, *kv_, *layers_, same_version));
    if (!same_version) {
      // On a full disk the next start writes it.
      if (absl::Status status = WriteStoreVersion(*kv_); !status.ok()) {
        LogWarning("store.version_not_written cause=", status.message());
      }
    }
    SyncFolders(is_new);
    repairer_ = std::make_unique<LayerRepairer>(
        *layers_, [this](LayerRepairer::Visit visit) { records_->ForEach(visit); },
        [this](const Reference& reference) { return Open(reference); });
    layers_->Observe(
        {[this](const Digest& layer) { chains_->Forget(layer); },
         [this](const auto& filling) { repairer_->AddSource(*filling); },
         [this](const Digest& id, const auto& heal) { repairer_->Refetch(id, heal); }});
    keeper_ = std::make_unique<SpaceKeeper>(
        SpaceKeeper::Options{options_.root, options_.keep_partial},
        SpaceKeeper::Deps{*space_, *layers_, *chains_, *records_, *kv_,
                          [this] { return CollectOlder(absl::ZeroDuration()); }});
    keeper_->KeepWithin(/*pressed=*/false, /*all_held=*/false);
    space_->OnPressure([this] { MakeRoom(); });
    KeepHouse();
    IndexFinder::Options index = options_.index;
    index.directory = options_.root + "/layers";
    index.open = [this](const Reference& reference) { return Open(reference); };
    finder_ = std::make_unique<IndexFinder>(std::move(index));
    if (options_.verify.has_value()) {
      verifier_ = std::make_unique<ImageVerifier>(*options_.verify);
    }
    return absl::OkStatus();
  }

  FlightTicket Resolve(ResolveRequest request,
                       absl::AnyInvocable<void(absl::StatusOr<Resolved>)> done) override;
  void StartCollecting() override {
    collecting_ = true;
    MakeRoom();
  }
  void StopCollecting() override {
    collecting_ = false;
    if (space_ != nullptr) space_->OnPressure({});
    StopTimers();
    // Running tasks set no more timers.
    housekeeping_.reset();
  }
  ~ImageStoreImpl() override {
    StopCollecting();
    // The layers outlive the chains, and may still turn out to be damaged.
    if (layers_ != nullptr) layers_->Observe({});
    repairer_.reset();
    if (profiles_ != nullptr) profiles_->Collect(/*all=*/true);
  }
  FlightTicket EnsureChain(ImageRef image, std::shared_ptr<ImageSource> source, IndexTrust trust,
                           Priority priority,
                           absl::AnyInvocable<void(absl::StatusOr<ChainRef>)> done) override {
    return Ensure(std::move(image), std::move(source), trust, priority, {}, std::move(done));
  }
  FlightTicket EnsureFiles(ImageRef image, std::shared_ptr<ImageSource> source, IndexTrust trust,
                           absl::AnyInvocable<void(absl::StatusOr<ChainRef>)> done) override {
    return Ensure(std::move(image), std::move(source), trust, Priority::kForeground,
                  {.runs = false}, std::move(done));
  }
  FlightTicket EnsureOwned(const std::string& holder, ImageRef image,
                           std::shared_ptr<ImageSource> source, IndexTrust trust, Priority priority,
                           absl::AnyInvocable<void(absl::StatusOr<ChainRef>)> done) override {
    return Ensure(std::move(image), std::move(source), trust, priority, {.holder = holder},
                  std::move(done));
  }
  absl::Status ReleaseHeld(const std::string& holder, const Digest& manifest) override {
    return records_->RemoveHeld(holder, manifest);
  }
  absl::StatusOr<std::vector<ImageRef>> ListHeld(const std::string& holder) const override {
    return records_->ListHeld(holder);
  }
  void AttachSource(const ChainRef& chain, const Reference& reference,
                    const SourceFactory::Access& access) override;
  std::vector<std::optional<FillReport>> FillReports(const ChainRef& chain) const override {
    return ReportLayers(*chain);
  }
  ImagePicture Picture(const ChainRef& chain, const Digest& manifest) const override {
    return {PictureLayers(*chain), starts_->Read(manifest)};
  }
  FlightTicket MakeIndexes(ImageRef image, std::shared_ptr<ImageSource> source,
                           absl::AnyInvocable<void(absl::StatusOr<ChainRef>)> done) override;
  ProfileKeeper& profiles() override { return *profiles_; }
  absl::StatusOr<uint64_t> Evict(const Reference& reference) override;
  absl::StatusOr<CheckReport> Check(const std::vector<Reference>& references, bool repair,
                                    Scrubber::Pace pace) override;
  absl::StatusOr<StoreUsage> Usage() override { return keeper_->Measure(); }
  absl::StatusOr<PruneResult> Prune(const PruneRequest& request) override {
    CollectProvenTwice();
    return keeper_->Prune(request);
  }
  absl::Status Pin(const Reference& reference) override { return records_->Pin(reference); }
  absl::Status Unpin(const Reference& reference) override { return records_->Unpin(reference); }

  void WaitDurable(ChainRef chain, absl::AnyInvocable<void(absl::Status)> done) override {
    layers_->WaitDurable(NamesOf(*chain), std::move(done));
  }

  absl::StatusOr<ChainRef> FindChain(const Digest& chain_id) override {
    return chains_->Find(chain_id);
  }

  absl::StatusOr<ChainRef> FindChainOf(const ImageRef& image) override {
    return chains_->FindOf(*image);
  }
  bool HasLayers(const ResolvedImage& image, IndexTrust trust) const override;

  std::optional<LayerProgress> Progress(const LayerKey& layer) const override {
    std::optional<LayerProgress> progress = layers_->Progress(layer);
    if (progress.has_value()) progress->callers = chains_->CallersOf(layer);
    return progress;
  }

  uint64_t ResumableBytes(const Digest& blob) const override {
    return layers_->downloads().BytesOf(blob);
  }
  absl::StatusOr<ImageRef> FindManifest(const Digest& manifest) const override {
    return records_->FindManifest(manifest);
  }
  LayerState StateOf(const LayerKey& layer) const override { return layers_->StateOf(layer); }
  LayerState StateOfName(const Digest& id) const override { return layers_->StateOfName(id); }
  std::string_view SourceOf(const LayerKey& layer) const override {
    return layers_->SourceOf(layer);
  }
  absl::StatusOr<std::vector<ImageRecord>> ListImages(bool also_held) const override;
  absl::StatusOr<ImageRef> FindImage(const Reference& reference,
                                     const Platform& platform) const override {
    absl::StatusOr<ImageRef> image = records_->Find(reference, platform);
    if (!absl::IsNotFound(image.status()) || shared_.empty()) return image;
    absl::StatusOr<ImageRef> shared = shared_.FindImage(reference, platform);
    return shared.ok() ? shared : image;
  }
  absl::StatusOr<uint64_t> Export(const ResolvedImage& image, const ChainRef& chain,
                                  const std::string& directory,
                                  const CancelToken& cancel) override {
    return ExportImage(*layers_, image, *chain, directory, cancel);
  }
  absl::StatusOr<ImageRef> Import(const std::string& directory, const Reference& reference,
                                  const Platform& platform, const CancelToken& cancel) override;
  std::vector<SharedStores::Listed> ListShared() const override { return shared_.List(); }
  absl::StatusOr<uint64_t> Remove(const Reference& reference) override;
  absl::StatusOr<uint64_t> Collect() override { return CollectOlder(options_.keep_partial); }
  std::vector<LayerInfo> ListLayers() const override { return layers_->List(); }

  std::vector<FlightReport> Flights() const override {
    std::vector<FlightReport> reports = layers_->Flights();
    reports.push_back(finder_->Flights());
    for (FlightReport& report : chains_->Flights()) reports.push_back(std::move(report));
    reports.push_back({"resolve", resolve_flights_.counters(), resolve_flights_.Running()});
    if (verifier_ != nullptr) reports.push_back(verifier_->Flights());
    return reports;
  }

  std::vector<std::pair<std::string, uint64_t>> Counters() const override {
    std::vector<std::pair<std::string, uint64_t>> counters;
    layers_->AppendCounters(counters);
    chains_->AppendCounters(counters);
    finder_->AppendCounters(counters);
    kv_->AppendCounters(counters);
    counters.emplace_back("store_writes_refused", space_->refused());
    if (verifier_ != nullptr) verifier_->AppendCounters(counters);
    return counters;
  }

  std::vector<HistogramReport> Histograms() const override {
    std::vector<HistogramReport> out;
    layers_->AppendHistograms(out);
    return out;
  }
  absl::StatusOr<StoreSpace::Reading> Space() const override { return space_->Read(); }

  KeyValueStore& kv() override { return *kv_; }
  KeptBlobs* kept_blobs() override { return layers_->kept_blobs(); }

 private:
  // So that files synced below them can be found after a crash.
  void SyncFolders(bool with_root) const {
    absl::Status status = FsyncDir(options_.root);
    if (with_root) status.Update(FsyncDir(ParentOf(options_.root)));
    // Existing content can be used anyway, and later syncs report their own errors.
    if (!status.ok()) LogWarning("store.folders_not_synced cause=", status.message());
  }
  // Returns false if the store is of an earlier version.
  // Resolve, without asking verifiers.
  FlightTicket Look(ResolveRequest request,
                    absl::AnyInvocable<void(absl::StatusOr<Resolved>)> done);
  // For what a chain is made.
  struct Use {
    std::string holder = "";  // as in EnsureOwned; "" = the image is listed
    bool runs = true;         // its program is about to run
    bool recorded = true;     // false: somebody else has the image, or nobody keeps it
  };
  FlightTicket Ensure(ImageRef image, std::shared_ptr<ImageSource> source, IndexTrust trust,
                      Priority priority, Use use,
                      absl::AnyInvocable<void(absl::StatusOr<ChainRef>)> done);
  // Puts an image that uses these layers, which are no longer collected, into the records.
  absl::Status Record(const ResolvedImage& image, const std::string& holder,
                      const std::vector<Digest>& layers) {
    IMAGEFS_RETURN_IF_ERROR(records_->Put(image, holder, layers));
    return records_->Claim(layers);
  }
  // In quiet moments: collects layers that were proven under another name, and what was released;
  // keeps the store within its limits.
  void KeepHouse();
  // Like KeepHouse, immediately and once.
  void MakeRoom();
  // Collects what is not needed. What was made for an image without a record stays for that long.
  absl::StatusOr<uint64_t> CollectOlder(absl::Duration age);
  void CollectProvenTwice();
  // Returns what the same callers resolved before, while it is still being fetched or mounted: it
  // has no record yet.
  ImageRef FindRecent(const std::string& key);
  void KeepRecent(const std::string& key, const ImageRef& image);
  void FindTables(const ImageRef& image, const std::shared_ptr<ImageSource>& source,
                  std::vector<FoundIndexRef> found, CancelToken cancel,
                  ChainStore::IndexesFound done);
  // Finds indexes for the layers that are not present.
  void FindIndexes(const ImageRef& image, const std::shared_ptr<ImageSource>& source,
                   IndexTrust trust, bool runs, const std::shared_ptr<FoundPack>& pack,
                   CancelToken cancel, ChainStore::IndexesFound done);
  // A chain is about to be used: sets `source` as the source of its missing bytes and prefetches
  // those that its first run read; without a profile, this is the first run. `runs`: as in Use.
  void OnReadable(const ResolvedImage& image, const ChainRef& chain,
                  const std::shared_ptr<ImageSource>& source, bool runs, FoundPack& pack);
  void CollectProfiles();
  // Runs `task` on housekeeping_ after a pause, by one of the timers below, unless the store is
  // closing.
  void After(absl::Duration pause, Timer ImageStoreImpl::*timer, absl::AnyInvocable<void()> task);
  void StopTimers();
  // Uses this machine's credentials.
  absl::StatusOr<std::shared_ptr<ImageSource>> Open(const Reference& reference) const {
    return sources_.Open(
        reference, options_.access_of ? options_.access_of(reference) : SourceFactory::Access());
  }

  const Options options_;
  SourceFactory& sources_;
  const SharedStores shared_;
  Fd lock_;
  std::unique_ptr<KeyValueStore> kv_;
  std::unique_ptr<ImageRecords> records_;
  FlightTable<ImageRef> resolve_flights_{"resolve"};
  absl::Mutex recent_mu_;
  absl::flat_hash_map<std::string, std::weak_ptr<const ResolvedImage>> recent_
      ABSL_GUARDED_BY(recent_mu_);
  absl::Mutex timers_mu_;
  bool closing_ ABSL_GUARDED_BY(timers_mu_) = false;
  Timer profiles_timer_ ABSL_GUARDED_BY(timers_mu_), collect_timer_ ABSL_GUARDED_BY(timers_mu_);
  Moment collect_again_ = Moment::InfinitePast();  // used by housekeeping_ only
  // One thread for background work: it reads and writes the database.
  std::unique_ptr<Executor> housekeeping_ = std::make_unique<Executor>(ThreadRole::kStore, 1);
  std::unique_ptr<ProfileKeeper> profiles_;
  std::atomic<bool> collecting_{false}, making_room_{false};
  std::unique_ptr<StoreSpace> space_;
  std::unique_ptr<LayerStore> layers_;
  std::unique_ptr<ColdStarts> starts_;
  std::unique_ptr<ChainStore> chains_;  // uses layers_: destroyed first
  std::unique_ptr<SpaceKeeper> keeper_;
  std::unique_ptr<IndexFinder> finder_;
  std::unique_ptr<LayerRepairer> repairer_;
  std::unique_ptr<ImageVerifier> verifier_;  // null: not configured. Last: its threads run callers
};

FlightTicket ImageStoreImpl::Resolve(ResolveRequest request,
                                     absl::AnyInvocable<void(absl::StatusOr<Resolved>)> done) {
  const LogContext::Scope scope(starts_->Begin());
  if (verifier_ == nullptr) {
    request.listed_by.clear();  // only verifiers need it
    return Look(std::move(request), std::move(done));
  }
  if (request.listed_by.empty()) request.listed_by = request.reference.tag;
  const auto group = std::make_shared<TicketGroup>();
  auto looked = [this, group, reference = request.reference,
                 verifying = std::move(request.verifying),
                 done = std::move(done)](absl::StatusOr<Resolved> found) mutable {
    if (!found.ok()) return done(found.status());
    if (verifying) verifying();
    ImageVerifier::Image question = QuestionOf(reference, *found->image);
    group->Add(verifier_->Verify(
        std::move(question),
        [found = *std::move(found), done = std::move(done)](const absl::Status& verdict) mutable {
          if (!verdict.ok()) return done(verdict);
          done(std::move(found));
        }));
  };
  group->Add(Look(std::move(request), std::move(looked)));
  return TicketGroup::TicketOf(group);
}

FlightTicket ImageStoreImpl::Look(ResolveRequest request,
                                  absl::AnyInvocable<void(absl::StatusOr<Resolved>)> done) {
  std::shared_ptr<ImageSource> source;
  TimedStep step(TimelineEvent::Step::kResolve, request.reference.ToString());
  const bool local = request.reference.transport != Reference::Transport::kRegistry;
  if (request.policy == PullPolicy::kNever || (request.policy == PullPolicy::kMissing && !local)) {
    absl::StatusOr<ImageRef> known = FindImage(request.reference, request.platform);
    if (known.ok() || request.policy == PullPolicy::kNever) {
      if (!known.ok()) {
        done(known.status());
        return FlightTicket();
      }
      if (request.policy != PullPolicy::kNever) {
        absl::StatusOr<std::shared_ptr<ImageSource>> opened =
            sources_.Open(request.reference, request.access);
        if (opened.ok()) source = *std::move(opened);
      }
      done(Resolved{*std::move(known), std::move(source), true});
      return FlightTicket();
    }
  }
  absl::StatusOr<std::shared_ptr<ImageSource>> opened =
      sources_.Open(request.reference, request.access);
  if (!opened.ok()) {
    done(opened.status());
    return FlightTicket();
  }
  source = *std::move(opened);
  // The auth scope is part of the key: access is never decided by another caller's credentials.
  const std::string key = StrCat(request.reference.ToString(), " ", request.platform.ToString(),
                                 " ", source->auth_scope(), " ", request.listed_by);
  if ((request.policy == PullPolicy::kMissing && !local) ||
      request.policy == PullPolicy::kRevalidate) {
    if (ImageRef recent = FindRecent(key); recent != nullptr) {
      done(Resolved{std::move(recent), std::move(source), false});
      return FlightTicket();
    }
  }
  FlightTable<ImageRef>::Caller caller;
  caller.auth_scope = source->auth_scope();
  caller.start = [this, request = std::move(request), source](ResolveContext context) {
    StartResolve(request, source, *kv_, *finder_, std::move(context));
  };
  caller.done = EndingStep(std::move(step), [this, key, source, done = std::move(done)](
                                                absl::StatusOr<ImageRef> image) mutable {
    if (!image.ok()) return done(image.status());
    KeepRecent(key, *image);
    done(Resolved{*std::move(image), source, false});
  });
  return resolve_flights_.Join(key, std::move(caller)).ticket;
}

ImageRef ImageStoreImpl::FindRecent(const std::string& key) {
  absl::MutexLock lock(&recent_mu_);
  const auto it = recent_.find(key);
  return it == recent_.end() ? nullptr : it->second.lock();
}

void ImageStoreImpl::KeepRecent(const std::string& key, const ImageRef& image) {
  absl::MutexLock lock(&recent_mu_);
  absl::erase_if(recent_, [](const auto& one) { return one.second.expired(); });
  recent_[key] = image;
}

FlightTicket ImageStoreImpl::Ensure(ImageRef image, std::shared_ptr<ImageSource> source,
                                    IndexTrust trust, Priority priority, Use use,
                                    absl::AnyInvocable<void(absl::StatusOr<ChainRef>)> done) {
  const LogContext::Scope scope(starts_->Continue());
  if (!HasLayers(*image, trust)) starts_->Keep(image->manifest_digest, LogContext::Current());
  ChainStore::Request request{image, source, trust, {}};
  const auto pack = std::make_shared<FoundPack>();
  request.find = [this, image, source, trust, runs = use.runs, pack](
                     CancelToken cancel, ChainStore::IndexesFound found) {
    if (trust.empty()) return FindTables(image, source, {}, std::move(cancel), std::move(found));
    auto indexes = [this, image, source, trust, cancel,
                    found = std::move(found)](std::vector<FoundIndexRef> layers) mutable {
      // Whoever trusts the image's repository has looked at all that is published.
      if (trust.Allows(IndexSource::kBeside)) return found(std::move(layers));
      FindTables(image, source, std::move(layers), std::move(cancel), std::move(found));
    };
    FindIndexes(image, source, trust, runs, pack, std::move(cancel), std::move(indexes));
  };
  return chains_->Ensure(
      std::move(request), priority,
      EndingStep(TimedStep(TimelineEvent::Step::kLayers),
                 [this, image, source, use = std::move(use), pack,
                  done = std::move(done)](absl::StatusOr<ChainRef> chain) mutable {
                   if (chain.ok()) {
                     OnReadable(*image, *chain, source, use.runs, *pack);
                     absl::Status status;
                     if (use.recorded) status = Record(*image, use.holder, NamesOf(**chain));
                     if (!status.ok()) chain = status;
                   }
                   if (chain.ok() && use.recorded && use.runs && options_.events.readable) {
                     options_.events.readable(image, **chain);
                   }
                   done(std::move(chain));
                 }));
}

bool ImageStoreImpl::HasLayers(const ResolvedImage& image, IndexTrust trust) const {
  for (size_t i = 0; i < image.config.diff_ids.size(); ++i) {
    LayerStore::Request layer = RequestOf(image, i, nullptr);
    layer.trust = trust;
    if (i < image.layer_ids.size() && !image.layer_ids[i].empty()) {
      layer.recorded = image.layer_ids[i];
    }
    if (!layers_->Has(layer)) return false;
  }
  return true;
}

// Finds the span tables of large layers of which nothing was `found`, and which will be made as a
// whole. Only our own indexes have a table that is that of a tar, and nobody needs to vouch for it.
void ImageStoreImpl::FindTables(const ImageRef& image, const std::shared_ptr<ImageSource>& source,
                                std::vector<FoundIndexRef> found, CancelToken cancel,
                                ChainStore::IndexesFound done) {
  std::vector<bool> wanted;
  found.resize(image->config.diff_ids.size());
  for (size_t i = 0; i < found.size(); ++i) {
    const LayerStore::Request layer = RequestOf(*image, i, source);
    wanted.push_back(found[i] == nullptr && layer.form.is_tar() &&
                     layers_->parallel_passes().Wants(layer.blob) && !layers_->Has(layer));
  }
  // Nobody is asked for nothing.
  if (std::find(wanted.begin(), wanted.end(), true) == wanted.end()) return done(std::move(found));
  finder_->Find(image, source, std::move(wanted), kPublished, /*runs=*/false, std::move(cancel),
                EndingStep(TimedStep(TimelineEvent::Step::kIndexes),
                           [found = std::move(found),
                            done = std::move(done)](IndexFinder::Found tables) mutable {
                             for (size_t i = 0; i < found.size(); ++i) {
                               if (found[i] == nullptr) found[i] = std::move(tables.layers[i]);
                             }
                             done(std::move(found));
                           }));
}

void ImageStoreImpl::FindIndexes(const ImageRef& image, const std::shared_ptr<ImageSource>& source,
                                 IndexTrust trust, bool runs,
                                 const std::shared_ptr<FoundPack>& pack, CancelToken cancel,
                                 ChainStore::IndexesFound done) {
  std::vector<bool> wanted;
  for (size_t i = 0; i < image->config.diff_ids.size(); ++i) {
    wanted.push_back(!layers_->Has(RequestOf(*image, i, source)));
  }
  finder_->Find(
      image, source, std::move(wanted), trust, runs && options_.profiles, std::move(cancel),
      EndingStep(
          TimedStep(TimelineEvent::Step::kIndexes),
          [this, image, source, pack, done = std::move(done)](IndexFinder::Found found) mutable {
            if (found.pack != nullptr) {
              pack->Put(std::move(found.pack),
                        UnprovenIds(*image, found.layers, source->registry()));
            }
            // A profile recorded on this machine is preferred; the publisher's is
            // better than none.
            if (options_.profiles && !found.profile.empty() &&
                !profiles_->Get(image->manifest_digest).ok()) {
              absl::StatusOr<Profile> profile = Profile::Parse(found.profile);
              absl::Status status = profile.status();
              if (status.ok()) status = profiles_->Put(image->manifest_digest, *profile);
              if (!status.ok()) {
                LogWarning("profile.refused manifest=", image->manifest_digest.Short(),
                           " cause=", status.message());
              }
            }
            done(std::move(found.layers));
          }));
}

void ImageStoreImpl::OnReadable(const ResolvedImage& image, const ChainRef& chain,
                                const std::shared_ptr<ImageSource>& source, bool runs,
                                FoundPack& pack) {
  ProfileKeeper::Layers filling;
  for (const LayerRef& layer : chain->layers) {
    if (layer->complete()) continue;
    std::shared_ptr<FillingLayer> one = LayerStore::FillingOf(layer);
    if (one == nullptr) continue;
    one->AddSource(source);
    filling.emplace_back(layer->diff_id, std::move(one));
  }
  if (filling.empty() || !options_.profiles || !runs) return;
  const absl::StatusOr<Profile> profile = profiles_->Get(image.manifest_digest);
  if (!profile.ok()) {
    profiles_->Record(image.manifest_digest, filling);
    CollectProfiles();
  }
  auto replay = [profile, filling] {
    if (profile.ok()) Replay(*profile, filling);
  };
  // With a pack: then, what that does not bring.
  if (!pack.Attach(chain, replay)) replay();
}

void ImageStoreImpl::After(absl::Duration pause, Timer ImageStoreImpl::*timer,
                           absl::AnyInvocable<void()> task) {
  absl::MutexLock lock(&timers_mu_);
  if (closing_) return;
  this->*timer = layers_->scheduler().At(
      Moment::Now() + pause,
      [this, task = std::move(task)]() mutable { housekeeping_->Submit(std::move(task)); });
}

// After this, housekeeping_ gets no more tasks.
void ImageStoreImpl::StopTimers() {
  Timer profiles, shown;
  {
    absl::MutexLock lock(&timers_mu_);
    closing_ = true;
    profiles = std::move(profiles_timer_);
    shown = std::move(collect_timer_);
  }
  profiles.Stop();
  shown.Stop();
}

// Polls runs that are being recorded until there are none.
void ImageStoreImpl::CollectProfiles() {
  After(kProfilePause, &ImageStoreImpl::profiles_timer_, [this] {
    profiles_->Collect(/*all=*/false);
    if (profiles_->recording()) CollectProfiles();
  });
}

void ImageStoreImpl::AttachSource(const ChainRef& chain, const Reference& reference,
                                  const SourceFactory::Access& access) {
  absl::StatusOr<std::shared_ptr<ImageSource>> source = sources_.Open(reference, access);
  if (!source.ok()) {
    LogWarning("fill.no_source reference=", reference.ToString(),
               " cause=", source.status().message());
    return;
  }
  for (const LayerRef& layer : chain->layers) {
    if (const auto filling = LayerStore::FillingOf(layer)) filling->AddSource(*source);
  }
}

FlightTicket ImageStoreImpl::MakeIndexes(ImageRef image, std::shared_ptr<ImageSource> source,
                                         absl::AnyInvocable<void(absl::StatusOr<ChainRef>)> done) {
  struct State {
    std::shared_ptr<TicketGroup> group = std::make_shared<TicketGroup>();
    absl::AnyInvocable<void(absl::StatusOr<ChainRef>)> done;
    absl::Mutex mu;
    size_t missing ABSL_GUARDED_BY(mu) = 0;
    absl::Status status ABSL_GUARDED_BY(mu);
  };
  auto state = std::make_shared<State>();
  state->done = std::move(done);
  auto tables = [this, image, source, state](ChainRef chain) {
    {
      absl::MutexLock lock(&state->mu);
      state->missing = chain->layers.size();
    }
    for (size_t i = 0; i < chain->layers.size(); ++i) {
      state->group->Add(
          layers_->span_tables().Ensure(chain->layers[i], image->manifest.layers[i], source,
                                        [state, chain](const absl::Status& status) {
                                          absl::Status all;
                                          {
                                            absl::MutexLock lock(&state->mu);
                                            // A blob without random access is fetched whole by
                                            // everybody.
                                            if (!absl::IsUnimplemented(status))
                                              state->status.Update(status);
                                            if (--state->missing > 0) return;
                                            all = state->status;
                                          }
                                          all.ok() ? state->done(chain) : state->done(all);
                                        }));
    }
  };
  state->group->Add(Ensure(
      image, source, IndexTrust::None(), Priority::kForeground, {.runs = false, .recorded = false},
      [this, state, tables](absl::StatusOr<ChainRef> chain) {
        if (chain.ok() && state->group->left()) chain = absl::CancelledError("the caller left");
        if (!chain.ok()) return state->done(chain.status());
        WaitDurable(*chain, [state, tables, chain = *chain](const absl::Status& status) {
          if (!status.ok()) return state->done(status);
          tables(chain);
        });
      }));
  return TicketGroup::TicketOf(state->group);
}

absl::StatusOr<uint64_t> ImageStoreImpl::Evict(const Reference& reference) {
  uint64_t freed = 0;
  size_t layers = 0;
  bool known = false;
  absl::Status last;
  // For a layer that was used before it was proven, remove both names.
  CollectProvenTwice();
  IMAGEFS_ASSIGN_OR_RETURN(const std::vector<ImageRecord> records, ListImages(false));
  for (const ImageRecord& record : records) {
    if (record.reference != reference.ToString()) continue;
    known = true;
    IMAGEFS_ASSIGN_OR_RETURN(const ImageRef image, FindImage(reference, record.platform));
    for (const Digest& id : image->layer_ids) {
      const absl::StatusOr<uint64_t> bytes = layers_->Evict(id);
      if (absl::IsNotFound(bytes.status())) continue;
      if (bytes.ok()) {
        freed += *bytes;
        ++layers;
      } else {
        last = bytes.status();
      }
    }
  }
  if (!known) {
    return absl::NotFoundError(StrCat("no image ", reference.ToString(),
                                      " in the store; `imagefs images` lists those that are"));
  }
  if (layers == 0 && !last.ok()) {
    return Annotate(last, reference.ToString());
  }
  return freed;
}

absl::StatusOr<CheckReport> ImageStoreImpl::Check(const std::vector<Reference>& references,
                                                  bool repair, Scrubber::Pace pace) {
  StoreCheck check({options_.root, *layers_, *chains_, *kv_, *repairer_,
                    [this](LayerRepairer::Visit visit) { records_->ForEach(visit); },
                    [this](const Reference& reference) { return Open(reference); },
                    [this](const ImageRow& row) { return records_->CheckDocuments(row); }},
                   {references, repair}, pace);
  return check.Run();
}

// Handles layers that were proven after they became readable and are no longer in use under the old
// name: from now on records name them by their DiffIDs.
void ImageStoreImpl::CollectProvenTwice() {
  const absl::Status status = records_->RenameLayers(
      [this] { return layers_->ProvenTwice(); },
      [this](const absl::flat_hash_set<Digest>& kept) { layers_->CollectProvenTwice(kept); });
  if (!status.ok()) LogWarning("image.record_not_updated cause=", status.message());
}

void ImageStoreImpl::KeepHouse() {
  After(kCollectPause, &ImageStoreImpl::collect_timer_, [this] {
    layers_->scheduler().work().Submit(
        std::make_shared<LivePriority>(Priority::kBackground),
        [this] { kv_->Settle().IgnoreError(); });  // it has logged the reason
    CollectProvenTwice();
    if (collecting_ && (layers_->TakeReleased() || Moment::Now() >= collect_again_)) {
      // What an interrupted pull left gets old without being released.
      collect_again_ = Moment::Now() + std::max(kCollectPause, options_.keep_partial / 24);
      if (const absl::StatusOr<uint64_t> freed = Collect(); !freed.ok()) {
        LogWarning("store.not_collected cause=", freed.status().message());
      }
    }
    keeper_->KeepWithin(/*pressed=*/false, collecting_);
    KeepHouse();
  });
}

void ImageStoreImpl::MakeRoom() {
  if (making_room_.exchange(true)) return;
  absl::MutexLock lock(&timers_mu_);
  if (closing_) return;
  housekeeping_->Submit([this] {
    making_room_ = false;
    keeper_->KeepWithin(/*pressed=*/true, collecting_);
  });
}

absl::StatusOr<std::vector<ImageRecord>> ImageStoreImpl::ListImages(bool also_held) const {
  IMAGEFS_ASSIGN_OR_RETURN(std::vector<ImageRecords::Listed> listed, records_->List());
  const size_t count = listed.size();
  if (also_held) {
    absl::flat_hash_set<std::pair<std::string, Digest>> known;
    for (const auto& one : listed) known.emplace(one.reference, one.image->manifest_digest);
    IMAGEFS_ASSIGN_OR_RETURN(std::vector<ImageRecords::Listed> held, records_->ListAllHeld());
    for (ImageRecords::Listed& one : held) {
      if (known.contains({one.reference, one.image->manifest_digest})) continue;
      listed.push_back(std::move(one));
    }
  }
  absl::flat_hash_map<Digest, uint64_t> local;
  for (const LayerInfo& layer : layers_->List()) local[layer.id] = layer.data_bytes;
  absl::flat_hash_map<Digest, LayerUse> uses;
  for (LayerUse& use : layers_->Uses()) uses[use.id] = std::move(use);
  IMAGEFS_ASSIGN_OR_RETURN(const absl::flat_hash_set<std::string> pins, records_->Pins());
  std::vector<ImageRecord> images;
  for (const auto& [reference, image, created] : listed) {
    ImageRecord record;
    record.reference = reference;
    record.platform = image->config.platform;
    record.artifact_type = image->artifact_type;
    record.manifest_digest = image->manifest_digest;
    record.chain_id = image->chain_id();
    record.layers = image->manifest.layers.size();
    for (const Descriptor& layer : image->manifest.layers) record.compressed_bytes += layer.size;
    record.state = LayerState::kComplete;
    uint64_t data_bytes = 0;
    for (const Digest& id : image->layer_ids) {
      if (const auto it = local.find(id); it != local.end()) record.unpacked_bytes += it->second;
      const auto use = uses.find(id);
      record.state =
          std::min(record.state, use != uses.end() ? use->second.state : LayerState::kAbsent);
      if (use == uses.end()) continue;
      record.disk_bytes += use->second.bytes();
      data_bytes += use->second.data_bytes;
    }
    if (data_bytes == 0 && record.layers > 0) record.state = LayerState::kAbsent;
    record.listed = images.size() < count;
    record.pinned = record.listed && pins.contains(reference);
    record.created_unix = created;
    images.push_back(std::move(record));
  }
  return images;
}

absl::StatusOr<uint64_t> ImageStoreImpl::Remove(const Reference& reference) {
  IMAGEFS_RETURN_IF_ERROR(records_->Remove(reference));
  IMAGEFS_ASSIGN_OR_RETURN(const uint64_t freed, Collect());
  // On a full disk there may only now be space for the removal.
  IMAGEFS_RETURN_IF_ERROR(Annotate(
      kv_->Settle(),
      StrCat(reference.ToString(), " is removed, but may come back with the next daemon")));
  return freed;
}

absl::StatusOr<ImageRef> ImageStoreImpl::Import(const std::string& directory,
                                                const Reference& reference,
                                                const Platform& platform,
                                                const CancelToken& cancel) {
  const SharedStores from({directory});
  IMAGEFS_ASSIGN_OR_RETURN(const ImageRef image, from.FindImage(reference, platform));
  const std::vector<Digest>& layers = image->config.diff_ids;
  // Held so that no layer is collected before the image is recorded.
  IMAGEFS_ASSIGN_OR_RETURN(const std::vector<LayerRef> held,
                           ImportLayers(*layers_, from, layers, cancel));
  IMAGEFS_RETURN_IF_ERROR(Record(*image, "", layers));
  return image;
}

absl::StatusOr<uint64_t> ImageStoreImpl::CollectOlder(absl::Duration age) {
  CollectProvenTwice();
  IMAGEFS_ASSIGN_OR_RETURN(ImageRecords::Needed needed, records_->Collect());
  IMAGEFS_ASSIGN_OR_RETURN(const auto unclaimed, records_->Unclaimed());
  const int64_t since = time(nullptr) - absl::ToInt64Seconds(age);
  for (const auto& [id, made] : unclaimed) {
    if (made > since) needed.layers.insert(id);
  }
  profiles_->Finish([&](const Digest& manifest) { return !needed.manifests.contains(manifest); });
  const uint64_t freed = chains_->Collect(needed.chains, needed.layers);
  return freed + layers_->Collect(needed.layers);
}

}  // namespace

absl::StatusOr<std::unique_ptr<ImageStore>> ImageStore::Open(Options options,
                                                             SourceFactory& sources) {
  auto store = std::make_unique<ImageStoreImpl>(std::move(options), sources);
  IMAGEFS_RETURN_IF_ERROR(store->Init());
  return store;
}

}  // namespace imagefs
