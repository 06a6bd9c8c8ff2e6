// The directory that a mount is to lie on. Its path is resolved once, when it is asked for; from
// then on no symbolic link is followed, and the directory has to be the one that was found.
// Functions are thread-safe and block on the file system that it is of.
#pragma once

#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/directory.h"
#include "base/fd.h"

namespace imagefs {

// The path that `asked` leads to, links followed. kNotFound says what to do; kInvalidArgument for
// what is no path of a directory that may be mounted on (/dev, control characters in a name).
absl::StatusOr<std::string> ResolveTarget(const std::string& asked);

// A descriptor (O_PATH) of a directory by its resolved path. kFailedPrecondition where it is not
// the one that `expected` allows, where a link lies on the way, where a mount covers it whose
// server is gone, and for what is no directory or not an ordinary one.
absl::StatusOr<Fd> OpenTarget(const std::string& directory, const FileId& expected);

// kFailedPrecondition for what is of proc, sysfs, or another file system by which the kernel shows
// itself.
absl::Status CheckOrdinary(const Fd& fd, const std::string& shown);
// kInvalidArgument for a resolved path in /dev, which programs take for devices; /dev/shm is
// ordinary. Also what CheckPath says. `what` is its role.
absl::Status CheckResolved(const std::string& path, std::string_view what);

}  // namespace imagefs
