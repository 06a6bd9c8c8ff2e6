// SPDX-License-Identifier: Apache-2.0
#include "fs/mount_target.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <sys/stat.h>
#include <sys/vfs.h>

#include <algorithm>
#include <iterator>
#include <utility>

#include "base/log.h"
#include "base/status.h"
#include "base/text.h"

namespace imagefs {
namespace {

// Named as in statfs(2); linux/magic.h lacks the last ones.
constexpr uint64_t kKernelsOwn[] = {PROC_SUPER_MAGIC,
                                    SYSFS_MAGIC,
                                    CGROUP_SUPER_MAGIC,
                                    CGROUP2_SUPER_MAGIC,
                                    DEBUGFS_MAGIC,
                                    TRACEFS_MAGIC,
                                    SECURITYFS_MAGIC,
                                    BPF_FS_MAGIC,
                                    PSTOREFS_MAGIC,
                                    EFIVARFS_MAGIC,
                                    SELINUX_MAGIC,
                                    SMACK_MAGIC,
                                    BINFMTFS_MAGIC,
                                    NSFS_MAGIC,
                                    DEVPTS_SUPER_MAGIC,
                                    0x62656570 /* configfs */,
                                    0x65735543 /* fusectl */,
                                    0x19800202 /* mqueue */};

absl::Status MissingError(const std::string& directory) {
  return absl::NotFoundError(
      StrCat(directory, " does not exist; create it first (mkdir -p ", directory, ")"));
}

absl::Status LookError(int error, const std::string& shown) {
  if (error != ENOTCONN) return ErrnoStatus(error, StrCat("cannot use ", shown));
  return absl::FailedPreconditionError(StrCat(
      shown, " is the mount of a file system that has died; unmount it (umount -l ", shown, ")"));
}

absl::Status MovedError(const std::string& directory) {
  return absl::FailedPreconditionError(
      StrCat(directory, " was moved or covered while it was being mounted on; try again"));
}

// Returns true for the root of a FUSE mount without a server. (fstat(2) might answer from a cache.)
bool IsDead(const Fd& root) {
  struct statfs found;
  return fstatfs(root.get(), &found) != 0 && (errno == ENOTCONN || errno == ECONNABORTED);
}

// Returns true if nothing is mounted there. Asks the kernel about this path only, because mountinfo
// is long if there are many mounts.
bool IsPlain(const Fd& place) {
  struct statx found;
  return statx(place.get(), "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, 0, &found) == 0 &&
         (found.stx_attributes_mask & STATX_ATTR_MOUNT_ROOT) != 0 &&
         (found.stx_attributes & STATX_ATTR_MOUNT_ROOT) == 0;
}

absl::StatusOr<std::vector<MountInfo>> FindOld(const Fd& place, const std::string& directory,
                                               IsOld is_old) {
  std::vector<MountInfo> out;
  if (IsPlain(place)) return out;
  IMAGEFS_ASSIGN_OR_RETURN(const std::vector<MountInfo> mounts, ReadMountInfo());
  std::vector<const MountInfo*> stack = StackAt(mounts, directory);
  if (stack.empty()) return out;
  if (IsOurs(*stack.back()) && !is_old(*stack.back()) && IsDead(place)) {
    out.push_back(*stack.back());
    stack.pop_back();
  }
  while (!stack.empty() && is_old(*stack.back())) {
    out.push_back(*stack.back());
    stack.pop_back();
  }
  std::reverse(out.begin(), out.end());
  return out;
}

// Identifies `place` if it can be mounted on.
absl::StatusOr<FileId> CheckPlace(const Fd& place, const std::string& shown) {
  struct stat st;
  if (fstat(place.get(), &st) != 0) return LookError(errno, shown);
  if (!S_ISDIR(st.st_mode)) {
    return absl::FailedPreconditionError(
        StrCat(shown, " is not a directory; give the path of one"));
  }
  IMAGEFS_RETURN_IF_ERROR(CheckOrdinary(place, shown));
  return IdOf(st);
}

// Identifies the directory below the mounts `old` if it can be mounted on.
absl::StatusOr<FileId> LookBelow(const std::vector<MountInfo>& old, const std::string& directory) {
  const absl::StatusOr<Fd> below = OpenBelow(old.front(), directory);
  if (below.ok()) return CheckPlace(*below, directory);
  // The directory is the root of another mount.
  if (absl::IsFailedPrecondition(below.status())) return IdBelow(old.size(), directory);
  return below.status();
}

// Returns whether `lowest` is still the lowest of our mounts at `directory`, and `covered` the
// directory below it.
bool StillCovers(const MountKey& lowest, const std::string& directory, const FileId& covered) {
  const auto mounts = ReadMountInfo();
  if (!mounts.ok()) return false;
  std::vector<MountInfo> ours;
  for (const MountInfo* mount : StackAt(*mounts, directory)) {
    if (KeyOf(*mount) == lowest || !ours.empty()) ours.push_back(*mount);
  }
  if (ours.empty()) return false;
  const absl::StatusOr<FileId> found = LookBelow(ours, directory);
  return found.ok() && *found == covered;
}

}  // namespace

bool LiesIn(std::string_view path, std::string_view directory) {
  if (directory == "/") return true;
  return path.starts_with(directory) &&
         (path.size() == directory.size() || path[directory.size()] == '/');
}

std::string MountPointOf(const std::string& path) {
  const absl::StatusOr<Fd> place = OpenPlace(path);
  if (!place.ok()) return path;
  auto resolved = PathOf(*place, path);
  return resolved.ok() ? *std::move(resolved) : path;
}

absl::Status CheckOrdinary(const Fd& fd, const std::string& shown) {
  struct statfs found;
  if (fstatfs(fd.get(), &found) != 0) return LookError(errno, shown);
  const auto type = static_cast<uint64_t>(found.f_type);
  if (std::find(std::begin(kKernelsOwn), std::end(kKernelsOwn), type) == std::end(kKernelsOwn)) {
    return absl::OkStatus();
  }
  return absl::FailedPreconditionError(
      StrCat(PrintableName(shown),
             " lies in proc, sysfs or another kernel file system; choose one on a disk"));
}

absl::Status CheckResolved(const std::string& path, std::string_view what) {
  IMAGEFS_RETURN_IF_ERROR(CheckPath(path, what));
  if (path != "/dev" && (!path.starts_with("/dev/") || path.starts_with("/dev/shm/"))) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(
      StrCat(what, " lies in /dev: ", PrintableName(path), "; choose one on a disk"));
}

absl::StatusOr<std::string> ResolveTarget(const std::string& asked) {
  IMAGEFS_RETURN_IF_ERROR(CheckPath(asked, "the directory to mount on"));
  if (!asked.starts_with('/')) {
    return absl::InvalidArgumentError(StrCat(PrintableName(asked), " is not an absolute path"));
  }
  // A mount may disappear between the two lookups; the directory below is then meant.
  constexpr int kLooks = 10;
  absl::StatusOr<std::string> path;
  for (int look = 0; look < kLooks; ++look) {
    const absl::StatusOr<Fd> place = OpenPlace(asked);
    if (absl::IsNotFound(place.status())) return MissingError(asked);
    IMAGEFS_RETURN_IF_ERROR(place.status());
    path = PathOf(*place, asked);
    if (!absl::IsNotFound(path.status())) break;
  }
  IMAGEFS_RETURN_IF_ERROR(path.status());
  IMAGEFS_RETURN_IF_ERROR(CheckResolved(*path, "the directory to mount on"));
  return path;
}

absl::StatusOr<MountTarget> OpenTarget(const std::string& directory, const FileId& expected,
                                       IsOld is_old) {
  MountTarget out;
  absl::StatusOr<Fd> place = OpenWithoutLinks(directory, O_PATH);
  if (absl::IsNotFound(place.status())) return MissingError(directory);
  IMAGEFS_RETURN_IF_ERROR(place.status());
  out.place = *std::move(place);
  IMAGEFS_ASSIGN_OR_RETURN(out.old, FindOld(out.place, directory, is_old));
  IMAGEFS_ASSIGN_OR_RETURN(out.covered, out.old.empty() ? CheckPlace(out.place, directory)
                                                        : LookBelow(out.old, directory));
  if (!expected.Allows(out.covered)) {
    return absl::FailedPreconditionError(StrCat(
        directory, " is another directory now, not the one that was to be mounted on (inode ",
        out.covered.inode, " instead of ", expected.inode, "); mount it there again"));
  }
  return out;
}

bool IsDeadAt(const std::string& directory) {
  const absl::StatusOr<Fd> place = OpenWithoutLinks(directory, O_PATH);
  if (!place.ok()) return false;
  const auto old = FindOld(*place, directory, [](const MountInfo&) { return false; });
  return old.ok() && !old->empty();
}

absl::Status UnmountOld(const std::string& directory, IsOld is_old) {
  IMAGEFS_ASSIGN_OR_RETURN(const Fd place, OpenWithoutLinks(directory, O_PATH));
  IMAGEFS_ASSIGN_OR_RETURN(const std::vector<MountInfo> old, FindOld(place, directory, is_old));
  for (auto one = old.rbegin(); one != old.rend(); ++one) {
    const absl::Status status = UnmountExactly(KeyOf(*one), one->source, directory, true);
    if (!status.ok() && !absl::IsNotFound(status)) return status;
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<MountKey>> AttachTo(const MountTarget& target, const Fd& mount,
                                               std::string_view source,
                                               const std::string& directory, bool beneath) {
  IMAGEFS_ASSIGN_OR_RETURN(const MountKey key, KeyOf(mount));
  std::vector<MountKey> there;
  if (target.old.empty()) {
    IMAGEFS_RETURN_IF_ERROR(AttachMount(mount, target.place, directory));
  } else {
    // Unmount all but the lowest one first; another of them stays visible meanwhile.
    for (size_t i = target.old.size() - 1; i > 0; --i) {
      const MountInfo& old = target.old[i];
      IMAGEFS_RETURN_IF_ERROR(UnmountExactly(KeyOf(old), old.source, directory, /*lazy=*/true));
    }
    const MountKey lowest = KeyOf(target.old.front());
    IMAGEFS_ASSIGN_OR_RETURN(const Fd top, OpenWithoutLinks(directory, O_PATH));
    IMAGEFS_ASSIGN_OR_RETURN(const MountKey seen, KeyOf(top));
    if (seen != lowest) return MovedError(directory);
    IMAGEFS_ASSIGN_OR_RETURN(const Attached attached,
                             AttachInPlaceOf(top, mount, directory, beneath));
    if (attached == Attached::kOver) {
      there.push_back(lowest);
    } else if (absl::Status status = UnmountExactly(lowest, target.old.front().source, directory,
                                                    /*lazy=*/true);
               !status.ok() && !absl::IsNotFound(status)) {
      LogWarning("dead_unmount_failed error=", status.message());
    }
  }
  there.push_back(key);
  // The mount is on the right directory. If that has been renamed in the meantime, the requested
  // path leads elsewhere.
  const absl::StatusOr<std::string> path = PathOf(mount, directory);
  if (path.ok() && *path == directory) {
    if (target.old.empty() || StillCovers(there.front(), directory, target.covered)) return there;
  }
  for (auto one = there.rbegin(); one != there.rend(); ++one) {
    const std::string_view its = *one == key ? source : target.old.front().source;
    UnmountExactly(*one, its, path.ok() ? *path : directory, /*lazy=*/true).IgnoreError();
  }
  return MovedError(directory);
}

}  // namespace imagefs
