// Copies inodes of an index into a Tree: the common part of ErofsImage::ToTree and MergeLayers.
// The work is bounded by the size of the image, whatever a hostile one says.
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

// One image into one tree, which may take `max_bytes`: with more, an import is kResourceExhausted.
// `image` and `tree` must outlive the importer.
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
    std::vector<Xattr> xattrs;  // without the markers of overlay form
    bool opaque = false;
    bool implied = false;
  };
  absl::StatusOr<LoadedXattrs> LoadXattrs(Nid nid) const;

  // Calls `visit` for every entry but "." and "..", in the order of names, each name once.
  absl::Status ForEachChild(Nid directory,
                            absl::FunctionRef<absl::Status(std::string_view, Nid)> visit);

  // Gives `id` the attributes of an inode of the image; its children and names stay.
  void Assign(InodeId id, const ErofsImage::Stat& stat, LoadedXattrs xattrs);

  // A new inode without a name; a file that was imported before is returned again (a hard link).
  absl::StatusOr<InodeId> ImportFile(const ErofsImage::Stat& stat);
  // A new directory without a name and without children.
  absl::StatusOr<InodeId> ImportDirectory(const ErofsImage::Stat& stat, LoadedXattrs xattrs);

  // kResourceExhausted when the tree takes more than it may. `more`: what is not in it yet.
  absl::Status CheckMemory(uint64_t more = 0);

 private:
  absl::Status Charge(Nid nid);
  absl::Status ImportExtents(InodeId id, const ErofsImage::Stat& stat);

  const ErofsImage& image_;
  const uint16_t device_shift_;
  Tree& tree_;
  const uint64_t max_bytes_;
  size_t since_drop_ = 0;                     // inodes since the image's pages were told to go
  uint64_t budget_;                           // bytes of the image that are not accounted for yet
  absl::flat_hash_map<Nid, InodeId> linked_;  // files with several names
};

}  // namespace imagefs
