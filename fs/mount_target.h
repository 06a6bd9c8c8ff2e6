// The directory that a mount is to lie on. Its path is resolved once, when it is asked for; from
// then on no symbolic link is followed, and the directory has to be the one that was found.
// Functions are thread-safe and block on the file system that it is of.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/directory.h"
#include "base/fd.h"

namespace imagefs {

// The path that `asked` leads to, links followed. kNotFound says what to do.
absl::StatusOr<std::string> ResolveTarget(const std::string& asked);

// A descriptor (O_PATH) of a directory by its resolved path. kFailedPrecondition where it is not
// the one that `expected` allows, where a link lies on the way, where a mount covers it whose
// server is gone, and for what is no directory or one of proc or sysfs.
absl::StatusOr<Fd> OpenTarget(const std::string& directory, const FileId& expected);

// kFailedPrecondition for what is of proc or sysfs.
absl::Status CheckOrdinary(const Fd& fd, const std::string& shown);

}  // namespace imagefs
