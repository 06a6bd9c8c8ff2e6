#include "cache/image_store.h"

#include <fcntl.h>
#include <sys/file.h>
#include <time.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "base/json.h"
#include "base/log.h"
#include "base/relay.h"
#include "base/status.h"
#include "base/text.h"
#include "cache/chain_store.h"
#include "cache/layer_store.h"

namespace imagefs {
namespace {

constexpr std::string_view kImagePrefix = "image/";
constexpr std::string_view kHeldPrefix = "held/";
constexpr std::string_view kManifestPrefix = "manifest/";
constexpr std::string_view kConfigPrefix = "config/";
constexpr std::string_view kVersionKey = "meta/version";
constexpr std::string_view kVersion = "1";
constexpr int kMaxIndexDepth = 3;      // indexes inside an index
constexpr int kMaxNestedIndexes = 16;  // all that are read in search of a platform

std::string ImageKey(std::string_view reference, const Platform& platform) {
  return StrCat(kImagePrefix, reference, "\n", platform.ToString());
}

std::string HeldKey(std::string_view holder, const Digest& manifest) {
  return StrCat(kHeldPrefix, holder, "/", manifest.hex());
}

// One process owns a store: an flock that the kernel gives back however that process ends.
absl::StatusOr<Fd> LockStore(const std::string& root) {
  const std::string path = root + "/lock";
  IMAGEFS_ASSIGN_OR_RETURN(Fd fd, OpenFile(path, O_RDWR | O_CREAT, 0600));
  if (flock(fd.get(), LOCK_EX | LOCK_NB) != 0) {
    if (errno != EWOULDBLOCK) return ErrnoStatus(errno, path);
    const absl::StatusOr<std::string> owner = ReadFile(path, 64);
    return absl::FailedPreconditionError(
        StrCat("the store ", root, " is in use by the daemon with pid ",
               owner.ok() && !owner->empty() ? *owner : "unknown",
               "; use that one, stop it (imagefs stop), or choose another store with --root"));
  }
  if (ftruncate(fd.get(), 0) != 0) return ErrnoStatus(errno, path);
  IMAGEFS_RETURN_IF_ERROR(PwriteFull(fd.get(), StrCat(getpid()), 0));
  return fd;
}

// The work of one resolve flight: manifest, through an index if need be, then the configuration.
// A chain of callbacks; each holds the job.
class ResolveJob : public std::enable_shared_from_this<ResolveJob> {
 public:
  using Context = FlightTable<ImageStore::ImageRef>::Context;
  ResolveJob(ImageStore::ResolveRequest request, std::shared_ptr<ImageSource> source,
             const KeyValueStore& kv, IndexFinder& finder, IndexTrust trust, Context context)
      : request_(std::move(request)),
        source_(std::move(source)),
        kv_(kv),
        finder_(finder),
        trust_(trust),
        context_(std::move(context)) {}

  void Start() { GetManifest(request_.reference.TagOrDigest(), 0); }

 private:
  void GetManifest(const std::string& tag_or_digest, int depth) {
    source_->GetManifest(
        tag_or_digest, context_.cancel,
        [self = shared_from_this(), depth](absl::StatusOr<ImageSource::FetchedManifest> fetched) {
          self->Check(self->OnManifest(std::move(fetched), depth));
        });
  }

  void Check(const absl::Status& status) {
    if (status.ok()) return;
    // Sources name what they asked for themselves.
    const std::string reference = request_.reference.ToString();
    const bool named = ToStd(status.message()).find(reference) != std::string_view::npos;
    context_.finish(absl::IsCancelled(status) || named ? status : Annotate(status, reference));
  }

  absl::Status OnManifest(absl::StatusOr<ImageSource::FetchedManifest> fetched, int depth) {
    IMAGEFS_RETURN_IF_ERROR(fetched.status());
    if (depth == 0 && request_.reference.digest.has_value() &&
        fetched->digest != *request_.reference.digest) {
      return absl::DataLossError(StrCat("asked for ", request_.reference.digest->ToString(),
                                        " but got ", fetched->digest.ToString()));
    }
    IMAGEFS_ASSIGN_OR_RETURN(ManifestOrIndex parsed,
                             ParseManifest(fetched->bytes, fetched->content_type));
    if (parsed.index.has_value()) {
      if (depth == 0) index_digest_ = fetched->digest;
      return OnIndex(*std::move(parsed.index), depth);
    }
    manifest_ = *std::move(fetched);
    if (request_.lazy) finder_.Hint(manifest_.digest, source_, trust_);
    const Digest& config = parsed.manifest->config.digest;
    absl::StatusOr<std::optional<std::string>> known = kv_.Get(StrCat(kConfigPrefix, config.hex()));
    if (known.ok() && known->has_value() && Sha256Of(**known) == config) {
      return OnConfig(**std::move(known));
    }
    source_->GetSmallBlob(parsed.manifest->config, kMaxConfigBytes, context_.cancel,
                          [self = shared_from_this()](absl::StatusOr<std::string> config) {
                            self->Check(self->OnConfig(std::move(config)));
                          });
    return absl::OkStatus();
  }

  absl::Status OnIndex(ImageIndex index, int depth) {
    if (depth >= kMaxIndexDepth) {
      return absl::InvalidArgumentError("too many image indexes inside each other");
    }
    IMAGEFS_ASSIGN_OR_RETURN(const Descriptor chosen, ChoosePlatform(index, request_.platform));
    if (!MayHoldAnyPlatform(chosen)) {
      GetManifest(chosen.digest.ToString(), depth + 1);
      return absl::OkStatus();
    }
    // Another nested index may have a better match than the first has, so all are read.
    index_ = std::move(index);
    index_at_ = 0;
    flat_ = ImageIndex();
    return Flatten(depth + 1);
  }

  // Moves the entries of index_ to flat_, those of nested indexes (which are read) in the place of
  // these; then chooses out of flat_.
  absl::Status Flatten(int depth) {
    while (index_at_ < index_.manifests.size()) {
      Descriptor& entry = index_.manifests[index_at_++];
      if (!MayHoldAnyPlatform(entry)) {
        flat_.manifests.push_back(std::move(entry));
        continue;
      }
      if (++nested_indexes_ > kMaxNestedIndexes) {
        return absl::InvalidArgumentError(
            StrCat("more than ", kMaxNestedIndexes, " image indexes inside its index"));
      }
      source_->GetManifest(
          entry.digest.ToString(), context_.cancel,
          [self = shared_from_this(), depth](absl::StatusOr<ImageSource::FetchedManifest> fetched) {
            self->Check(self->OnNestedIndex(std::move(fetched), depth));
          });
      return absl::OkStatus();
    }
    return OnIndex(std::move(flat_), depth);
  }

  absl::Status OnNestedIndex(absl::StatusOr<ImageSource::FetchedManifest> fetched, int depth) {
    IMAGEFS_RETURN_IF_ERROR(fetched.status());
    IMAGEFS_ASSIGN_OR_RETURN(ManifestOrIndex parsed,
                             ParseManifest(fetched->bytes, fetched->content_type));
    if (!parsed.index.has_value()) {
      return absl::InvalidArgumentError(
          StrCat("its index lists ", fetched->digest.ToString(), " as an index, but it is none"));
    }
    for (Descriptor& entry : parsed.index->manifests) flat_.manifests.push_back(std::move(entry));
    return Flatten(depth);
  }

  absl::Status OnConfig(absl::StatusOr<std::string> config) {
    IMAGEFS_RETURN_IF_ERROR(config.status());
    IMAGEFS_ASSIGN_OR_RETURN(
        ResolvedImage image,
        MakeResolvedImage(request_.reference.ToString(), index_digest_, std::move(manifest_.bytes),
                          manifest_.content_type, *std::move(config), request_.platform));
    context_.finish(std::make_shared<const ResolvedImage>(std::move(image)));
    return absl::OkStatus();
  }

  const ImageStore::ResolveRequest request_;
  const std::shared_ptr<ImageSource> source_;
  const KeyValueStore& kv_;
  IndexFinder& finder_;
  const IndexTrust trust_;
  const Context context_;
  Digest index_digest_;
  ImageIndex index_, flat_;  // see Flatten
  size_t index_at_ = 0;
  int nested_indexes_ = 0;
  ImageSource::FetchedManifest manifest_;
};

class ImageStoreImpl : public ImageStore {
 public:
  ImageStoreImpl(Options options, SourceFactory& sources)
      : options_(std::move(options)), sources_(sources) {}

  absl::Status Init() {
    IMAGEFS_RETURN_IF_ERROR(MakeDirs(options_.root, 0700));
    IMAGEFS_ASSIGN_OR_RETURN(lock_, LockStore(options_.root));
    IMAGEFS_ASSIGN_OR_RETURN(kv_, KeyValueStore::Open(options_.root + "/db"));
    IMAGEFS_RETURN_IF_ERROR(CheckVersion());
    profiles_ = std::make_unique<ProfileKeeper>(*kv_, ProfileKeeper::Options());
    IMAGEFS_ASSIGN_OR_RETURN(
        layers_, LayerStore::Open({options_.root, options_.layer_workers, options_.fill}, *kv_));
    IMAGEFS_ASSIGN_OR_RETURN(chains_, ChainStore::Open(options_.root, *kv_, *layers_));
    layers_->OnDamaged([this](const Digest& diff_id) { chains_->Forget(diff_id); });
    IndexFinder::Options index = options_.index;
    index.directory = options_.root + "/layers";
    index.open = [this](const Reference& reference) {
      return sources_.Open(
          reference, options_.access_of ? options_.access_of(reference) : SourceFactory::Access());
    };
    finder_ = std::make_unique<IndexFinder>(std::move(index));
    return absl::OkStatus();
  }

  FlightTicket Resolve(ResolveRequest request,
                       absl::AnyInvocable<void(absl::StatusOr<Resolved>)> done) override;
  ~ImageStoreImpl() override {
    if (profiles_ != nullptr) profiles_->Collect(/*all=*/true);
  }
  FlightTicket EnsureChain(ImageRef image, std::shared_ptr<ImageSource> source, Bring bring,
                           Priority priority,
                           absl::AnyInvocable<void(absl::StatusOr<ChainRef>)> done) override {
    return Ensure(std::move(image), std::move(source), bring, priority, "", std::move(done));
  }
  FlightTicket EnsureHeld(const std::string& holder, ImageRef image,
                          std::shared_ptr<ImageSource> source, Priority priority,
                          absl::AnyInvocable<void(absl::StatusOr<ChainRef>)> done) override {
    return Ensure(std::move(image), std::move(source), Bring::kLazy, priority, holder,
                  std::move(done));
  }
  absl::Status ReleaseHeld(const std::string& holder, const Digest& manifest) override {
    absl::MutexLock lock(&records_mu_);
    WriteBatch batch;
    batch.Delete(HeldKey(holder, manifest));
    return kv_->Write(batch, true);
  }
  absl::StatusOr<std::vector<ImageRef>> ListHeld(const std::string& holder) const override;
  void AttachSource(const ChainRef& chain, const Reference& reference,
                    const SourceFactory::Access& access) override;
  std::vector<std::optional<FillReport>> FillReports(const ChainRef& chain) const override;
  FlightTicket MakeIndexes(ImageRef image, std::shared_ptr<ImageSource> source,
                           absl::AnyInvocable<void(absl::StatusOr<ChainRef>)> done) override;
  ProfileKeeper& profiles() override { return *profiles_; }
  absl::StatusOr<uint64_t> Evict(const Reference& reference) override;

  void WaitDurable(ChainRef chain, absl::AnyInvocable<void(absl::Status)> done) override {
    std::vector<Digest> diff_ids;
    for (const LayerRef& layer : chain->layers) diff_ids.push_back(layer->diff_id);
    layers_->WaitDurable(diff_ids, std::move(done));
  }

  absl::StatusOr<ChainRef> FindChain(const Digest& chain_id) override {
    return chains_->Find(chain_id);
  }

  std::optional<LayerProgress> Progress(const Digest& diff_id) const override {
    std::optional<LayerProgress> progress = layers_->Progress(diff_id);
    if (progress.has_value()) progress->callers = chains_->CallersOf(diff_id);
    return progress;
  }

  LayerState StateOf(const Digest& diff_id) const override { return layers_->StateOf(diff_id); }
  absl::StatusOr<std::vector<ImageRecord>> ListImages() const override;
  absl::StatusOr<ImageRef> FindImage(const Reference& reference,
                                     const Platform& platform) const override;
  absl::StatusOr<uint64_t> Remove(const Reference& reference) override;
  absl::StatusOr<uint64_t> Collect() override;
  std::vector<LayerInfo> ListLayers() const override { return layers_->List(); }

  std::vector<FlightReport> Flights() const override {
    std::vector<FlightReport> reports = layers_->Flights();
    reports.push_back(chains_->Flights());
    reports.push_back({"resolve", resolve_flights_.counters(), resolve_flights_.Running()});
    return reports;
  }

  std::vector<std::pair<std::string, uint64_t>> Counters() const override {
    std::vector<std::pair<std::string, uint64_t>> counters;
    layers_->AppendCounters(counters);
    chains_->AppendCounters(counters);
    finder_->AppendCounters(counters);
    return counters;
  }

  KeyValueStore& kv() override { return *kv_; }

 private:
  absl::Status CheckVersion();
  // `holder` "" = the image is listed.
  FlightTicket Ensure(ImageRef image, std::shared_ptr<ImageSource> source, Bring bring,
                      Priority priority, std::string holder,
                      absl::AnyInvocable<void(absl::StatusOr<ChainRef>)> done);
  // Writes the image's record durably unless the same one is there.
  absl::Status Remember(const ResolvedImage& image, const std::string& holder);
  // What the same callers resolved before, while anybody still brings or mounts it: it has no
  // record yet.
  ImageRef FindRecent(const std::string& key);
  void KeepRecent(const std::string& key, const ImageRef& image);
  // Looks for what makes the layers showable that are not here.
  void FindIndexes(const ImageRef& image, const std::shared_ptr<ImageSource>& source,
                   CancelToken cancel, ChainStore::IndexesFound done);
  // A chain is about to be shown: its missing bytes come from `source`, those that its first run
  // read first; without a profile this is the first run.
  void OnShown(const ResolvedImage& image, const ChainRef& chain,
               const std::shared_ptr<ImageSource>& source);
  void CollectProfiles();
  // The image that a record's value names.
  absl::StatusOr<ImageRef> Load(std::string_view reference, std::string_view record) const;
  absl::StatusOr<ImageRef> LoadHeld(std::string_view record) const;

  const Options options_;
  SourceFactory& sources_;
  Fd lock_;
  std::unique_ptr<KeyValueStore> kv_;
  FlightTable<ImageRef> resolve_flights_{"resolve"};
  absl::Mutex recent_mu_;
  absl::flat_hash_map<std::string, std::weak_ptr<const ResolvedImage>> recent_
      ABSL_GUARDED_BY(recent_mu_);
  // Records of images change one at a time: Remember and Remove.
  absl::Mutex records_mu_;
  std::unique_ptr<ProfileKeeper> profiles_;  // used by timers of layers_
  std::unique_ptr<LayerStore> layers_;
  std::unique_ptr<ChainStore> chains_;  // uses layers_: destroyed first
  std::unique_ptr<IndexFinder> finder_;
};

absl::Status ImageStoreImpl::CheckVersion() {
  IMAGEFS_ASSIGN_OR_RETURN(const std::optional<std::string> version, kv_->Get(kVersionKey));
  if (!version.has_value()) {
    WriteBatch batch;
    batch.Put(kVersionKey, kVersion);
    return kv_->Write(batch, true);
  }
  if (*version == kVersion) return absl::OkStatus();
  return absl::FailedPreconditionError(
      StrCat("the store ", options_.root, " has format ", *version, ", this program knows format ",
             kVersion, "; use the program that made it, or another store with --root"));
}

FlightTicket ImageStoreImpl::Resolve(ResolveRequest request,
                                     absl::AnyInvocable<void(absl::StatusOr<Resolved>)> done) {
  std::shared_ptr<ImageSource> source;
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
  // The audience is part of the key: what one may see is never decided by another's credentials.
  const std::string key = StrCat(request.reference.ToString(), " ", request.platform.ToString(),
                                 " ", source->audience());
  if ((request.policy == PullPolicy::kMissing && !local) || request.policy == PullPolicy::kProve) {
    if (ImageRef recent = FindRecent(key); recent != nullptr) {
      done(Resolved{std::move(recent), std::move(source), false});
      return FlightTicket();
    }
  }
  FlightTable<ImageRef>::Caller caller;
  caller.audience = source->audience();
  caller.start = [this, request = std::move(request), source](ResolveJob::Context context) {
    std::make_shared<ResolveJob>(request, source, *kv_, *finder_, options_.trust,
                                 std::move(context))
        ->Start();
  };
  caller.done = [this, key, source,
                 done = std::move(done)](absl::StatusOr<ImageRef> image) mutable {
    if (!image.ok()) return done(image.status());
    KeepRecent(key, *image);
    done(Resolved{*std::move(image), source, false});
  };
  return resolve_flights_.Join(key, std::move(caller)).ticket;
}

ImageStore::ImageRef ImageStoreImpl::FindRecent(const std::string& key) {
  absl::MutexLock lock(&recent_mu_);
  const auto it = recent_.find(key);
  return it == recent_.end() ? nullptr : it->second.lock();
}

void ImageStoreImpl::KeepRecent(const std::string& key, const ImageRef& image) {
  absl::MutexLock lock(&recent_mu_);
  for (auto it = recent_.begin(); it != recent_.end();) {
    if (it->second.expired()) {
      recent_.erase(it++);
    } else {
      ++it;
    }
  }
  recent_[key] = image;
}

FlightTicket ImageStoreImpl::Ensure(ImageRef image, std::shared_ptr<ImageSource> source,
                                    Bring bring, Priority priority, std::string holder,
                                    absl::AnyInvocable<void(absl::StatusOr<ChainRef>)> done) {
  ChainStore::FindIndexes find;
  if (bring == Bring::kLazy) {
    find = [this, image, source](CancelToken cancel, ChainStore::IndexesFound found) {
      FindIndexes(image, source, std::move(cancel), std::move(found));
    };
  }
  return chains_->Ensure(image, source, std::move(find), priority,
                         [this, image, source, holder = std::move(holder),
                          done = std::move(done)](absl::StatusOr<ChainRef> chain) mutable {
                           if (chain.ok()) {
                             OnShown(*image, *chain, source);
                             if (absl::Status status = Remember(*image, holder); !status.ok())
                               chain = status;
                           }
                           done(std::move(chain));
                         });
}

void ImageStoreImpl::FindIndexes(const ImageRef& image, const std::shared_ptr<ImageSource>& source,
                                 CancelToken cancel, ChainStore::IndexesFound done) {
  std::vector<bool> wanted;
  for (const Digest& diff_id : image->config.diff_ids) {
    wanted.push_back(layers_->StateOf(diff_id) == LayerState::kAbsent);
  }
  finder_->Find(image, source, std::move(wanted), options_.trust, std::move(cancel),
                [this, image, done = std::move(done)](IndexFinder::Found found) mutable {
                  // One's own is of this machine; the publisher's is better than none.
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
                });
}

void ImageStoreImpl::OnShown(const ResolvedImage& image, const ChainRef& chain,
                             const std::shared_ptr<ImageSource>& source) {
  ProfileKeeper::Layers filling;
  for (const LayerRef& layer : chain->layers) {
    if (layer->complete()) continue;
    std::shared_ptr<FillingLayer> one = LayerStore::FillingOf(layer);
    if (one == nullptr) continue;
    one->AddSource(source);
    filling.emplace_back(layer->diff_id, std::move(one));
  }
  if (filling.empty() || !options_.profiles) return;
  const absl::StatusOr<Profile> profile = profiles_->Get(image.manifest_digest);
  if (profile.ok()) {
    Replay(*profile, filling);
  } else {
    profiles_->Record(image.manifest_digest, std::move(filling));
    CollectProfiles();
  }
}

// Looks after runs that are being recorded until none is.
void ImageStoreImpl::CollectProfiles() {
  layers_->scheduler().At(absl::Now() + absl::Seconds(2), [this] {
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

std::vector<std::optional<FillReport>> ImageStoreImpl::FillReports(const ChainRef& chain) const {
  std::vector<std::optional<FillReport>> reports;
  for (const LayerRef& layer : chain->layers) {
    const auto filling = LayerStore::FillingOf(layer);
    reports.push_back(filling == nullptr ? std::nullopt : std::optional(filling->Report()));
  }
  return reports;
}

FlightTicket ImageStoreImpl::MakeIndexes(ImageRef image, std::shared_ptr<ImageSource> source,
                                         absl::AnyInvocable<void(absl::StatusOr<ChainRef>)> done) {
  struct State {
    std::shared_ptr<Relay> relay = std::make_shared<Relay>();
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
      state->relay->Add(layers_->access().Ensure(chain->layers[i], image->manifest.layers[i],
                                                 source,
                                                 [state, chain](const absl::Status& status) {
                                                   absl::Status all;
                                                   {
                                                     absl::MutexLock lock(&state->mu);
                                                     // A blob that cannot be read in parts is taken
                                                     // whole by everybody.
                                                     if (!absl::IsUnimplemented(status))
                                                       state->status.Update(status);
                                                     if (--state->missing > 0) return;
                                                     all = state->status;
                                                   }
                                                   all.ok() ? state->done(chain) : state->done(all);
                                                 }));
    }
  };
  state->relay->Add(EnsureChain(image, source, Bring::kWhole, Priority::kForeground,
                                [this, state, tables](absl::StatusOr<ChainRef> chain) {
                                  if (chain.ok() && state->relay->left())
                                    chain = absl::CancelledError("the caller left");
                                  if (!chain.ok()) return state->done(chain.status());
                                  WaitDurable(*chain, [state, tables,
                                                       chain = *chain](const absl::Status& status) {
                                    if (!status.ok()) return state->done(status);
                                    tables(chain);
                                  });
                                }));
  return Relay::TicketOf(state->relay);
}

absl::StatusOr<uint64_t> ImageStoreImpl::Evict(const Reference& reference) {
  uint64_t freed = 0;
  size_t layers = 0;
  bool known = false;
  absl::Status last;
  IMAGEFS_ASSIGN_OR_RETURN(const std::vector<ImageRecord> records, ListImages());
  for (const ImageRecord& record : records) {
    if (record.reference != reference.ToString()) continue;
    known = true;
    IMAGEFS_ASSIGN_OR_RETURN(const ImageRef image, FindImage(reference, record.platform));
    for (const Digest& diff_id : image->config.diff_ids) {
      if (layers_->StateOf(diff_id) == LayerState::kAbsent) continue;
      const absl::StatusOr<uint64_t> bytes = layers_->Evict(diff_id);
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
    return absl::Status(last.code(), StrCat(reference.ToString(), ": ", last.message()));
  }
  return freed;
}

absl::Status ImageStoreImpl::Remember(const ResolvedImage& image, const std::string& holder) {
  const std::string key = holder.empty() ? ImageKey(image.reference, image.config.platform)
                                         : HeldKey(holder, image.manifest_digest);
  absl::MutexLock lock(&records_mu_);
  IMAGEFS_ASSIGN_OR_RETURN(const std::optional<std::string> old, kv_->Get(key));
  if (old.has_value()) {
    const absl::StatusOr<Json> record = Json::Parse(*old);
    if (record.ok() && record->StringOr("manifest") == image.manifest_digest.ToString()) {
      return absl::OkStatus();
    }
  }
  JsonWriter writer;
  writer.BeginObject();
  if (!holder.empty()) writer.Member("reference", image.reference);
  writer.Member("manifest", image.manifest_digest.ToString())
      .Member("index", image.index_digest.empty() ? "" : image.index_digest.ToString())
      .Member("config", image.manifest.config.digest.ToString())
      .Member("content_type", image.content_type)
      .Member("created", static_cast<int64_t>(time(nullptr)))
      .EndObject();
  WriteBatch batch;
  batch.Put(key, writer.Take());
  batch.Put(StrCat(kManifestPrefix, image.manifest_digest.hex()), image.manifest_json);
  batch.Put(StrCat(kConfigPrefix, image.manifest.config.digest.hex()), image.config_json);
  return kv_->Write(batch, true);
}

absl::StatusOr<ImageStore::ImageRef> ImageStoreImpl::Load(std::string_view reference,
                                                          std::string_view record) const {
  IMAGEFS_ASSIGN_OR_RETURN(const Json json, Json::Parse(record));
  IMAGEFS_ASSIGN_OR_RETURN(const Digest manifest, Digest::Parse(json.StringOr("manifest")));
  IMAGEFS_ASSIGN_OR_RETURN(const Digest config, Digest::Parse(json.StringOr("config")));
  Digest index;
  if (const std::string text = json.StringOr("index"); !text.empty()) {
    IMAGEFS_ASSIGN_OR_RETURN(index, Digest::Parse(text));
  }
  IMAGEFS_ASSIGN_OR_RETURN(std::optional<std::string> manifest_json,
                           kv_->Get(StrCat(kManifestPrefix, manifest.hex())));
  IMAGEFS_ASSIGN_OR_RETURN(std::optional<std::string> config_json,
                           kv_->Get(StrCat(kConfigPrefix, config.hex())));
  if (!manifest_json.has_value() || !config_json.has_value() ||
      Sha256Of(*manifest_json) != manifest || Sha256Of(*config_json) != config) {
    return absl::DataLossError(StrCat("the record of ", reference, " is damaged"));
  }
  IMAGEFS_ASSIGN_OR_RETURN(
      ResolvedImage image,
      MakeResolvedImage(std::string(reference), index, *std::move(manifest_json),
                        json.StringOr("content_type"), *std::move(config_json), Platform()));
  return std::make_shared<const ResolvedImage>(std::move(image));
}

absl::StatusOr<ImageStore::ImageRef> ImageStoreImpl::FindImage(const Reference& reference,
                                                               const Platform& platform) const {
  const std::string text = reference.ToString();
  IMAGEFS_ASSIGN_OR_RETURN(const std::optional<std::string> exact,
                           kv_->Get(ImageKey(text, platform)));
  if (exact.has_value()) return Load(text, *exact);
  // The configuration's platform may name a variant that the question leaves open.
  std::optional<std::string> found;
  IMAGEFS_RETURN_IF_ERROR(kv_->ForEachWithPrefix(
      StrCat(kImagePrefix, text, "\n"), [&](std::string_view key, std::string_view value) {
        const absl::StatusOr<Platform> have = Platform::Parse(key.substr(key.rfind('\n') + 1));
        if (have.ok() && have->os == platform.os && have->architecture == platform.architecture &&
            (platform.variant.empty() || have->variant.empty())) {
          found = std::string(value);
        }
        return !found.has_value();
      }));
  if (found.has_value()) return Load(text, *found);
  return absl::NotFoundError(StrCat(text, " (", platform.ToString(),
                                    ") is not in the store; fetch it with: imagefs pull ", text));
}

absl::StatusOr<std::vector<ImageStore::ImageRef>> ImageStoreImpl::ListHeld(
    const std::string& holder) const {
  std::vector<ImageRef> images;
  IMAGEFS_RETURN_IF_ERROR(kv_->ForEachWithPrefix(
      StrCat(kHeldPrefix, holder, "/"), [&](std::string_view key, std::string_view value) {
        absl::StatusOr<ImageRef> image = LoadHeld(value);
        if (image.ok()) {
          images.push_back(*std::move(image));
        } else {
          LogWarning("image.damaged record=", key, " error=", image.status().message());
        }
        return true;
      }));
  return images;
}

absl::StatusOr<ImageStore::ImageRef> ImageStoreImpl::LoadHeld(std::string_view record) const {
  IMAGEFS_ASSIGN_OR_RETURN(const Json json, Json::Parse(record));
  return Load(json.StringOr("reference"), record);
}

absl::StatusOr<std::vector<ImageRecord>> ImageStoreImpl::ListImages() const {
  std::vector<std::pair<std::string, std::string>> records;
  IMAGEFS_RETURN_IF_ERROR(
      kv_->ForEachWithPrefix(kImagePrefix, [&](std::string_view key, std::string_view value) {
        records.emplace_back(key.substr(kImagePrefix.size()), value);
        return true;
      }));
  absl::flat_hash_map<Digest, uint64_t> here;
  for (const LayerInfo& layer : layers_->List()) here[layer.diff_id] = layer.data_bytes;
  std::vector<ImageRecord> images;
  for (const auto& [key, value] : records) {
    const std::string reference = key.substr(0, key.rfind('\n'));
    const absl::StatusOr<ImageRef> image = Load(reference, value);
    if (!image.ok()) {
      LogWarning("image.damaged reference=", reference, " error=", image.status().message());
      continue;
    }
    ImageRecord record;
    record.reference = reference;
    record.platform = (*image)->config.platform;
    record.manifest_digest = (*image)->manifest_digest;
    record.chain_id = (*image)->chain_id();
    record.layers = (*image)->manifest.layers.size();
    for (const Descriptor& layer : (*image)->manifest.layers) record.compressed_bytes += layer.size;
    for (const Digest& diff_id : (*image)->config.diff_ids) {
      if (const auto it = here.find(diff_id); it != here.end()) {
        record.unpacked_bytes += it->second;
      }
    }
    const absl::StatusOr<Json> json = Json::Parse(value);
    record.created_unix = json.ok() ? json->IntOr("created", 0) : 0;
    images.push_back(std::move(record));
  }
  return images;
}

absl::StatusOr<uint64_t> ImageStoreImpl::Remove(const Reference& reference) {
  const std::string text = reference.ToString();
  {
    absl::MutexLock lock(&records_mu_);
    WriteBatch batch;
    size_t found = 0;
    IMAGEFS_RETURN_IF_ERROR(kv_->ForEachWithPrefix(StrCat(kImagePrefix, text, "\n"),
                                                   [&](std::string_view key, std::string_view) {
                                                     batch.Delete(key);
                                                     ++found;
                                                     return true;
                                                   }));
    if (found == 0) {
      return absl::NotFoundError(
          StrCat("no image ", text, " in the store; `imagefs images` lists those that are"));
    }
    IMAGEFS_RETURN_IF_ERROR(kv_->Write(batch, true));
  }
  return Collect();
}

absl::StatusOr<uint64_t> ImageStoreImpl::Collect() {
  absl::flat_hash_set<Digest> chains, layers;
  absl::flat_hash_set<std::string> documents;
  WriteBatch stale;
  {
    absl::MutexLock lock(&records_mu_);
    auto keep = [&](const absl::StatusOr<ImageRef>& image) {
      if (!image.ok()) return;
      chains.insert((*image)->chain_id());
      layers.insert((*image)->config.diff_ids.begin(), (*image)->config.diff_ids.end());
      documents.insert(StrCat(kManifestPrefix, (*image)->manifest_digest.hex()));
      documents.insert(StrCat(kConfigPrefix, (*image)->manifest.config.digest.hex()));
    };
    IMAGEFS_RETURN_IF_ERROR(
        kv_->ForEachWithPrefix(kImagePrefix, [&](std::string_view key, std::string_view value) {
          keep(Load(key.substr(kImagePrefix.size(), key.rfind('\n') - kImagePrefix.size()), value));
          return true;
        }));
    IMAGEFS_RETURN_IF_ERROR(
        kv_->ForEachWithPrefix(kHeldPrefix, [&](std::string_view, std::string_view value) {
          keep(LoadHeld(value));
          return true;
        }));
    for (std::string_view prefix : {kManifestPrefix, kConfigPrefix}) {
      IMAGEFS_RETURN_IF_ERROR(
          kv_->ForEachWithPrefix(prefix, [&](std::string_view key, std::string_view) {
            if (!documents.contains(std::string(key))) stale.Delete(key);
            return true;
          }));
    }
    IMAGEFS_RETURN_IF_ERROR(kv_->Write(stale, false));
  }
  uint64_t freed = chains_->Collect(chains, layers);
  freed += layers_->Collect(layers);
  return freed;
}

}  // namespace

absl::StatusOr<std::unique_ptr<ImageStore>> ImageStore::Open(Options options,
                                                             SourceFactory& sources) {
  auto store = std::make_unique<ImageStoreImpl>(std::move(options), sources);
  IMAGEFS_RETURN_IF_ERROR(store->Init());
  return store;
}

}  // namespace imagefs
