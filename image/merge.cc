// SPDX-License-Identifier: Apache-2.0
// Walks each layer directly in its index and applies it to the one tree. Keeps nothing but the tree
// and a stack of directories.

#include "image/merge.h"

#include <sys/stat.h>

#include <limits>
#include <utility>

#include "base/status.h"
#include "base/text.h"
#include "image/erofs_import.h"

namespace imagefs {
namespace {

bool IsWhiteout(const ErofsImage::Stat& stat) {
  return S_ISCHR(stat.mode) && stat.rdev_major == 0 && stat.rdev_minor == 0;
}

// Applies one layer to the layers below it.
class LayerMerge {
 public:
  LayerMerge(const ErofsImage& layer, uint16_t device_shift, Tree& tree)
      : layer_(layer), importer_(layer, device_shift, tree), tree_(tree) {}

  absl::Status Apply() {
    IMAGEFS_ASSIGN_OR_RETURN(const ErofsImage::Stat root, layer_.GetStat(layer_.root()));
    IMAGEFS_RETURN_IF_ERROR(MergeDirectory(root, Tree::kRoot));
    while (!stack_.empty()) {
      const Pending directory = stack_.back();
      stack_.pop_back();
      IMAGEFS_RETURN_IF_ERROR(importer_.ForEachChild(
          directory.nid,
          [&](std::string_view name, Nid nid) { return ApplyEntry(directory, name, nid); }));
    }
    return absl::OkStatus();
  }

 private:
  struct Pending {
    Nid nid = 0;
    InodeId id = kNoId;
    bool is_new = false;  // contains nothing from lower layers
  };

  absl::Status ApplyEntry(const Pending& directory, std::string_view name, Nid nid) {
    IMAGEFS_ASSIGN_OR_RETURN(const ErofsImage::Stat stat, layer_.GetStat(nid));
    const DirentId lower = directory.is_new ? kNoId : tree_.Find(directory.id, name);
    if (S_ISDIR(stat.mode) && lower != kNoId) {
      const InodeId id = tree_.dirent(lower).inode;
      if (S_ISDIR(tree_.inode(id).mode)) return MergeDirectory(stat, id);
    }
    if (lower != kNoId) tree_.Unlink(directory.id, name);
    if (IsWhiteout(stat)) return absl::OkStatus();

    InodeId id = kNoId;
    if (S_ISDIR(stat.mode)) {
      IMAGEFS_ASSIGN_OR_RETURN(auto xattrs, importer_.LoadXattrs(nid));
      xattrs.opaque = false;  // nothing below to hide
      IMAGEFS_ASSIGN_OR_RETURN(id, importer_.ImportDirectory(stat, std::move(xattrs)));
      stack_.push_back({nid, id, true});
    } else {
      IMAGEFS_ASSIGN_OR_RETURN(id, importer_.ImportFile(stat));
    }
    tree_.Link(directory.id, name, id);
    return absl::OkStatus();
  }

  // Merges a directory into the existing directory `id`.
  absl::Status MergeDirectory(const ErofsImage::Stat& stat, InodeId id) {
    IMAGEFS_ASSIGN_OR_RETURN(auto xattrs, importer_.LoadXattrs(stat.nid));
    const bool hides = std::exchange(xattrs.opaque, false);
    if (hides) {
      for (const DirentId child : tree_.SortedChildren(id)) {
        tree_.Unlink(id, tree_.dirent(child).name);
      }
    }
    if (!xattrs.implied) importer_.Assign(id, stat, std::move(xattrs));
    stack_.push_back({stat.nid, id, hides});
    return absl::OkStatus();
  }

  const ErofsImage& layer_;
  TreeImporter importer_;
  Tree& tree_;
  std::vector<Pending> stack_;
};

}  // namespace

absl::StatusOr<Tree> MergeLayers(const std::vector<const ErofsImage*>& layers) {
  if (layers.size() > std::numeric_limits<uint16_t>::max()) {
    return absl::InvalidArgumentError(StrCat("an image of ", layers.size(), " layers is too deep"));
  }
  Tree tree;
  for (size_t i = 0; i < layers.size(); ++i) {
    if ((layers[i]->flags() & kIndexOverlayForm) == 0) {
      return absl::InternalError(StrCat("the index of layer ", i, " is a merged one"));
    }
    IMAGEFS_RETURN_IF_ERROR(Annotate(LayerMerge(*layers[i], static_cast<uint16_t>(i), tree).Apply(),
                                     StrCat("layer ", i)));
    if (tree.memory_bytes() > kMaxTreeBytes) return TooManyNames();
  }
  return tree;
}

}  // namespace imagefs
