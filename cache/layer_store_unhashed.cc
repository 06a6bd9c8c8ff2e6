// SPDX-License-Identifier: Apache-2.0
#include "cache/layer_store_unhashed.h"

#include <fcntl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <thread>
#include <utility>
#include <vector>

#include "absl/cleanup/cleanup.h"
#include "base/log.h"
#include "base/monotonic.h"
#include "base/status.h"
#include "base/text.h"
#include "base/thread_role.h"
#include "cache/identity.h"

namespace imagefs {
namespace {

constexpr absl::Duration kRetry = absl::Seconds(30);

// Passes that somebody waits for come first. Unlike SCHED_IDLE, it makes progress on a busy
// machine.
void BeLessUrgent() {
  constexpr int kNice = 10;
  (void)setpriority(PRIO_PROCESS, static_cast<id_t>(syscall(SYS_gettid)), kNice);
}

absl::Status Link(const std::string& from, const std::string& to) {
  return link(from.c_str(), to.c_str()) == 0 ? absl::OkStatus() : ErrnoStatus(errno, to);
}

UnhashedFill* FillOf(const Layer& layer) { return dynamic_cast<UnhashedFill*>(layer.fill.get()); }

}  // namespace

LayerStore::Hashing::Hashing(LayerStore& store)
    : store_(store),
      threads_(std::make_unique<Executor>(
          ThreadRole::kProve, std::max(1, static_cast<int>(std::thread::hardware_concurrency())))) {
}

LayerStore::Hashing::~Hashing() {
  std::map<Digest, Timer> retries;
  {
    absl::MutexLock lock(&mu_);
    stopped_ = true;
    retries.swap(retries_);
  }
  for (auto& [id, timer] : retries) timer.Stop();
  stop_.Cancel();
  threads_.reset();
}

bool LayerStore::Hashing::MayFollow(const Request& request) const {
  if (request.trust.empty() || request.blob.size < store_.options_.hash_behind) return false;
  if (!request.form.is_tar()) return false;
  absl::MutexLock lock(&store_.mu_);
  const Digest id = request.UnprovenId();
  return !store_.distrusted_.contains(id) && !store_.layers_.contains(id) &&
         !store_.layers_.contains(request.diff_id);
}

absl::StatusOr<LayerRef> LayerStore::Hashing::Publish(const Request& request,
                                                      const std::string& directory,
                                                      const LayerOutput& made,
                                                      const Origin& origin) {
  const Digest id = UnhashedLayerId(request.blob.digest, request.diff_id, request.Registry());
  Entry entry;
  entry.state = LayerState::kFilling;
  entry.by_pass = entry.hashing = true;
  entry.diff_id = request.diff_id;
  entry.data_bytes = made.data_bytes;
  entry.tar_bytes = made.tar_bytes;
  entry.index_bytes = made.index_bytes;
  entry.sums.index = made.sums.index;
  IMAGEFS_ASSIGN_OR_RETURN(const Fd index, OpenFile(directory + "/index", O_RDONLY));
  IMAGEFS_ASSIGN_OR_RETURN(entry.index_digest, Sha256OfFile(index.get()));
  entry.origins = {origin};
  entry.fill_blob = request.blob.digest;
  absl::MutexLock records(&store_.records_mu_);
  const std::string target = store_.DirectoryOf(id);
  IMAGEFS_RETURN_IF_ERROR(RemoveTree(target));
  if (rename(directory.c_str(), target.c_str()) != 0) return ErrnoStatus(errno, target);
  WriteBatch batch;
  batch.Put(StrCat(kRecordPrefix, id.hex()), store_.RecordOf(id, entry));
  IMAGEFS_RETURN_IF_ERROR(store_.kv_.Write(batch, false));
  absl::MutexLock lock(&store_.mu_);
  entry.instance = ++store_.instances_;
  Entry& slot = store_.layers_[id];
  slot = std::move(entry);
  store_.unproven_[{request.diff_id, request.blob.digest}] = id;
  absl::StatusOr<LayerRef> layer = store_.OpenLocked(id, slot);
  if (!layer.ok()) store_.layers_.erase(id);
  return layer;
}

void LayerStore::Hashing::Begin(Item item) {
  Submit(std::make_shared<const Item>(std::move(item)));
}

void LayerStore::Hashing::Submit(std::shared_ptr<const Item> item) {
  threads_->Submit([this, item = std::move(item)] { Run(item); });
}

void LayerStore::Hashing::RunLater(std::shared_ptr<const Item> item) {
  const Digest id = item->layer->id;
  Timer timer =
      store_.fill_->At(Moment::Now() + kRetry, [this, item = std::move(item)] { Submit(item); });
  absl::MutexLock lock(&mu_);
  if (!stopped_) retries_[id] = std::move(timer);
}

void LayerStore::Hashing::Run(const std::shared_ptr<const Item>& held) {
  const Item& item = *held;
  BeLessUrgent();
  const Layer& layer = *item.layer;
  uint64_t instance = 0;
  {
    absl::MutexLock lock(&store_.mu_);
    const auto it = store_.layers_.find(layer.id);
    if (it == store_.layers_.end() || !it->second.hashing) return;
    instance = it->second.instance;
  }
  const absl::StatusOr<Digest> data = HashData(layer.data.get(), item.made.tar_bytes,
                                               item.made.data_bytes, layer.diff_id, stop_.token());
  const absl::Status status = data.ok() ? Promote(item, *data) : data.status();
  // The next process of this boot hashes it again.
  if (absl::IsCancelled(status)) return;
  if (status.ok()) return store_.EndProofs(layer.id, absl::OkStatus());
  if (!absl::IsDataLoss(data.status())) {
    // The trouble is this machine's (for example, a full disk); of the layer it says nothing.
    LogWarning("layer.check_failed layer=", layer.diff_id.Short(), " cause=", status.message(),
               " next_try=", absl::FormatDuration(kRetry));
    return RunLater(held);
  }
  const absl::Status why = Annotate(
      status, StrCat("layer ", layer.diff_id.ToString(), " of blob ", item.blob.digest.ToString()));
  FillOf(layer)->Fail(why);
  // What the kernel has not read yet it cannot read any more.
  if (truncate(StrCat(layer.directory, "/data").c_str(), 0) != 0 && errno != ENOENT) {
    LogWarning("layer.cleanup_failed directory=", layer.directory, " errno=", errno);
  }
  store_.DropDamaged(layer.id, instance, why);
}

// From here on the layer is found under its DiffID by requests that may have its blob.
absl::Status LayerStore::Hashing::Promote(const Item& item, const Digest& data) {
  const Layer& layer = *item.layer;
  Origin origin;
  LayerOutput made = item.made;
  {
    absl::MutexLock lock(&store_.mu_);
    const auto it = store_.layers_.find(layer.id);
    if (it == store_.layers_.end()) return absl::NotFoundError("the layer was just removed");
    origin = it->second.origins.front();
    made.sums = it->second.sums;
  }
  made.sums.data = data;
  const std::string directory = StrCat(store_.options_.root, "/layers/tmp-", RandomHex(8));
  absl::Cleanup remove = [&] { RemoveTree(directory).IgnoreError(); };
  IMAGEFS_RETURN_IF_ERROR(MakeDirs(directory, 0700));
  for (const char* file : {"/data", "/index"}) {
    IMAGEFS_RETURN_IF_ERROR(Link(layer.directory + file, directory + file));
  }
  const LayerSums sums = made.sums;
  IMAGEFS_ASSIGN_OR_RETURN(const LayerRef proven,
                           store_.Publish(layer.diff_id, directory, made, origin));
  FillOf(layer)->Prove();
  IMAGEFS_RETURN_IF_ERROR(store_.MarkRefilled(layer.id, sums));
  if (!item.file.has_value()) return absl::OkStatus();
  absl::StatusOr<Fd> fd = item.file->fd.Duplicate();
  if (!fd.ok()) return absl::OkStatus();
  store_.span_tables_->Start(proven, item.blob, {*std::move(fd), item.file->offset},
                             std::move(made), item.source);
  return absl::OkStatus();
}

// Layers that an earlier process of this boot did not hash to the end. Their bytes are in the page
// cache or on the disk.
void LayerStore::Hashing::BeginRecorded() {
  std::vector<Item> all;
  {
    absl::MutexLock lock(&store_.mu_);
    for (auto& [id, entry] : store_.layers_) {
      if (!entry.hashing) continue;
      absl::StatusOr<LayerRef> layer = store_.OpenLocked(id, entry);
      if (!layer.ok()) {
        LogError("layer.damaged layer=", id.Short(), " error=", layer.status().message());
        continue;
      }
      Item& one = all.emplace_back();
      one.layer = *std::move(layer);
      one.blob.digest = entry.fill_blob;
      one.made.tar_bytes = entry.tar_bytes;
      one.made.data_bytes = entry.data_bytes;
      one.made.index_bytes = entry.index_bytes;
    }
  }
  for (Item& one : all) Begin(std::move(one));
}

}  // namespace imagefs
