// One pass over a layer's tar: pulls the uncompressed stream, reports entries with the place of
// their bytes. v7, ustar, star, GNU (long names, sparse), PAX (incl. sparse 0.0/0.1/1.0), base-256;
// names are taken as bytes. Where the formats leave room, the answer is that of Go's archive/tar,
// since the runtimes use it. Memory is bounded, whatever the input.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "image/tree.h"

namespace imagefs {

// Delivers the next bytes of the stream; empty at the end. The view stays valid until the next
// call.
using TarSource = absl::FunctionRef<absl::StatusOr<std::string_view>()>;

struct TarEntry {
  std::string path;   // as in the archive, not cleaned
  uint32_t mode = 0;  // type and permissions
  uint32_t uid = 0, gid = 0;
  int64_t mtime_seconds = 0;
  uint32_t mtime_nanoseconds = 0;
  uint32_t rdev_major = 0, rdev_minor = 0;
  uint64_t size = 0;
  bool hard_link = false;
  // A global PAX header: nothing but the path is set. Its records apply to no entry (the runtimes
  // ignore them as well), but see LayerBuilder for what it does.
  bool global = false;
  std::string link;  // target of a symbolic link or of a hard link
  std::vector<Xattr> xattrs;
  // Regular files: where the bytes lie in the tar. data_offset may be no multiple of 512 for the
  // later segments of a sparse file (see LayerBuilder).
  std::vector<Extent> extents;
};

// Calls `entry` for each entry in order until the archive ends, then drains `source` (trailing
// bytes belong to the DiffID). Errors of `source` and `entry` come back unchanged; a malformed
// archive is kDataLoss, an unknown entry type or an impossible name kInvalidArgument, naming the
// entry.
absl::Status ReadTar(TarSource source, absl::FunctionRef<absl::Status(TarEntry&)> entry);

}  // namespace imagefs
