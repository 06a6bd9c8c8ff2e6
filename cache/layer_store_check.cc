// SPDX-License-Identifier: Apache-2.0
// The part of LayerStore that handles damaged files: when they are checked, and what happens to a
// damaged layer.
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <ctime>
#include <utility>

#include "base/log.h"
#include "base/status.h"
#include "base/text.h"
#include "cache/layer_store.h"
#include "cache/present_map.h"

namespace imagefs {
namespace {

// Attempts to repair a file that somebody may still be writing to: ten seconds in total.
constexpr int kTries = 10;
constexpr absl::Duration kFirstPause = absl::Milliseconds(10);

// Marks the spans whose bytes are right.
absl::StatusOr<size_t> MarkGoodSpans(const std::string& directory,
                                     const SpanTableReader& span_table) {
  const std::string path = directory + "/present";
  if (unlink(path.c_str()) != 0 && errno != ENOENT) return ErrnoStatus(errno, path);
  IMAGEFS_ASSIGN_OR_RETURN(const std::unique_ptr<PresentMap> present,
                           PresentMap::Open(path, span_table));
  IMAGEFS_ASSIGN_OR_RETURN(const Fd data, OpenFile(directory + "/data", O_RDONLY));
  size_t bad = 0;
  std::string bytes;
  for (size_t i = 0; i < span_table.span_count(); ++i) {
    const SpanEntry span = span_table.span(i);
    bytes.resize(span.data_bytes);
    if (!PreadExact(data.get(), absl::MakeSpan(bytes), span.data_begin, "data").ok() ||
        !present->Holds(i, bytes)) {
      ++bad;
    } else {
      IMAGEFS_RETURN_IF_ERROR(present->Set(i, Crc32c(~0U, bytes)));
    }
  }
  return bad;
}

// Returns the spans of a lazy layer that are marked as present but wrong, or kDataLoss if its files
// cannot be read at all.
absl::StatusOr<std::vector<uint32_t>> FindWrongSpans(const std::string& directory,
                                                     uint32_t index_sum, Scrubber::Pace pace) {
  IMAGEFS_ASSIGN_OR_RETURN(const Fd index, OpenFile(directory + "/index", O_RDONLY));
  IMAGEFS_ASSIGN_OR_RETURN(const uint32_t sum, Crc32cOfFile(index.get()));
  if (sum != index_sum) return absl::DataLossError("its index is not as it was written");
  IMAGEFS_ASSIGN_OR_RETURN(const std::unique_ptr<SpanTableReader> span_table,
                           SpanTableReader::Open(directory + "/access"));
  return SpansNotAsMarked(directory, *span_table, pace);
}

// An earlier version recorded no checksums: the tar must have the DiffID and give the index.
absl::StatusOr<LayerSums> SumsOfOld(const std::string& directory, const Digest& id,
                                    const LayerEntry& entry) {
  if (entry.diff_id != id) {
    return absl::DataLossError(
        "an earlier version recorded no checksums of it; it is fetched again");
  }
  const absl::StatusOr<std::unique_ptr<SpanTableReader>> span_table =
      SpanTableReader::Open(directory + "/access");
  // Without moved parts the data file is the tar.
  const uint64_t tar_bytes = span_table.ok() ? (*span_table)->tar_bytes() : entry.data_bytes;
  return CheckRefilled(directory, entry.form, id, tar_bytes, CancelToken());
}

}  // namespace

// True for a whole layer whose data file was written to or replaced since it was last right, or for
// which an earlier version recorded no checksums.
bool LayerStore::IsUnverifiedLocked(const Digest& id, const Entry& entry) const {
  return entry.state != LayerState::kFilling && entry.open.expired() &&
         (!entry.sums.known() || entry.stamp.empty() || entry.stamp != StampOfLayer(id, entry));
}

bool LayerStore::IsUnverified(const Digest& id) const {
  absl::MutexLock lock(&mu_);
  const auto it = layers_.find(id);
  return it != layers_.end() && IsUnverifiedLocked(id, it->second);
}

// Returns whether the files are still the same, and not those of a layer made since.
bool LayerStore::IsStillLocked(const Digest& id, const Entry& was) const {
  const auto it = layers_.find(id);
  return it != layers_.end() && it->second.instance == was.instance &&
         (it->second.state == LayerState::kFilling) == (was.state == LayerState::kFilling);
}

// Called when the layer is being opened.
std::shared_ptr<LayerGuard> LayerStore::MakeGuard(const Digest& id, Entry& entry) {
  if (closing_) return nullptr;  // nobody reads any more
  auto guard = std::make_shared<LayerGuard>(DirectoryOf(id), fill_->work(), [this, id] {
    CheckNow(id, true).IgnoreError();  // reports to the guard
  });
  entry.guard = guard;
  if (entry.state == LayerState::kFilling) return guard;
  // The same file is being repaired under its DiffID.
  const auto twin = entry.diff_id == id ? layers_.end() : layers_.find(entry.diff_id);
  if (twin != layers_.end() && twin->second.state == LayerState::kFilling &&
      SameFile(DirectoryOf(id) + "/data", DirectoryOf(entry.diff_id) + "/data")) {
    const absl::StatusOr<LayerRef> repaired = OpenLocked(entry.diff_id, twin->second);
    repaired.ok() ? guard->FillFrom(*repaired) : guard->Fail(repaired.status());
    return guard;
  }
  if (entry.other_boot) guard->Recheck();
  Watch(id);
  return guard;
}

void LayerStore::Watch(const Digest& id) {
  if (closing_) return;
  watch_->Add(DirectoryOf(id) + "/data", [this, id] { OnWritten(id); });
  watch_->Add(DirectoryOf(id) + "/index", [this, id] { OnIndexWritten(id); });
}

// Somebody wrote to the file of a whole layer.
void LayerStore::OnWritten(const Digest& id) {
  {
    absl::MutexLock lock(&mu_);
    const auto it = layers_.find(id);
    // If it is not open, the stamp reveals the write when it is next opened.
    const std::shared_ptr<LayerGuard> guard =
        it == layers_.end() ? nullptr : it->second.guard.lock();
    if (guard == nullptr || it->second.state == LayerState::kFilling) return;
    if (guard->filling() != nullptr) return;  // it is being repaired under its other name
    guard->Recheck();
    if (std::exchange(it->second.check_queued, true)) return;
  }
  LogWarning("layer.written_to layer=", id.Short());
  work_->Submit([this, id] { CheckNow(id, true).IgnoreError(); });
}

// From now on nothing is read from the index until it is checked.
void LayerStore::OnIndexWritten(const Digest& id) {
  LayerRef open;  // its last reference must not be dropped under the lock
  {
    absl::MutexLock lock(&mu_);
    const auto it = layers_.find(id);
    // An index that is not open is verified by its checksum when it is next opened.
    open = it == layers_.end() ? nullptr : it->second.open.lock();
    if (open == nullptr) return;
    open->index->Distrust();
    if (std::exchange(it->second.check_queued, true)) return;
  }
  LogWarning("layer.index_written_to layer=", id.Short());
  work_->Submit([this, id] { CheckNow(id, true).IgnoreError(); });
}

// Returns whether the index of an open layer is readable, or could be made readable.
bool LayerStore::HealIndexLocked(const Layer& layer, const Entry& entry) const {
  if (!layer.index->damaged()) return true;
  const absl::StatusOr<Fd> fd = OpenFile(layer.directory + "/index", O_RDONLY);
  if (!fd.ok() || !entry.sums.index.has_value()) return false;
  const absl::StatusOr<uint32_t> sum = Crc32cOfFile(fd->get());
  if (!sum.ok() || *sum != *entry.sums.index) return false;
  return layer.index->MapAgain(fd->get()).ok();
}

// Rebuilds the index of a layer whose data is right, in the existing file.
absl::StatusOr<LayerSums> LayerStore::RestoreIndexOf(const Digest& id, const Entry& entry) {
  const std::string directory = DirectoryOf(id);
  if (entry.diff_id != id || !entry.sums.known()) {
    return absl::DataLossError("its index is not as it was written");
  }
  {
    IMAGEFS_ASSIGN_OR_RETURN(const Fd data, OpenFile(directory + "/data", O_RDONLY));
    IMAGEFS_ASSIGN_OR_RETURN(const Digest sum, Sha256OfFile(data.get()));
    if (sum != entry.sums.data) return absl::DataLossError("its data has changed");
  }
  const absl::StatusOr<std::unique_ptr<SpanTableReader>> span_table =
      SpanTableReader::Open(directory + "/access");
  const uint64_t tar_bytes = !entry.form.is_tar() ? entry.tar_bytes
                             : span_table.ok()    ? (*span_table)->tar_bytes()
                                                  : entry.data_bytes;
  absl::Duration pause = kFirstPause;
  for (int i = 0;; ++i, pause *= 2) {
    watch_->Remove(directory + "/index");  // the following writes are our own
    const absl::Status restored =
        RestoreIndex(directory, entry.form, id, tar_bytes, *entry.sums.index, CancelToken());
    {
      absl::MutexLock lock(&mu_);
      Watch(id);
    }
    IMAGEFS_RETURN_IF_ERROR(restored);
    // After the watch was set. A concurrent writer may have written in between.
    const absl::StatusOr<LayerSums> sums = SumsOfLayer(directory);
    if (!sums.ok() || *sums == entry.sums || i == kTries) return sums;
    absl::SleepFor(pause);
  }
}

absl::Status LayerStore::CheckNow(const Digest& id, bool also_verified) {
  // A second caller finds the layer already checked.
  absl::MutexLock one_at_a_time(&checks_mu_);
  return CheckWith(id, also_verified);
}

// Reads all of a whole layer. Returns OK if it is right, in which case it is no longer unverified.
absl::Status LayerStore::CheckWith(const Digest& id, bool also_verified) {
  Entry entry;
  std::shared_ptr<LayerGuard> guard;
  uint64_t rechecks = 0;
  {
    absl::MutexLock lock(&mu_);
    const auto it = layers_.find(id);
    if (it == layers_.end()) return absl::OkStatus();
    if (closing_) return absl::CancelledError("the store closes");
    it->second.check_queued = false;
    if (it->second.state == LayerState::kFilling) {
      const LayerRef open = it->second.open.lock();
      if (open == nullptr || HealIndexLocked(*open, it->second)) return absl::OkStatus();
      return absl::DataLossError("its index is not as it was written");
    }
    guard = it->second.guard.lock();
    if (guard != nullptr) rechecks = guard->rechecks();
    if (!IsUnverifiedLocked(id, it->second) && !also_verified) return absl::OkStatus();
    entry = it->second;
  }
  const std::string stamp = StampOfLayer(id, entry);
  absl::StatusOr<LayerSums> sums =
      entry.sums.known() ? SumsOfLayer(DirectoryOf(id)) : SumsOfOld(DirectoryOf(id), id, entry);
  const bool right = sums.ok() && (!entry.sums.known() || *sums == entry.sums);
  if (!right && entry.sums.known()) {
    if (const auto again = RestoreIndexOf(id, entry); again.ok()) sums = again;
  }
  if (sums.ok() && (!entry.sums.known() || *sums == entry.sums)) {
    LogInfo("layer.checked layer=", id.Short(), " result=", right ? "right" : "index_restored");
    if (guard != nullptr) guard->Trust(rechecks);
    IMAGEFS_RETURN_IF_ERROR(Accept(id, stamp, *sums));
    if (right) return absl::OkStatus();
    checked_bad_++;
    return absl::DataLossError("its index was damaged and was rebuilt from its data");
  }
  checked_bad_++;
  const absl::Status why =
      sums.ok() ? absl::DataLossError(StrCat("layer ", id.ToString(), " is damaged on the disk"))
                : Annotate(sums.status(), StrCat("layer ", id.ToString()));
  Repair(id, entry, why);
  return why;
}

// Layers not examined in this boot come first, then the one checked longest ago.
std::optional<Digest> LayerStore::NextToScrub() const {
  const int64_t due = time(nullptr) - absl::ToInt64Seconds(options_.scrub.interval);
  std::optional<Digest> next;
  std::pair<bool, int64_t> best;
  absl::MutexLock lock(&mu_);
  for (const auto& [id, entry] : layers_) {
    if (entry.state != LayerState::kComplete) continue;
    const std::pair<bool, int64_t> rank = {!entry.other_boot, entry.checked};
    if ((!entry.other_boot && entry.checked > due) || (next.has_value() && best <= rank)) continue;
    next = id;
    best = rank;
  }
  return next;
}

absl::Status LayerStore::Scrub(const Digest& id, Scrubber::Pace pace) {
  Entry entry;
  std::shared_ptr<LayerGuard> guard;
  uint64_t rechecks = 0;
  {
    absl::MutexLock lock(&mu_);
    const auto it = layers_.find(id);
    if (it == layers_.end()) {
      return absl::NotFoundError(StrCat("layer ", id.ToString(), " is not present"));
    }
    guard = it->second.guard.lock();
    if (guard != nullptr) rechecks = guard->rechecks();
    entry = it->second;
    // Even if the check fails below: others get their turn first.
    it->second.checked = time(nullptr);
  }
  if (entry.hashing) return absl::OkStatus();  // it is being read
  if (entry.state == LayerState::kFilling) return ScrubFilling(id, entry, pace);
  if (entry.sums.known()) {
    const std::string stamp = StampOfLayer(id, entry);
    const absl::StatusOr<LayerSums> sums = SumsOnDisk(DirectoryOf(id), pace);
    if (absl::IsCancelled(sums.status())) return sums.status();
    if (sums.ok() && *sums == entry.sums) {
      if (guard != nullptr) guard->Trust(rechecks);
      return Accept(id, stamp, *sums);
    }
    // Makes readers see what is on the disk, so that it is repaired.
    DropCached(DirectoryOf(id));
  }
  return CheckNow(id, true);
}

// Verifies each span that is present; a wrong one is fetched again on demand.
absl::Status LayerStore::ScrubFilling(const Digest& id, const Entry& entry, Scrubber::Pace pace) {
  if (!entry.sums.index.has_value())
    return absl::OkStatus();  // of an older version: checked when opened
  const absl::StatusOr<std::vector<uint32_t>> wrong =
      FindWrongSpans(DirectoryOf(id), *entry.sums.index, pace);
  if (absl::IsCancelled(wrong.status())) return wrong.status();
  if (wrong.ok() && wrong->empty()) return absl::OkStatus();
  {
    absl::MutexLock lock(&mu_);
    if (!IsStillLocked(id, entry)) return absl::OkStatus();
  }
  checked_bad_++;
  if (wrong.ok()) {
    RecheckSpans(id, entry, *wrong);
    return absl::DataLossError(StrCat(wrong->size(), " of its spans were wrong"));
  }
  const absl::Status why = absl::DataLossError(wrong.status().message());
  // If the layer is open, its users continue with what is in memory of these files.
  if (entry.open.expired()) DropLayer(id, entry.instance, why);
  return why;
}

void LayerStore::RecheckSpans(const Digest& id, const Entry& was,
                              const std::vector<uint32_t>& bad) {
  LogError("layer.damaged layer=", id.Short(), " cause=", bad.size(), " spans are wrong");
  LayerRef open;
  WriteBatch batch;
  absl::MutexLock records(&records_mu_);
  {
    absl::MutexLock lock(&mu_);
    if (!IsStillLocked(id, was)) return;
    Entry& entry = layers_[id];
    open = entry.open.lock();
    // It is checked when it is next opened, also by another process.
    if (open == nullptr) entry.unverified = true;
    entry.stamp.clear();
    batch.Put(StrCat(kRecordPrefix, id.hex()), RecordOf(id, entry));
  }
  if (absl::Status status = kv_.Write(batch, false); !status.ok()) {
    LogWarning("layer.stamp_failed error=", status.message());
  }
  const auto filling = open == nullptr ? nullptr : FillingOf(open);
  if (filling != nullptr) filling->Recheck(bad);
}

// Records that the file with that stamp has these checksums.
absl::Status LayerStore::Accept(const Digest& id, const std::string& stamp, const LayerSums& sums) {
  absl::MutexLock records(&records_mu_);
  WriteBatch batch;
  {
    absl::MutexLock lock(&mu_);
    const auto it = layers_.find(id);
    if (it == layers_.end() || it->second.state == LayerState::kFilling) return absl::OkStatus();
    it->second.stamp = stamp;
    it->second.sums = sums;
    it->second.checked = time(nullptr);
    it->second.other_boot = false;
    if (const LayerRef open = it->second.open.lock()) HealIndexLocked(*open, it->second);
    batch.Put(StrCat(kRecordPrefix, id.hex()), RecordOf(id, it->second));
  }
  // Not synced: if the record is lost, the layer is checked once more.
  return kv_.Write(batch, false);
}

// Records that the files of these layers are right as they are now.
absl::Status LayerStore::Restamp(const std::vector<Digest>& ids) {
  absl::MutexLock records(&records_mu_);
  WriteBatch batch;
  for (const Digest& id : ids) {
    absl::MutexLock lock(&mu_);
    const auto it = layers_.find(id);
    if (it == layers_.end()) continue;
    it->second.stamp = StampOfLayer(id, it->second);
    batch.Put(StrCat(kRecordPrefix, id.hex()), RecordOf(id, it->second));
  }
  return kv_.Write(batch, false);
}

// Returns the whole layers with one of these DiffIDs whose files are unchanged.
std::vector<Digest> LayerStore::UnchangedLayersOf(const absl::flat_hash_set<Digest>& claims) const {
  std::vector<Digest> ids;
  absl::MutexLock lock(&mu_);
  for (const auto& [id, entry] : layers_) {
    if (claims.contains(entry.diff_id) && entry.state != LayerState::kFilling &&
        entry.stamp == StampOfLayer(id, entry)) {
      ids.push_back(id);
    }
  }
  return ids;
}

// For a lazy layer, also covers the file that marks the present spans.
std::string LayerStore::StampOfLayer(const Digest& id, const Entry& entry) const {
  const std::string data = StampOf(DirectoryOf(id) + "/data");
  if (entry.state != LayerState::kFilling) return data;
  return StrCat(data, " ", StampOf(DirectoryOf(id) + "/present"));
}

// Fetches the damaged parts of a layer again, into the existing file, so that mappings of the
// kernel become right again, too. If that is impossible, the layer is forgotten.
void LayerStore::Repair(const Digest& id, const Entry& damaged, const absl::Status& why) {
  const std::shared_ptr<LayerGuard> guard = damaged.guard.lock();
  {
    // If it was replaced, users that are unsure check again.
    absl::MutexLock lock(&mu_);
    if (!IsStillLocked(id, damaged)) return;
  }
  Digest repaired = id;
  // Before the name is removed or refers to another file. Only a file that is the tar can be healed
  // from the repaired layer.
  const bool is_tar = damaged.diff_id == id ||
                      SameFile(DirectoryOf(id) + "/data", DirectoryOf(damaged.diff_id) + "/data");
  absl::StatusOr<Fd> file = absl::FailedPreconditionError("its layout is another one");
  if (is_tar && guard != nullptr) file = OpenFile(DirectoryOf(id) + "/data", O_RDWR | O_NOFOLLOW);
  if (damaged.diff_id != id && is_tar) {
    // The repaired name refers to the same file.
    repaired = damaged.diff_id;
    CheckWith(repaired, true).IgnoreError();
  } else if (!FillAgain(id, damaged, why)) {
    repaired = Digest();
    DropLayer(id, damaged.instance, why);
  }
  if (guard == nullptr) {
    // The layer is not open, so nobody fetches what is missing.
    std::vector<LayerSyncer::Done> waiters;
    {
      absl::MutexLock lock(&mu_);
      const auto it = layers_.find(id);
      const bool same = it != layers_.end() && it->second.instance == damaged.instance;
      if (same) waiters = syncer_->Remove(id);
    }
    for (LayerSyncer::Done& done : waiters) done(why);
    return;
  }
  const absl::StatusOr<LayerRef> layer =
      repaired.empty() ? absl::StatusOr<LayerRef>(why) : Find(repaired);
  if (!layer.ok()) return Lose(damaged.diff_id, guard, why, std::move(file));
  guard->FillFrom(*layer);
  if (const std::shared_ptr<FillingLayer> filling = FillingOf(*layer)) {
    absl::MutexLock lock(&observer_mu_);
    if (observer_.fills) observer_.fills(filling);
    filling->WantAll(Priority::kForeground);
  }
}

// A layer in use has lost its directory. `file` is its data if it can be healed.
void LayerStore::Lose(const Digest& diff_id, const std::shared_ptr<LayerGuard>& guard,
                      const absl::Status& why, absl::StatusOr<Fd> file) {
  guard->Fail(why);
  if (!file.ok()) return;
  auto heal = [this, guard, file = std::make_shared<Fd>(*std::move(file))](LayerRef other) {
    work_->Submit([guard, file, other = std::move(other)] {
      const absl::Status healed = CopyDifferences(other->data.get(), file->get());
      if (!healed.ok()) {
        return LogError("layer.not_healed layer=", other->id.Short(), " error=", healed.message());
      }
      LogInfo("layer.healed layer=", other->id.Short());
      guard->Heal();
    });
  };
  absl::MutexLock lock(&observer_mu_);
  if (observer_.lost) observer_.lost(diff_id, std::move(heal));
}

// Returns false if the layer cannot be fetched in parts, or if the result could not be verified.
bool LayerStore::FillAgain(const Digest& id, const Entry& damaged, const absl::Status& why) {
  const absl::StatusOr<std::unique_ptr<SpanTableReader>> span_table =
      SpanTableReader::Open(DirectoryOf(id) + "/access");
  // Under its DiffID it is hashed as a tar again; under another name it must match its old
  // checksums.
  const bool is_tar = span_table.ok() && (*span_table)->layout() == DataLayout::kTar;
  if (!span_table.ok() || IsLink(DirectoryOf(id) + "/data") || !(*span_table)->has_digests() ||
      (*span_table)->diff_id() != damaged.diff_id ||
      (*span_table)->data_bytes() != damaged.data_bytes ||
      (damaged.diff_id == id ? !is_tar : !damaged.sums.known())) {
    return false;
  }
  absl::MutexLock records(&records_mu_);
  Entry entry;
  {
    absl::MutexLock lock(&mu_);
    if (!IsStillLocked(id, damaged)) return true;  // not open, and removed since
    entry = layers_[id];
    syncer_->Suspend(id);
  }
  entry.state = LayerState::kFilling;
  entry.fill_blob = (*span_table)->blob_digest();
  entry.other_boot = entry.check_queued = entry.syncing = false;
  if (damaged.diff_id == id) entry.sums.data = Digest();
  entry.stamp.clear();
  entry.open.reset();
  entry.guard.reset();
  // The record first, so that wrong bytes are never taken for right ones.
  WriteBatch batch;
  batch.Put(StrCat(kRecordPrefix, id.hex()), RecordOf(id, entry));
  const absl::Status recorded = kv_.Write(batch, true);
  const absl::StatusOr<size_t> bad =
      recorded.ok() ? MarkGoodSpans(DirectoryOf(id), **span_table) : recorded;
  // `present` may still have the marks of the first fetch.
  entry.unverified = !bad.ok();
  if (!bad.ok()) {
    LogError("layer.repair_failed layer=", id.Short(), " error=", bad.status().message());
  }
  LogError("layer.damaged layer=", id.Short(), " cause=", why.message(),
           " spans_to_fetch=", bad.ok() ? *bad : (*span_table)->span_count(),
           " of=", (*span_table)->span_count());
  absl::MutexLock lock(&mu_);
  layers_[id] = std::move(entry);
  return true;
}

// Lets the next process of this boot skip checking what this one leaves consistent.
void LayerStore::StampFilling() {
  std::vector<Digest> ids;
  {
    absl::MutexLock lock(&mu_);
    for (const auto& [id, entry] : layers_) {
      // What was unverified at the start may not have been checked, and stays unverified.
      if (entry.state == LayerState::kFilling && !entry.unverified &&
          entry.stamp != StampOfLayer(id, entry)) {
        ids.push_back(id);
      }
    }
  }
  if (absl::Status status = Restamp(ids); !status.ok()) {
    LogWarning("layer.stamp_failed error=", status.message());
  }
}

}  // namespace imagefs
