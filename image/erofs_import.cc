// SPDX-License-Identifier: Apache-2.0
#include "image/erofs_import.h"

#include <sys/stat.h>

#include <limits>
#include <utility>

#include "base/status.h"
#include "base/text.h"
#include "image/erofs_format.h"

namespace imagefs {
namespace {

constexpr size_t kInodesADrop = 8192;
constexpr size_t kLinkedBytes = 32;  // of an entry in linked_

}  // namespace

absl::StatusOr<TreeImporter::LoadedXattrs> TreeImporter::LoadXattrs(Nid nid) const {
  LoadedXattrs loaded;
  if (!image_.has_xattrs()) return loaded;
  IMAGEFS_ASSIGN_OR_RETURN(loaded.xattrs, image_.Xattrs(nid));
  if ((image_.flags() & kIndexOverlayForm) == 0) return loaded;
  std::erase_if(loaded.xattrs, [&](const Xattr& xattr) {
    if (xattr.name == kOpaqueXattr) return loaded.opaque = true;
    if (xattr.name == kImpliedXattr) return loaded.implied = true;
    return false;
  });
  return loaded;
}

// In a valid image, each inode is visited once and no two share bytes, so the bytes sum to at most
// the size of the image. If directories form a cycle or share bytes, the sum exceeds it.
absl::Status TreeImporter::Charge(Nid nid) {
  IMAGEFS_ASSIGN_OR_RETURN(const uint64_t bytes, image_.StoredBytes(nid));
  if (bytes > budget_) {
    return absl::DataLossError(
        StrCat("index: inode ", nid, " is reached twice; remove the index to have it built again"));
  }
  budget_ -= bytes;
  return absl::OkStatus();
}

absl::Status TreeImporter::CheckMemory(uint64_t more) {
  if (max_bytes_ == UINT64_MAX) return absl::OkStatus();
  if (++since_drop_ % kInodesADrop == 0) image_.DropResidentPages();
  if (tree_.memory_bytes() + linked_.size() * kLinkedBytes + more <= max_bytes_) {
    return absl::OkStatus();
  }
  return absl::ResourceExhaustedError(StrCat("index: its tree takes more than the ", max_bytes_,
                                             " bytes that one of ", image_.size_bytes(),
                                             " bytes may"));
}

absl::Status TreeImporter::ForEachChild(
    Nid directory, absl::FunctionRef<absl::Status(std::string_view, Nid)> visit) {
  IMAGEFS_RETURN_IF_ERROR(Charge(directory));
  absl::Status status;
  std::string before;
  IMAGEFS_RETURN_IF_ERROR(image_.ReadDir(directory, 0, [&](const ErofsImage::DirentView& entry) {
    if (entry.name <= before) {
      status = absl::DataLossError(StrCat("index: directory ", directory,
                                          " is not sorted; remove the index to have it built "
                                          "again"));
      return false;
    }
    before.assign(entry.name);
    if (entry.name != "." && entry.name != "..") status = visit(entry.name, entry.nid);
    return status.ok();
  }));
  return status;
}

void TreeImporter::Assign(InodeId id, const ErofsImage::Stat& stat, LoadedXattrs xattrs) {
  Inode& inode = tree_.inode(id);
  inode.mode = stat.mode;
  inode.uid = stat.uid;
  inode.gid = stat.gid;
  inode.mtime_seconds = stat.mtime_seconds;
  inode.mtime_nanoseconds = stat.mtime_nanoseconds;
  inode.rdev_major = stat.rdev_major;
  inode.rdev_minor = stat.rdev_minor;
  inode.opaque = xattrs.opaque;
  inode.implied = xattrs.implied;
  inode.size = S_ISDIR(stat.mode) ? 0 : stat.size;
  if (!xattrs.xattrs.empty() || !tree_.Xattrs(id).empty()) {
    tree_.SetXattrs(id, std::move(xattrs.xattrs));
  }
}

absl::StatusOr<InodeId> TreeImporter::ImportDirectory(const ErofsImage::Stat& stat,
                                                      LoadedXattrs xattrs) {
  IMAGEFS_RETURN_IF_ERROR(CheckMemory());
  Inode attributes;
  attributes.mode = stat.mode;
  const InodeId id = tree_.NewInode(attributes);
  Assign(id, stat, std::move(xattrs));
  return id;
}

absl::StatusOr<InodeId> TreeImporter::ImportFile(const ErofsImage::Stat& stat) {
  if (stat.nlink > 1) {
    if (const auto it = linked_.find(stat.nid); it != linked_.end()) return it->second;
  }
  IMAGEFS_RETURN_IF_ERROR(Charge(stat.nid));
  IMAGEFS_RETURN_IF_ERROR(CheckMemory());
  Inode attributes;
  attributes.mode = stat.mode;
  switch (stat.mode & S_IFMT) {
    case S_IFLNK: {
      IMAGEFS_ASSIGN_OR_RETURN(const std::string target, image_.Readlink(stat.nid));
      attributes.symlink = tree_.Intern(target);
      break;
    }
    case S_IFREG:
    case S_IFCHR:
    case S_IFBLK:
    case S_IFIFO:
    case S_IFSOCK:
      break;
    default:
      return absl::DataLossError(StrCat("index: inode ", stat.nid, " has no known file type"));
  }
  IMAGEFS_ASSIGN_OR_RETURN(LoadedXattrs xattrs, LoadXattrs(stat.nid));
  const InodeId id = tree_.NewInode(attributes);
  Assign(id, stat, std::move(xattrs));
  if (S_ISREG(stat.mode)) IMAGEFS_RETURN_IF_ERROR(ImportExtents(id, stat));
  if (stat.nlink > 1) linked_.emplace(stat.nid, id);
  return id;
}

absl::Status TreeImporter::ImportExtents(InodeId id, const ErofsImage::Stat& stat) {
  std::vector<Extent> extents;
  for (uint64_t offset = 0; offset < stat.size;) {
    IMAGEFS_ASSIGN_OR_RETURN(Extent extent, image_.Map(stat.nid, offset));
    offset += extent.length;
    if (extent.device == 0) continue;
    if (extent.device > std::numeric_limits<uint16_t>::max() - device_shift_) {
      return absl::InvalidArgumentError("an index cannot name more than 65535 data files");
    }
    extent.device = static_cast<uint16_t>(extent.device + device_shift_);
    Extent* last = extents.empty() ? nullptr : &extents.back();
    if (last != nullptr && last->device == extent.device &&
        last->file_offset + last->length == extent.file_offset &&
        last->data_offset + last->length == extent.data_offset) {
      last->length += extent.length;
    } else {
      if (extents.size() ==
          extents.capacity()) {  // about to double, with three times the memory during the copy
        IMAGEFS_RETURN_IF_ERROR(CheckMemory(3 * extents.size() * sizeof(Extent)));
      }
      extents.push_back(extent);
    }
  }
  if (!extents.empty()) tree_.SetExtents(id, std::move(extents));
  return absl::OkStatus();
}

absl::StatusOr<Tree> ErofsImage::ToTree(uint16_t device_shift, uint64_t max_bytes) const {
  Tree tree;
  TreeImporter importer(*this, device_shift, tree, max_bytes);
  IMAGEFS_ASSIGN_OR_RETURN(const Stat root, GetStat(root_));
  IMAGEFS_ASSIGN_OR_RETURN(TreeImporter::LoadedXattrs root_xattrs, importer.LoadXattrs(root_));
  importer.Assign(Tree::kRoot, root, std::move(root_xattrs));

  std::vector<std::pair<Nid, InodeId>> stack = {{root_, Tree::kRoot}};
  const auto visit = [&](InodeId directory, std::string_view name, Nid nid) -> absl::Status {
    IMAGEFS_ASSIGN_OR_RETURN(const Stat stat, GetStat(nid));
    InodeId id = kNoId;
    if (S_ISDIR(stat.mode)) {
      IMAGEFS_ASSIGN_OR_RETURN(TreeImporter::LoadedXattrs xattrs, importer.LoadXattrs(nid));
      IMAGEFS_ASSIGN_OR_RETURN(id, importer.ImportDirectory(stat, std::move(xattrs)));
      stack.emplace_back(nid, id);
    } else {
      IMAGEFS_ASSIGN_OR_RETURN(id, importer.ImportFile(stat));
    }
    tree.Link(directory, name, id);
    return absl::OkStatus();
  };
  while (!stack.empty()) {
    const auto [nid, directory] = stack.back();
    stack.pop_back();
    IMAGEFS_RETURN_IF_ERROR(importer.ForEachChild(
        nid,
        [&, id = directory](std::string_view name, Nid child) { return visit(id, name, child); }));
  }
  IMAGEFS_RETURN_IF_ERROR(importer.CheckMemory());
  return tree;
}

}  // namespace imagefs
