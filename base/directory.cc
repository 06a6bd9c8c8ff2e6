// SPDX-License-Identifier: Apache-2.0
#include "base/directory.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/magic.h>
#include <linux/openat2.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/cleanup/cleanup.h"
#include "base/log.h"
#include "base/machine_user.h"
#include "base/status.h"
#include "base/text.h"

namespace imagefs {
namespace {

absl::StatusOr<Fd> Open2(const std::string& path, int flags, uint64_t resolve) {
  Fd fd = OpenAt2(AT_FDCWD, path, flags, resolve);
  if (fd.valid()) return fd;
  const int error = errno;
  if (error != ELOOP) return ErrnoStatus(error, path);
  return absl::FailedPreconditionError(
      StrCat(path, ": the path contains a symbolic link, which may have been added meanwhile"));
}

// The components of a path, the last one first.
std::vector<std::string> NamesOf(std::string_view path) {
  std::vector<std::string> names;
  for (const std::string_view name : Split(path, '/')) {
    if (!name.empty() && name != ".") names.emplace_back(name);
  }
  std::reverse(names.begin(), names.end());
  return names;
}

// Whether a link may be one of the machine's root, whose number a user namespace does not know: its
// owner is that of the directory that it is in, and alone may write there. Such a process has only
// a user's rights to lose.
bool IsOfUnknownRoot(const struct stat& link, const Fd& directory) {
  struct stat above;
  return InUserNamespace() && fstat(directory.get(), &above) == 0 && above.st_uid == link.st_uid &&
         (above.st_mode & 022) == 0;
}

// Returns the target of a symbolic link if it may be followed.
absl::StatusOr<std::string> ReadTrustedLink(const Fd& link, const struct stat& st,
                                            const Fd& directory, const std::string& path) {
  struct statfs file_system;
  if (fstatfs(link.get(), &file_system) != 0) return ErrnoStatus(errno, path);
  if (file_system.f_type == PROC_SUPER_MAGIC) {
    return absl::FailedPreconditionError(
        StrCat(path,
               ": the path contains a link of proc, which means something else to the daemon; "
               "give the path that it leads to"));
  }
  if (st.st_uid != 0 && st.st_uid != geteuid() && !IsOfUnknownRoot(st, directory)) {
    return absl::FailedPreconditionError(
        StrCat(path, ": the path contains a symbolic link of user ", st.st_uid,
               ", who can change it at any time; give the path that it leads to"));
  }
  char target[PATH_MAX];
  const ssize_t size = readlinkat(link.get(), "", target, sizeof(target));
  if (size < 0) return ErrnoStatus(errno, path);
  return std::string(target, static_cast<size_t>(size));
}

std::string ProcPath(const Fd& fd) { return StrCat("/proc/self/fd/", fd.get()); }

}  // namespace

Fd OpenAt2(int directory, const std::string& path, int flags, uint64_t resolve) {
  open_how how = {};
  how.flags = static_cast<uint64_t>(flags | O_CLOEXEC);
  how.resolve = resolve;
  long fd = -1;  // NOLINT: as syscall(2) has it
  do {
    fd = syscall(SYS_openat2, directory, path.c_str(), &how, sizeof(how));
  } while (fd < 0 && (errno == EINTR || errno == EAGAIN));
  return Fd(static_cast<int>(fd));
}

absl::Status CheckPath(std::string_view path, std::string_view what) {
  if (path.empty()) return absl::InvalidArgumentError(StrCat(what, " is empty; give a path"));
  const auto shown = [&] { return PrintableName(path, 60); };
  if (path.size() >= PATH_MAX) {
    return absl::InvalidArgumentError(StrCat(what, " has ", path.size(),
                                             " bytes, more than a path may have (", PATH_MAX - 1,
                                             "): ", shown()));
  }
  for (const std::string_view name : Split(path, '/')) {
    if (name.size() <= NAME_MAX) continue;
    return absl::InvalidArgumentError(StrCat(what, " has a name of ", name.size(),
                                             " bytes, more than one may have (", NAME_MAX,
                                             "): ", shown()));
  }
  if (!IsUtf8(path)) {
    return absl::InvalidArgumentError(
        StrCat(what, " is not UTF-8 text: ", shown(), "; choose a name that is"));
  }
  if (HasControls(path)) {
    return absl::InvalidArgumentError(
        StrCat(what, " contains control characters: ", shown(), "; choose a name without them"));
  }
  return absl::OkStatus();
}

absl::StatusOr<struct stat> StatFd(const Fd& fd, std::string_view shown) {
  struct stat st;
  if (fstat(fd.get(), &st) != 0) return ErrnoStatus(errno, shown);
  return st;
}

FileId IdOf(const struct stat& st) { return {st.st_dev, st.st_ino}; }

absl::StatusOr<std::string> PathOf(const Fd& fd, std::string_view shown) {
  char path[PATH_MAX];
  const ssize_t size = readlink(ProcPath(fd).c_str(), path, sizeof(path));
  if (size < 0) return ErrnoStatus(errno, shown);
  if (size == sizeof(path) || path[0] != '/') {
    return absl::InvalidArgumentError(StrCat(shown, ": its path is too long, or it has none"));
  }
  std::string out(path, static_cast<size_t>(size));
  // proc(5) also returns a path for removed files, and for files in a detached mount, where it is
  // the path within that mount.
  const absl::StatusOr<Fd> again = OpenWithoutLinks(out, O_PATH);
  struct stat here, there;
  if (!again.ok() || fstat(fd.get(), &here) != 0 || fstat(again->get(), &there) != 0 ||
      IdOf(here) != IdOf(there)) {
    return absl::NotFoundError(StrCat(shown, ": it was removed or unmounted meanwhile"));
  }
  return out;
}

absl::StatusOr<Fd> OpenPlace(const std::string& path) {
  constexpr int kMaxLinks = 40;  // the kernel's limit
  std::vector<std::string> names = NamesOf(path);
  IMAGEFS_ASSIGN_OR_RETURN(Fd at, OpenFile("/", O_PATH | O_DIRECTORY));
  int links = 0;
  while (!names.empty()) {
    const std::string name = std::move(names.back());
    names.pop_back();
    constexpr int kFlags = O_PATH | O_NOFOLLOW | O_CLOEXEC;
    // O_DIRECTORY triggers automounts, as resolving a path through it would.
    Fd next(openat(at.get(), name.c_str(), kFlags | (names.empty() ? 0 : O_DIRECTORY)));
    if (!next.valid() && errno == ENOTDIR) next = Fd(openat(at.get(), name.c_str(), kFlags));
    if (!next.valid()) return ErrnoStatus(errno, path);
    struct stat st;
    // If fstat fails, it is not a link.
    if (fstat(next.get(), &st) != 0 || !S_ISLNK(st.st_mode)) {
      at = std::move(next);
      continue;
    }
    if (++links > kMaxLinks) return ErrnoStatus(ELOOP, path);
    IMAGEFS_ASSIGN_OR_RETURN(const std::string target, ReadTrustedLink(next, st, at, path));
    if (target.starts_with('/')) {
      IMAGEFS_ASSIGN_OR_RETURN(at, OpenFile("/", O_PATH | O_DIRECTORY));
    }
    const std::vector<std::string> more = NamesOf(target);
    names.insert(names.end(), more.begin(), more.end());
  }
  return at;
}

absl::StatusOr<Fd> OpenWithoutLinks(const std::string& path, int flags) {
  return Open2(path, flags, RESOLVE_NO_SYMLINKS);
}

absl::StatusOr<MadeDir> MakeDirIn(const Fd& parent, const std::string& name, mode_t mode,
                                  const std::string& shown) {
  MadeDir out;
  out.created = mkdirat(parent.get(), name.c_str(), mode) == 0;
  if (!out.created && errno != EEXIST) return ErrnoStatus(errno, StrCat("cannot make ", shown));
  out.fd = Fd(openat(parent.get(), name.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
  if (!out.fd.valid()) {
    if (errno != ELOOP && errno != ENOTDIR) return ErrnoStatus(errno, shown);
    return absl::FailedPreconditionError(
        StrCat(shown, ": a symbolic link or not a directory; remove it"));
  }
  if (!out.created) return out;
  IMAGEFS_ASSIGN_OR_RETURN(const struct stat st, StatFd(out.fd, shown));
  // A user with write access to the parent may have replaced it.
  if (st.st_uid != geteuid() || (st.st_mode & 0777 & ~mode) != 0) {
    return absl::FailedPreconditionError(
        StrCat(shown,
               ": it was replaced while being created; choose a directory that only you may "
               "write to"));
  }
  if ((st.st_mode & 0777) != mode && fchmod(out.fd.get(), mode) != 0) {
    return ErrnoStatus(errno, shown);
  }
  return out;
}

absl::StatusOr<Fd> MakeOwnDir(const std::string& path, mode_t mode) {
  const std::string above = ParentOf(path), name = path.substr(path.rfind('/') + 1);
  IMAGEFS_RETURN_IF_ERROR(MakeDirs(above, 0700));
  IMAGEFS_ASSIGN_OR_RETURN(const Fd parent, OpenFile(above, O_PATH | O_DIRECTORY));
  IMAGEFS_ASSIGN_OR_RETURN(MadeDir made, MakeDirIn(parent, name, mode, path));
  if (made.created) return std::move(made.fd);
  IMAGEFS_ASSIGN_OR_RETURN(const struct stat st, StatFd(made.fd, path));
  if (st.st_uid != geteuid() || (st.st_mode & 0777 & ~mode) != 0) {
    return absl::FailedPreconditionError(
        StrCat(path,
               ": it exists and belongs to another user or is open to others, but "
               "imagefs needs a private one; remove it, or chmod go= it"));
  }
  return std::move(made.fd);
}

absl::StatusOr<std::vector<std::string>> ListDir(const Fd& folder, const std::string& shown) {
  const int raw = openat(folder.get(), ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  DIR* dir = raw < 0 ? nullptr : fdopendir(raw);
  if (dir == nullptr) {
    const absl::Status status = ErrnoStatus(errno, shown);
    if (raw >= 0) close(raw);
    return status;
  }
  absl::Cleanup close = [dir] { closedir(dir); };
  std::vector<std::string> names;
  while (const dirent* entry = readdir(dir)) {
    const std::string_view child = entry->d_name;
    if (child != "." && child != "..") names.emplace_back(child);
  }
  return names;
}

absl::StatusOr<std::vector<std::string>> ListDir(const std::string& path) {
  IMAGEFS_ASSIGN_OR_RETURN(const Fd folder, OpenFile(path, O_RDONLY | O_DIRECTORY));
  return ListDir(folder, path);
}

std::vector<std::string> ListDirOrWarn(const std::string& path) {
  absl::StatusOr<std::vector<std::string>> names = ListDir(path);
  if (names.ok()) return *std::move(names);
  LogWarning("directory.not_listed path=", path, " cause=", names.status().message());
  return {};
}

}  // namespace imagefs
