// The part of LayerStore that has to do with files that may not be what they were: when they are
// checked, and what becomes of a damaged layer.
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

// Of making a file right that somebody may still be writing to: ten seconds in all.
constexpr int kTries = 10;
constexpr absl::Duration kFirstPause = absl::Milliseconds(10);

// The spans whose bytes are right.
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

// Of a layer that fills: which of the spans that are said to be here are not right. kDataLoss when
// its files cannot be read at all.
absl::StatusOr<std::vector<uint32_t>> FindWrongSpans(const std::string& directory,
                                                     uint32_t index_sum, Scrubber::Pace pace) {
  IMAGEFS_ASSIGN_OR_RETURN(const Fd index, OpenFile(directory + "/index", O_RDONLY));
  IMAGEFS_ASSIGN_OR_RETURN(const uint32_t sum, Crc32cOfFile(index.get()));
  if (sum != index_sum) return absl::DataLossError("its index is not as it was written");
  IMAGEFS_ASSIGN_OR_RETURN(const std::unique_ptr<SpanTableReader> span_table,
                           SpanTableReader::Open(directory + "/access"));
  return SpansNotAsMarked(directory, *span_table, pace);
}

}  // namespace

// A whole layer whose data file somebody wrote to or exchanged since it was last right, or of which
// an earlier version recorded no sums.
bool LayerStore::IsUnverifiedLocked(const Digest& id, const Entry& entry) const {
  return entry.state != LayerState::kFilling && entry.open.expired() &&
         (!entry.sums.known() || entry.stamp.empty() || entry.stamp != StampOfLayer(id, entry));
}

bool LayerStore::IsUnverified(const Digest& id) const {
  absl::MutexLock lock(&mu_);
  const auto it = layers_.find(id);
  return it != layers_.end() && IsUnverifiedLocked(id, it->second);
}

// Whether the files are those that they were then, and not of another that was made meanwhile.
bool LayerStore::IsStillLocked(const Digest& id, const Entry& was) const {
  const auto it = layers_.find(id);
  return it != layers_.end() && it->second.instance == was.instance &&
         (it->second.state == LayerState::kFilling) == (was.state == LayerState::kFilling);
}

// With the layer that is being opened.
std::shared_ptr<LayerGuard> LayerStore::MakeGuard(const Digest& id, Entry& entry) {
  if (closing_) return nullptr;  // nobody reads any more
  auto guard = std::make_shared<LayerGuard>(DirectoryOf(id), fill_->work(), [this, id] {
    CheckNow(id, true).IgnoreError();  // tells the guard
  });
  entry.guard = guard;
  if (entry.state == LayerState::kFilling) return guard;
  // The same file under its DiffID is being repaired.
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

// Somebody wrote to the file of a layer that is whole.
void LayerStore::OnWritten(const Digest& id) {
  {
    absl::MutexLock lock(&mu_);
    const auto it = layers_.find(id);
    // Of one that nobody has open, the stamp tells at the next opening.
    const std::shared_ptr<LayerGuard> guard =
        it == layers_.end() ? nullptr : it->second.guard.lock();
    if (guard == nullptr || it->second.state == LayerState::kFilling) return;
    if (guard->filling() != nullptr) return;  // it is repaired under its other name
    guard->Recheck();
    if (std::exchange(it->second.check_queued, true)) return;
  }
  LogWarning("layer.written_to layer=", id.Short());
  work_->Submit([this, id] { CheckNow(id, true).IgnoreError(); });
}

// Nothing is read of an index that may be another one.
void LayerStore::OnIndexWritten(const Digest& id) {
  LayerRef open;  // the last of its references is not dropped under the lock
  {
    absl::MutexLock lock(&mu_);
    const auto it = layers_.find(id);
    // Of one that nobody has open, its sum tells at the next opening.
    open = it == layers_.end() ? nullptr : it->second.open.lock();
    if (open == nullptr) return;
    open->index->Distrust();
    if (std::exchange(it->second.check_queued, true)) return;
  }
  LogWarning("layer.index_written_to layer=", id.Short());
  work_->Submit([this, id] { CheckNow(id, true).IgnoreError(); });
}

// Whether the index of an open layer can be read, or can be again.
bool LayerStore::HealIndexLocked(const Layer& layer, const Entry& entry) const {
  if (!layer.index->damaged()) return true;
  const absl::StatusOr<Fd> fd = OpenFile(layer.directory + "/index", O_RDONLY);
  if (!fd.ok() || !entry.sums.index.has_value()) return false;
  const absl::StatusOr<uint32_t> sum = Crc32cOfFile(fd->get());
  if (!sum.ok() || *sum != *entry.sums.index) return false;
  return layer.index->MapAgain(fd->get()).ok();
}

// The index of a layer whose data is right is made again of that, in the file that is there.
absl::StatusOr<LayerSums> LayerStore::RestoreIndexOf(const Digest& id, const Entry& entry) {
  const std::string directory = DirectoryOf(id);
  if (entry.diff_id != id || !entry.sums.known()) {
    return absl::DataLossError("its index is not as it was written");
  }
  {
    IMAGEFS_ASSIGN_OR_RETURN(const Fd data, OpenFile(directory + "/data", O_RDONLY));
    IMAGEFS_ASSIGN_OR_RETURN(const Digest sum, Sha256OfFile(data.get()));
    if (sum != entry.sums.data) return absl::DataLossError("its data is not what it was");
  }
  const absl::StatusOr<std::unique_ptr<SpanTableReader>> span_table =
      SpanTableReader::Open(directory + "/access");
  const uint64_t tar_bytes = span_table.ok() ? (*span_table)->tar_bytes() : entry.data_bytes;
  absl::Duration pause = kFirstPause;
  for (int i = 0;; ++i, pause *= 2) {
    watch_->Remove(directory + "/index");  // these writes are our own
    const absl::Status restored =
        RestoreIndex(directory, id, tar_bytes, *entry.sums.index, CancelToken());
    {
      absl::MutexLock lock(&mu_);
      Watch(id);
    }
    IMAGEFS_RETURN_IF_ERROR(restored);
    // Behind the watch. Somebody who still writes has written meanwhile.
    const absl::StatusOr<LayerSums> sums = SumsOfLayer(directory);
    if (!sums.ok() || *sums == entry.sums || i == kTries) return sums;
    absl::SleepFor(pause);
  }
}

absl::Status LayerStore::CheckNow(const Digest& id, bool also_verified) {
  // Who comes second finds it checked.
  absl::MutexLock one_at_a_time(&checks_mu_);
  return CheckWith(id, also_verified);
}

// Reads all of a whole layer. OK: it is what it should be, and no longer unverified.
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
      entry.sums.known() ? SumsOfLayer(DirectoryOf(id)) : SumsOfOld(id, entry);
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
    return absl::DataLossError("its index was damaged, and was made again of its data");
  }
  checked_bad_++;
  const absl::Status why =
      sums.ok() ? absl::DataLossError(StrCat("layer ", id.ToString(), " is damaged on the disk"))
                : Annotate(sums.status(), StrCat("layer ", id.ToString()));
  Repair(id, entry, why);
  return why;
}

// What was never looked at in this boot comes first, then what was read longest ago.
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
      return absl::NotFoundError(StrCat("layer ", id.ToString(), " is not here"));
    }
    guard = it->second.guard.lock();
    if (guard != nullptr) rechecks = guard->rechecks();
    entry = it->second;
    // Also where what follows fails: others have their turn first.
    it->second.checked = time(nullptr);
  }
  if (entry.state == LayerState::kFilling) return ScrubFilling(id, entry, pace);
  if (entry.sums.known()) {
    const std::string stamp = StampOfLayer(id, entry);
    const absl::StatusOr<LayerSums> sums = SumsOnDisk(DirectoryOf(id), pace);
    if (absl::IsCancelled(sums.status())) return sums.status();
    if (sums.ok() && *sums == entry.sums) {
      if (guard != nullptr) guard->Trust(rechecks);
      return Accept(id, stamp, *sums);
    }
    // So that readers see what the disk has, and it is repaired.
    DropCached(DirectoryOf(id));
  }
  return CheckNow(id, true);
}

// Each span that is here is compared; one that is wrong comes again when it is asked for.
absl::Status LayerStore::ScrubFilling(const Digest& id, const Entry& entry, Scrubber::Pace pace) {
  if (!entry.sums.index.has_value()) return absl::OkStatus();  // an older version's: when opened
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
  // Who has it open goes on with what is in memory of these files.
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
    // Looked at when it is opened next, also by another process.
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

LayerSums LayerStore::SumsOfName(const Digest& id) const {
  absl::MutexLock lock(&mu_);
  const auto it = layers_.find(id);
  return it == layers_.end() ? LayerSums() : it->second.sums;
}

// An earlier version recorded no sums: the tar has to have the DiffID, and to give the index.
absl::StatusOr<LayerSums> LayerStore::SumsOfOld(const Digest& id, const Entry& entry) const {
  if (entry.diff_id != id) {
    return absl::DataLossError("an earlier version kept no sums of it; it is fetched again");
  }
  const absl::StatusOr<std::unique_ptr<SpanTableReader>> span_table =
      SpanTableReader::Open(DirectoryOf(id) + "/access");
  // Without moved parts the data file is the tar.
  const uint64_t tar_bytes = span_table.ok() ? (*span_table)->tar_bytes() : entry.data_bytes;
  return CheckRefilled(DirectoryOf(id), id, tar_bytes, CancelToken());
}

// The file that has that stamp has these sums.
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
  // Not synced: what is lost is looked at once more.
  return kv_.Write(batch, false);
}

// The files of these layers are right as they are now.
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

// Whole layers with one of these DiffIDs whose files nobody has changed.
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

// Of one that fills, also of the file that says what is here.
std::string LayerStore::StampOfLayer(const Digest& id, const Entry& entry) const {
  const std::string data = StampOf(DirectoryOf(id) + "/data");
  if (entry.state != LayerState::kFilling) return data;
  return StrCat(data, " ", StampOf(DirectoryOf(id) + "/present"));
}

// The damaged parts of a layer come again, into the file that is there: so what the kernel shows of
// it is right again as well. Where that cannot be, the layer is forgotten.
void LayerStore::Repair(const Digest& id, const Entry& damaged, const absl::Status& why) {
  const std::shared_ptr<LayerGuard> guard = damaged.guard.lock();
  {
    // Else whoever is not sure looks once more.
    absl::MutexLock lock(&mu_);
    if (!IsStillLocked(id, damaged)) return;
  }
  Digest repaired = id;
  // Before the name goes, or is another file's. Only a file that is the tar can be made from it.
  const bool is_tar = damaged.diff_id == id ||
                      SameFile(DirectoryOf(id) + "/data", DirectoryOf(damaged.diff_id) + "/data");
  absl::StatusOr<Fd> file = absl::FailedPreconditionError("its layout is another one");
  if (is_tar && guard != nullptr) file = OpenFile(DirectoryOf(id) + "/data", O_RDWR);
  if (damaged.diff_id != id && is_tar) {
    // The same file has the name that is repaired.
    repaired = damaged.diff_id;
    CheckWith(repaired, true).IgnoreError();
  } else if (!FillAgain(id, damaged, why)) {
    repaired = Digest();
    DropLayer(id, damaged.instance, why);
  }
  if (guard == nullptr) {
    // Nobody has it open, so nobody fetches what is missing.
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

// A layer that is shown has no directory any more. `file` is its data, when it can be healed.
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

// False: it cannot be read in parts, or nothing would tell whether it is right in the end.
bool LayerStore::FillAgain(const Digest& id, const Entry& damaged, const absl::Status& why) {
  const absl::StatusOr<std::unique_ptr<SpanTableReader>> span_table =
      SpanTableReader::Open(DirectoryOf(id) + "/access");
  // Under its DiffID it is hashed as a tar once more; under another name it has to be what it was.
  const bool is_tar = span_table.ok() && (*span_table)->layout() == DataLayout::kTar;
  if (!span_table.ok() || (*span_table)->diff_id() != damaged.diff_id ||
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
  // First the record: what is wrong is never taken for right.
  WriteBatch batch;
  batch.Put(StrCat(kRecordPrefix, id.hex()), RecordOf(id, entry));
  const absl::Status recorded = kv_.Write(batch, true);
  const absl::StatusOr<size_t> bad =
      recorded.ok() ? MarkGoodSpans(DirectoryOf(id), **span_table) : recorded;
  // `present` may still have the marks of when the layer first came.
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

// So that the next process of this boot need not check what this one leaves well-ordered.
void LayerStore::StampFilling() {
  std::vector<Digest> ids;
  {
    absl::MutexLock lock(&mu_);
    for (const auto& [id, entry] : layers_) {
      // What was unverified at the start was perhaps not looked at, and stays so.
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
