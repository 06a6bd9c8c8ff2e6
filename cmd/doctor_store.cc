// SPDX-License-Identifier: Apache-2.0
// Checks of the store's directory and its disk, and of the run directory.
#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <utility>

#include "base/fd.h"
#include "base/machine_user.h"
#include "base/status.h"
#include "base/text.h"
#include "base/units.h"
#include "cache/store_lock.h"
#include "cache/store_space.h"
#include "cmd/doctor_checks.h"
#include "fs/mount_syscalls.h"

namespace imagefs {
namespace {

constexpr uint64_t kTmpfs = 0x01021994, kOverlayfs = 0x794C7630;
constexpr size_t kTriedBytes = 64 << 10;
// A layer takes a few inodes, and the database some.
constexpr uint64_t kFewInodes = 1000, kNoInodes = 32;

// Returns `path` or the lowest directory above it that exists.
std::string Existing(std::string path) {
  while (path != "/" && access(path.c_str(), F_OK) != 0 && errno == ENOENT) path = ParentOf(path);
  return path;
}

std::string FileSystemName(const std::string& path) {
  const auto mounts = ReadMountInfo();
  if (!mounts.ok()) return "an unknown file system";
  const MountInfo* mount = FindMountOf(*mounts, path);
  return mount == nullptr ? "an unknown file system" : Printable(mount->fs_type, 40);
}

// Returns why bytes cannot be written below that directory. Leaves nothing.
absl::Status TryToWrite(const std::string& directory) {
  if (access(directory.c_str(), W_OK | X_OK) != 0) return ErrnoStatus(errno, directory);
  const Fd file(open(directory.c_str(), O_TMPFILE | O_RDWR | O_CLOEXEC, 0600));
  if (!file.valid()) {
    // Some file systems have no files without a name, which says nothing.
    const bool unknown = errno == EOPNOTSUPP || errno == EISDIR;
    return unknown ? absl::OkStatus() : ErrnoStatus(errno, directory);
  }
  return Annotate(PwriteFull(file.get(), std::string(kTriedBytes, 'x'), 0), directory);
}

// Returns false if the directory itself is not what the daemon needs.
bool CheckDirectory(const Paths& paths, const std::string& at, DoctorReport& report) {
  const absl::StatusOr<struct stat> st = StatPath(at);
  if (!st.ok() || !S_ISDIR(st->st_mode)) {
    report.Problem("store",
                   st.ok() ? StrCat(at, " is not a directory") : ToStd(st.status().message()),
                   "the daemon does not start", "choose another directory with --root");
    return false;
  }
  if (at != paths.root) return true;
  if (st->st_uid != geteuid()) {
    report.Problem("store", StrCat(at, " belongs to the user ", st->st_uid, ", not to ", geteuid()),
                   "the daemon of this user cannot use it",
                   "become its owner, or choose another one with --root");
    return false;
  }
  if ((st->st_mode & 022) != 0) {
    report.Warning("store", StrCat("others may write to ", at),
                   "they can replace the files of images", StrCat("chmod go-w ", at));
  }
  return true;
}

// Returns false on a file system on which no store can be.
bool CheckFileSystem(const Paths& paths, const std::string& at, DoctorReport& report) {
  struct statfs fs;
  if (statfs(at.c_str(), &fs) != 0) {
    report.Problem("store", ToStd(ErrnoStatus(errno, at).message()), "the daemon does not start",
                   "choose another directory with --root");
    return false;
  }
  const auto type = static_cast<uint32_t>(fs.f_type);
  const std::string found =
      StrCat(paths.root, at == paths.root ? "" : ", not made yet,", " on ", FileSystemName(at));
  if (!UnsafeFileSystem(type).empty()) {
    report.Problem("store", found,
                   "the daemon refuses it: other machines may use it at the same time, and locks "
                   "do not keep them out",
                   "choose a directory on a local disk with --root; images on such a disk are used "
                   "by store.shared");
    return false;
  }
  if (type == kTmpfs) {
    report.Note("store", found,
                "images take memory, are gone after a restart of the machine, and are read by the "
                "kernel through loop devices only",
                "choose a directory on a disk with --root, unless that is meant");
  } else if (type == kOverlayfs && IsMachineRoot()) {
    report.Note("store", found,
                "overlayfs does not take it as the place for what is written, so mounts with --rw "
                "and containers fail",
                "choose a directory on another file system with --root; in a container, a volume");
  } else {
    report.Ok("store", found);
  }
  return true;
}

std::string LimitText(const StoreSpace::Reading& disk) {
  return disk.limit == 0 ? "" : StrCat("; store.limit is ", FormatBytes(disk.limit));
}

void CheckSpace(const std::string& at, const Config& config, DoctorReport& report) {
  const auto space = StoreSpace::Open(at, config.space);
  const absl::StatusOr<StoreSpace::Reading> disk =
      space.ok() ? (*space)->Read() : absl::StatusOr<StoreSpace::Reading>(space.status());
  if (!disk.ok()) {
    report.Problem("space", ToStd(disk.status().message()), "the daemon does not start",
                   "repair the file system");
    return;
  }
  const std::string found = StrCat(FormatBytes(disk->free), " of ", FormatBytes(disk->total),
                                   " are free", LimitText(*disk));
  if (disk->free == 0 || disk->free < disk->reserve) {
    report.Problem("space",
                   StrCat(found, ", less than the reserve of ", FormatBytes(disk->reserve)),
                   "no image is fetched; what is present can be mounted",
                   "imagefs df, imagefs prune --all, imagefs rm; or store.reserve");
  } else if (disk->free < disk->background_min_free) {
    report.Warning(
        "space",
        StrCat(found, ", less than fill.min_free, ", FormatBytes(disk->background_min_free)),
        "lazy mounts fetch nothing in the background, only what is read",
        "free some space (imagefs df, imagefs prune), or lower fill.min_free");
  } else {
    report.Ok("space", found);
  }
}

void CheckInodes(const std::string& at, DoctorReport& report) {
  struct statvfs disk;
  // Some file systems make them as needed, and say 0.
  if (statvfs(at.c_str(), &disk) != 0 || disk.f_files == 0) return;
  const std::string found = StrCat(disk.f_favail, " inodes of ", disk.f_files, " are free");
  if (disk.f_favail >= kFewInodes) {
    report.Ok("inodes", found);
    return;
  }
  report.Add("inodes", disk.f_favail < kNoInodes ? Finding::kProblem : Finding::kWarning, found,
             "each layer takes a few; without them no image is fetched",
             "remove files from that file system");
}

void CheckRunDirectory(const Paths& paths, DoctorReport& report) {
  if (access(paths.run.c_str(), F_OK) != 0 && errno == ENOENT) return;  // the daemon makes it
  const absl::Status status = PrepareRunDir(paths.run, geteuid());
  if (status.ok()) {
    report.Ok("run directory", paths.run);
  } else {
    report.Problem("run directory", ToStd(status.message()), "the daemon does not start",
                   "make it yours alone, or choose another one with --run");
  }
}

}  // namespace

std::string CheckStore(const Paths& paths, const Config& config, DoctorReport& report) {
  std::string at = Existing(paths.root);
  CheckRunDirectory(paths, report);
  if (!CheckDirectory(paths, at, report) || !CheckFileSystem(paths, at, report)) return "";
  CheckSpace(at, config, report);
  CheckInodes(at, report);
  const absl::Status written = TryToWrite(at);
  if (written.ok()) return at;
  report.Problem("writing", ToStd(written.message()),
                 "no image can be fetched; what is present may still be mounted",
                 absl::IsResourceExhausted(written)
                     ? "free some space: imagefs rm, imagefs prune --all"
                     : "make it writable for this user, or choose another directory with --root");
  return "";
}

}  // namespace imagefs
