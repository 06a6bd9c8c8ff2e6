// The directory that a mount is to lie on. Its path is resolved once, when it is asked for; from
// then on no symbolic link is followed, and the directory has to be the one that was found.
// Functions are thread-safe and block on the file system that it is of.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/directory.h"
#include "base/fd.h"
#include "fs/mount_syscalls.h"

namespace imagefs {

// True for `directory` itself, too.
bool LiesIn(std::string_view path, std::string_view directory);

// The name under which the kernel lists a mount at `path`. What is dead or absent keeps its name.
std::string MountPointOf(const std::string& path);

// The path that `asked` leads to, links followed. kNotFound says what to do; kInvalidArgument for
// what is no path of a directory that may be mounted on (/dev, control characters in a name).
absl::StatusOr<std::string> ResolveTarget(const std::string& asked);

struct MountTarget {
  FileId covered;  // the directory itself
  Fd place;        // O_PATH: of it, or where `old` is not empty of what it is covered by
  std::vector<MountInfo> old;  // mounts of imagefs that lie on it and are to go, the lowest first
};
// What there is at a directory by its resolved path, below those mounts of imagefs for which
// `is_old` is true, and one whose server is gone. kFailedPrecondition where it is not the directory
// that `expected` allows, where a link lies on the way, where another mount covers it whose server
// is gone, and for what is no directory or not an ordinary one. As root only can it be seen what
// lies below a mount; kUnimplemented where it cannot.
using IsOld = absl::FunctionRef<bool(const MountInfo&)>;
absl::StatusOr<MountTarget> OpenTarget(const std::string& directory, const FileId& expected,
                                       IsOld is_old);

// Attaches a detached mount there, in the place of target.old: at every moment one of them is seen,
// and never the directory. Returns the mounts that lie there then, the lowest first and `mount` the
// last; others are those that could not be taken away from below it (before Linux 6.5, or without
// `beneath`). kFailedPrecondition where the directory was exchanged meanwhile; then the mount is
// gone.
absl::StatusOr<std::vector<MountKey>> AttachTo(const MountTarget& target, const Fd& mount,
                                               const std::string& directory, bool beneath);

// True where a FUSE mount of imagefs is seen that nobody answers.
bool IsDeadAt(const std::string& directory);
// Lazily unmounts those mounts, as root.
absl::Status UnmountOld(const std::string& directory, IsOld is_old);

// kFailedPrecondition for what is of proc, sysfs, or another file system by which the kernel shows
// itself.
absl::Status CheckOrdinary(const Fd& fd, const std::string& shown);
// kInvalidArgument for a resolved path in /dev, which programs take for devices; /dev/shm is
// ordinary. Also what CheckPath says. `what` is its role.
absl::Status CheckResolved(const std::string& path, std::string_view what);

}  // namespace imagefs
