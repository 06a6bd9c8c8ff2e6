// SPDX-License-Identifier: Apache-2.0
#include "snap/snapshot_dirs.h"

#include <errno.h>
#include <fcntl.h>
#include <fts.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdio>
#include <optional>
#include <utility>
#include <vector>

#include "absl/cleanup/cleanup.h"
#include "base/directory.h"
#include "base/fd.h"
#include "base/log.h"
#include "base/status.h"
#include "base/text.h"

namespace imagefs {
namespace {

constexpr std::string_view kRemoved = "removed-";
constexpr std::string_view kLost = "lost-";

}  // namespace

absl::StatusOr<std::unique_ptr<SnapshotDirs>> SnapshotDirs::Open(std::string root) {
  IMAGEFS_RETURN_IF_ERROR(MakeOwnDir(root, 0711).status());
  return std::unique_ptr<SnapshotDirs>(new SnapshotDirs(std::move(root)));
}

std::string SnapshotDirs::PathOf(uint64_t id) const { return StrCat(root_, "/", id); }
std::string SnapshotDirs::fs(uint64_t id) const { return PathOf(id) + "/fs"; }
std::string SnapshotDirs::work(uint64_t id) const { return PathOf(id) + "/work"; }

absl::Status SnapshotDirs::Make(uint64_t id, bool work_too, const RootAttributes& root) {
  IMAGEFS_ASSIGN_OR_RETURN(const Fd directory, MakeOwnDir(PathOf(id), 0711));
  if (work_too) {
    IMAGEFS_RETURN_IF_ERROR(MakeDirIn(directory, "work", 0711, work(id)).status());
  }
  const std::string path = fs(id);
  IMAGEFS_ASSIGN_OR_RETURN(const MadeDir made, MakeDirIn(directory, "fs", 0755, path));
  if (fchown(made.fd.get(), root.uid, root.gid) != 0 ||
      fchmod(made.fd.get(), root.mode & 07777) != 0) {
    return ErrnoStatus(errno, StrCat("cannot prepare ", path));
  }
  return absl::OkStatus();
}

absl::StatusOr<SnapshotDirs::RootAttributes> SnapshotDirs::RootOf(uint64_t id) const {
  IMAGEFS_ASSIGN_OR_RETURN(const struct stat st, StatPath(fs(id)));
  return RootAttributes{st.st_uid, st.st_gid, st.st_mode & 07777};
}

absl::Status SnapshotDirs::Retire(uint64_t id) {
  const std::string retired = StrCat(root_, "/", kRemoved, id);
  if (rename(PathOf(id).c_str(), retired.c_str()) != 0 && errno != ENOENT) {
    return ErrnoStatus(errno, StrCat("cannot move ", PathOf(id), " away"));
  }
  return absl::OkStatus();
}

absl::Status SnapshotDirs::Sweep() {
  IMAGEFS_ASSIGN_OR_RETURN(const std::vector<std::string> names, ListDir(root_));
  absl::Status first;
  for (const std::string& name : names) {
    if (name.starts_with(kRemoved)) first.Update(RemoveTree(StrCat(root_, "/", name)));
  }
  return first;
}

absl::Status SnapshotDirs::PutAside(uint64_t id) {
  const std::string aside = StrCat(root_, "/", kLost, id, "-", RandomHex(4));
  if (rename(PathOf(id).c_str(), aside.c_str()) != 0) {
    return ErrnoStatus(errno, StrCat("cannot move ", PathOf(id), " away"));
  }
  LogWarning("snapshot.record_lost files_kept_in=", aside);
  return absl::OkStatus();
}

absl::Status SnapshotDirs::Repair(const absl::flat_hash_set<uint64_t>& known, bool keep_others) {
  IMAGEFS_ASSIGN_OR_RETURN(const std::vector<std::string> names, ListDir(root_));
  absl::flat_hash_set<uint64_t> there;
  absl::Status strays;
  for (const std::string& name : names) {
    const std::optional<uint64_t> id = ParseDecimal(name);
    if (!id.has_value()) continue;
    if (known.contains(*id)) {
      there.insert(*id);
    } else if (keep_others) {
      strays.Update(PutAside(*id));
    } else {
      LogInfo("snapshot.stray_directory id=", *id);
      strays.Update(Retire(*id));
    }
  }
  if (!strays.ok()) LogWarning("snapshot.strays_stay cause=", strays.message());
  for (const uint64_t id : known) {
    if (there.contains(id)) continue;
    LogWarning("snapshot.directory_lost id=", id, " made_again=empty");
    // If this fails, only this snapshot cannot be mounted.
    if (absl::Status status = Make(id, /*work=*/true, {}); !status.ok()) {
      LogError("snapshot.directory_not_made id=", id, " error=", status.message());
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<SnapshotUsage> SnapshotDirs::Usage(uint64_t id, const CancelToken& cancel) const {
  std::string path = fs(id);
  char* paths[] = {path.data(), nullptr};
  FTS* tree = fts_open(paths, FTS_PHYSICAL | FTS_XDEV | FTS_NOCHDIR, nullptr);
  if (tree == nullptr) return ErrnoStatus(errno, path);
  absl::Cleanup close = [tree] { fts_close(tree); };
  SnapshotUsage usage;
  absl::flat_hash_set<uint64_t> linked;
  while (const FTSENT* entry = fts_read(tree)) {
    if (cancel.cancelled()) return absl::CancelledError("the caller went away");
    if (entry->fts_info == FTS_DP) continue;
    if (entry->fts_info == FTS_ERR || entry->fts_info == FTS_NS || entry->fts_info == FTS_DNR) {
      // A running container may remove files during the count.
      if (entry->fts_errno == ENOENT && entry->fts_level > 0) continue;
      return ErrnoStatus(entry->fts_errno, entry->fts_path);
    }
    const struct stat& st = *entry->fts_statp;
    if (!S_ISDIR(st.st_mode) && st.st_nlink > 1 && !linked.insert(st.st_ino).second) continue;
    usage.bytes += static_cast<int64_t>(st.st_blocks) * 512;
    ++usage.inodes;
  }
  return usage;
}

}  // namespace imagefs
