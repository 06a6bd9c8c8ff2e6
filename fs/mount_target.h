// SPDX-License-Identifier: Apache-2.0
// The directory that a mount covers. Its path is resolved once, when the mount is requested;
// afterwards no symbolic link is followed, and the directory must be the one found then. Functions
// are thread-safe and block on the directory's file system.
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

// Returns true also for `directory` itself.
bool LiesIn(std::string_view path, std::string_view directory);

// Returns the name under which the kernel lists a mount at `path`. A dead or missing path is
// returned unchanged.
std::string MountPointOf(const std::string& path);

// Returns the path that `asked` leads to, following links. kNotFound says what to do. Returns
// kInvalidArgument if the path cannot be a mount point (in /dev, or with control characters in a
// name).
absl::StatusOr<std::string> ResolveTarget(const std::string& asked);

struct MountTarget {
  FileId covered;  // the directory itself
  Fd place;        // O_PATH, of the directory, or of what covers it if `old` is not empty
  std::vector<MountInfo> old;  // mounts of ours on it that are to be removed, lowest first
};
// Opens a directory by its resolved path, below mounts for which `is_old` is true, which must be
// ours, and below one mount whose server is gone. Returns kFailedPrecondition if it is not the
// directory that `expected` allows, the path contains a link, another mount whose server is gone
// covers it, or it is not an ordinary directory. Only root can look below a mount; returns
// kUnimplemented if that is not possible.
using IsOld = absl::FunctionRef<bool(const MountInfo&)>;
absl::StatusOr<MountTarget> OpenTarget(const std::string& directory, const FileId& expected,
                                       IsOld is_old);

// Attaches a detached mount with that source there, replacing target.old. At every moment one of
// the two is visible, and never the directory. Returns the mounts that are then on the directory,
// lowest first, ending with `mount`; the others could not be removed from below it (before
// Linux 6.5, or without `beneath`). Returns kFailedPrecondition if the directory was replaced in
// the meantime; `mount` is then unmounted.
absl::StatusOr<std::vector<MountKey>> AttachTo(const MountTarget& target, const Fd& mount,
                                               std::string_view source,
                                               const std::string& directory, bool beneath);

// Returns true if a FUSE mount of ours is visible there whose server is gone.
bool IsDeadAt(const std::string& directory);
// Lazily unmounts the mounts for which `is_old` is true. Root only.
absl::Status UnmountOld(const std::string& directory, IsOld is_old);

// Returns kFailedPrecondition for a file on proc, sysfs, or another file system that exposes kernel
// state.
absl::Status CheckOrdinary(const Fd& fd, const std::string& shown);
// Returns kInvalidArgument for a resolved path in /dev, where programs expect devices (/dev/shm is
// allowed), or if CheckPath rejects it. `what` is the role of the path, for messages.
absl::Status CheckResolved(const std::string& path, std::string_view what);

}  // namespace imagefs
