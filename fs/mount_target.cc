#include "fs/mount_target.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <sys/stat.h>
#include <sys/vfs.h>

#include <algorithm>
#include <iterator>

#include "base/status.h"
#include "base/text.h"

namespace imagefs {
namespace {

// As statfs(2) names them; linux/magic.h lacks the last ones.
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

// What `place` is, if a mount can lie on it.
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

}  // namespace

absl::Status CheckOrdinary(const Fd& fd, const std::string& shown) {
  struct statfs found;
  if (fstatfs(fd.get(), &found) != 0) return LookError(errno, shown);
  const auto type = static_cast<uint64_t>(found.f_type);
  if (std::find(std::begin(kKernelsOwn), std::end(kKernelsOwn), type) == std::end(kKernelsOwn)) {
    return absl::OkStatus();
  }
  return absl::FailedPreconditionError(
      StrCat(PrintableName(shown),
             " lies in proc, sysfs or the like, which the kernel makes for what it shows; "
             "choose one on a disk"));
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
  // A mount there may be taken away between the two looks: then the directory below is meant.
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

absl::StatusOr<Fd> OpenTarget(const std::string& directory, const FileId& expected) {
  absl::StatusOr<Fd> place = OpenWithoutLinks(directory, O_PATH);
  if (absl::IsNotFound(place.status())) return MissingError(directory);
  IMAGEFS_RETURN_IF_ERROR(place.status());
  IMAGEFS_ASSIGN_OR_RETURN(const FileId found, CheckPlace(*place, directory));
  if (!expected.Allows(found)) {
    return absl::FailedPreconditionError(
        StrCat(directory, " is another directory than the one that was to be mounted on (inode ",
               found.inode, " instead of ", expected.inode, "); mount it there anew"));
  }
  return place;
}

}  // namespace imagefs
