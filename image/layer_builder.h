// From the entries of one layer's tar to its tree in overlay form: what containerd's overlayfs
// unpack of that layer alone would leave in the upper directory (image-spec, layer.md).
//
//   .wh.NAME        character device 0:0 named NAME, unless this layer itself has NAME (whatever the
//                   order: a whiteout hides lower layers only)
//   .wh..wh..opq    the directory becomes opaque
//   .wh..wh.*       dropped (aufs book-keeping);  ".wh." alone, ".wh..", ".wh...": an error
//   paths           cleaned ("./", "/", "//", trailing "/"); ".." that leaves the root is an error;
//                   symbolic links of this layer in the middle of a path are followed inside the root
//   root entry      ignored, as containerd does
//   missing parents 0755 root:root, time 0, Inode::implied
//   duplicates      the last wins; a directory over a directory merges; a hard link binds to the
//                   inode that the target names at that moment
//   hard link       to a name that this layer does not have: an error (the runtimes fail such a pull
//                   as well); to a directory: an error
//   xattrs          kept, except trusted.overlay.* and trusted.imagefs.* (ours to set)
//   sparse files    segments that do not lie on 512-byte bounds are listed in `moves`: the caller
//                   copies them behind the tar in the data file
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "image/tar.h"
#include "image/tree.h"

namespace imagefs {

class LayerBuilder {
 public:
  LayerBuilder() = default;

  absl::Status Add(TarEntry& entry);

  // Copy `length` bytes of the data file from `from` to `to`.
  struct Move {
    uint64_t from = 0, to = 0, length = 0;
  };
  struct Result {
    Tree tree;
    std::vector<Move> moves;
    uint64_t data_size = 0;  // of the data file incl. what `moves` adds; a multiple of 512
  };
  // `tar_size`: bytes of the whole uncompressed stream.
  absl::StatusOr<Result> Finish(uint64_t tar_size) &&;

 private:
  // Further private state is the implementation's.
  Tree tree_;
};

}  // namespace imagefs
