#include "snap/podman_layer_store.h"

#include <algorithm>

#include "absl/strings/escaping.h"
#include "base/fd.h"
#include "base/json.h"
#include "base/log.h"
#include "base/monotonic.h"
#include "base/status.h"
#include "base/text.h"
#include "fs/mount_syscalls.h"

namespace imagefs {
namespace {

constexpr char kHolder[] = "podman-layers";
constexpr std::string_view kPrefix = "podman-layer/";
constexpr int kRecordVersion = 1;
constexpr absl::Duration kUnusedFor = absl::Hours(1);
// Longer than a pull takes from one layer to the next.
constexpr absl::Duration kFailureMemory = absl::Seconds(10);
constexpr size_t kMaxFailures = 1000;
constexpr size_t kMaxReferenceBytes = 1000;
absl::StatusOr<Reference> DecodeReference(std::string_view name) {
  std::string text;
  if (name.size() > kMaxReferenceBytes || !absl::Base64Unescape(ToAbsl(name), &text)) {
    return absl::InvalidArgumentError("not the base64 of a reference");
  }
  IMAGEFS_ASSIGN_OR_RETURN(Reference reference, Reference::Parse(text));
  if (reference.transport != Reference::Transport::kRegistry) {
    return absl::InvalidArgumentError("of no registry");
  }
  return reference;
}

std::optional<size_t> FindLayer(const Manifest& manifest, const Digest& asked) {
  for (size_t i = 0; i < manifest.layers.size(); ++i) {
    if (manifest.layers[i].digest == asked) return i;
  }
  return std::nullopt;
}

absl::Status CheckLayer(const ResolvedImage& image, const Digest& asked) {
  const std::optional<size_t> level = FindLayer(image.manifest, asked);
  if (!level.has_value()) return absl::NotFoundError("the image has no such layer");
  const std::vector<Digest>& diff_ids = image.config.diff_ids;
  if (std::count(diff_ids.begin(), diff_ids.end(), diff_ids[*level]) > 1) {
    return absl::NotFoundError(
        "the image has this layer twice, and an overlay takes no directory twice");
  }
  return absl::OkStatus();
}

// What is durable of a layer that podman has found.
struct Record {
  std::string reference;
  Digest manifest;
  int64_t uses = 0;
  Moment found = Moment::Now();  // by this process: what it takes over is found anew
};

absl::StatusOr<Record> DecodeRecord(std::string_view text) {
  IMAGEFS_ASSIGN_OR_RETURN(const Json json, Json::Parse(text));
  if (json.IntOr("version", 0) != kRecordVersion) return absl::DataLossError("unknown version");
  Record record;
  record.reference = json.StringOr("reference");
  IMAGEFS_ASSIGN_OR_RETURN(record.manifest, Digest::Parse(json.StringOr("manifest")));
  record.uses = json.IntOr("uses", 0);
  return record;
}

}  // namespace

std::string PodmanLayerInfo(const Descriptor& blob, const Digest& diff_id, uint64_t tar_bytes) {
  int64_t compression = 0;  // the numbers of containers/storage
  const absl::StatusOr<LayerCompression> kind = CompressionOfMediaType(blob.media_type);
  if (kind.ok() && *kind == LayerCompression::kGzip) compression = 2;
  if (kind.ok() && *kind == LayerCompression::kZstd) compression = 4;
  JsonWriter json;
  json.BeginObject()
      .Member("compressed-diff-digest", blob.digest.ToString())
      .Member("compressed-size", uint64_t{blob.size})
      .Member("diff-digest", diff_id.ToString())
      .Member("diff-size", tar_bytes)
      .Member("compression", compression);
  json.EndObject();
  return json.Take();
}

// All work is done by one thread, one piece after the other; flights come back to it.
class PodmanLayerStore::Directory : public LayerDirectory {
 public:
  explicit Directory(Deps deps) : deps_(std::move(deps)) {}
  ~Directory() override { Leave(); }

  absl::Status Load();
  // Nothing is found any more.
  void Leave();
  Counters counters() const {
    absl::MutexLock lock(&mu_);
    return counters_;
  }

  bool IsReference(std::string_view name) const override { return DecodeReference(name).ok(); }
  FlightTicket Find(const std::string& reference, const std::string& layer,
                    LayerDone done) override;
  void Use(const std::string& reference, const std::string& layer, Done done) override {
    Count(KeyOf(reference, layer), 1, std::move(done));
  }
  void Release(const std::string& reference, const std::string& layer, Done done) override {
    Count(KeyOf(reference, layer), -1, std::move(done));
  }

 private:
  // A lookup under way.
  struct Call {
    std::string key;
    Reference reference;
    Digest asked;
    std::shared_ptr<Relay> relay = std::make_shared<Relay>();
    LayerDone done;
    ImageStore::ImageRef image;
    std::shared_ptr<ImageSource> source;
    uint64_t releases = 0;  // of the image, when it was held
  };
  using CallPtr = std::shared_ptr<Call>;
  struct Shown {
    std::shared_ptr<const Layer> layer;
    std::string lease;
  };

  static std::string KeyOf(std::string_view reference, std::string_view layer) {
    return StrCat(reference, "/", layer);
  }
  std::shared_ptr<const Layer> Known(const std::string& key) const {
    absl::MutexLock lock(&mu_);
    const auto found = shown_.find(key);
    return found == shown_.end() ? nullptr : found->second.layer;
  }
  void Finish(const CallPtr& call, absl::StatusOr<std::shared_ptr<const Layer>> layer);
  // Those that end in X run on the executor.
  void FindX(const CallPtr& call);
  void ResolveX(const CallPtr& call);
  void HoldX(const CallPtr& call);
  void ShowX(const CallPtr& call, const ChainRef& chain);
  absl::StatusOr<Shown> ShowLayerX(const ResolvedImage& image, size_t level, const ChainRef& chain);
  void Count(std::string key, int change, Done done);
  void CountX(const std::string& key, int change);
  absl::Status PutX(const std::string& key, const Record& record);
  void ForgetX(const std::string& key);
  void SweepX();
  void FailX(const CallPtr& call, const absl::Status& status);
  absl::Status RecentFailure(const std::string& reference);

  const Deps deps_;
  // Of the executor's thread, but for Load.
  std::map<std::string, Record> records_;
  std::map<Digest, ImageStore::ImageRef> held_;  // by manifest
  std::map<Digest, uint64_t> releases_;
  std::map<std::string, std::pair<absl::Status, Moment>> failures_;  // by reference

  mutable absl::Mutex mu_;
  std::map<std::string, Shown> shown_ ABSL_GUARDED_BY(mu_);  // by key
  std::map<uint64_t, std::shared_ptr<Relay>> calls_ ABSL_GUARDED_BY(mu_);
  uint64_t next_call_ ABSL_GUARDED_BY(mu_) = 0;
  bool left_ ABSL_GUARDED_BY(mu_) = false;
  Counters counters_ ABSL_GUARDED_BY(mu_);
  int pending_ ABSL_GUARDED_BY(mu_) = 0;

  std::optional<Executor> executor_{std::in_place, "podman-layers", 1};
};

absl::Status PodmanLayerStore::Directory::Load() {
  IMAGEFS_RETURN_IF_ERROR(deps_.store.kv().ForEachWithPrefix(
      kPrefix, [&](std::string_view key, std::string_view value) {
        absl::StatusOr<Record> record = DecodeRecord(value);
        if (record.ok()) {
          records_[std::string(key.substr(kPrefix.size()))] = *std::move(record);
        } else {
          LogWarning("podman_layer.record_unreadable key=", Printable(key),
                     " cause=", record.status().message());
        }
        return true;
      }));
  IMAGEFS_ASSIGN_OR_RETURN(const auto held, deps_.store.ListHeld(kHolder));
  for (const ImageStore::ImageRef& image : held) held_[image->manifest_digest] = image;
  executor_->Submit([this] { SweepX(); });
  return absl::OkStatus();
}

void PodmanLayerStore::Directory::Leave() {
  std::map<uint64_t, std::shared_ptr<Relay>> calls;
  {
    absl::MutexLock lock(&mu_);
    if (std::exchange(left_, true)) return;
    calls = calls_;
  }
  for (const auto& [number, relay] : calls) Relay::TicketOf(relay).Leave();
  {
    absl::MutexLock lock(&mu_);
    mu_.Await(absl::Condition(
        +[](int* pending) { return *pending == 0; }, &pending_));
  }
  executor_.reset();
  std::map<std::string, Shown> shown;
  {
    absl::MutexLock lock(&mu_);
    shown.swap(shown_);
  }
  for (const auto& [key, one] : shown) deps_.mounts.Hide(one.lease);
}

FlightTicket PodmanLayerStore::Directory::Find(const std::string& reference,
                                               const std::string& layer, LayerDone done) {
  auto call = std::make_shared<Call>();
  call->key = KeyOf(reference, layer);
  absl::StatusOr<Reference> parsed = DecodeReference(reference);
  const absl::StatusOr<Digest> asked = Digest::Parse(layer);
  if (!parsed.ok() || !asked.ok()) {
    done(absl::NotFoundError("no such layer"));
    return FlightTicket();
  }
  call->reference = *std::move(parsed);
  call->asked = *asked;
  std::shared_ptr<const Layer> known;
  std::optional<uint64_t> number;  // of a call that has work to do
  {
    absl::MutexLock lock(&mu_);
    if (const auto found = shown_.find(call->key); found != shown_.end()) {
      known = found->second.layer;
    } else if (!left_) {
      number = next_call_++;
      calls_[*number] = call->relay;
      ++pending_;
    }
  }
  if (known != nullptr) {
    done(std::move(known));
    return FlightTicket();
  }
  if (!number.has_value()) {
    done(absl::CancelledError("the daemon ends"));
    return FlightTicket();
  }
  call->done = [this, number = *number, done = std::move(done)](auto result) mutable {
    done(std::move(result));
    absl::MutexLock lock(&mu_);
    calls_.erase(number);
    --pending_;
  };
  executor_->Submit([this, call] { FindX(call); });
  return Relay::TicketOf(call->relay);
}

void PodmanLayerStore::Directory::Finish(const CallPtr& call,
                                         absl::StatusOr<std::shared_ptr<const Layer>> layer) {
  {
    absl::MutexLock lock(&mu_);
    ++(layer.ok() ? counters_.found : counters_.absent);
  }
  if (!layer.ok() && !absl::IsCancelled(layer.status())) {
    LogWarning("podman_layer.absent reference=", call->reference.ToString(),
               " layer=", call->asked.Short(), " cause=", layer.status().message());
  }
  call->done(std::move(layer));
}

void PodmanLayerStore::Directory::FindX(const CallPtr& call) {
  if (call->relay->left()) return Finish(call, absl::CancelledError("the caller went away"));
  if (auto known = Known(call->key); known != nullptr) return Finish(call, std::move(known));
  const auto record = records_.find(call->key);
  if (record != records_.end()) {
    // The very image that podman has found it in, whatever its name means now.
    call->reference.digest = record->second.manifest;
    const auto held = held_.find(record->second.manifest);
    const bool here = held != held_.end() &&
                      deps_.store.HasLayers(*held->second, deps_.trust_of(call->reference));
    if (here) {
      call->image = held->second;
      return HoldX(call);
    }
  }
  ResolveX(call);
}

// The next layers, which the same pull asks for, are not worth all that patience again.
void PodmanLayerStore::Directory::FailX(const CallPtr& call, const absl::Status& status) {
  if (failures_.size() >= kMaxFailures) failures_.clear();
  if (!absl::IsCancelled(status)) failures_[call->reference.ToString()] = {status, Moment::Now()};
  Finish(call, status);
}

absl::Status PodmanLayerStore::Directory::RecentFailure(const std::string& reference) {
  const auto found = failures_.find(reference);
  if (found == failures_.end()) return absl::OkStatus();
  if (Moment::Now() - found->second.second < kFailureMemory) return found->second.first;
  failures_.erase(found);
  return absl::OkStatus();
}

void PodmanLayerStore::Directory::ResolveX(const CallPtr& call) {
  const std::string reference = call->reference.ToString();
  if (absl::Status failure = RecentFailure(reference); !failure.ok()) return Finish(call, failure);
  ImageStore::ResolveRequest request;
  request.reference = call->reference;
  if (!call->reference.digest.has_value()) request.platform = Platform::Host();
  request.access = deps_.access_of(call->reference);
  request.policy = PullPolicy::kProve;
  request.trust = deps_.trust_of(call->reference);
  call->relay->Add(deps_.store.Resolve(
      std::move(request), [this, call](absl::StatusOr<ImageStore::Resolved> resolved) {
        executor_->Submit([this, call, resolved = std::move(resolved)]() mutable {
          if (!resolved.ok()) return FailX(call, resolved.status());
          const absl::Status status = CheckLayer(*resolved->image, call->asked);
          if (!status.ok()) return Finish(call, status);
          call->image = resolved->image;
          call->source = resolved->source;
          HoldX(call);
        });
      }));
}

void PodmanLayerStore::Directory::HoldX(const CallPtr& call) {
  call->releases = releases_[call->image->manifest_digest];
  call->relay->Add(
      deps_.store.EnsureHeld(kHolder, call->image, call->source, deps_.trust_of(call->reference),
                             Priority::kForeground, [this, call](absl::StatusOr<ChainRef> chain) {
                               executor_->Submit([this, call, chain = std::move(chain)] {
                                 if (!chain.ok()) return FailX(call, chain.status());
                                 ShowX(call, *chain);
                               });
                             }));
}

void PodmanLayerStore::Directory::ShowX(const CallPtr& call, const ChainRef& chain) {
  const Digest& manifest = call->image->manifest_digest;
  // Somebody else's layer of this image has gone meanwhile, and the image with it.
  if (releases_[manifest] != call->releases) return HoldX(call);
  held_[manifest] = WithLayers(*call->image, *chain);
  const std::optional<size_t> level = FindLayer(call->image->manifest, call->asked);
  if (!level.has_value() || *level >= chain->layers.size()) {
    return Finish(call, absl::NotFoundError("the image has no such layer"));
  }
  if (!chain->complete() && call->source == nullptr) {
    deps_.store.AttachSource(chain, call->reference, deps_.access_of(call->reference));
  }
  if (auto known = Known(call->key); known != nullptr) return Finish(call, std::move(known));
  absl::StatusOr<Shown> shown = ShowLayerX(*call->image, *level, chain);
  if (!shown.ok()) return Finish(call, shown.status());
  Record record;
  if (const auto found = records_.find(call->key); found != records_.end()) record = found->second;
  record.reference = call->image->reference;
  record.manifest = manifest;
  if (const absl::Status status = PutX(call->key, record); !status.ok()) {
    deps_.mounts.Hide(shown->lease);
    return Finish(call, status);
  }
  const std::shared_ptr<const Layer> layer = shown->layer;
  {
    absl::MutexLock lock(&mu_);
    shown_[call->key] = *std::move(shown);
  }
  Finish(call, layer);
  SweepX();
}

absl::StatusOr<PodmanLayerStore::Directory::Shown> PodmanLayerStore::Directory::ShowLayerX(
    const ResolvedImage& image, size_t level, const ChainRef& chain) {
  const LayerRef& layer = chain->layers[level];
  auto alone = std::make_shared<Chain>();
  // Not the DiffID: that is the ChainID of an image that has this layer only, in another form.
  alone->chain_id = Sha256Of(StrCat("layer alone ", layer->id.ToString()));
  alone->index_path = layer->directory + "/index";
  IMAGEFS_ASSIGN_OR_RETURN(alone->index, ErofsImage::Open(alone->index_path));
  alone->layers = {layer};
  alone->overlay_form = true;
  IMAGEFS_ASSIGN_OR_RETURN(MountTable::Shown shown, deps_.mounts.Show(std::move(alone)));
  auto out = std::make_shared<Layer>();
  out->tree = std::move(shown.path);
  const Descriptor& blob = image.manifest.layers[level];
  out->blob_bytes = blob.size;
  out->info = PodmanLayerInfo(blob, layer->diff_id, layer->data_bytes);
  return Shown{std::move(out), std::move(shown.lease)};
}

void PodmanLayerStore::Directory::Count(std::string key, int change, Done done) {
  {
    absl::MutexLock lock(&mu_);
    if (!left_) ++pending_;
    if (left_) change = 0;
  }
  if (change == 0) return done();
  executor_->Submit([this, key = std::move(key), change, done = std::move(done)]() mutable {
    CountX(key, change);
    done();
    absl::MutexLock lock(&mu_);
    --pending_;
  });
}

void PodmanLayerStore::Directory::CountX(const std::string& key, int change) {
  const auto found = records_.find(key);
  if (found == records_.end()) return;
  Record record = found->second;
  record.uses = std::max<int64_t>(record.uses + change, 0);
  if (record.uses == 0 && change < 0) return ForgetX(key);
  if (const absl::Status status = PutX(key, record); !status.ok()) {
    LogError("podman_layer.not_counted key=", key, " cause=", status.message());
  }
}

absl::Status PodmanLayerStore::Directory::PutX(const std::string& key, const Record& record) {
  JsonWriter json;
  json.BeginObject()
      .Member("version", int64_t{kRecordVersion})
      .Member("reference", record.reference)
      .Member("manifest", record.manifest.ToString())
      .Member("uses", record.uses)
      .EndObject();
  WriteBatch batch;
  batch.Put(StrCat(kPrefix, key), json.Take());
  IMAGEFS_RETURN_IF_ERROR(deps_.store.kv().Write(batch, /*sync=*/true));
  records_[key] = record;
  return absl::OkStatus();
}

// What only that layer needed goes with it.
void PodmanLayerStore::Directory::ForgetX(const std::string& key) {
  const Digest manifest = records_[key].manifest;
  WriteBatch batch;
  batch.Delete(StrCat(kPrefix, key));
  absl::Status status = deps_.store.kv().Write(batch, /*sync=*/true);
  records_.erase(key);
  std::string lease;
  {
    absl::MutexLock lock(&mu_);
    if (const auto found = shown_.find(key); found != shown_.end()) {
      lease = found->second.lease;
      shown_.erase(found);
    }
  }
  if (!lease.empty()) deps_.mounts.Hide(lease);
  const bool needed = std::any_of(records_.begin(), records_.end(), [&](const auto& entry) {
    return entry.second.manifest == manifest;
  });
  if (!needed) {
    ++releases_[manifest];
    held_.erase(manifest);
    status.Update(deps_.store.ReleaseHeld(kHolder, manifest));
    status.Update(deps_.store.Collect().status());
  }
  if (!status.ok()) LogWarning("podman_layer.not_forgotten cause=", status.message());
}

// What podman has looked for and never used.
void PodmanLayerStore::Directory::SweepX() {
  const Moment now = Moment::Now();
  std::vector<std::string> unused;
  for (const auto& [key, record] : records_) {
    if (record.uses == 0 && now - record.found > kUnusedFor) unused.push_back(key);
  }
  for (const std::string& key : unused) ForgetX(key);
}

absl::StatusOr<std::unique_ptr<PodmanLayerStore>> PodmanLayerStore::Open(const std::string& path,
                                                                         Deps deps) {
  FuseLoop& loop = deps.loop;
  auto directory = std::make_shared<Directory>(std::move(deps));
  IMAGEFS_RETURN_IF_ERROR(directory->Load());
  IMAGEFS_ASSIGN_OR_RETURN(FuseMount fuse, MakeFuse(/*writable=*/true));
  IMAGEFS_RETURN_IF_ERROR(ReplaceMount(fuse.mount, path));
  std::unique_ptr<PodmanLayerStore> layers(new PodmanLayerStore(path, directory));
  IMAGEFS_ASSIGN_OR_RETURN(layers->session_,
                           loop.ServeLayers(layers->directory_, std::move(fuse.device), [] {}));
  return layers;
}

PodmanLayerStore::~PodmanLayerStore() {
  directory_->Leave();
  const absl::Status status = UnmountStack(path_);
  if (!status.ok() && !absl::IsNotFound(status)) {
    LogWarning("podman_layers.not_unmounted cause=", status.message());
  }
}

PodmanLayerStore::Counters PodmanLayerStore::counters() const { return directory_->counters(); }

}  // namespace imagefs
