// SPDX-License-Identifier: Apache-2.0
// Operations on directories by descriptor. Every system call resolves a path anew, and the owner of
// a parent directory can change what it leads to in between; a descriptor is not subject to such
// races. Paths are absolute. Functions are thread-safe and block on the file system. Requires
// openat2(2) (Linux 5.6).
#pragma once

#include <sys/stat.h>
#include <sys/types.h>

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/fd.h"

namespace imagefs {

// Identifies a directory independently of its name.
struct FileId {
  uint64_t device = 0;  // device number, stable within one boot; 0 = unknown
  uint64_t inode = 0;   // 0 = unknown
  bool known() const { return inode != 0; }
  // Returns whether `found` matches the known fields of this id.
  bool Allows(const FileId& found) const {
    return (inode == 0 || inode == found.inode) && (device == 0 || device == found.device);
  }
  friend bool operator==(const FileId&, const FileId&) = default;
};

// Returns kInvalidArgument if `path` is empty, longer than the kernel accepts, not UTF-8, or
// contains control characters (which neither messages nor the control protocol can carry). The
// message shows the path shortened and escaped. `what` names its role, for example "DIR".
absl::Status CheckPath(std::string_view path, std::string_view what);

// openat2(2) with those flags of open(2), and O_CLOEXEC. Tries again after a signal, and if a
// rename made the kernel unsure whether ".." left the directory. Returns an invalid descriptor and
// sets errno if it fails.
Fd OpenAt2(int directory, const std::string& path, int flags, uint64_t resolve);

// fstat(2); the error names `shown`.
absl::StatusOr<struct stat> StatFd(const Fd& fd, std::string_view shown);
FileId IdOf(const struct stat& st);

// Returns the current path of the open file, without symbolic links, or kNotFound if the file has
// been removed or unmounted.
absl::StatusOr<std::string> PathOf(const Fd& fd, std::string_view shown);

// Opens a path that may contain symbolic links, with O_PATH. Follows only links owned by root or by
// this process's user, and no magic links of proc(5) (/proc/self, /dev/fd/3), which would refer to
// this process; returns kFailedPrecondition for any other. Returns kNotFound if nothing exists
// there.
absl::StatusOr<Fd> OpenPlace(const std::string& path);

// Opens `path` with open(2) `flags`. Returns kFailedPrecondition if any component is a symbolic
// link.
absl::StatusOr<Fd> OpenWithoutLinks(const std::string& path, int flags);

// Opens the subdirectory `name` of `parent`, creating it with `mode` (regardless of the umask) if
// it does not exist. An existing directory is left unchanged. Returns kFailedPrecondition if it is
// a symbolic link, not a directory, or was replaced before it could be opened. `shown` is its path
// for messages.
struct MadeDir {
  Fd fd;  // readable
  bool created = false;
};
absl::StatusOr<MadeDir> MakeDirIn(const Fd& parent, const std::string& name, mode_t mode,
                                  const std::string& shown);

// Opens a directory private to this process, creating it and its parents with `mode` if missing.
// Returns kFailedPrecondition if an existing one is not owned by this process's user or is more
// permissive than `mode`; it is never changed. Symbolic links above it are followed.
absl::StatusOr<Fd> MakeOwnDir(const std::string& path, mode_t mode = 0700);

// Returns the names in a directory, unordered, without "." and "..". `shown` is its path for
// messages.
absl::StatusOr<std::vector<std::string>> ListDir(const std::string& path);
absl::StatusOr<std::vector<std::string>> ListDir(const Fd& folder, const std::string& shown);
// For callers that go on without: logs why a directory cannot be listed, and returns no names.
std::vector<std::string> ListDirOrWarn(const std::string& path);

}  // namespace imagefs
