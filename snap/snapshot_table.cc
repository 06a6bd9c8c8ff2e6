// SPDX-License-Identifier: Apache-2.0
#include "snap/snapshot_table.h"

#include <algorithm>
#include <utility>

#include "base/json.h"
#include "base/log.h"
#include "base/status.h"
#include "base/text.h"
#include "base/thread_role.h"

namespace imagefs {
namespace {

constexpr std::string_view kPrefix = "snapshot/";
constexpr int64_t kFormatVersion = 1;
// Longer than the lineage of any image; prevents endless loops in a tampered record.
constexpr size_t kMaxLineage = 4096;

std::string KeyOf(std::string_view name) { return StrCat(kPrefix, name); }

absl::Status NoSuch(std::string_view name) {
  return absl::NotFoundError(StrCat("snapshot ", Printable(name), " does not exist"));
}

}  // namespace

std::string EncodeSnapshotRecord(const SnapshotRecord& record) {
  JsonWriter json;
  json.BeginObject()
      .Member("version", kFormatVersion)
      .Member("parent", record.info.parent)
      .Member("kind", static_cast<int64_t>(record.info.kind))
      .Member("created", record.info.created_ns)
      .Member("updated", record.info.updated_ns);
  if (record.lazy()) {
    json.Member("reference", record.reference)
        .Member("manifest", record.manifest.ToString())
        .Member("level", static_cast<int64_t>(record.level));
  } else {
    json.Member("id", record.id);
  }
  json.Key("labels").BeginObject();
  for (const auto& [key, value] : record.info.labels) json.Member(key, value);
  json.EndObject().EndObject();
  return json.Take();
}

absl::StatusOr<SnapshotRecord> DecodeSnapshotRecord(std::string_view text) {
  IMAGEFS_ASSIGN_OR_RETURN(const Json json, Json::Parse(text));
  if (json.IntOr("version", 0) != kFormatVersion) {
    return absl::DataLossError("snapshot record of an unknown version");
  }
  SnapshotRecord record;
  const int64_t kind = json.IntOr("kind", 0);
  if (kind < 1 || kind > 3) return absl::DataLossError("snapshot record of an unknown kind");
  record.info.kind = static_cast<SnapshotKind>(kind);
  record.info.parent = json.StringOr("parent");
  record.info.created_ns = json.IntOr("created", 0);
  record.info.updated_ns = json.IntOr("updated", 0);
  for (const auto& [key, value] : json["labels"].members()) {
    record.info.labels[key] = value.string().value_or("");
  }
  const int64_t id = json.IntOr("id", 0);
  if (id < 0) return absl::DataLossError("snapshot record with a negative number");
  record.id = static_cast<uint64_t>(id);
  if (!record.lazy()) return record;
  const int64_t level = json.IntOr("level", -1);
  if (level < 0 || level > UINT32_MAX || record.info.kind != SnapshotKind::kCommitted) {
    return absl::DataLossError("snapshot record that is neither a directory nor a layer");
  }
  record.level = static_cast<uint32_t>(level);
  record.reference = json.StringOr("reference");
  IMAGEFS_ASSIGN_OR_RETURN(record.manifest, Digest::Parse(json.StringOr("manifest")));
  return record;
}

SnapshotTable::Reservation& SnapshotTable::Reservation::operator=(Reservation&& other) noexcept {
  if (this == &other) return *this;
  Drop();
  table_ = std::exchange(other.table_, nullptr);
  name_ = std::move(other.name_);
  parent_ = std::move(other.parent_);
  return *this;
}

void SnapshotTable::Reservation::Drop() {
  SnapshotTable* table = std::exchange(table_, nullptr);
  if (table == nullptr) return;
  absl::MutexLock lock(&table->mu_);
  table->reserved_.erase(name_);
  table->ReleaseParentLocked(parent_);
}

absl::StatusOr<std::unique_ptr<SnapshotTable>> SnapshotTable::Open(KeyValueStore& kv) {
  auto table = std::unique_ptr<SnapshotTable>(new SnapshotTable(kv));
  IMAGEFS_RETURN_IF_ERROR(table->Load());
  return table;
}

absl::Status SnapshotTable::Load() {
  absl::MutexLock lock(&mu_);
  IMAGEFS_RETURN_IF_ERROR(
      kv_.ForEachWithPrefix(kPrefix, [this](std::string_view key, std::string_view value) {
        mu_.AssertHeld();
        const std::string_view name = key.substr(kPrefix.size());
        absl::StatusOr<SnapshotRecord> record = DecodeSnapshotRecord(value);
        if (!record.ok()) {
          LogWarning("snapshot.unreadable name=", Printable(name),
                     " cause=", record.status().message());
          return true;
        }
        record->info.name = name;
        AddLocked(*std::move(record));
        return true;
      }));
  for (const auto& [name, entry] : entries_) {
    const auto parent = entries_.find(entry->record.info.parent);
    if (parent != entries_.end()) ++parent->second->children;
  }
  return absl::OkStatus();
}

void SnapshotTable::AddLocked(SnapshotRecord record) {
  next_id_ = std::max(next_id_, record.id + 1);
  if (record.lazy()) {
    layers_[{record.info.labels[kRefLabel], record.info.parent}] = record.info.name;
  }
  auto entry = std::make_unique<Entry>();
  entry->record = std::move(record);
  std::string name = entry->record.info.name;
  entries_[std::move(name)] = std::move(entry);
}

void SnapshotTable::TakeLocked(const std::string& name) {
  const auto found = entries_.find(name);
  const SnapshotInfo& info = found->second->record.info;
  if (found->second->record.lazy()) {
    const auto ref = info.labels.find(kRefLabel);
    const auto layer =
        layers_.find({ref == info.labels.end() ? std::string() : ref->second, info.parent});
    if (layer != layers_.end() && layer->second == name) layers_.erase(layer);
  }
  entries_.erase(found);
}

void SnapshotTable::ReleaseParentLocked(const std::string& parent) {
  const auto found = entries_.find(parent);
  if (found != entries_.end()) --found->second->children;
}

SnapshotTable::Entry* SnapshotTable::AwaitLocked(const std::string& name) {
  auto settled = [&] {
    mu_.AssertHeld();
    const auto found = entries_.find(name);
    return found == entries_.end() || !found->second->busy;
  };
  MayBlock("waiting for a snapshot");
  mu_.Await(absl::Condition(&settled));
  const auto found = entries_.find(name);
  return found == entries_.end() ? nullptr : found->second.get();
}

absl::StatusOr<SnapshotTable::Reservation> SnapshotTable::Reserve(const std::string& name,
                                                                  const std::string& parent) {
  absl::MutexLock lock(&mu_);
  Entry* below = nullptr;
  if (!parent.empty()) {
    below = AwaitLocked(parent);
    if (below == nullptr) {
      return absl::NotFoundError(StrCat("parent snapshot ", Printable(parent), " does not exist"));
    }
    if (below->record.info.kind != SnapshotKind::kCommitted) {
      return absl::InvalidArgumentError(
          StrCat("parent ", Printable(parent), " is not a committed snapshot"));
    }
  }
  if (entries_.contains(name) || !reserved_.insert(name).second) {
    return absl::AlreadyExistsError(StrCat("snapshot ", Printable(name), " already exists"));
  }
  if (below != nullptr) ++below->children;
  Reservation out;
  out.table_ = this;
  out.name_ = name;
  out.parent_ = parent;
  return out;
}

absl::Status SnapshotTable::Insert(Reservation reservation, SnapshotRecord record) {
  record.info.name = reservation.name_;
  record.info.parent = reservation.parent_;
  WriteBatch batch;
  batch.Put(KeyOf(record.info.name), EncodeSnapshotRecord(record));
  IMAGEFS_RETURN_IF_ERROR(kv_.Write(batch, /*sync=*/true));
  absl::MutexLock lock(&mu_);
  // The reserved child is now a real one.
  reserved_.erase(reservation.name_);
  reservation.table_ = nullptr;
  AddLocked(std::move(record));
  return absl::OkStatus();
}

absl::Status SnapshotTable::Commit(const std::string& key, const std::string& name,
                                   const SnapshotLabels& labels, int64_t now_ns) {
  SnapshotRecord record;
  {
    absl::MutexLock lock(&mu_);
    Entry* entry = AwaitLocked(key);
    if (entry == nullptr) return NoSuch(key);
    if (entry->record.info.kind != SnapshotKind::kActive) {
      return absl::FailedPreconditionError(
          StrCat("snapshot ", Printable(key), " is not active and cannot be committed"));
    }
    if (entries_.contains(name) || !reserved_.insert(name).second) {
      return absl::AlreadyExistsError(StrCat("snapshot ", Printable(name), " already exists"));
    }
    entry->busy = true;
    record = entry->record;
  }
  record.info.name = name;
  record.info.kind = SnapshotKind::kCommitted;
  record.info.labels = labels;
  record.info.created_ns = record.info.updated_ns = now_ns;
  WriteBatch batch;
  batch.Delete(KeyOf(key));
  batch.Put(KeyOf(name), EncodeSnapshotRecord(record));
  const absl::Status status = kv_.Write(batch, /*sync=*/true);
  absl::MutexLock lock(&mu_);
  reserved_.erase(name);
  if (!status.ok()) {
    entries_[key]->busy = false;
    return status;
  }
  TakeLocked(key);
  AddLocked(std::move(record));
  return absl::OkStatus();
}

absl::StatusOr<SnapshotInfo> SnapshotTable::Update(
    const std::string& name, int64_t now_ns,
    absl::FunctionRef<absl::Status(SnapshotLabels&)> change) {
  SnapshotRecord record;
  {
    absl::MutexLock lock(&mu_);
    Entry* entry = AwaitLocked(name);
    if (entry == nullptr) return NoSuch(name);
    record = entry->record;
    IMAGEFS_RETURN_IF_ERROR(change(record.info.labels));
    entry->busy = true;
  }
  record.info.updated_ns = now_ns;
  WriteBatch batch;
  batch.Put(KeyOf(name), EncodeSnapshotRecord(record));
  const absl::Status status = kv_.Write(batch, /*sync=*/true);
  absl::MutexLock lock(&mu_);
  Entry& entry = *entries_[name];
  entry.busy = false;
  IMAGEFS_RETURN_IF_ERROR(status);
  const size_t children = entry.children;
  TakeLocked(name);  // the label that it is indexed by may have changed
  SnapshotInfo info = record.info;
  AddLocked(std::move(record));
  entries_[name]->children = children;
  return info;
}

absl::StatusOr<SnapshotRecord> SnapshotTable::Remove(const std::string& name) {
  {
    absl::MutexLock lock(&mu_);
    Entry* entry = AwaitLocked(name);
    if (entry == nullptr) return NoSuch(name);
    if (entry->children > 0) {
      return absl::FailedPreconditionError(
          StrCat("cannot remove snapshot ", Printable(name), ": it has children"));
    }
    entry->busy = true;
  }
  WriteBatch batch;
  batch.Delete(KeyOf(name));
  const absl::Status status = kv_.Write(batch, /*sync=*/true);
  absl::MutexLock lock(&mu_);
  Entry& entry = *entries_[name];
  entry.busy = false;
  IMAGEFS_RETURN_IF_ERROR(status);
  SnapshotRecord record = entry.record;
  ReleaseParentLocked(record.info.parent);
  TakeLocked(name);
  return record;
}

absl::StatusOr<SnapshotRecord> SnapshotTable::Find(const std::string& name) const {
  absl::MutexLock lock(&mu_);
  const auto found = entries_.find(name);
  if (found == entries_.end()) return NoSuch(name);
  return found->second->record;
}

absl::StatusOr<std::vector<SnapshotRecord>> SnapshotTable::Lineage(const std::string& name) const {
  std::vector<SnapshotRecord> out;
  absl::MutexLock lock(&mu_);
  std::string next = name;
  while (!next.empty()) {
    const auto found = entries_.find(next);
    if (found == entries_.end()) return NoSuch(next);
    if (out.size() == kMaxLineage) return absl::DataLossError("a snapshot's parents form a loop");
    out.push_back(found->second->record);
    if (out.back().lazy()) break;
    next = out.back().info.parent;
  }
  return out;
}

absl::StatusOr<SnapshotRecord> SnapshotTable::FindLayer(const std::string& ref,
                                                        const std::string& parent) const {
  absl::MutexLock lock(&mu_);
  const auto layer = layers_.find({ref, parent});
  if (layer == layers_.end()) return NoSuch(ref);
  const auto found = entries_.find(layer->second);
  if (found == entries_.end()) return NoSuch(ref);
  return found->second->record;
}

std::vector<SnapshotRecord> SnapshotTable::List() const {
  std::vector<SnapshotRecord> out;
  {
    absl::MutexLock lock(&mu_);
    out.reserve(entries_.size());
    for (const auto& [name, entry] : entries_) out.push_back(entry->record);
  }
  std::sort(out.begin(), out.end(),
            [](const auto& a, const auto& b) { return a.info.name < b.info.name; });
  return out;
}

size_t SnapshotTable::size() const {
  absl::MutexLock lock(&mu_);
  return entries_.size();
}

uint64_t SnapshotTable::NextId() {
  absl::MutexLock lock(&mu_);
  return next_id_++;
}

}  // namespace imagefs
