// SPDX-License-Identifier: Apache-2.0
// The part of LayerStore that handles lazy layers: their files and records, the proof once all is
// present, and what happens to those that do not match their description.
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <ctime>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "base/json.h"
#include "base/log.h"
#include "base/status.h"
#include "base/text.h"
#include "cache/identity.h"
#include "cache/layer_gaps.h"
#include "cache/layer_store.h"

namespace imagefs {
namespace {

bool FileHasSize(const std::string& path, uint64_t size) {
  const absl::StatusOr<struct stat> st = StatPath(path);
  return st.ok() && S_ISREG(st->st_mode) && static_cast<uint64_t>(st->st_size) == size;
}

// Writes the content of `from` to a new file, with zeros in place of `later`, which have their room
// on the disk already.
absl::Status WriteNew(const std::string& path, int from, ByteRange later = {}) {
  IMAGEFS_ASSIGN_OR_RETURN(const Fd fd, OpenFile(path, O_WRONLY | O_CREAT | O_EXCL, 0600));
  std::string buffer(256 << 10, '\0');
  const uint64_t end = later.empty() ? UINT64_MAX : later.begin;
  for (uint64_t at = 0; at < end;) {
    const size_t want = std::min<uint64_t>(buffer.size(), end - at);
    IMAGEFS_ASSIGN_OR_RETURN(const size_t got,
                             PreadFull(from, absl::MakeSpan(buffer.data(), want), at));
    IMAGEFS_RETURN_IF_ERROR(PwriteFull(fd.get(), std::string_view(buffer.data(), got), at));
    at += got;
    if (got < want) return absl::OkStatus();
  }
  const int error =
      posix_fallocate(fd.get(), static_cast<off_t>(later.begin), static_cast<off_t>(later.size()));
  return error == 0 ? absl::OkStatus() : ErrnoStatus(error, path);
}

// Writes the files of a layer that has no bytes yet.
absl::Status WriteFilling(const std::string& directory, const FoundIndex& found,
                          const SpanTableReader& span_table) {
  IMAGEFS_RETURN_IF_ERROR(MakeDirs(directory, 0700));
  IMAGEFS_RETURN_IF_ERROR(WriteNew(directory + "/index", found.index.get()));
  const ByteRange later = span_table.late_windows() ? span_table.windows() : ByteRange{};
  IMAGEFS_RETURN_IF_ERROR(WriteNew(directory + "/access", found.span_table.get(), later));
  if (!later.empty()) {
    IMAGEFS_RETURN_IF_ERROR(LateWindows::Write(directory, *found.windows));
  }
  return WriteHole(directory + "/data", span_table.data_bytes());
}

// Parses the members that describe the layer; on entry, `entry.diff_id` is its name.
absl::Status ParseRecord(const Json& record, const Digest& id, LayerEntry& entry) {
  if (const std::string text = record.StringOr("diff_id"); !text.empty()) {
    IMAGEFS_ASSIGN_OR_RETURN(entry.diff_id, Digest::Parse(text));
    if (entry.diff_id == id) return absl::DataLossError("an unproven layer under its DiffID");
    const std::string source = record.StringOr("source");
    const auto* known =
        std::find_if(std::begin(kIndexSources), std::end(kIndexSources),
                     [&](IndexSource one) { return IndexSourceName(one) == source; });
    if (known == std::end(kIndexSources)) return absl::DataLossError("its source is not known");
    entry.source = *known;
    IMAGEFS_ASSIGN_OR_RETURN(entry.index_digest, Digest::Parse(record.StringOr("index_digest")));
    entry.by_pass = record["by_pass"].boolean().value_or(false);
    entry.hashing = entry.by_pass && record["hashing"].boolean().value_or(false);
  }
  if (const std::string text = record.StringOr("data_digest"); !text.empty()) {
    IMAGEFS_ASSIGN_OR_RETURN(entry.sums.data, Digest::Parse(text));
  }
  if (const int64_t sum = record.IntOr("index_sum", -1); sum >= 0) {
    entry.sums.index = static_cast<uint32_t>(sum);
  }
  entry.tar_bytes = static_cast<uint64_t>(std::max<int64_t>(record.IntOr("tar_bytes", 0), 0));
  if (record["form"].exists()) {
    IMAGEFS_ASSIGN_OR_RETURN(entry.form, ReadForm(record["form"]));
  }
  entry.stamp = record.StringOr("data_stamp");
  entry.checked = record.IntOr("checked", 0);
  if (const std::string text = record.StringOr("fill_blob"); !text.empty()) {
    IMAGEFS_ASSIGN_OR_RETURN(entry.fill_blob, Digest::Parse(text));
  }
  for (const Json& one : record["origins"].elements()) {
    BlobOrigin origin;
    IMAGEFS_ASSIGN_OR_RETURN(origin.blob, Digest::Parse(one.StringOr("blob")));
    origin.registry = one.StringOr("registry");
    origin.open = one["open"].boolean().value_or(false);
    entry.origins.push_back(std::move(origin));
  }
  return absl::OkStatus();
}

// A record of format 1 does not tell where the layer came from. Hashed layers are kept; they are
// given to the images that were recorded with them, and to others after a pass.
absl::Status CheckOldRecord(const std::string& directory, const LayerEntry& entry) {
  if (entry.state == LayerState::kFilling) {
    return absl::DataLossError("an earlier version used it before it was proven");
  }
  const std::string path = directory + "/access";
  if (::access(path.c_str(), F_OK) != 0) return absl::OkStatus();
  const absl::StatusOr<std::unique_ptr<SpanTableReader>> table = SpanTableReader::Open(path);
  if (table.ok() && (*table)->layout() == DataLayout::kTar) return absl::OkStatus();
  return absl::DataLossError("an earlier version did not check it against its DiffID");
}

}  // namespace

std::string LayerStore::RecordOf(const Digest& id, const Entry& entry) const {
  JsonWriter writer;
  writer.BeginObject()
      .Member("state", LayerStateName(entry.state))
      .Member("boot", entry.other_boot ? "" : boot_id_)
      .Member("data_bytes", entry.data_bytes)
      .Member("index_bytes", entry.index_bytes);
  if (entry.tar_bytes != 0) writer.Member("tar_bytes", entry.tar_bytes);
  if (entry.diff_id != id) {
    writer.Member("diff_id", entry.diff_id.ToString())
        .Member("source", IndexSourceName(entry.source))
        .Member("index_digest", entry.index_digest.ToString());
    if (entry.by_pass) writer.Member("by_pass", true);
    if (entry.hashing) writer.Member("hashing", true);
  }
  if (!entry.form.is_tar()) WriteForm(entry.form, writer.Key("form"));
  if (!entry.sums.data.empty()) writer.Member("data_digest", entry.sums.data.ToString());
  if (entry.sums.index.has_value()) writer.Member("index_sum", uint64_t{*entry.sums.index});
  if (entry.checked != 0) writer.Member("checked", entry.checked);
  if (!entry.stamp.empty()) writer.Member("data_stamp", entry.stamp);
  if (!entry.fill_blob.empty()) writer.Member("fill_blob", entry.fill_blob.ToString());
  writer.Key("origins").BeginArray();
  for (const Origin& origin : entry.origins) {
    writer.BeginObject()
        .Member("blob", origin.blob.ToString())
        .Member("registry", origin.registry)
        .Member("open", origin.open)
        .EndObject();
  }
  writer.EndArray().EndObject();
  return writer.Take();
}

// Returns an error if the record is unusable.
absl::Status LayerStore::ReadRecord(std::string_view key, std::string_view value) {
  IMAGEFS_ASSIGN_OR_RETURN(const Digest id,
                           Digest::Parse(StrCat("sha256:", key.substr(kRecordPrefix.size()))));
  IMAGEFS_ASSIGN_OR_RETURN(const Json record, Json::Parse(value));
  Entry entry;
  entry.diff_id = id;
  const std::string state = record.StringOr("state");
  const bool same_boot = record.StringOr("boot") == boot_id_;
  if (state == "complete") {
    entry.state = LayerState::kComplete;
    entry.other_boot = !same_boot;
  } else if (state == "filling") {
    // Its bytes are verified before they are trusted.
    entry.state = LayerState::kFilling;
  } else if (!same_boot) {
    return absl::DataLossError("written by an earlier boot and never synced");
  }
  entry.data_bytes = static_cast<uint64_t>(record.IntOr("data_bytes", -1));
  entry.index_bytes = static_cast<uint64_t>(record.IntOr("index_bytes", -1));
  if (record["origins"].is_array()) {
    IMAGEFS_RETURN_IF_ERROR(ParseRecord(record, id, entry));
    if (entry.hashing && !same_boot) {
      return absl::DataLossError("an earlier boot did not hash it");
    }
  } else {
    IMAGEFS_RETURN_IF_ERROR(CheckOldRecord(DirectoryOf(id), entry));
  }
  const std::string directory = DirectoryOf(id);
  const bool has_index = FileHasSize(directory + "/index", entry.index_bytes);
  // The index of a proven layer is rebuilt from its data.
  const bool restores =
      entry.state == LayerState::kComplete && entry.diff_id == id && entry.sums.known();
  if (!FileHasSize(directory + "/data", entry.data_bytes) || (!has_index && !restores)) {
    return absl::DataLossError("its files are gone or of another size");
  }
  if (!has_index) entry.stamp.clear();
  // In the same boot, what an earlier process left consistent is unchanged.
  if (entry.state == LayerState::kFilling) {
    entry.unverified = !same_boot || entry.stamp.empty() || entry.stamp != StampOfLayer(id, entry);
  }
  // A record of an older version, without a checksum.
  if (entry.unverified && entry.diff_id != id && !entry.sums.index.has_value()) {
    IMAGEFS_ASSIGN_OR_RETURN(const Fd index, OpenFile(directory + "/index", O_RDONLY));
    IMAGEFS_ASSIGN_OR_RETURN(const Digest digest, Sha256OfFile(index.get()));
    if (digest != entry.index_digest) return absl::DataLossError("its index was not on the disk");
  }
  if (entry.state == LayerState::kWritten) syncer_->Add(id, true);
  if (entry.diff_id != id && !entry.origins.empty()) {
    unproven_[{entry.diff_id, entry.origins.front().blob}] = id;
  }
  entry.instance = ++instances_;
  layers_.emplace(id, std::move(entry));
  return absl::OkStatus();
}

std::shared_ptr<FillingLayer> LayerStore::FillingOf(const LayerRef& layer) {
  // For a damaged layer, the one that repairs it.
  if (const auto guard = std::dynamic_pointer_cast<LayerGuard>(layer->guard)) {
    if (const LayerRef filling = guard->filling(); filling != nullptr) return FillingOf(filling);
  }
  return std::dynamic_pointer_cast<FillingLayer>(layer->fill);
}

absl::Status LayerStore::OpenFilling(const Digest& id, Layer& layer, const Entry& entry) {
  FillingLayer::Options options;
  options.directory = layer.directory;
  options.unverified = entry.unverified;
  options.unproven = !layer.proven() && !entry.was_proven();
  options.check = [this, id](FillingLayer& filling) { return CheckFilled(id, filling); };
  // Those who wait for the proof continue with their own pass, which reports its own errors.
  options.failing = [this, id](const absl::Status& why, bool for_good) {
    EndProofs(id, why);
    if (for_good) syncer_->Drop(id, why);
  };
  options.damaged = [this, id, instance = entry.instance](const absl::Status& why) {
    DropDamaged(id, instance, why);
  };
  options.open = options_.open;
  IMAGEFS_ASSIGN_OR_RETURN(const std::shared_ptr<FillingLayer> filling,
                           FillingLayer::Open(std::move(options), *fill_));
  // A table of something else than an image's tar has the digest of the bytes that it gives.
  const Digest& gives = layer.form.is_tar() ? layer.diff_id : entry.fill_blob;
  if (filling->span_table().diff_id() != gives ||
      filling->span_table().blob_digest() != entry.fill_blob ||
      filling->span_table().data_bytes() != layer.data_bytes) {
    return absl::DataLossError("its span table is of another layer");
  }
  filling->Start();
  layer.fill = filling;
  return absl::OkStatus();
}

absl::StatusOr<LayerRef> LayerStore::PublishFilling(const Request& request) {
  const FoundIndex& found = *request.found;
  const Digest id = request.UnprovenId();
  IMAGEFS_ASSIGN_OR_RETURN(const std::unique_ptr<SpanTableReader> span_table,
                           SpanTableReader::OpenFd(found.span_table.get(), "span table"));
  const std::string temporary = StrCat(options_.root, "/layers/tmp-", RandomHex(8));
  absl::Cleanup remove = [&] { RemoveTree(temporary).IgnoreError(); };
  if (span_table->late_windows() != found.windows.has_value()) {
    return absl::DataLossError("its span table lacks its windows");
  }
  IMAGEFS_RETURN_IF_ERROR(WriteFilling(temporary, found, *span_table));
  Entry entry;
  entry.state = LayerState::kFilling;
  entry.diff_id = request.diff_id;
  entry.form = request.form;
  entry.source = found.source;
  entry.data_bytes = span_table->data_bytes();
  entry.index_bytes = found.index_bytes;
  IMAGEFS_ASSIGN_OR_RETURN(entry.index_digest, Sha256OfFile(found.index.get()));
  IMAGEFS_ASSIGN_OR_RETURN(entry.sums.index, Crc32cOfFile(found.index.get()));
  entry.origins = {{request.blob.digest, request.Registry(), false}};
  entry.fill_blob = request.blob.digest;
  absl::MutexLock records(&records_mu_);
  const std::string target = DirectoryOf(id);
  IMAGEFS_RETURN_IF_ERROR(RemoveTree(target));
  if (rename(temporary.c_str(), target.c_str()) != 0) return ErrnoStatus(errno, target);
  WriteBatch batch;
  batch.Put(StrCat(kRecordPrefix, id.hex()), RecordOf(id, entry));
  IMAGEFS_RETURN_IF_ERROR(kv_.Write(batch, false));
  absl::MutexLock lock(&mu_);
  entry.instance = ++instances_;
  Entry& slot = layers_[id];
  slot = std::move(entry);
  unproven_[{request.diff_id, request.blob.digest}] = id;
  absl::StatusOr<LayerRef> layer = OpenLocked(id, slot);
  if (!layer.ok()) {
    layers_.erase(id);
    return layer;
  }
  if (found.prefetch.has_value()) {
    FillingOf(*layer)->Prefetch(*found.prefetch, Priority::kForeground);
  }
  FillingOf(*layer)->AddWindowsSource(found.windows_source);
  filling_made_++;
  LogInfo("layer.lazy layer=", request.diff_id.Short(), " as=", id.Short(),
          " origin=", found.origin, " source=", IndexSourceName(found.source));
  return layer;
}

// Called on a worker once every byte is present.
absl::Status LayerStore::CheckFilled(const Digest& id, FillingLayer& filling) {
  Entry entry;
  {
    absl::MutexLock lock(&mu_);
    const auto it = layers_.find(id);
    if (it == layers_.end()) return absl::NotFoundError("the layer was just removed");
    entry = it->second;
  }
  absl::Status status;
  if (const LayerSums& had = entry.sums; id == entry.diff_id) {
    const absl::StatusOr<LayerSums> sums = CheckRefilled(
        filling.directory(), entry.form, id, filling.span_table().tar_bytes(), filling.closing());
    status = sums.ok() ? MarkRefilled(id, *sums) : sums.status();
  } else if (!had.data.empty()) {
    // Only the spans were fetched again.
    IMAGEFS_RETURN_IF_ERROR(ClearGaps(filling.directory(), filling.span_table()));
    const absl::StatusOr<LayerSums> sums = SumsOfLayer(filling.directory());
    status = sums.ok() && *sums != had ? absl::DataLossError("its content differs from before")
             : sums.ok()               ? MarkRefilled(id, had)
                                       : sums.status();
  } else {
    status = Prove(id, entry, filling);
  }
  if (status.ok()) {
    filled_++;
    LogInfo("layer.filled layer=", entry.diff_id.Short(), " as=", id.Short());
    return status;
  }
  if (!absl::IsDataLoss(status) && !absl::IsInvalidArgument(status)) return status;
  return absl::DataLossError(StrCat("layer ", entry.diff_id.ToString(), " of blob ",
                                    filling.span_table().blob_digest().ToString(), ": ",
                                    status.message()));
}

// A proven layer's data was fetched again.
absl::Status LayerStore::MarkRefilled(const Digest& id, const LayerSums& sums) {
  absl::MutexLock records(&records_mu_);
  Entry entry;
  {
    absl::MutexLock lock(&mu_);
    const auto it = layers_.find(id);
    if (it == layers_.end()) return absl::NotFoundError("the layer was just removed");
    entry = it->second;
  }
  entry.state = LayerState::kWritten;
  entry.hashing = false;
  entry.fill_blob = Digest();
  entry.sums = sums;
  entry.stamp = StampOf(DirectoryOf(id) + "/data");
  entry.checked = time(nullptr);
  WriteBatch batch;
  batch.Put(StrCat(kRecordPrefix, id.hex()), RecordOf(id, entry));
  IMAGEFS_RETURN_IF_ERROR(kv_.Write(batch, false));
  absl::MutexLock lock(&mu_);
  Entry& slot = layers_[id];
  entry.guard = slot.guard;
  entry.open = slot.open;
  slot = std::move(entry);
  syncer_->Add(id, false);
  Watch(id);  // from now on nobody may write to it
  return absl::OkStatus();
}

absl::Status LayerStore::Prove(const Digest& id, const Entry& entry, FillingLayer& filling) {
  const std::string directory = StrCat(options_.root, "/layers/tmp-", RandomHex(8));
  absl::Cleanup remove = [&] { RemoveTree(directory).IgnoreError(); };
  IMAGEFS_RETURN_IF_ERROR(MakeDirs(directory, 0700));
  IMAGEFS_ASSIGN_OR_RETURN(const Fd blob, OpenFile(filling.BlobPath(), O_RDONLY));
  // All proofs count as one source of windows, so that they leave some for the passes of others.
  const auto windows = [this](uint64_t bytes, const CancelToken& cancel) {
    return windows_.Wait("proof", bytes, cancel);
  };
  const UnprovenLayer layer{
      filling.directory(), filling.span_table(), entry.diff_id, entry.form, blob, windows,
      options_.space};
  IMAGEFS_ASSIGN_OR_RETURN(ProvenLayer proven, ProveLayer(layer, directory, filling.closing()));
  return Promote(id, filling, directory, std::move(proven));
}

// From here on the layer is found under its DiffID by requests that may have its blob. Under its
// own name it is complete, for those who use it.
absl::Status LayerStore::Promote(const Digest& id, const FillingLayer& filling,
                                 const std::string& directory, ProvenLayer proven) {
  Digest diff_id;
  Origin origin;
  {
    absl::MutexLock lock(&mu_);
    const auto it = layers_.find(id);
    if (it == layers_.end()) return absl::NotFoundError("the layer was just removed");
    diff_id = it->second.diff_id;
    origin = it->second.origins.front();
  }
  origin.open = filling.anonymous();
  // Before it is published: a layer that is present without its blob is taken for one that needs a
  // fetch.
  const uint64_t blob_bytes = filling.span_table().blob_size();
  if (kept_ != nullptr && FileHasSize(filling.BlobPath(), blob_bytes)) {
    kept_->Offer(origin.blob, filling.BlobPath());
  }
  IMAGEFS_ASSIGN_OR_RETURN(const LayerRef layer, Publish(diff_id, directory, proven.made, origin));
  for (const std::string& auth_scope : filling.AuthScopes()) {
    possession_.Remember(auth_scope, origin.blob);
  }
  if (!proven.has_access && layer->form.is_tar()) {
    IMAGEFS_ASSIGN_OR_RETURN(Fd blob, OpenFile(filling.BlobPath(), O_RDONLY));
    Descriptor descriptor;
    descriptor.digest = origin.blob;
    descriptor.size = blob_bytes;
    const std::vector<std::string> auth_scopes = filling.AuthScopes();
    span_tables_->Start(
        layer, descriptor, {std::move(blob), 0}, std::move(proven.made),
        {origin.registry, auth_scopes.empty() ? "" : auth_scopes.front(), nullptr, true});
  }
  IMAGEFS_RETURN_IF_ERROR(MarkRefilled(id, proven.shown));
  if (unlink((filling.directory() + "/blob").c_str()) != 0 && errno != ENOENT) {
    LogWarning("layer.cleanup_failed directory=", filling.directory(), " errno=", errno);
  }
  EndProofs(id, absl::OkStatus());
  return absl::OkStatus();
}

bool LayerStore::Trusts(const Digest& id) const {
  absl::MutexLock lock(&mu_);
  return !distrusted_.contains(id);
}

void LayerStore::Observe(LayerObserver observer) {
  absl::MutexLock lock(&observer_mu_);
  observer_ = std::move(observer);
}

// Forgets a layer that is not what it claimed to be. Its users get errors from now on, and the next
// request with the same description unpacks the whole blob.
void LayerStore::DropDamaged(const Digest& id, uint64_t instance, const absl::Status& why) {
  damaged_++;
  {
    absl::MutexLock lock(&mu_);
    distrusted_.insert(id);
    // Other headers of the same blob would be another description.
    const auto it = layers_.find(id);
    if (it != layers_.end() && it->second.source == IndexSource::kUnverified) {
      distrusted_.insert(UnverifiedBlobKey(it->second.fill_blob));
    }
  }
  DropLayer(id, instance, why);
}

// Forgets a layer, its files and everything made from it. Its waiters get `why`. Does not affect
// another layer that was made under that name since.
void LayerStore::DropLayer(const Digest& id, uint64_t instance, const absl::Status& why) {
  std::vector<LayerSyncer::Done> waiters;
  {
    absl::MutexLock records(&records_mu_);
    const std::string removed = StrCat(options_.root, "/layers/tmp-", RandomHex(8));
    {
      absl::MutexLock lock(&mu_);
      const auto it = layers_.find(id);
      if (it == layers_.end() || it->second.instance != instance) return;
      LogError("layer.damaged layer=", id.Short(), " cause=", why.message());
      layers_.erase(it);
      waiters = syncer_->Remove(id);  // before another one is made
      if (rename(DirectoryOf(id).c_str(), removed.c_str()) != 0) {
        LogWarning("layer.cleanup_failed layer=", id.Short(), " errno=", errno);
      }
    }
    WriteBatch batch;
    batch.Delete(StrCat(kRecordPrefix, id.hex()));
    if (absl::Status status = kv_.Write(batch, true); !status.ok()) {
      LogError("layer.forget_failed error=", status.message());
    }
    if (absl::Status status = RemoveTree(removed); !status.ok()) {
      LogWarning("layer.cleanup_failed directory=", removed, " error=", status.message());
    }
  }
  {
    absl::MutexLock lock(&observer_mu_);
    if (observer_.gone) observer_.gone(id);
  }
  EndProofs(id, why);
  for (LayerSyncer::Done& done : waiters) done(why);
}

std::optional<LayerProgress> LayerStore::FillProgress(const LayerKey& key) const {
  LayerRef layer;
  {
    absl::MutexLock lock(&mu_);
    const Entry* entry = EntryLocked(key);
    if (entry == nullptr || entry->state != LayerState::kFilling) return std::nullopt;
    layer = entry->open.lock();
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
  progress.resumed_bytes =
      report.blob_bytes_present - std::min(report.blob_bytes_present, report.blob_bytes_fetched);
  progress.unpacked_bytes = report.data_bytes_present;
  progress.trouble = report.cause;
  return progress;
}

}  // namespace imagefs
