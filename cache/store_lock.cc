// SPDX-License-Identifier: Apache-2.0
#include "cache/store_lock.h"

#include <fcntl.h>
#include <sched.h>
#include <sys/file.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <string_view>
#include <system_error>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "base/failure.h"
#include "base/log.h"
#include "base/monotonic.h"
#include "base/status.h"
#include "base/text.h"

namespace imagefs {
namespace {

// Idle-priority threads may take that long on a busy machine.
constexpr absl::Duration kMostEnding = absl::Seconds(30);
constexpr absl::Duration kLookAgain = absl::Milliseconds(10);

// Returns the pid of the daemon that holds the lock, or "" if this call acquired it.
absl::StatusOr<std::string> TryLock(const Fd& fd, const std::string& path) {
  if (flock(fd.get(), LOCK_EX | LOCK_NB) == 0) return "";
  if (errno != EWOULDBLOCK) return ErrnoStatus(errno, path);
  const absl::StatusOr<std::string> owner = ReadFile(path, 64);
  return owner.ok() && !owner->empty() ? owner->substr(0, owner->find(' ')) : "unknown";
}

absl::Status CheckHome(const std::string& root) {
  struct statfs fs;
  if (statfs(root.c_str(), &fs) != 0) return ErrnoStatus(errno, root);
  const std::string_view name = UnsafeFileSystem(static_cast<uint32_t>(fs.f_type));
  if (name.empty()) return absl::OkStatus();
  return absl::FailedPreconditionError(StrCat(
      "the store ", root, " is on ", name,
      ", where other machines may use it at the same time and locks do not keep them out; choose ",
      "a directory on a local disk with --root (for example /var/tmp/imagefs-$USER), and read ",
      "images that are on ", name, " with store.shared in config.toml"));
}

}  // namespace

std::string_view UnsafeFileSystem(uint64_t type) {
  switch (type) {
    case 0x6969:
      return "NFS";
    case 0x517B:
    case 0xFF534D42:
    case 0xFE534D42:
      return "SMB";
    case 0x5346414F:
    case 0x6B414653:
      return "AFS";
    default:
      return "";
  }
}

bool IsExitingAfterKill(std::string_view pid) {
  const absl::StatusOr<std::string> stat = ReadFile(StrCat("/proc/", pid, "/stat"), 4096);
  if (!stat.ok()) return true;
  const size_t state = stat->rfind(") ");  // after the name, which may contain any characters
  if (state == std::string::npos || ((*stat)[state + 2] != 'Z' && (*stat)[state + 2] != 'X')) {
    return false;
  }
  std::error_code ignored;
  const std::filesystem::directory_iterator tasks(StrCat("/proc/", pid, "/task"), ignored);
  for (auto it = tasks; !ignored && it != std::filesystem::directory_iterator();
       it.increment(ignored)) {
    const auto thread = ParseDecimal(it->path().filename().string());
    const sched_param ordinary = {};
    // Unprivileged users may not do this; they just wait.
    if (thread.has_value()) {
      (void)sched_setscheduler(static_cast<pid_t>(*thread), SCHED_OTHER, &ordinary);
    }
  }
  return true;
}

absl::StatusOr<Fd> LockStore(const std::string& root) {
  IMAGEFS_RETURN_IF_ERROR(CheckHome(root));
  const std::string path = root + "/lock";
  absl::StatusOr<Fd> fd = OpenFile(path, O_RDWR | O_CREAT, 0600);
  // A file system that became read-only can still be served.
  if (!fd.ok()) {
    absl::StatusOr<Fd> readable = OpenFile(path, O_RDONLY);
    if (!readable.ok()) return fd.status();
    fd = std::move(readable);
  }
  IMAGEFS_ASSIGN_OR_RETURN(std::string owner, TryLock(*fd, path));
  const Moment give_up = Moment::Now() + kMostEnding;
  while (!owner.empty() && IsExitingAfterKill(owner) && Moment::Now() < give_up) {
    absl::SleepFor(kLookAgain);
    IMAGEFS_ASSIGN_OR_RETURN(owner, TryLock(*fd, path));
  }
  if (!owner.empty()) {
    return WithKind(
        absl::FailedPreconditionError(
            StrCat("the store ", root, " is in use by the daemon with pid ", owner,
                   "; use that one, stop it (imagefs stop), or choose another store with --root")),
        FailureKind::kBusy);
  }
  // For humans only. Overwrites the previous pid, whose block exists even on a full disk.
  const std::string pid = StrCat(getpid());
  absl::Status written = PwriteFull(fd->get(), pid, 0);
  if (written.ok() && ftruncate(fd->get(), static_cast<off_t>(pid.size())) != 0) {
    written = ErrnoStatus(errno, path);
  }
  if (!written.ok()) LogWarning("lock.pid_not_written cause=", written.message());
  return fd;
}

bool StoreHasContent(const std::string& root) {
  for (const char* name : {"/layers", "/chains", "/snapshots", "/upper"}) {
    std::error_code ignored;
    const std::filesystem::directory_iterator it(root + name, ignored);
    if (!ignored && it != std::filesystem::directory_iterator()) return true;
  }
  return false;
}

}  // namespace imagefs
