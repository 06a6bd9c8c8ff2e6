// SPDX-License-Identifier: Apache-2.0
// Reads a layer's tar and reports entries with the location of their bytes: in one pass over the
// uncompressed stream (ReadTar), or from those parts of it that have headers (TarScan). Supports
// v7, ustar, star, GNU (long names, sparse), PAX (including sparse 0.0/0.1/1.0) and base-256; names
// are treated as bytes. Where the formats are ambiguous, follows Go's archive/tar, since the
// runtimes use it. Memory is bounded for any input.
#pragma once

#include <cstdint>
#include <optional>
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

// Reads a tar of which only the headers are fetched. Reports what ReadTar would, and fails where it
// would, but never sees the data of files, nor what follows the archive's end. Not thread-safe.
class TarScan {
 public:
  // `tar_bytes`: the size of the whole stream.
  explicit TarScan(uint64_t tar_bytes) : tar_bytes_(tar_bytes) {}

  // Where the next entry begins.
  uint64_t position() const { return position_; }
  // Calls `entry` for the entries from position() on whose headers are in `bytes`, which are the
  // stream's from `begin` on. Returns nullopt at the end of the archive; else the offset up to
  // which the stream's bytes from position() on are needed to go on. Errors as of ReadTar.
  absl::StatusOr<std::optional<uint64_t>> Continue(
      uint64_t begin, std::string_view bytes, absl::FunctionRef<absl::Status(TarEntry&)> entry);

 private:
  const uint64_t tar_bytes_;
  uint64_t position_ = 0;
};

}  // namespace imagefs
