// SPDX-License-Identifier: Apache-2.0
// The part of LayerStore that says what layers occupy, and gives their space back.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <ctime>
#include <set>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "base/failure.h"
#include "base/log.h"
#include "base/status.h"
#include "base/text.h"
#include "cache/image_row.h"
#include "cache/layer_store.h"

namespace imagefs {
namespace {

// Given back at a time of a layer in use: readers of these bytes wait meanwhile.
constexpr uint64_t kPartBytes = 8 << 20;

uint64_t AllocatedBytes(const struct stat& st) { return static_cast<uint64_t>(st.st_blocks) * 512; }

// Follows no link: the data of a shared store occupies nothing here.
uint64_t AllocatedBytes(const std::string& path) {
  struct stat st;
  return lstat(path.c_str(), &st) == 0 ? AllocatedBytes(st) : 0;
}

void NoteUse(const std::string& directory) {
  // The order in which layers are given back is all that depends on it.
  if (utimensat(AT_FDCWD, directory.c_str(), nullptr, 0) != 0 && errno != ENOENT) {
    LogDebug("layer.use_not_noted directory=", directory, " errno=", errno);
  }
}

// Returns the entry as it is once its data is gone.
absl::StatusOr<LayerEntry> CheckEvict(const Digest& id, const std::string& directory,
                                      const LayerEntry& entry) {
  // Two links: it is in use under the name that it had before it was proven.
  IMAGEFS_ASSIGN_OR_RETURN(const struct stat st, StatPath(directory + "/data"));
  if (!entry.open.expired() || st.st_nlink > 1) {
    return WithKind(absl::FailedPreconditionError(StrCat(
                        "layer ", id.Short(), " is in use; unmount what shows it (imagefs ls)")),
                    FailureKind::kBusy);
  }
  const bool filling = entry.state == LayerState::kFilling;
  if (entry.syncing || (!filling && entry.state != LayerState::kComplete)) {
    return WithKind(absl::FailedPreconditionError(StrCat(
                        "layer ", id.Short(), " is not yet synced to disk; try again in a moment")),
                    FailureKind::kBusy);
  }
  const absl::StatusOr<std::unique_ptr<SpanTableReader>> span_table =
      SpanTableReader::Open(directory + "/access");
  if (!span_table.ok()) {
    return absl::FailedPreconditionError(
        StrCat("layer ", id.Short(), " has no span table: ", span_table.status().message()));
  }
  LayerEntry evicted = entry;
  if (filling) return evicted;
  // What was proven is never given up for bytes that nothing verifies before they are read.
  if (!(*span_table)->has_digests()) {
    return absl::FailedPreconditionError(
        StrCat("layer ", id.Short(), " was proven without digests of its spans"));
  }
  evicted.state = LayerState::kFilling;
  evicted.fill_blob = (*span_table)->blob_digest();
  evicted.unverified = false;
  evicted.sums.data = Digest();
  evicted.stamp.clear();
  return evicted;
}

}  // namespace

LayerUseNote::LayerUseNote(std::string directory, std::shared_ptr<std::atomic<bool>> released)
    : directory_(std::move(directory)), released_(std::move(released)) {
  NoteUse(directory_);
}

LayerUseNote::~LayerUseNote() {
  NoteUse(directory_);
  released_->store(true, std::memory_order_relaxed);
}

uint64_t BytesFreedWith(const std::string& directory) {
  uint64_t bytes = 0;
  for (const char* name : {"/data", "/index", "/access", "/present", "/blob"}) {
    struct stat st;
    if (lstat((directory + name).c_str(), &st) == 0 && st.st_nlink == 1)
      bytes += AllocatedBytes(st);
  }
  return bytes;
}

// Keeps the layers of an interrupted pull from being collected before it is tried again.
void LayerStore::NoteUnclaimed(const Digest& id) {
  WriteBatch batch;
  batch.Put(StrCat(kUnclaimedKeyPrefix, id.hex()), StrCat(time(nullptr)));
  if (const absl::Status status = kv_.Write(batch, false); !status.ok()) {
    LogWarning("layer.not_noted layer=", id.Short(), " cause=", status.message());
  }
}

std::vector<LayerUse> LayerStore::Uses() const {
  std::vector<LayerUse> uses;
  {
    absl::MutexLock lock(&mu_);
    for (const auto& [id, entry] : layers_) {
      LayerUse& use = uses.emplace_back();
      use.id = id;
      use.diff_id = entry.diff_id;
      use.state = entry.state;
      use.in_use = !entry.open.expired() || entry.syncing;
    }
  }
  std::set<std::pair<dev_t, ino_t>> counted;
  for (LayerUse& use : uses) {
    const std::string directory = DirectoryOf(use.id);
    struct stat st;
    if (lstat((directory + "/data").c_str(), &st) == 0 &&
        (st.st_nlink == 1 || counted.emplace(st.st_dev, st.st_ino).second)) {
      use.data_bytes = AllocatedBytes(st);
    }
    const uint64_t access = AllocatedBytes(directory + "/access");
    use.in_parts = access > 0;
    use.index_bytes =
        AllocatedBytes(directory + "/index") + access + AllocatedBytes(directory + "/present");
    use.blob_bytes = AllocatedBytes(directory + "/blob");
    if (stat(directory.c_str(), &st) == 0) use.used = st.st_mtim.tv_sec;
  }
  return uses;
}

absl::StatusOr<uint64_t> LayerStore::Evict(const Digest& id) {
  const std::string directory = DirectoryOf(id), data = directory + "/data";
  // A hole takes the place of the data in one step, so that whoever opens the layer next never
  // meets a file that is being emptied. While the old files are open, the disk keeps their blocks:
  // they are freed without any lock.
  const std::string hole = StrCat(options_.root, "/layers/tmp-", RandomHex(8));
  const auto remove = absl::MakeCleanup([&] { (void)unlink(hole.c_str()); });
  absl::StatusOr<Fd> old_data, old_blob;
  uint64_t freed = 0;
  {
    absl::MutexLock records(&records_mu_);
    absl::MutexLock lock(&mu_);
    const auto it = layers_.find(id);
    if (it == layers_.end()) return absl::NotFoundError("the layer is not present");
    IMAGEFS_ASSIGN_OR_RETURN(Entry evicted, CheckEvict(id, directory, it->second));
    freed = AllocatedBytes(data) + AllocatedBytes(directory + "/blob");
    if (freed == 0) return 0;
    IMAGEFS_RETURN_IF_ERROR(WriteHole(hole, evicted.data_bytes));
    old_data = OpenFile(data, O_RDONLY);
    old_blob = OpenFile(directory + "/blob", O_RDONLY);
    // The record first, so that missing bytes are never taken for zeros. It need not be synced: a
    // file with another stamp than its record's is compared with its digest before it is used.
    WriteBatch batch;
    batch.Put(StrCat(kRecordPrefix, id.hex()), RecordOf(id, evicted));
    IMAGEFS_RETURN_IF_ERROR(kv_.Write(batch, false));
    it->second = std::move(evicted);
    for (const char* name : {"/present", "/blob"}) {
      if (unlink((directory + name).c_str()) != 0 && errno != ENOENT) {
        return ErrnoStatus(errno, directory + name);
      }
    }
    if (rename(hole.c_str(), data.c_str()) != 0) return ErrnoStatus(errno, data);
    evicted_++;
  }
  LogDebug("layer.evicted layer=", id.Short(), " bytes=", freed);
  return freed;
}

uint64_t LayerStore::RemoveUnused(const Digest& id) {
  return CollectIf([&](const Digest& one, const Entry&) { return one == id; });
}

// Layers are released without the lock, which their guards take.
std::vector<std::shared_ptr<FillingLayer>> LayerStore::OpenFillings() const {
  std::vector<LayerRef> open;
  {
    absl::MutexLock lock(&mu_);
    for (const auto& [id, entry] : layers_) {
      if (LayerRef layer = entry.open.lock()) open.push_back(std::move(layer));
    }
  }
  std::vector<std::shared_ptr<FillingLayer>> fillings;
  for (const LayerRef& layer : open) {
    if (auto filling = FillingOf(layer); filling != nullptr && !filling->complete()) {
      fillings.push_back(std::move(filling));
    }
  }
  return fillings;
}

uint64_t LayerStore::EvictParts(uint64_t bytes) {
  std::vector<std::pair<Moment, std::shared_ptr<FillingLayer>>> order;
  for (auto& filling : OpenFillings()) order.emplace_back(filling->last_use(), std::move(filling));
  std::sort(order.begin(), order.end(),
            [](const auto& a, const auto& b) { return a.first < b.first; });
  uint64_t freed = 0;
  for (const auto& [read, filling] : order) {
    while (freed < bytes) {
      const uint64_t part = filling->Evict(std::min(bytes - freed, kPartBytes));
      if (part == 0) break;
      freed += part;
    }
  }
  return freed;
}

}  // namespace imagefs
