#include "cache/store_lock.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <system_error>

#include "base/log.h"
#include "base/status.h"
#include "base/text.h"

namespace imagefs {

absl::StatusOr<Fd> LockStore(const std::string& root) {
  const std::string path = root + "/lock";
  absl::StatusOr<Fd> fd = OpenFile(path, O_RDWR | O_CREAT, 0600);
  // A file system that became read-only can still be shown.
  if (!fd.ok()) {
    absl::StatusOr<Fd> readable = OpenFile(path, O_RDONLY);
    if (!readable.ok()) return fd.status();
    fd = std::move(readable);
  }
  if (flock(fd->get(), LOCK_EX | LOCK_NB) != 0) {
    if (errno != EWOULDBLOCK) return ErrnoStatus(errno, path);
    const absl::StatusOr<std::string> owner = ReadFile(path, 64);
    return absl::FailedPreconditionError(
        StrCat("the store ", root, " is in use by the daemon with pid ",
               owner.ok() && !owner->empty() ? owner->substr(0, owner->find(' ')) : "unknown",
               "; use that one, stop it (imagefs stop), or choose another store with --root"));
  }
  // For people only. Over the pid before, whose block is there on a full disk, too.
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
