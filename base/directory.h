// Directories by descriptor. A path is looked up anew by every system call that is given it, and
// who owns a directory above can exchange what it leads to in between; a descriptor cannot be
// exchanged. Paths are absolute. Functions are thread-safe and block on the file system. openat2(2)
// needs Linux 5.6.
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

// Which directory it is, whatever its name.
struct FileId {
  uint64_t device = 0;  // number of its file system in one boot; 0 = not known
  uint64_t inode = 0;   // 0 = not known
  bool known() const { return inode != 0; }
  // Whether `found` is this one, as far as this one is known.
  bool Allows(const FileId& found) const {
    return (inode == 0 || inode == found.inode) && (device == 0 || device == found.device);
  }
  friend bool operator==(const FileId&, const FileId&) = default;
};

// kInvalidArgument for a path that is empty or longer than the kernel takes, and for one that is
// not UTF-8 or has control characters, which neither messages nor the control protocol can carry.
// The message shows it shortened and escaped. `what` is its role: "DIR".
absl::Status CheckPath(std::string_view path, std::string_view what);

// fstat(2) of what `fd` is; the error names `shown`.
absl::StatusOr<struct stat> StatFd(const Fd& fd, std::string_view shown);
FileId IdOf(const struct stat& st);

// The path of what a descriptor is now, without symbolic links. kNotFound when it was removed,
// or its mount was.
absl::StatusOr<std::string> PathOf(const Fd& fd, std::string_view shown);

// Opens a path that may have symbolic links, as a place only (O_PATH). Only those of root and of
// this process's user are followed, and none of proc(5) (/proc/self, /dev/fd/3), which would mean
// this process: kFailedPrecondition. kNotFound where there is nothing.
absl::StatusOr<Fd> OpenPlace(const std::string& path);

// Opens `path` with open(2)'s `flags`; kFailedPrecondition when any of its names is a symbolic
// link.
absl::StatusOr<Fd> OpenWithoutLinks(const std::string& path, int flags);

// A directory of `parent` that was there, or was made with `mode`, whatever the umask is. One that
// was there is left as it is. kFailedPrecondition when it is a link or no directory, or was
// exchanged before it could be opened. `shown` is its path for messages.
struct MadeDir {
  Fd fd;  // readable
  bool created = false;
};
absl::StatusOr<MadeDir> MakeDirIn(const Fd& parent, const std::string& name, mode_t mode,
                                  const std::string& shown);

// A directory of this process alone: made with `mode` where it is missing (with those above it).
// One that is there has to belong to this process's user and be no more open than `mode`, else
// kFailedPrecondition says so; it is never changed. Links above it are followed.
absl::StatusOr<Fd> MakeOwnDir(const std::string& path, mode_t mode = 0700);

// The names in a directory, in no order, without "." and "..". `shown` is its path for messages.
absl::StatusOr<std::vector<std::string>> ListDir(const std::string& path);
absl::StatusOr<std::vector<std::string>> ListDir(const Fd& folder, const std::string& shown);

}  // namespace imagefs
