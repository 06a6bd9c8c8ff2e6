// SPDX-License-Identifier: Apache-2.0
// Handles what happened to mounts while this process was not looking: takes over or remounts those
// of the previous daemon, and drops those that other programs have unmounted. For that it watches
// the kernel's mount table, so that a plain umount(8) also removes the entry here.
#include <optional>
#include <utility>

#include "base/log.h"
#include "base/status.h"
#include "fs/mount_namespace.h"
#include "fs/mount_table_impl.h"

namespace imagefs {
namespace {

constexpr char kUnmountedMessage[] =
    "another program has unmounted it; the changes are kept until the directory is mounted again "
    "or given to imagefs umount";
constexpr char kDamagedMessage[] =
    "its record in the store is damaged; mount it again, or forget it with imagefs umount";

}  // namespace

MountTableImpl::Outlived MountTableImpl::AdoptDirLocked(const MountRecord& record,
                                                        const MountView& mounts,
                                                        const FindChain& find_chain) {
  if (record.name_space != 0) return AdoptElsewhereDirLocked(record, find_chain);
  const MountInfo* there = mounts.At(record.directory);
  const bool here = there != nullptr && IsOf(record, *there);
  if (!options_.as_root) {
    const ChainRef chain = here ? chains_->ServedAt(record.directory, *there) : nullptr;
    if (chain == nullptr || chain->chain_id != record.chain_id) return Outlived::kUnknown;
    absl::MutexLock lock(&mu_);
    entries_[record.directory] = {record, std::nullopt, "", chain};
    return Outlived::kHere;
  }
  const bool alone = record.mode == kKernelMode && !record.filling;
  if (!here) {
    // One whose namespace is gone was not unmounted by anybody.
    const bool made_here = record.made_in == 0 || record.made_in == own_namespace_;
    return alone && made_here && record.boot_id == boot_id_ ? Outlived::kUnmounted
                                                            : Outlived::kUnknown;
  }
  ChainRef chain;
  const std::optional<std::string> lease = AdoptLeaseDirLocked(record, *there, find_chain, &chain);
  if (!lease.has_value()) return Outlived::kUnknown;
  MountRecord adopted = record;
  // The recorded numbers may have been reused by the kernel for other mounts.
  adopted.mounts.clear();
  for (const MountInfo* mount : mounts.StackOf(record.directory)) {
    if (mount != there && IsOld(&record, *mount)) adopted.mounts.push_back(KeyOf(*mount));
  }
  adopted.mounts.push_back(KeyOf(*there));
  absl::MutexLock lock(&mu_);
  // A mount that the kernel serves alone may belong to an object that the store has replaced.
  entries_[record.directory] = {std::move(adopted), std::nullopt, *lease, alone ? nullptr : chain};
  return Outlived::kHere;
}

absl::StatusOr<MountInfo> MountTableImpl::FindElsewhere(const MountRecord& record) const {
  if (record.boot_id != boot_id_ || record.mounts.empty()) {
    return absl::NotFoundError("it was not mounted in this boot");
  }
  const MountKey& key = record.mounts.back();
  MountInfo there;
  if (record.unique_id != 0) {
    absl::StatusOr<MountInfo> found = FindMountIn(record.name_space, record.unique_id);
    if (absl::IsNotFound(found.status())) return found;
    if (found.ok()) there = *std::move(found);
    if (found.ok() && (there.major != key.major || there.minor != key.minor)) {
      return absl::NotFoundError("another mount has its number");
    }
  }
  there.major = key.major;
  there.minor = key.minor;
  // A user may not look into other namespaces, nor root on older kernels. The session ends with the
  // last mount of it.
  if (record.unique_id == 0 && chains_->ServedAt(SessionName(record), there) == nullptr) {
    return absl::NotFoundError("its session has ended");
  }
  // The kernel does not tell everything.
  if (there.source.empty()) there.source = SourceOf(record.reference);
  if (there.fs_type.empty()) {
    there.fs_type = record.options.writable      ? "overlay"
                    : record.mode == kKernelMode ? kErofsType
                                                 : "fuse";
  }
  return there;
}

uint64_t MountTableImpl::HomeOf(const MountRecord& record) const {
  if (record.made_in == 0 || record.made_in == own_namespace_ || record.boot_id != boot_id_ ||
      record.unmounted) {
    return 0;
  }
  if (options_.as_root) {
    const bool known = asks_namespaces_ && record.unique_id != 0;
    return known && NamespaceExists(record.made_in) ? record.made_in : 0;
  }
  // The session ends with the last mount of it.
  return FindElsewhere(record).ok() ? record.made_in : 0;
}

bool MountTableImpl::MoveRecord(MountRecord& record, uint64_t name_space) {
  if (record.name_space == name_space) return true;
  if (Find(PlaceName(name_space, record.directory)).has_value()) return false;
  const std::string before = record.place();
  record.name_space = name_space;
  // Nothing is lost in between: the next daemon moves a record of either name.
  absl::Status status = records_.Put(record);
  if (status.ok()) status = records_.Delete(before);
  if (!status.ok()) LogWarning("mount_record_not_moved error=", status.message());
  return true;
}

MountTableImpl::Outlived MountTableImpl::AdoptElsewhereDirLocked(const MountRecord& record,
                                                                 const FindChain& find_chain) {
  const absl::StatusOr<MountInfo> there = FindElsewhere(record);
  if (!there.ok()) return Outlived::kUnmounted;
  Entry entry{record, std::nullopt, "", {}};
  ChainRef chain;
  if (record.unique_id != 0) {
    const std::optional<std::string> lease =
        AdoptLeaseDirLocked(record, *there, find_chain, &chain);
    if (!lease.has_value()) return Outlived::kUnmounted;
    entry.lease = *lease;
  } else {
    // A session of its own, and no private mount.
    chain = chains_->ServedAt(SessionName(record), *there);
    if (chain == nullptr || chain->chain_id != record.chain_id) return Outlived::kUnmounted;
  }
  if (!(record.mode == kKernelMode && !record.filling)) entry.chain = chain;
  absl::MutexLock lock(&mu_);
  entries_[record.place()] = std::move(entry);
  return Outlived::kHere;
}

// Returns the private mount behind a mount of an earlier daemon; nullopt if it is dead.
std::optional<std::string> MountTableImpl::AdoptLeaseDirLocked(const MountRecord& record,
                                                               const MountInfo& there,
                                                               const FindChain& find_chain,
                                                               ChainRef* shown) {
  const bool kernel = record.mode == kKernelMode;
  // Mounts of earlier versions, and of references that cannot be a source, have other sources.
  const std::string named = SourceOf(record.reference);
  const bool by_name = !named.empty() && there.source == named;
  const bool same = record.options.writable ? there.fs_type == "overlay"
                    : kernel                ? there.fs_type == kErofsType &&
                                   (by_name || there.source.ends_with("/" + record.chain_id.hex()))
                             : there.fs_type != kErofsType && there.fs_type != "overlay";
  if (!same) return std::nullopt;
  auto chain = find_chain(record.chain_id);
  if (!chain.ok()) {
    LogWarning("mount_outlives_its_image directory=", record.directory,
               " error=", chain.status().message());
  }
  ChainRef found = chain.ok() ? *std::move(chain) : nullptr;
  *shown = found;
  const MountOptions& options = record.options;
  const Presentation presentation{record.mode, options.context, ErofsWay::kFiles,
                                  by_name ? named : "", options.shown_as};
  if (kernel && !record.filling) {
    return chains_
        ->AdoptKernelMount(
            record.chain_id, std::move(found), presentation,
            options.writable || !options.flags.id_map.empty() || record.name_space != 0 ? nullptr
                                                                                        : &there)
        .name;
  }
  const MountInfo* const of = options.writable ? nullptr : &there;
  auto lease = chains_->Adopt(record.chain_id, found, presentation, record.filling, of);
  if (!lease.ok() && record.name_space != 0) {
    lease = chains_->AdoptServed(record.chain_id, found, presentation, record.filling, of);
  }
  if (lease.ok()) return lease->name;
  LogInfo("mount_not_continued directory=", record.directory, " cause=", lease.status().message());
  return std::nullopt;
}

std::vector<std::string> MountTableImpl::Recover(const FindChain& find_chain) {
  std::vector<std::string> out;
  auto stored = records_.List();
  if (!stored.ok()) {
    LogError("mounts_not_read error=", stored.status().message());
    return out;
  }
  const auto mounts = MountView::Read();
  if (!mounts.ok()) {
    LogError("mounts_not_read error=", mounts.status().message());
    return out;
  }
  for (MountRecord& record : stored->records) {
    if (!record.by_caller && !MoveRecord(record, HomeOf(record))) {
      DropUnmountedDirLocked(record);
      continue;
    }
    const auto hold = HoldPlace(record.place());
    if (Find(record.place()).has_value()) continue;
    if (RecoverDirLocked(record, **mounts, find_chain)) out.push_back(record.directory);
  }
  for (std::string& directory : stored->damaged) {
    const auto hold = HoldPlace(directory);
    if (Find(directory).has_value()) continue;
    // Whatever is mounted there stays until another mount replaces it, because it is unknown.
    MountRecord record;
    record.directory = std::move(directory);
    record.boot_id = boot_id_;
    SetNotMountedDirLocked(std::move(record), kDamagedMessage);
  }
  return out;
}

bool MountTableImpl::RecoverDirLocked(MountRecord& record, const MountView& mounts,
                                      const FindChain& find_chain) {
  if (record.options.this_boot_only && record.boot_id != boot_id_) {
    const absl::Status status = ForgetDirLocked(record, /*lazy=*/true);
    if (!status.ok()) LogWarning("mount_not_forgotten error=", status.message());
    return false;
  }
  if (record.unmounted) {
    SetNotMountedDirLocked(record, kUnmountedMessage);
    return false;
  }
  switch (AdoptDirLocked(record, mounts, find_chain)) {
    case Outlived::kHere:
      return true;
    case Outlived::kUnmounted:
      DropUnmountedDirLocked(record);
      return false;
    case Outlived::kUnknown:
      break;
  }
  if (record.by_caller) {
    // Its caller mounts it again when somebody looks there.
    DropUnmountedDirLocked(record);
    return false;
  }
  const absl::StatusOr<ChainRef> chain = find_chain(record.chain_id);
  const absl::Status status =
      chain.ok() ? MountAgainDirLocked(record, *chain).status() : chain.status();
  if (status.ok()) return true;
  LogWarning("mount_not_recovered directory=", record.directory, " reference=", record.reference,
             record.upper.empty() ? "" : " changes_kept_in=", record.upper,
             " error=", status.message());
  SetNotMountedDirLocked(record, std::string(status.message()));
  return false;
}

absl::StatusOr<MountRecord> MountTableImpl::MountAgainDirLocked(const MountRecord& record,
                                                                const ChainRef& chain) {
  MountRecord again = record;
  // Device numbers change with each boot.
  if (record.boot_id != boot_id_) {
    again.covered.device = 0;
    again.upper_ids.ForgetDevices();
  }
  // The kernel may be a different one now, and it may have no free loop device.
  const bool as_it_was = kernel_.ok() && *kernel_ == ErofsWay::kFiles;
  const std::string mode = as_it_was ? record.mode : "auto";
  return MountAtDirLocked(chain,
                          {record.directory, record.reference, mode, record.upper, record.options},
                          std::move(again), &record);
}

absl::StatusOr<MountRecord> MountTableImpl::MountAgain(const std::string& directory,
                                                       ChainRef chain) {
  const auto hold = HoldPlace(directory);
  const std::optional<Entry> entry = FindNotMounted(directory);
  if (!entry.has_value() || entry->record.unmounted) {
    return absl::NotFoundError(StrCat(directory, " is not waiting to be mounted"));
  }
  absl::StatusOr<MountRecord> mounted = MountAgainDirLocked(entry->record, chain);
  if (!mounted.ok()) SetNotMounted(directory, std::string(mounted.status().message()));
  return mounted;
}

void MountTableImpl::SetNotMountedDirLocked(MountRecord record, std::string why) {
  const std::string place = record.place();
  absl::MutexLock lock(&mu_);
  entries_[place] = {std::move(record), std::move(why), "", {}};
}

void MountTableImpl::SetNotMounted(const std::string& directory, const std::string& why) {
  absl::MutexLock lock(&mu_);
  const auto found = entries_.find(directory);
  if (found != entries_.end() && !found->second.mounted()) found->second.not_mounted = why;
}

// For a mount of an earlier daemon in another namespace. What was written to it stays listed here,
// unless there is another mount of that name. REQUIRES: the key of the directory is held, too.
void MountTableImpl::ForgetOtherDirLocked(const MountRecord& record) {
  LogInfo("unmounted_elsewhere directory=", record.directory, " namespace=", record.name_space,
          record.upper.empty() ? "" : " changes_kept_in=", record.upper);
  DropDirLocked(record.place(), /*lazy=*/true);
  const absl::Status status = records_.Delete(record.place());
  if (!status.ok()) LogWarning("mount_not_forgotten error=", status.message());
  if (record.upper.empty() || record.keep_upper || Find(record.directory).has_value()) return;
  MountRecord here = record;
  here.name_space = here.made_in = 0;
  DropUnmountedDirLocked(here);
}

// Nothing is left except data written to the store, which stays listed.
void MountTableImpl::DropUnmountedDirLocked(const MountRecord& record) {
  if (record.name_space != 0 && !record.by_caller) {
    const auto hold = HoldPlace(record.directory);
    return ForgetOtherDirLocked(record);
  }
  if (record.name_space != 0) {
    // Nobody can mount there again to go on with what was written.
    LogInfo("unmounted_elsewhere directory=", record.directory, " namespace=", record.name_space);
    const absl::Status status = ForgetDirLocked(record, /*lazy=*/true);
    if (!status.ok()) LogWarning("mount_not_forgotten error=", status.message());
    return;
  }
  LogInfo("unmounted_elsewhere directory=", record.directory,
          record.upper.empty() ? "" : " changes_kept_in=", record.upper);
  DropDirLocked(record.directory, /*lazy=*/true);
  UnmountOldDirLocked(record);
  absl::Status status;
  if (record.upper.empty() || record.keep_upper) {
    status = records_.Delete(record.directory);
  } else {
    MountRecord kept = record;
    kept.unmounted = true;
    kept.mounts.clear();
    status = records_.Put(kept);
    SetNotMountedDirLocked(std::move(kept), kUnmountedMessage);
  }
  if (!status.ok()) LogWarning("mount_not_forgotten error=", status.message());
}

bool MountTableImpl::IsLost(const Entry& entry, const Present& present) const {
  if (!entry.mounted()) return false;
  if (entry.record.name_space != 0) return false;  // see Refresh
  if (!options_.as_root) return !present.directories.contains(entry.record.directory);
  const auto found = present.mounts.find(entry.record.mounts.back());
  return found == present.mounts.end() || !IsOf(entry.record, found->second);
}

absl::StatusOr<MountTableImpl::Present> MountTableImpl::FindPresent() {
  IMAGEFS_ASSIGN_OR_RETURN(const std::vector<MountInfo> mounts, ReadMountInfo());
  Present out;
  for (const MountInfo& mount : mounts) {
    if (!IsOurs(mount, mount.source)) continue;
    if (IsOurs(mount)) out.directories.insert(mount.mount_point);
    out.mounts[KeyOf(mount)] = mount;
  }
  return out;
}

// Drops the entries whose mounts have been unmounted by other programs. A mount that seems to be
// missing may still be in progress, so each is checked again with its key held.
void MountTableImpl::Prune() {
  const auto present = FindPresent();
  if (!present.ok()) return;
  std::vector<std::string> lost;
  {
    absl::MutexLock lock(&mu_);
    for (const auto& [directory, entry] : entries_) {
      if (IsLost(entry, *present)) lost.push_back(directory);
    }
  }
  for (const std::string& directory : lost) {
    const auto hold = HoldPlace(directory);
    const std::optional<Entry> entry = Find(directory);
    const auto now = FindPresent();
    if (now.ok() && entry.has_value() && IsLost(*entry, *now))
      DropUnmountedDirLocked(entry->record);
  }
}

void MountTableImpl::RefreshPlaceLocked(const std::string& place) {
  const std::optional<Entry> entry = Find(place);
  if (!entry.has_value() || entry->record.name_space == 0 || !IsGoneElsewhere(entry->record))
    return;
  if (entry->record.by_caller || HomeOf(entry->record) != 0) {
    return DropUnmountedDirLocked(entry->record);
  }
  // Its namespace is gone, where an earlier daemon was: the mount belongs here now.
  const auto mounts = MountView::Read();
  if (!mounts.ok() || !options_.find_chain) return DropUnmountedDirLocked(entry->record);
  MountRecord record = entry->record;
  const auto hold = HoldPlace(record.directory);
  if (!MoveRecord(record, 0)) return ForgetOtherDirLocked(entry->record);
  DropDirLocked(place, /*lazy=*/true);
  RecoverDirLocked(record, **mounts, options_.find_chain);
}

bool MountTableImpl::AnyElsewhere() const {
  absl::MutexLock lock(&mu_);
  return std::any_of(entries_.begin(), entries_.end(),
                     [](const auto& entry) { return entry.second.record.name_space != 0; });
}

void MountTableImpl::Refresh() {
  std::vector<std::string> places;
  {
    absl::MutexLock lock(&mu_);
    for (const auto& [place, entry] : entries_) {
      if (entry.record.name_space != 0) places.push_back(place);
    }
  }
  for (const std::string& place : places) {
    const auto hold = HoldPlace(place);
    RefreshPlaceLocked(place);
  }
}

}  // namespace imagefs
