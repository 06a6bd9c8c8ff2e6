// SPDX-License-Identifier: Apache-2.0
#include "snap/podman_layer_store.h"

#include <algorithm>
#include <map>
#include <optional>
#include <string_view>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/functional/any_invocable.h"
#include "absl/strings/escaping.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "base/executor.h"
#include "base/fd.h"
#include "base/json.h"
#include "base/log.h"
#include "base/monotonic.h"
#include "base/status.h"
#include "base/text.h"
#include "base/thread_role.h"
#include "base/ticket_group.h"
#include "fs/layer_directory.h"
#include "fs/mount_syscalls.h"

namespace imagefs {
namespace {

constexpr std::string_view kPrefix = "podman-layer/";
constexpr int kRecordVersion = 1;
constexpr absl::Duration kUnusedFor = absl::Hours(1);
constexpr size_t kMaxReferenceBytes = 1000;

absl::StatusOr<Reference> DecodeReference(std::string_view name) {
  std::string text;
  if (name.size() > kMaxReferenceBytes || !absl::Base64Unescape(ToAbsl(name), &text)) {
    return absl::InvalidArgumentError("not the base64 of a reference");
  }
  IMAGEFS_ASSIGN_OR_RETURN(Reference reference, Reference::Parse(text));
  if (reference.transport != Reference::Transport::kRegistry) {
    return absl::InvalidArgumentError("not an image of a registry");
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
        "the image has this layer twice, but an overlay cannot use a directory twice");
  }
  return absl::OkStatus();
}

// The durable record of a layer that podman has found.
struct Record {
  std::string reference;
  Digest manifest;
  int64_t uses = 0;
  Moment found = Moment::Now();  // by this process; not stored, so it restarts with the process
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
  int64_t compression = 0;  // as numbered by containers/storage
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

// Records and trees are changed only on the executor, which has one thread; acquired images are
// passed to it.
class PodmanLayerStore::Directory : public LayerDirectory {
 public:
  explicit Directory(Deps deps) : deps_(std::move(deps)) {}
  ~Directory() override { Leave(/*hide=*/false); }

  absl::Status Load();
  // Ends all lookups.
  void Leave(bool hide) ABSL_LOCKS_EXCLUDED(mu_);
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
  // A running lookup.
  struct Call {
    std::string key;
    Reference reference;
    Digest asked;
    std::shared_ptr<TicketGroup> group = std::make_shared<TicketGroup>();
    LayerDone done;
  };
  using CallPtr = std::shared_ptr<Call>;
  struct MountedLayer {
    std::shared_ptr<const Layer> layer;
    ImageUses::Tree tree;
  };

  static std::string KeyOf(std::string_view reference, std::string_view layer) {
    return StrCat(reference, "/", layer);
  }
  std::shared_ptr<const Layer> Known(const std::string& key) const ABSL_LOCKS_EXCLUDED(mu_) {
    absl::MutexLock lock(&mu_);
    const auto found = mounted_.find(key);
    return found == mounted_.end() ? nullptr : found->second.layer;
  }
  void Readopt(const std::string& key, const Digest& manifest) ABSL_LOCKS_EXCLUDED(mu_);
  std::shared_ptr<const Layer> Remember(const std::string& key, const ImageUses::Use& use,
                                        size_t level, ImageUses::Tree tree)
      ABSL_LOCKS_EXCLUDED(mu_);
  // Returns false, without running the task, after Leave.
  bool Submit(absl::AnyInvocable<void()> task) ABSL_LOCKS_EXCLUDED(mu_);
  void Finish(const CallPtr& call, absl::StatusOr<std::shared_ptr<const Layer>> layer);
  // REQUIRES for all functions named ...OnExecutor: called on the executor.
  void FindOnExecutor(const CallPtr& call);
  absl::StatusOr<std::shared_ptr<const Layer>> MountOnExecutor(const Call& call,
                                                               const ImageUses::Use& use);
  void Count(std::string key, int change, Done done);
  void CountOnExecutor(const std::string& key, int change);
  absl::Status PutOnExecutor(const std::string& key, const Record& record);
  void ForgetOnExecutor(const std::string& key);
  void CollectOnExecutor();

  const Deps deps_;
  std::map<std::string, Record> records_;  // used only on the executor, except in Load

  mutable absl::Mutex mu_;
  std::map<std::string, MountedLayer> mounted_ ABSL_GUARDED_BY(mu_);  // by key
  bool left_ ABSL_GUARDED_BY(mu_) = false;
  Counters counters_ ABSL_GUARDED_BY(mu_);

  std::unique_ptr<ImageUses::Owner> images_;  // null after Leave
  std::unique_ptr<Executor> executor_ = std::make_unique<Executor>(ThreadRole::kPodmanLayers, 1);
};

absl::Status PodmanLayerStore::Directory::Load() {
  ImageUses::OwnerOptions owner{
      .holder = kHolder, .trust_of = deps_.trust_of, .keeps_trees = false};
  IMAGEFS_RETURN_IF_ERROR(deps_.store.kv().ForEachWithPrefix(
      kPrefix, [&](std::string_view key, std::string_view value) {
        absl::StatusOr<Record> record = DecodeRecord(value);
        if (!record.ok()) {
          LogWarning("podman_layer.record_unreadable key=", Printable(key),
                     " cause=", record.status().message());
          return true;
        }
        const std::string name(key.substr(kPrefix.size()));
        owner.wanted.push_back({name, record->manifest, record->reference});
        records_[name] = *std::move(record);
        return true;
      }));
  IMAGEFS_ASSIGN_OR_RETURN(images_, deps_.uses.AddOwner(std::move(owner)));
  for (const auto& [key, record] : records_) Readopt(key, record.manifest);
  return absl::OkStatus();
}

// Containers have the trees that the previous process mounted in their overlays.
void PodmanLayerStore::Directory::Readopt(const std::string& key, const Digest& manifest) {
  const ImageUses::Use here = images_->Find(manifest);
  const absl::StatusOr<Digest> asked = Digest::Parse(key.substr(key.rfind('/') + 1));
  if (here.chain == nullptr || !asked.ok()) return;
  const std::optional<size_t> level = FindLayer(here.image->manifest, *asked);
  if (!level.has_value()) return;
  if (auto tree = images_->ReadoptLayer(manifest, *level); tree != nullptr) {
    Remember(key, here, *level, std::move(tree));
  }
}

std::shared_ptr<const LayerDirectory::Layer> PodmanLayerStore::Directory::Remember(
    const std::string& key, const ImageUses::Use& use, size_t level, ImageUses::Tree tree) {
  const Descriptor& blob = use.image->manifest.layers[level];
  const imagefs::Layer& shown = *use.chain->layers[level];
  auto layer = std::make_shared<Layer>();
  layer->tree = tree->path;
  layer->blob_bytes = blob.size;
  layer->info = PodmanLayerInfo(blob, shown.diff_id, shown.data_bytes);
  absl::MutexLock lock(&mu_);
  mounted_[key] = {layer, std::move(tree)};
  return layer;
}

void PodmanLayerStore::Directory::Leave(bool hide) {
  {
    absl::MutexLock lock(&mu_);
    if (std::exchange(left_, true)) return;
  }
  // Lookups finish on the executor and use the images.
  if (images_ != nullptr) images_->Stop();
  executor_.reset();
  if (!hide) images_.reset();
  {
    std::map<std::string, MountedLayer> shown;  // destroyed after the lock is released
    absl::MutexLock lock(&mu_);
    shown.swap(mounted_);
  }
  images_.reset();
}

bool PodmanLayerStore::Directory::Submit(absl::AnyInvocable<void()> task) {
  absl::MutexLock lock(&mu_);
  if (!left_) executor_->Submit(std::move(task));
  return !left_;
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
  if (auto known = Known(call->key); known != nullptr) {
    done(std::move(known));
    return FlightTicket();
  }
  call->done = std::move(done);
  if (!Submit([this, call] { FindOnExecutor(call); }))
    call->done(absl::CancelledError("the daemon ends"));
  return TicketGroup::TicketOf(call->group);
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

void PodmanLayerStore::Directory::FindOnExecutor(const CallPtr& call) {
  if (call->group->left()) return Finish(call, absl::CancelledError("the caller went away"));
  if (auto known = Known(call->key); known != nullptr) return Finish(call, std::move(known));
  ImageUses::Owner::Request request{.reference = call->reference, .fail_fast = true};
  request.accept = [asked = call->asked](const ResolvedImage& image) {
    return CheckLayer(image, asked);
  };
  // Exactly the image in which podman found it, whatever the name refers to now.
  const auto record = records_.find(call->key);
  if (record != records_.end()) request.manifest = record->second.manifest;
  auto acquired = [this, call](absl::StatusOr<ImageUses::Use> use) {
    if (!use.ok()) return Finish(call, use.status());
    const bool shown = Submit([this, call, use = *std::move(use)] {
      Finish(call, MountOnExecutor(*call, use));
      CollectOnExecutor();
    });
    if (!shown) Finish(call, absl::CancelledError("the daemon ends"));
  };
  call->group->Add(images_->Acquire(std::move(request), std::move(acquired)));
}

absl::StatusOr<std::shared_ptr<const LayerDirectory::Layer>>
PodmanLayerStore::Directory::MountOnExecutor(const Call& call, const ImageUses::Use& use) {
  if (auto known = Known(call.key); known != nullptr) return known;
  const ResolvedImage& image = *use.image;
  const std::optional<size_t> level = FindLayer(image.manifest, call.asked);
  if (!level.has_value() || *level >= use.chain->layers.size()) {
    return absl::NotFoundError("the image has no such layer");
  }
  IMAGEFS_ASSIGN_OR_RETURN(ImageUses::Tree tree, images_->MountLayer(use, *level));
  Record record;
  if (const auto found = records_.find(call.key); found != records_.end()) record = found->second;
  record.reference = image.reference;
  record.manifest = image.manifest_digest;
  IMAGEFS_RETURN_IF_ERROR(PutOnExecutor(call.key, record));
  return Remember(call.key, use, *level, std::move(tree));
}

void PodmanLayerStore::Directory::Count(std::string key, int change, Done done) {
  auto shared = std::make_shared<Done>(std::move(done));
  const bool counted = Submit([this, key = std::move(key), change, shared] {
    CountOnExecutor(key, change);
    (*shared)();
  });
  if (!counted) (*shared)();
}

void PodmanLayerStore::Directory::CountOnExecutor(const std::string& key, int change) {
  const auto found = records_.find(key);
  if (found == records_.end()) return;
  Record record = found->second;
  record.uses = std::max<int64_t>(record.uses + change, 0);
  if (record.uses == 0 && change < 0) return ForgetOnExecutor(key);
  if (const absl::Status status = PutOnExecutor(key, record); !status.ok()) {
    LogError("podman_layer.not_counted key=", key, " cause=", status.message());
  }
}

// Writes the record and keeps its image. REQUIRES: the image is held.
absl::Status PodmanLayerStore::Directory::PutOnExecutor(const std::string& key,
                                                        const Record& record) {
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
  images_->Keep(key, record.manifest);
  return absl::OkStatus();
}

// Also frees what only that layer needed.
void PodmanLayerStore::Directory::ForgetOnExecutor(const std::string& key) {
  WriteBatch batch;
  batch.Delete(StrCat(kPrefix, key));
  absl::Status status = deps_.store.kv().Write(batch, /*sync=*/true);
  records_.erase(key);
  {
    MountedLayer shown;  // destroyed after the lock is released
    absl::MutexLock lock(&mu_);
    if (const auto found = mounted_.find(key); found != mounted_.end()) {
      shown = std::move(found->second);
      mounted_.erase(found);
    }
  }
  images_->Drop(key);
  status.Update(images_->Collect().status());
  if (!status.ok()) LogWarning("podman_layer.not_forgotten cause=", status.message());
}

// Forgets layers that podman has looked up but never used.
void PodmanLayerStore::Directory::CollectOnExecutor() {
  const Moment now = Moment::Now();
  std::vector<std::string> unused;
  for (const auto& [key, record] : records_) {
    if (record.uses == 0 && now - record.found > kUnusedFor) unused.push_back(key);
  }
  for (const std::string& key : unused) ForgetOnExecutor(key);
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
  directory_->Leave(/*hide=*/false);
  const absl::Status status = UnmountStack(path_);
  if (!status.ok() && !absl::IsNotFound(status)) {
    LogWarning("podman_layers.not_unmounted cause=", status.message());
  }
}

void PodmanLayerStore::ReleaseAll() { directory_->Leave(/*hide=*/true); }

PodmanLayerStore::Counters PodmanLayerStore::counters() const { return directory_->counters(); }

}  // namespace imagefs
