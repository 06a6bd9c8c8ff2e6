// SPDX-License-Identifier: Apache-2.0
// Reads a layer's tar in one pass: pulls the uncompressed stream and reports entries with the
// location of their bytes. Supports v7, ustar, star, GNU (long names, sparse), PAX (including
// sparse 0.0/0.1/1.0) and base-256; names are treated as bytes. Where the formats are ambiguous,
// follows Go's archive/tar, since the runtimes use it. Memory is bounded for any input.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "image/tree.h"

namespace imagefs {

// Returns the next bytes of the stream; empty at the end. The view is valid until the next call.
using TarSource = absl::FunctionRef<absl::StatusOr<std::string_view>()>;

struct TarEntry {
  std::string path;   // verbatim, not cleaned
  uint32_t mode = 0;  // type and permissions
  uint32_t uid = 0, gid = 0;
  int64_t mtime_seconds = 0;
  uint32_t mtime_nanoseconds = 0;
  uint32_t rdev_major = 0, rdev_minor = 0;
  uint64_t size = 0;
  bool hard_link = false;
  // A global PAX header: only the path is set. Its records apply to no entry (as in the runtimes),
  // but see LayerBuilder for its effect.
  bool global = false;
  std::string link;  // target of a symbolic or hard link
  std::vector<Xattr> xattrs;
  // Regular files: location of the bytes in the tar. data_offset may not be a multiple of 512 for
  // later segments of a sparse file (see LayerBuilder).
  std::vector<Extent> extents;
};

// Calls `entry` for each entry in order until the archive ends, then drains `source` (trailing
// bytes are part of the DiffID). Errors of `source` and `entry` are returned unchanged. Returns
// kDataLoss for a malformed archive, and kInvalidArgument, with the entry's name, for an unknown
// entry type or an impossible name.
absl::Status ReadTar(TarSource source, absl::FunctionRef<absl::Status(TarEntry&)> entry);

}  // namespace imagefs
