// SPDX-License-Identifier: Apache-2.0
#include "snap/snapshotter.h"

#include <sys/stat.h>
#include <time.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <map>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/synchronization/mutex.h"
#include "base/executor.h"
#include "base/log.h"
#include "base/monotonic.h"
#include "base/status.h"
#include "base/text.h"
#include "base/thread_role.h"
#include "base/ticket_group.h"
#include "fs/key_gate.h"
#include "snap/layer_labels.h"
#include "snap/snapshot_dirs.h"
#include "snap/snapshot_table.h"

namespace imagefs {
namespace {

int64_t NowNs() {
  timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  return int64_t{now.tv_sec} * 1'000'000'000 + now.tv_nsec;
}

// Each label is "CONTAINER:HOST:COUNT[,...]", or "" if absent.
absl::StatusOr<MountFlags> IdMapsOf(const SnapshotLabels& labels) {
  MountFlags ids;
  for (const auto& [key, map] :
       {std::pair(kUidMapLabel, &ids.id_map), std::pair(kGidMapLabel, &ids.gid_map)}) {
    const auto found = labels.find(key);
    if (found == labels.end()) continue;
    IMAGEFS_RETURN_IF_ERROR(Annotate(CheckIdMap(found->second), StrCat("label ", key)));
    *map = found->second;
  }
  if (ids.id_map.empty() != ids.gid_map.empty()) {
    return absl::InvalidArgumentError(
        StrCat("labels ", kUidMapLabel, " and ", kGidMapLabel, ": one is missing"));
  }
  return ids;
}

// Returns the host's id for an id of the image; unchanged if no range contains it.
uint32_t MapId(uint32_t id, const std::string& map) {
  if (map.empty()) return id;
  for (const std::string_view range : Split(map, ',')) {
    const std::vector<std::string_view> numbers = Split(range, ':');
    const uint64_t first = *ParseDecimal(numbers[0]);
    if (id >= first && id - first < *ParseDecimal(numbers[2])) {
      return static_cast<uint32_t>(*ParseDecimal(numbers[1]) + (id - first));
    }
  }
  return id;
}

constexpr char kUnknownParent[] = "(unknown)";

// Why containerd unpacks a layer that could have been lazy; the names are those of counters.
enum class Why { kParent, kCredentials, kRegistry, kImage, kOther };
constexpr std::array<std::string_view, 5> kUnpackedWhy = {"parent", "credentials", "registry",
                                                          "image", "other"};

Why WhyUnpacked(const absl::Status& status) {
  if (IsCredentialFailure(status)) return Why::kCredentials;
  if (IsRetriable(status) || absl::IsResourceExhausted(status)) return Why::kRegistry;
  const bool image = absl::IsNotFound(status) || absl::IsDataLoss(status) ||
                     absl::IsInvalidArgument(status) || absl::IsUnimplemented(status);
  return image ? Why::kImage : Why::kOther;
}

// Returns whether containerd would write a layer of an image to the snapshot: what it reads from a
// registry for it, nobody verifies.
bool IsUnpacking(const Snapshotter::PrepareRequest& request) {
  if (request.kind != SnapshotKind::kActive) return false;
  // Keys are NAMESPACE/NUMBER/KEY.
  const std::string_view key = std::string_view(request.key).substr(request.key.rfind('/') + 1);
  return request.labels.contains(kRefLabel) || key.starts_with("extract-");
}

absl::Status NotVerified(const std::string& image, const absl::Status& cause) {
  return ImageDenied(image,
                     StrCat("it could not be mounted lazily, and what is unpacked instead is "
                            "not verified (",
                            ToStd(cause.message()), ")"),
                     "see the cause, or set require = false in [verify]");
}

class SnapshotterImpl : public Snapshotter {
 public:
  SnapshotterImpl(Options options, Deps deps)
      : options_(std::move(options)),
        deps_(std::move(deps)),
        mapped_(options_.mapped_directory, options_.bind),
        executor_(ThreadRole::kSnapshots, options_.threads) {}

  absl::Status Init();

  FlightTicket Prepare(PrepareRequest request, MountsDone done) override;
  FlightTicket Mounts(const std::string& key, MountsDone done) override;
  void Commit(const std::string& name, const std::string& key, SnapshotLabels labels,
              Done done) override;
  void Remove(const std::string& key, Done done) override;
  void Update(const std::string& name, SnapshotLabels labels, std::vector<std::string> paths,
              InfoDone done) override;
  FlightTicket Usage(const std::string& key, UsageDone done) override;
  void Cleanup(Done done) override {
    slow_.Submit([this, done = std::move(done)]() mutable { done(Sweep()); });
  }
  absl::StatusOr<SnapshotInfo> Stat(const std::string& key) const override {
    IMAGEFS_ASSIGN_OR_RETURN(SnapshotRecord record, table_->Find(key));
    return std::move(record.info);
  }
  std::vector<SnapshotInfo> List(const SnapshotFilter& filter) const override;
  bool empty() const override { return table_->size() == 0; }
  std::vector<ImageUse> ImagesInUse() const override;
  void ReleaseAll() override;
  std::vector<std::pair<std::string, uint64_t>> Counters() const override {
    std::vector<std::pair<std::string, uint64_t>> out = {{"snapshots", table_->size()},
                                                         {"snapshot_layers_lazy", lazy_.load()}};
    uint64_t unpacked = 0;
    for (size_t i = 0; i < unpacked_.size(); ++i) {
      unpacked += unpacked_[i];
      out.emplace_back(StrCat("snapshot_layers_unpacked_", kUnpackedWhy[i]), unpacked_[i].load());
    }
    out.emplace_back("snapshot_layers_unpacked", unpacked);
    return out;
  }

 private:
  // A running Prepare of an ordinary snapshot, or Mounts. Passed from step to step.
  struct Call {
    SnapshotTable::Reservation reservation;  // Prepare only
    SnapshotRecord record;
    std::vector<SnapshotRecord> lineage;  // of the parent, beginning with the parent itself
    MountsDone done;
  };
  using CallPtr = std::shared_ptr<Call>;

  void PrepareLayer(const std::shared_ptr<TicketGroup>& group, PrepareRequest request,
                    const LayerLabels& labels, MountsDone done);
  absl::Status CommitLayer(const PrepareRequest& request, const LayerLabels& labels,
                           const std::string& parent_ref, const ResolvedImage& image);
  void PrepareOrdinary(const std::shared_ptr<TicketGroup>& group, PrepareRequest request,
                       MountsDone done);
  // Runs `next` on the executor with the image at the end of the lineage. If the lineage ends with
  // an ordinary snapshot, the chain is null.
  using WithImage = std::function<absl::StatusOr<std::vector<SnapshotMount>>(
      Call& call, const ImageUses::Use& image)>;
  void GetImage(const std::shared_ptr<TicketGroup>& group, const CallPtr& call, WithImage next);
  absl::StatusOr<std::vector<SnapshotMount>> FinishPrepare(Call& call, const ImageUses::Use& image);
  absl::Status MakeDirectory(const Call& call, const ImageUses::Use& image);
  absl::StatusOr<std::vector<SnapshotMount>> Answer(const Call& call, const ImageUses::Use& image);
  absl::StatusOr<std::vector<SnapshotMount>> MountsOf(const Call& call, const std::string& base);
  // Sets the tree below the snapshot `key`; null = none.
  void SetTree(const std::string& key, ImageUses::Tree tree);
  absl::StatusOr<SnapshotUsage> UsageOf(const SnapshotRecord& record, const CancelToken& cancel);
  void Recover(const std::vector<SnapshotRecord>& records);
  absl::Status Sweep();
  void SweepSoon();

  const Options options_;
  const Deps deps_;
  const PriorityRef urgent_ = std::make_shared<LivePriority>(Priority::kOnDemand);
  std::unique_ptr<SnapshotTable> table_;
  std::unique_ptr<SnapshotDirs> dirs_;
  MappedLowers mapped_;
  KeyGate layer_gate_;  // by layer and parent
  std::atomic<uint64_t> lazy_{0};
  std::array<std::atomic<uint64_t>, kUnpackedWhy.size()> unpacked_{};  // by Why
  std::atomic<bool> sweep_queued_{false};
  absl::Mutex sweep_mu_;

  absl::Mutex mu_;
  // The trees below snapshots that are or may be mounted, by snapshot name.
  absl::flat_hash_map<std::string, ImageUses::Tree> trees_ ABSL_GUARDED_BY(mu_);

  // All its calls must end before the executors are destroyed.
  std::unique_ptr<ImageUses::Owner> images_;
  // Their tasks use the other members, and tasks of executor_ use slow_.
  Executor slow_{ThreadRole::kSnapshotSpace, 2};  // what may take long: counting, removing
  Executor executor_;
};

absl::Status SnapshotterImpl::Init() {
  IMAGEFS_ASSIGN_OR_RETURN(table_, SnapshotTable::Open(deps_.store.kv()));
  IMAGEFS_ASSIGN_OR_RETURN(dirs_, SnapshotDirs::Open(options_.directory));
  const std::vector<SnapshotRecord> records = table_->List();
  absl::flat_hash_set<uint64_t> with_directory, mapped;
  ImageUses::OwnerOptions owner{.holder = kHolder, .trust_of = deps_.trust_of};
  for (const SnapshotRecord& record : records) {
    if (record.info.kind != SnapshotKind::kCommitted && record.info.labels.contains(kUidMapLabel)) {
      mapped.insert(record.id);
    }
    const bool view = record.info.kind == SnapshotKind::kView && !record.info.parent.empty();
    if (!record.lazy() && !view) with_directory.insert(record.id);
    if (record.lazy()) {
      owner.wanted.push_back({record.info.name, record.manifest, record.reference});
    }
  }
  IMAGEFS_RETURN_IF_ERROR(dirs_->Repair(with_directory, deps_.store.kv().lost_records()));
  IMAGEFS_ASSIGN_OR_RETURN(images_, deps_.uses.AddOwner(std::move(owner)));
  Recover(records);
  mapped_.UnmountOthers(mapped);
  SweepSoon();
  return absl::OkStatus();
}

// Running containers have the trees in their overlays. The trees are kept, under the same paths,
// for containers that are restarted.
void SnapshotterImpl::Recover(const std::vector<SnapshotRecord>& records) {
  for (const SnapshotRecord& record : records) {
    if (record.info.kind == SnapshotKind::kCommitted || record.info.parent.empty()) continue;
    const auto lineage = table_->Lineage(record.info.parent);
    if (!lineage.ok() || !lineage->back().lazy()) continue;
    const SnapshotRecord& layer = lineage->back();
    ImageUses::Tree tree = images_->Readopt(layer.manifest, layer.level + size_t{1});
    if (tree != nullptr) SetTree(record.info.name, std::move(tree));
  }
}

FlightTicket SnapshotterImpl::Prepare(PrepareRequest request, MountsDone done) {
  auto group = std::make_shared<TicketGroup>();
  absl::StatusOr<std::optional<LayerLabels>> labels = std::optional<LayerLabels>();
  if (request.kind == SnapshotKind::kActive) labels = ParseLayerLabels(request.labels);
  if (!labels.ok()) {
    LogWarning("snapshot.labels_unusable key=", Printable(request.key),
               " cause=", labels.status().message());
  }
  const bool of_image = labels.ok() && labels->has_value();
  if (!of_image && options_.only_verified && IsUnpacking(request)) {
    done(NotVerified("the image of a layer that is unpacked",
                     absl::NotFoundError("containerd does not say which image it is")));
    return FlightTicket();
  }
  if (of_image) {
    PrepareLayer(group, std::move(request), **labels, std::move(done));
  } else {
    PrepareOrdinary(group, std::move(request), std::move(done));
  }
  return TicketGroup::TicketOf(group);
}

void SnapshotterImpl::PrepareLayer(const std::shared_ptr<TicketGroup>& group,
                                   PrepareRequest request, const LayerLabels& labels,
                                   MountsDone done) {
  std::string parent_ref;
  if (!request.parent.empty()) {
    const absl::StatusOr<SnapshotRecord> parent = table_->Find(request.parent);
    // PrepareOrdinary returns the right error for it.
    if (!parent.ok() || parent->info.kind != SnapshotKind::kCommitted) {
      return PrepareOrdinary(group, std::move(request), std::move(done));
    }
    const auto ref = parent->info.labels.find(kRefLabel);
    // Never equal to a ChainID, so that the parent does not match the layer below.
    parent_ref = ref == parent->info.labels.end() ? kUnknownParent : ref->second;
  }
  ImageUses::Owner::Request wanted{
      .reference = labels.reference, .listed_by = labels.listed_by, .fail_fast = true};
  wanted.accept = [labels, parent_ref](const ResolvedImage& image) {
    return FindLevel(image, labels, parent_ref).status();
  };
  auto acquired = [this, group, request = std::move(request), labels, parent_ref,
                   done = std::move(done)](absl::StatusOr<ImageUses::Use> use) mutable {
    executor_.Submit([this, group, request = std::move(request), labels, parent_ref,
                      done = std::move(done), use = std::move(use)]() mutable {
      absl::Status status = use.status();
      if (status.ok()) status = CommitLayer(request, labels, parent_ref, *use->image);
      if (status.ok()) {
        ++lazy_;
        LogInfo("snapshot.lazy reference=", labels.reference.ToString(),
                " layer=", request.labels[kRefLabel]);
        if (deps_.shown) deps_.shown();
        return done(absl::AlreadyExistsError("the layer is mounted lazily and needs no unpacking"));
      }
      if (absl::IsCancelled(status) || group->left()) {
        return done(absl::CancelledError("the caller went away"));
      }
      if (IsImageDenied(status)) return done(status);
      if (options_.only_verified) return done(NotVerified(labels.reference.ToString(), status));
      const Why why = parent_ref == kUnknownParent ? Why::kParent : WhyUnpacked(status);
      ++unpacked_[static_cast<size_t>(why)];
      LogWarning("snapshot.not_lazy reference=", labels.reference.ToString(),
                 " layer=", request.labels[kRefLabel],
                 " kind=", kUnpackedWhy[static_cast<size_t>(why)], " cause=", status.message());
      PrepareOrdinary(group, std::move(request), std::move(done));
    });
  };
  group->Add(images_->Acquire(std::move(wanted), std::move(acquired)));
}

absl::Status SnapshotterImpl::CommitLayer(const PrepareRequest& request, const LayerLabels& labels,
                                          const std::string& parent_ref,
                                          const ResolvedImage& image) {
  IMAGEFS_ASSIGN_OR_RETURN(const uint32_t level, FindLevel(image, labels, parent_ref));
  const std::string& ref = labels.chain_id;
  const KeyGate::Hold hold(layer_gate_, StrCat(ref, " ", request.parent));
  if (table_->FindLayer(ref, request.parent).ok()) return absl::OkStatus();
  const std::string name = StrCat("imagefs/", image.chain_ids[level].hex(), "/", table_->NextId());
  IMAGEFS_ASSIGN_OR_RETURN(SnapshotTable::Reservation reservation,
                           table_->Reserve(name, request.parent));
  SnapshotRecord record;
  record.info.kind = SnapshotKind::kCommitted;
  record.info.created_ns = record.info.updated_ns = NowNs();
  record.info.labels = request.labels;
  record.reference = image.reference;
  record.manifest = image.manifest_digest;
  record.level = level;
  images_->Keep(name, record.manifest);
  const absl::Status status = table_->Insert(std::move(reservation), std::move(record));
  if (!status.ok()) images_->Drop(name);
  return status;
}

void SnapshotterImpl::PrepareOrdinary(const std::shared_ptr<TicketGroup>& group,
                                      PrepareRequest request, MountsDone done) {
  executor_.Submit([this, group, request = std::move(request), done = std::move(done)]() mutable {
    auto reservation = table_->Reserve(request.key, request.parent);
    if (!reservation.ok()) return done(reservation.status());
    auto call = std::make_shared<Call>();
    call->reservation = *std::move(reservation);
    call->record.info.name = request.key;
    call->record.info.parent = request.parent;
    call->record.info.kind = request.kind;
    call->record.info.labels = std::move(request.labels);
    call->done = std::move(done);
    GetImage(group, call,
             [this](Call& c, const ImageUses::Use& image) { return FinishPrepare(c, image); });
  });
}

void SnapshotterImpl::GetImage(const std::shared_ptr<TicketGroup>& group, const CallPtr& call,
                               WithImage next) {
  const std::string& parent = call->record.info.parent;
  if (!parent.empty()) {
    absl::StatusOr<std::vector<SnapshotRecord>> lineage = table_->Lineage(parent);
    if (!lineage.ok()) return call->done(lineage.status());
    call->lineage = *std::move(lineage);
  }
  if (call->lineage.empty() || !call->lineage.back().lazy()) {
    return call->done(next(*call, {}));
  }
  const SnapshotRecord& layer = call->lineage.back();
  absl::StatusOr<Reference> reference = Reference::Parse(layer.reference);
  if (!reference.ok()) return call->done(reference.status());
  auto acquired = [this, call, next = std::move(next)](absl::StatusOr<ImageUses::Use> use) mutable {
    if (!use.ok()) {
      return call->done(
          Annotate(use.status(), StrCat("the layers of ", call->lineage.back().reference,
                                        " are not available; check that its registry answers")));
    }
    executor_.Submit([call, next = std::move(next), use = *std::move(use)]() mutable {
      call->done(next(*call, use));
    });
  };
  group->Add(images_->Acquire({.reference = *std::move(reference),
                               .manifest = layer.manifest,
                               .layers = layer.level + size_t{1}},
                              std::move(acquired)));
}

absl::StatusOr<std::vector<SnapshotMount>> SnapshotterImpl::FinishPrepare(
    Call& call, const ImageUses::Use& image) {
  SnapshotRecord& record = call.record;
  record.id = table_->NextId();
  record.info.created_ns = record.info.updated_ns = NowNs();
  auto finish = [&]() -> absl::StatusOr<std::vector<SnapshotMount>> {
    IMAGEFS_RETURN_IF_ERROR(MakeDirectory(call, image));
    IMAGEFS_ASSIGN_OR_RETURN(std::vector<SnapshotMount> mounts, Answer(call, image));
    IMAGEFS_RETURN_IF_ERROR(table_->Insert(std::move(call.reservation), record));
    return mounts;
  };
  absl::StatusOr<std::vector<SnapshotMount>> mounts = finish();
  if (mounts.ok()) {
    LogInfo("snapshot.prepared key=", Printable(record.info.name), " id=", record.id,
            " kind=", record.info.kind == SnapshotKind::kView ? "view" : "active",
            " reference=", image.image == nullptr ? "-" : image.image->reference);
  } else {
    LogWarning("snapshot.failed key=", Printable(record.info.name),
               " cause=", mounts.status().message());
    mapped_.Unmount(record.id);
    SetTree(record.info.name, nullptr);
    dirs_->Retire(record.id).IgnoreError();
    SweepSoon();
  }
  return mounts;
}

absl::Status SnapshotterImpl::MakeDirectory(const Call& call, const ImageUses::Use& image) {
  const bool view = call.record.info.kind == SnapshotKind::kView;
  if (view && !call.lineage.empty()) return absl::OkStatus();
  // The root of an overlay is that of the upper, so it must look like the parent's.
  SnapshotDirs::RootAttributes root;
  if (!call.lineage.empty() && !call.lineage.front().lazy()) {
    IMAGEFS_ASSIGN_OR_RETURN(root, dirs_->RootOf(call.lineage.front().id));
  } else if (image.chain != nullptr) {
    const ErofsImage& index = *image.chain->index;
    IMAGEFS_ASSIGN_OR_RETURN(const ErofsImage::Stat st, index.GetStat(index.root()));
    root = {st.uid, st.gid, st.mode & 07777};
  }
  IMAGEFS_ASSIGN_OR_RETURN(const MountFlags ids, IdMapsOf(call.record.info.labels));
  root.uid = MapId(root.uid, ids.id_map);
  root.gid = MapId(root.gid, ids.gid_map);
  return dirs_->Make(call.record.id, /*work=*/!view, root);
}

// Mounts the tree and returns how to mount the snapshot over it.
absl::StatusOr<std::vector<SnapshotMount>> SnapshotterImpl::Answer(const Call& call,
                                                                   const ImageUses::Use& image) {
  std::string base;
  if (image.chain != nullptr) {
    IMAGEFS_ASSIGN_OR_RETURN(ImageUses::Tree tree, images_->MountTree(image));
    base = tree->path;
    SetTree(call.record.info.name, std::move(tree));
  }
  return MountsOf(call, base);
}

absl::StatusOr<std::vector<SnapshotMount>> SnapshotterImpl::MountsOf(const Call& call,
                                                                     const std::string& base) {
  const SnapshotRecord& record = call.record;
  const bool view = record.info.kind == SnapshotKind::kView;
  std::vector<std::string> lowers;  // topmost first
  for (const SnapshotRecord& below : call.lineage) {
    lowers.push_back(below.lazy() ? base : dirs_->fs(below.id));
  }
  IMAGEFS_ASSIGN_OR_RETURN(const MountFlags ids, IdMapsOf(record.info.labels));
  if (!ids.id_map.empty() && !lowers.empty()) {
    IMAGEFS_ASSIGN_OR_RETURN(lowers, mapped_.Mount(record.id, lowers, ids));
  }
  SnapshotMount mount;
  if (lowers.empty() || (view && lowers.size() == 1)) {
    mount.type = "bind";
    mount.source = lowers.empty() ? dirs_->fs(record.id) : lowers.front();
    mount.options.push_back(view ? "ro" : "rw");
    mount.options.push_back("rbind");
    return std::vector<SnapshotMount>{std::move(mount)};
  }
  mount.type = mount.source = "overlay";
  mount.options.push_back("index=off");
  if (!view) {
    mount.options.push_back(StrCat("workdir=", dirs_->work(record.id)));
    mount.options.push_back(StrCat("upperdir=", dirs_->fs(record.id)));
  }
  std::string lower = "lowerdir=";
  for (size_t i = 0; i < lowers.size(); ++i) StrAppend(&lower, i == 0 ? "" : ":", lowers[i]);
  mount.options.push_back(std::move(lower));
  return std::vector<SnapshotMount>{std::move(mount)};
}

FlightTicket SnapshotterImpl::Mounts(const std::string& key, MountsDone done) {
  auto group = std::make_shared<TicketGroup>();
  executor_.Submit([this, group, key, done = std::move(done)]() mutable {
    absl::StatusOr<SnapshotRecord> record = table_->Find(key);
    if (!record.ok()) return done(record.status());
    if (record->info.kind == SnapshotKind::kCommitted) {
      return done(absl::FailedPreconditionError(
          StrCat("snapshot ", Printable(key), " is committed and has no mounts")));
    }
    auto call = std::make_shared<Call>();
    call->record = *std::move(record);
    call->done = std::move(done);
    GetImage(group, call,
             [this](Call& c, const ImageUses::Use& image) { return Answer(c, image); });
  });
  return TicketGroup::TicketOf(group);
}

void SnapshotterImpl::SetTree(const std::string& key, ImageUses::Tree tree) {
  absl::MutexLock lock(&mu_);
  // The previous tree is released with `tree`, after the lock.
  if (tree != nullptr) {
    trees_[key].swap(tree);
  } else if (const auto found = trees_.find(key); found != trees_.end()) {
    found->second.swap(tree);
    trees_.erase(found);
  }
}

void SnapshotterImpl::Commit(const std::string& name, const std::string& key, SnapshotLabels labels,
                             Done done) {
  // containerd waits for this with its database locked, so only the record is written before the
  // answer.
  executor_.Submit(urgent_,
                   [this, name, key, labels = std::move(labels), done = std::move(done)]() mutable {
                     const absl::Status status = table_->Commit(key, name, labels, NowNs());
                     done(status);
                     if (!status.ok()) return;
                     LogInfo("snapshot.committed key=", Printable(key), " name=", Printable(name));
                     const absl::StatusOr<SnapshotRecord> record = table_->Find(name);
                     if (record.ok()) mapped_.Unmount(record->id);
                     SetTree(key, nullptr);
                   });
}

void SnapshotterImpl::Update(const std::string& name, SnapshotLabels labels,
                             std::vector<std::string> paths, InfoDone done) {
  executor_.Submit(urgent_, [this, name, labels = std::move(labels), paths = std::move(paths),
                             done = std::move(done)]() mutable {
    done(table_->Update(name, NowNs(), [&](SnapshotLabels& current) -> absl::Status {
      if (paths.empty()) current = labels;
      for (const std::string& path : paths) {
        std::string_view key = path;
        if (path == "labels") {
          current = labels;
        } else if (ConsumePrefix(&key, "labels.")) {
          const auto found = labels.find(std::string(key));
          if (found == labels.end() || found->second.empty()) {
            current.erase(std::string(key));
          } else {
            current[std::string(key)] = found->second;
          }
        } else {
          return absl::InvalidArgumentError(
              StrCat("field ", Printable(path), " of a snapshot cannot be changed; labels can"));
        }
      }
      return absl::OkStatus();
    }));
  });
}

void SnapshotterImpl::Remove(const std::string& key, Done done) {
  executor_.Submit([this, key, done = std::move(done)]() mutable {
    absl::StatusOr<SnapshotRecord> record = table_->Remove(key);
    if (!record.ok()) return done(record.status());
    SetTree(key, nullptr);
    if (record->lazy()) {  // has no directories
      images_->Drop(key);
    } else {
      mapped_.Unmount(record->id);
      if (const absl::Status status = dirs_->Retire(record->id); !status.ok()) {
        // The next startup removes it.
        LogWarning("snapshot.directory_stays id=", record->id, " cause=", status.message());
      }
    }
    LogInfo("snapshot.removed key=", Printable(key), " id=", record->id);
    done(absl::OkStatus());
    SweepSoon();
  });
}

void SnapshotterImpl::SweepSoon() {
  if (sweep_queued_.exchange(true)) return;
  slow_.Submit([this] {
    const absl::Status status = Sweep();
    if (!status.ok()) LogWarning("snapshot.sweep_failed cause=", status.message());
  });
}

absl::Status SnapshotterImpl::Sweep() {
  absl::MutexLock lock(&sweep_mu_);
  // Reset before the sweep, so that anything retired from now on queues another sweep.
  sweep_queued_ = false;
  absl::Status status = dirs_->Sweep();
  status.Update(images_->Collect().status());
  return status;
}

FlightTicket SnapshotterImpl::Usage(const std::string& key, UsageDone done) {
  CancelSource cancel;
  slow_.Submit([this, key, token = cancel.token(), done = std::move(done)]() mutable {
    const absl::StatusOr<SnapshotRecord> record = table_->Find(key);
    if (!record.ok()) return done(record.status());
    done(UsageOf(*record, token));
  });
  return FlightTicket([cancel]() mutable { cancel.Cancel(); });
}

absl::StatusOr<SnapshotUsage> SnapshotterImpl::UsageOf(const SnapshotRecord& record,
                                                       const CancelToken& cancel) {
  if (record.info.kind == SnapshotKind::kView && !record.info.parent.empty()) {
    return SnapshotUsage();
  }
  if (!record.lazy()) return dirs_->Usage(record.id, cancel);
  SnapshotUsage usage;
  const ChainRef chain = images_->Find(record.manifest).chain;
  // Its bytes may not be local (any more).
  if (chain == nullptr || record.level >= chain->layers.size()) return usage;
  const LayerRef& layer = chain->layers[record.level];
  struct stat st;
  if (fstat(layer->data.get(), &st) == 0) usage.bytes = static_cast<int64_t>(st.st_blocks) * 512;
  usage.bytes += static_cast<int64_t>(layer->index->size_bytes());
  usage.inodes = static_cast<int64_t>(layer->index->inode_count());
  return usage;
}

std::vector<SnapshotInfo> SnapshotterImpl::List(const SnapshotFilter& filter) const {
  std::vector<SnapshotInfo> out;
  for (SnapshotRecord& record : table_->List()) {
    if (filter.Match(record.info)) out.push_back(std::move(record.info));
  }
  return out;
}

std::vector<Snapshotter::ImageUse> SnapshotterImpl::ImagesInUse() const {
  std::map<std::pair<Digest, std::string>, uint64_t> uses;
  absl::flat_hash_set<Digest> images;
  const auto space_of = [](const std::string& name) { return name.substr(0, name.find('/')); };
  for (const SnapshotRecord& record : table_->List()) {
    if (record.lazy()) {
      images.insert(record.manifest);
      continue;
    }
    if (record.info.kind == SnapshotKind::kCommitted) continue;
    const auto lineage = table_->Lineage(record.info.name);
    if (!lineage.ok() || !lineage->back().lazy()) continue;
    ++uses[{lineage->back().manifest, space_of(record.info.name)}];
  }
  std::vector<ImageUse> out;
  for (const auto& [key, containers] : uses) {
    images.erase(key.first);
    out.push_back({key.first, key.second, containers});
  }
  for (const Digest& image : images) out.push_back({image, "", 0});
  std::sort(out.begin(), out.end());
  return out;
}

void SnapshotterImpl::ReleaseAll() {
  absl::flat_hash_map<std::string, ImageUses::Tree> trees;
  {
    absl::MutexLock lock(&mu_);
    trees.swap(trees_);
  }
  mapped_.UnmountOthers({});
  images_->ReleaseKept();
}

}  // namespace

absl::StatusOr<std::unique_ptr<Snapshotter>> Snapshotter::Open(Options options, Deps deps) {
  auto snapshotter = std::make_unique<SnapshotterImpl>(std::move(options), std::move(deps));
  IMAGEFS_RETURN_IF_ERROR(snapshotter->Init());
  return snapshotter;
}

}  // namespace imagefs
