// SPDX-License-Identifier: Apache-2.0
// Copies inodes of an index into a Tree: the common part of ErofsImage::ToTree and MergeLayers. The
// work is bounded by the size of the image, even for a hostile one.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "image/erofs_reader.h"
#include "image/tree.h"

namespace imagefs {

// Imports one image into one tree. Imports return kResourceExhausted if the tree would take more
// than `max_bytes` of memory. `image` and `tree` must outlive the importer.
class TreeImporter {
 public:
  TreeImporter(const ErofsImage& image, uint16_t device_shift, Tree& tree,
               uint64_t max_bytes = UINT64_MAX)
      : image_(image),
        device_shift_(device_shift),
        tree_(tree),
        max_bytes_(max_bytes),
        budget_(image.size_bytes()) {}

  struct LoadedXattrs {
    std::vector<Xattr> xattrs;  // without the overlay markers
    bool opaque = false;
    bool implied = false;
  };
  absl::StatusOr<LoadedXattrs> LoadXattrs(Nid nid) const;

  // Calls `visit` for every entry except "." and "..", in name order, each name once.
  absl::Status ForEachChild(Nid directory,
                            absl::FunctionRef<absl::Status(std::string_view, Nid)> visit);

  // Sets the attributes of `id` from an inode of the image; keeps its children and names.
  void Assign(InodeId id, const ErofsImage::Stat& stat, LoadedXattrs xattrs);

  // Returns a new inode without a name, or the existing one if the file was imported before (a hard
  // link).
  absl::StatusOr<InodeId> ImportFile(const ErofsImage::Stat& stat);
  // Returns a new directory without a name or children.
  absl::StatusOr<InodeId> ImportDirectory(const ErofsImage::Stat& stat, LoadedXattrs xattrs);

  // Returns kResourceExhausted if the tree plus `more` bytes exceeds the limit.
  absl::Status CheckMemory(uint64_t more = 0);

 private:
  absl::Status Charge(Nid nid);
  absl::Status ImportExtents(InodeId id, const ErofsImage::Stat& stat);

  const ErofsImage& image_;
  const uint16_t device_shift_;
  Tree& tree_;
  const uint64_t max_bytes_;
  size_t since_drop_ = 0;                     // inodes since the image's pages were last dropped
  uint64_t budget_;                           // bytes of the image not yet accounted for
  absl::flat_hash_map<Nid, InodeId> linked_;  // files with multiple names
};

}  // namespace imagefs
