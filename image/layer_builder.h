// SPDX-License-Identifier: Apache-2.0
// Converts the entries of one layer's tar into its tree in overlay form: what containerd's
// overlayfs snapshotter would leave in the upper directory after unpacking that layer alone
// (image-spec, layer.md).
//
//   .wh.NAME        character device 0:0 named NAME, unless this layer itself contains NAME (in any
//                   order: a whiteout hides lower layers only; if NAME is a directory of this layer
//                   it becomes opaque, where the runtimes let the lower one show through)
//   .wh..wh..opq    the directory becomes opaque. In the root of a layer it hides everything in
//                   lower layers, as the image specification and umoci have it (overlayfs ignores
//                   a layer's root, so it has no effect there in containerd and podman)
//   .wh..wh.*       hidden (aufs bookkeeping), but available to hard links until the layer ends:
//                   aufs stored files with several names under .wh..wh.plnk
//   .wh. .wh.. .wh...  an error
//   paths           cleaned ("./", "/", "//", trailing "/"); ".." that leaves the root is an error
//                   in a relative path and the root itself in an absolute one, as in the runtimes;
//                   symbolic links of this layer in the middle of a path are followed inside the
//                   root
//   global headers  are not files, yet the runtimes treat them as entries with their names: missing
//                   parents are created, an existing file of this layer is removed, a whiteout
//                   takes effect
//   root entry      ignored, as in containerd
//   missing parents 0755 root:root, time 0, Inode::implied
//   times           as in the tar, including those before 1970 (which the runtimes turn into 1970)
//   duplicates      the last one wins; a directory over a directory merges; a hard link binds to
//                   the inode that the target names at that moment
//   hard link       its owner, time and mode (not for a symbolic link) apply to all names of the
//                   file, its xattrs are added; a change of owner drops a previous
//                   security.capability, as chown does. Linking to a name that this layer does not
//                   contain (the runtimes fail such a pull as well) or to a directory is an error
//   xattrs          kept, except trusted.overlay.* and trusted.imagefs.* (reserved)
//   sparse files    segments are laid out anew after the tar in the data file, at boundaries that
//                   keep the index small; `moves` lists what the caller must copy there
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

  // Returns kFailedPrecondition if the layer's names and attributes exceed the memory limit.
  absl::Status Add(TarEntry& entry);
  // Approximate memory use so far.
  uint64_t memory_bytes() const { return tree_.memory_bytes(); }

  // An instruction to copy `length` bytes of the data file from `from` (in the tar) to `to` (after
  // it, where the file is otherwise a hole).
  struct Move {
    uint64_t from = 0, to = 0, length = 0;
  };
  struct Result {
    Tree tree;
    std::vector<Move> moves;
    uint64_t data_size = 0;  // of the data file including `moves`; a multiple of 512
  };
  // `tar_size`: size of the whole uncompressed stream.
  absl::StatusOr<Result> Finish(uint64_t tar_size) &&;

 private:
  struct SparseFile {
    InodeId inode = kNoId;
    std::vector<Extent> segments;
  };

  // Returns the directory that holds the last component of `parts`, following symbolic links inside
  // the root. If a directory is missing, creates it (implied) if `create`, else returns kNoId.
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
  // Xattrs of files changed by hard links. They are added to the tree only at the end, because the
  // tree would keep every intermediate state.
  std::map<InodeId, std::map<std::string, std::string>> link_xattrs_;
  std::vector<DirentId> aufs_;  // to be removed from the tree at the end
  uint64_t pending_bytes_ = 0;  // memory held by sparse_, link_xattrs_ and aufs_
};

}  // namespace imagefs
