// SPDX-License-Identifier: Apache-2.0
// Paths in a tree that somebody else has made, such as an image: nothing in it, no symbolic link
// and no magic link of proc, leads out of its root. Functions are thread-safe and block on the file
// system. Messages show the path as it is in the tree. Requires openat2(2) (Linux 5.6).
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/fd.h"

namespace imagefs {

// `path` is absolute, below the directory `root`.
//
// Opens the directory, and makes what is missing of it. Follows links to what exists, and makes
// nothing outside of the mount of the root.
absl::StatusOr<Fd> MakeDirsInRoot(const Fd& root, const std::string& path);
// The same for a directory below the root which may be no link: for what must be in that place.
absl::StatusOr<Fd> MakeRealDirInRoot(const Fd& root, const std::string& name);
// Opens the file (O_PATH), of any type but a directory; makes an empty one, and its directories, if
// it is missing or a link that leads nowhere.
absl::StatusOr<Fd> MakeFileInRoot(const Fd& root, const std::string& path);
// Reads a regular file; "" if there is none. Fails if it is larger.
absl::StatusOr<std::string> ReadInRoot(const Fd& root, const std::string& path, uint64_t max_bytes);

}  // namespace imagefs
