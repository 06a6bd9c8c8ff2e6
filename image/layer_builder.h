// From the entries of one layer's tar to its tree in overlay form: what containerd's overlayfs
// unpack of that layer alone would leave in the upper directory (image-spec, layer.md).
//
//   .wh.NAME        character device 0:0 named NAME, unless this layer itself has NAME (whatever
//                   the order: a whiteout hides lower layers only; the layer's own directory NAME
//                   becomes opaque, where the runtimes let the lower one show through)
//   .wh..wh..opq    the directory becomes opaque. In the root of a layer it hides all that lower
//                   layers have, as the image specification and umoci say (overlayfs does not look
//                   at a layer's root, so in containerd and podman it has no effect there)
//   .wh..wh.*       not shown (book-keeping of aufs), but until the layer ends there for its hard
//                   links: aufs kept files of several names under .wh..wh.plnk
//   .wh. .wh.. .wh...  an error
//   paths           cleaned ("./", "/", "//", trailing "/"); ".." that leaves the root is an error
//                   in a relative path and the root itself in one that begins with "/", as in the
//                   runtimes; symbolic links of this layer in the middle of a path are followed
//                   inside the root
//   global headers  are no files, and yet to the runtimes they are entries of their names: missing
//                   parents are made, what this layer has there is gone, a whiteout is a whiteout
//   root entry      ignored, as containerd does
//   missing parents 0755 root:root, time 0, Inode::implied
//   times           as the tar says, also those before 1970 (which the runtimes turn into 1970)
//   duplicates      the last wins; a directory over a directory merges; a hard link binds to the
//                   inode that the target names at that moment
//   hard link       the last entry's owner, time and mode (not of a symbolic link) become those of
//                   all names, its xattrs are added; a change of the owner drops the
//                   security.capability that was there before, as chown does. To a name that this
//                   layer does not have: an error (the runtimes fail such a pull as well); to a
//                   directory: an error
//   xattrs          kept, except trusted.overlay.* and trusted.imagefs.* (ours to set)
//   sparse files    their segments are laid out anew behind the tar in the data file, on bounds
//                   that keep the index small; `moves` lists what the caller copies there
#pragma once

#include <cstdint>
#include <map>
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

  // kFailedPrecondition when the layer has more names and attributes than memory is given to.
  absl::Status Add(TarEntry& entry);
  // About what it takes so far.
  uint64_t memory_bytes() const { return tree_.memory_bytes(); }

  // Copy `length` bytes of the data file from `from` (in the tar) to `to` (behind it, where the
  // file is otherwise a hole).
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
  struct SparseFile {
    InodeId inode = kNoId;
    std::vector<Extent> segments;
  };

  // The directory that holds the last component of `parts`, with symbolic links followed inside the
  // root. With `create`, missing directories are made (implied); else kNoId when one is missing.
  absl::StatusOr<InodeId> ResolveParent(const std::vector<std::string_view>& parts, bool create);
  // REQUIRES: the name is absent.
  void Link(InodeId directory, std::string_view name, InodeId inode);
  absl::Status AddWhiteout(InodeId directory, std::string_view name);
  absl::Status AddHardLink(InodeId directory, std::string_view name, TarEntry& entry);
  void ApplyLinkEntry(InodeId inode, TarEntry& entry);
  absl::Status AddNode(InodeId directory, std::string_view name, TarEntry& entry);
  void LayOutSparse(SparseFile& file, uint64_t& end, std::vector<Move>& moves);

  Tree tree_;
  std::vector<SparseFile> sparse_;
  // Xattrs of files that hard links have changed. They go to the tree at the end, which would keep
  // every state in between.
  std::map<InodeId, std::map<std::string, std::string>> link_xattrs_;
  std::vector<DirentId> aufs_;  // what is not to be shown at the end
  uint64_t pending_bytes_ = 0;  // that entries have left in sparse_, link_xattrs_ and aufs_
};

}  // namespace imagefs
