// The part of LayerStore that has to do with layers which fill: their files and records, the check
// of the whole once all is here, what becomes of those that are not what their index said.
#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

#include "base/json.h"
#include "base/log.h"
#include "base/status.h"
#include "base/text.h"
#include "cache/layer_store.h"

namespace imagefs {
namespace {

bool FileHasSize(const std::string& path, uint64_t size) {
  const absl::StatusOr<struct stat> st = StatPath(path);
  return st.ok() && S_ISREG(st->st_mode) && static_cast<uint64_t>(st->st_size) == size;
}

// A new file with what `from` holds.
absl::Status WriteNew(const std::string& path, int from) {
  IMAGEFS_ASSIGN_OR_RETURN(const Fd fd, OpenFile(path, O_WRONLY | O_CREAT | O_EXCL, 0600));
  std::string buffer(256 << 10, '\0');
  for (uint64_t at = 0;; at += buffer.size()) {
    IMAGEFS_ASSIGN_OR_RETURN(const size_t got, PreadFull(from, absl::MakeSpan(buffer), at));
    IMAGEFS_RETURN_IF_ERROR(PwriteFull(fd.get(), std::string_view(buffer.data(), got), at));
    if (got < buffer.size()) return absl::OkStatus();
  }
}

absl::Status WriteHole(const std::string& path, uint64_t bytes) {
  IMAGEFS_ASSIGN_OR_RETURN(const Fd fd, OpenFile(path, O_WRONLY | O_CREAT | O_EXCL, 0600));
  if (ftruncate(fd.get(), static_cast<off_t>(bytes)) != 0) return ErrnoStatus(errno, path);
  return absl::OkStatus();
}

absl::StatusOr<Digest> DigestOfFile(int fd) {
  Sha256 hash;
  std::string buffer(256 << 10, '\0');
  for (uint64_t at = 0;; at += buffer.size()) {
    IMAGEFS_ASSIGN_OR_RETURN(const size_t got, PreadFull(fd, absl::MakeSpan(buffer), at));
    hash.Update(std::string_view(buffer.data(), got));
    if (got < buffer.size()) return hash.Finish();
  }
}

}  // namespace

std::string LayerStore::RecordOf(LayerState state, uint64_t data_bytes,
                                 uint64_t index_bytes) const {
  JsonWriter writer;
  writer.BeginObject()
      .Member("state", LayerStateName(state))
      .Member("boot", boot_id_)
      .Member("data_bytes", data_bytes)
      .Member("index_bytes", index_bytes)
      .EndObject();
  return writer.Take();
}

// An error: the record is worthless.
absl::Status LayerStore::ReadRecord(std::string_view key, std::string_view value) {
  IMAGEFS_ASSIGN_OR_RETURN(const Digest diff_id,
                           Digest::Parse(StrCat("sha256:", key.substr(kRecordPrefix.size()))));
  IMAGEFS_ASSIGN_OR_RETURN(const Json record, Json::Parse(value));
  Entry entry;
  const std::string state = record.StringOr("state");
  const bool same_boot = record.StringOr("boot") == boot_id_;
  if (state == "complete") {
    entry.state = LayerState::kComplete;
  } else if (state == "filling") {
    // Its bytes are checked before they are believed; index and table were synced.
    entry.state = LayerState::kFilling;
    entry.suspect = !same_boot;
  } else if (!same_boot) {
    return absl::DataLossError("written by an earlier boot and never synced");
  }
  entry.data_bytes = static_cast<uint64_t>(record.IntOr("data_bytes", -1));
  entry.index_bytes = static_cast<uint64_t>(record.IntOr("index_bytes", -1));
  const std::string directory = DirectoryOf(diff_id);
  if (!FileHasSize(directory + "/data", entry.data_bytes) ||
      !FileHasSize(directory + "/index", entry.index_bytes)) {
    return absl::DataLossError("its files are gone or of another size");
  }
  if (entry.state == LayerState::kWritten) unsealed_.push_back(diff_id);
  layers_.emplace(diff_id, std::move(entry));
  return absl::OkStatus();
}

std::shared_ptr<FillingLayer> LayerStore::FillingOf(const LayerRef& layer) {
  return std::dynamic_pointer_cast<FillingLayer>(layer->fill);
}

absl::Status LayerStore::OpenFilling(Layer& layer, const Entry& entry) {
  FillingLayer::Options options;
  options.directory = layer.directory;
  options.suspect = entry.suspect;
  options.check = [this, diff_id = layer.diff_id](FillingLayer& filling) {
    return CheckFilled(diff_id, filling);
  };
  IMAGEFS_ASSIGN_OR_RETURN(const std::shared_ptr<FillingLayer> filling,
                           FillingLayer::Open(std::move(options), *fill_));
  if (filling->access().diff_id() != layer.diff_id ||
      filling->access().data_bytes() != layer.data_bytes) {
    return absl::DataLossError("its span table is of another layer");
  }
  filling->Start();
  layer.fill = filling;
  return absl::OkStatus();
}

// Synced before it is recorded: small files, and what is served by them depends on them.
absl::StatusOr<LayerRef> LayerStore::PublishFilling(const Digest& diff_id,
                                                    const FoundIndex& found) {
  IMAGEFS_ASSIGN_OR_RETURN(const std::unique_ptr<LayerAccess> access,
                           LayerAccess::OpenFd(found.access.get(), "span table"));
  const std::string temporary = StrCat(options_.root, "/layers/tmp-", RandomHex(8));
  const std::string target = DirectoryOf(diff_id);
  absl::Status status = MakeDirs(temporary, 0700);
  if (status.ok()) status = WriteNew(temporary + "/index", found.index.get());
  if (status.ok()) status = WriteNew(temporary + "/access", found.access.get());
  if (status.ok()) status = WriteHole(temporary + "/data", access->data_bytes());
  absl::MutexLock records(&records_mu_);
  if (status.ok()) status = RemoveTree(target);
  if (status.ok() && rename(temporary.c_str(), target.c_str()) != 0) {
    status = ErrnoStatus(errno, target);
  }
  if (!status.ok()) {
    (void)RemoveTree(temporary);
    return status;
  }
  WriteBatch batch;
  batch.Put(StrCat(kRecordPrefix, diff_id.hex()),
            RecordOf(LayerState::kFilling, access->data_bytes(), found.index_bytes));
  IMAGEFS_RETURN_IF_ERROR(kv_.Write(batch, false));
  absl::MutexLock lock(&mu_);
  Entry& entry = layers_[diff_id];
  entry = Entry();
  entry.state = LayerState::kFilling;
  entry.data_bytes = access->data_bytes();
  entry.index_bytes = found.index_bytes;
  absl::StatusOr<LayerRef> layer = OpenLocked(diff_id, entry);
  if (!layer.ok()) {
    layers_.erase(diff_id);
    return layer;
  }
  if (found.prefetch.has_value()) {
    FillingOf(*layer)->Prefetch(*found.prefetch, Priority::kForeground);
  }
  filling_made_++;
  LogInfo("layer.lazy layer=", diff_id.Short(), " origin=", found.origin);
  return layer;
}

// The tar as a whole is what the image says, and the index is the tar's.
absl::Status LayerStore::CheckTar(const Digest& diff_id, const FillingLayer& filling) {
  const std::string& directory = filling.directory();
  IMAGEFS_ASSIGN_OR_RETURN(const Fd data, OpenFile(directory + "/data", O_RDONLY));
  IMAGEFS_ASSIGN_OR_RETURN(const Fd index, OpenFile(directory + "/index", O_RDONLY));
  IMAGEFS_ASSIGN_OR_RETURN(const Fd own,
                           OpenFile(options_.root + "/layers", O_TMPFILE | O_RDWR, 0600));
  IMAGEFS_ASSIGN_OR_RETURN(
      const LayerOutput output,
      IndexTar(data.get(), filling.access().tar_bytes(), diff_id, own.get(), CancelToken()));
  IMAGEFS_ASSIGN_OR_RETURN(const Digest given, DigestOfFile(index.get()));
  IMAGEFS_ASSIGN_OR_RETURN(const Digest right, DigestOfFile(own.get()));
  if (given != right || output.data_bytes != filling.access().data_bytes()) {
    return absl::DataLossError(
        "the index that it was shown by is not that of its tar; whoever published the index made a "
        "mistake, or lied");
  }
  return absl::OkStatus();
}

// Tars are padded with zeros to blocks of 512 bytes, and by some programs to records of 20 blocks.
absl::Status LayerStore::CheckForeignTar(const Digest& diff_id, const FillingLayer& filling) {
  constexpr uint64_t kBlock = 512, kRecordBlocks = 20;
  IMAGEFS_ASSIGN_OR_RETURN(const Fd data, OpenFile(filling.directory() + "/data", O_RDONLY));
  const uint64_t tar_bytes = filling.access().tar_bytes();
  std::string buffer(256 << 10, '\0');
  Sha256 whole;
  for (uint64_t at = 0; at < tar_bytes;) {
    const size_t want = std::min<uint64_t>(buffer.size(), tar_bytes - at);
    IMAGEFS_ASSIGN_OR_RETURN(const size_t got,
                             PreadFull(data.get(), absl::MakeSpan(buffer.data(), want), at));
    if (got != want) return absl::DataLossError("the data file is too short");
    whole.Update(std::string_view(buffer.data(), got));
    at += got;
  }
  const std::string zeros(kBlock, '\0');
  for (uint64_t blocks = 0; blocks <= 2 * kRecordBlocks; ++blocks) {
    if (whole.Copy().Finish() == diff_id) return absl::OkStatus();
    whole.Update(zeros);
  }
  return absl::DataLossError("its tar does not have the DiffID of the image's configuration");
}

// On a worker of the scheduler, once every byte is here.
absl::Status LayerStore::CheckFilled(const Digest& diff_id, FillingLayer& filling) {
  absl::Status status;
  switch (filling.access().layout()) {
    case DataLayout::kTar:
      status = CheckTar(diff_id, filling);
      break;
    case DataLayout::kForeignTar:
      status = CheckForeignTar(diff_id, filling);
      break;
    case DataLayout::kTable:
      // The tar is never seen: each chunk was checked against the table, and that against the
      // manifest.
      break;
  }
  if (absl::IsDataLoss(status) || absl::IsInvalidArgument(status)) {
    status = absl::DataLossError(StrCat("layer ", diff_id.ToString(), ": ", status.message()));
    // First of all, so that nobody who hears of it can still read.
    filling.Poison(status);
    DropDamaged(diff_id, status);
    return status;
  }
  IMAGEFS_RETURN_IF_ERROR(status);
  absl::MutexLock records(&records_mu_);
  uint64_t index_bytes = 0;
  {
    absl::MutexLock lock(&mu_);
    const auto it = layers_.find(diff_id);
    if (it == layers_.end()) return absl::NotFoundError("the layer was just removed");
    index_bytes = it->second.index_bytes;
  }
  WriteBatch batch;
  batch.Put(StrCat(kRecordPrefix, diff_id.hex()),
            RecordOf(LayerState::kWritten, filling.access().data_bytes(), index_bytes));
  IMAGEFS_RETURN_IF_ERROR(kv_.Write(batch, false));
  absl::MutexLock lock(&mu_);
  const auto it = layers_.find(diff_id);
  if (it == layers_.end()) return absl::NotFoundError("the layer was just removed");
  it->second.state = LayerState::kWritten;
  if (unsealed_.empty()) unsealed_since_ = absl::Now();
  unsealed_.push_back(diff_id);
  filled_++;
  LogInfo("layer.filled layer=", diff_id.Short());
  return absl::OkStatus();
}

bool LayerStore::Trusts(const Digest& diff_id) const {
  absl::MutexLock lock(&mu_);
  return !distrusted_.contains(diff_id);
}

// Forgets a layer that is not what was promised: whoever shows it gets errors from now on, and who
// asks for it next gets it by a pass over the whole blob.
void LayerStore::DropDamaged(const Digest& diff_id, const absl::Status& why) {
  poisoned_++;
  {
    absl::MutexLock records(&records_mu_);
    const std::string grave = StrCat(options_.root, "/layers/tmp-", RandomHex(8));
    {
      absl::MutexLock lock(&mu_);
      layers_.erase(diff_id);
      distrusted_.insert(diff_id);
      if (rename(DirectoryOf(diff_id).c_str(), grave.c_str()) != 0) {
        LogWarning("layer.cleanup_failed layer=", diff_id.Short(), " errno=", errno);
      }
    }
    WriteBatch batch;
    batch.Delete(StrCat(kRecordPrefix, diff_id.hex()));
    if (absl::Status status = kv_.Write(batch, true); !status.ok()) {
      LogError("layer.forget_failed error=", status.message());
    }
    if (absl::Status status = RemoveTree(grave); !status.ok()) {
      LogWarning("layer.cleanup_failed directory=", grave, " error=", status.message());
    }
  }
  if (on_damaged_) on_damaged_(diff_id);
  NotifyDurable(diff_id, why);
}

std::optional<LayerProgress> LayerStore::FillProgress(const Digest& diff_id) const {
  LayerRef layer;
  {
    absl::MutexLock lock(&mu_);
    const auto it = layers_.find(diff_id);
    if (it == layers_.end() || it->second.state != LayerState::kFilling) return std::nullopt;
    layer = it->second.open.lock();
  }
  if (layer == nullptr) return std::nullopt;
  const std::shared_ptr<FillingLayer> filling = FillingOf(layer);
  if (filling == nullptr) return std::nullopt;
  const FillReport report = filling->Report();
  LayerProgress progress;
  progress.activity = report.state == "checking" ? LayerProgress::Activity::kIndexing
                                                 : LayerProgress::Activity::kDownloading;
  progress.blob_bytes = report.blob_bytes;
  progress.downloaded_bytes = report.blob_bytes_present;
  progress.unpacked_bytes = report.data_bytes_present;
  return progress;
}

absl::StatusOr<uint64_t> LayerStore::Evict(const Digest& diff_id) {
  const std::string directory = DirectoryOf(diff_id);
  absl::MutexLock records(&records_mu_);
  absl::MutexLock lock(&mu_);
  const auto it = layers_.find(diff_id);
  if (it == layers_.end()) return absl::NotFoundError("the layer is not here");
  if (!it->second.open.expired()) {
    return absl::FailedPreconditionError(
        StrCat("layer ", diff_id.Short(), " is in use; unmount what shows it (imagefs ls)"));
  }
  if (it->second.state == LayerState::kFilling) return 0;  // nobody shows it: evicted, or half read
  if (it->second.state != LayerState::kComplete) {
    return absl::FailedPreconditionError(StrCat("layer ", diff_id.Short(),
                                                " is not yet on the disk for good; try again in a "
                                                "moment"));
  }
  absl::StatusOr<std::unique_ptr<LayerAccess>> access = LayerAccess::Open(directory + "/access");
  if (!access.ok()) {
    return absl::FailedPreconditionError(
        StrCat("layer ", diff_id.Short(), " has no span table: ", access.status().message()));
  }
  // First the record: bytes that are gone are never taken for zeros.
  WriteBatch batch;
  batch.Put(StrCat(kRecordPrefix, diff_id.hex()),
            RecordOf(LayerState::kFilling, it->second.data_bytes, it->second.index_bytes));
  IMAGEFS_RETURN_IF_ERROR(kv_.Write(batch, true));
  const std::string data = directory + "/data";
  (void)unlink((directory + "/present").c_str());
  const uint64_t size = it->second.data_bytes;
  if (truncate(data.c_str(), 0) != 0 || truncate(data.c_str(), static_cast<off_t>(size)) != 0) {
    return ErrnoStatus(errno, data);
  }
  it->second.state = LayerState::kFilling;
  it->second.suspect = false;
  evicted_++;
  return size;
}

}  // namespace imagefs
