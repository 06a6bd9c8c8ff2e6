// SPDX-License-Identifier: Apache-2.0
#include "image/layer_builder.h"

#include <sys/stat.h>

#include <algorithm>
#include <utility>

#include "base/status.h"
#include "base/text.h"

namespace imagefs {
namespace {

constexpr std::string_view kWhiteoutPrefix = ".wh.";
constexpr std::string_view kAufsPrefix = ".wh..wh.";
constexpr std::string_view kOpaqueName = ".wh..wh..opq";
constexpr size_t kMaxName = 255;
constexpr size_t kMaxPath = 64 << 10;
constexpr size_t kMaxTarget = 4095;
constexpr int kMaxLinks = 40;  // the kernel's limit
constexpr uint64_t kBlock = 512;
constexpr uint64_t kMaxDataBytes = kBlock << 32;  // EROFS counts blocks of a device in 32 bits
constexpr uint64_t kSparseGrain = 4096;
constexpr uint64_t kMaxSparseGrains = 1 << 16;  // per file; bounds its part of the index

uint64_t RoundUp(uint64_t value, uint64_t unit) { return (value + unit - 1) / unit * unit; }

bool IsWhiteout(const Inode& inode) {
  return S_ISCHR(inode.mode) && inode.rdev_major == 0 && inode.rdev_minor == 0;
}

// Splits a path into lexically cleaned parts inside the root. An absolute path cannot leave it:
// ".." of the root is the root, as in the runtimes.
absl::StatusOr<std::vector<std::string_view>> CleanPath(std::string_view path) {
  if (path.size() > kMaxPath) return absl::InvalidArgumentError("the path is longer than 64 KiB");
  std::vector<std::string_view> parts;
  for (const std::string_view part : Split(path, '/')) {
    if (part.empty() || part == ".") continue;
    if (part == "..") {
      if (!parts.empty()) {
        parts.pop_back();
      } else if (!path.starts_with('/')) {
        return absl::InvalidArgumentError("the path leaves the image's root");
      }
      continue;
    }
    if (part.size() > kMaxName) {
      return absl::InvalidArgumentError("a name in the path is longer than 255 bytes");
    }
    parts.push_back(part);
  }
  return parts;
}

// aufs bookkeeping, which is hidden but may be the target of hard links.
bool IsAufs(std::string_view name) { return name.starts_with(kAufsPrefix) && name != kOpaqueName; }

// Returns whether to keep an xattr: one in a namespace that Linux supports, user.* only where
// allowed, and none that overlayfs or imagefs interprets.
bool KeepXattr(std::string_view name, uint32_t mode) {
  if (name.starts_with("trusted.overlay.") || name.starts_with("trusted.imagefs.")) return false;
  if (name.starts_with("user.")) return S_ISREG(mode) || S_ISDIR(mode);
  return name.starts_with("trusted.") || name.starts_with("security.") ||
         name == "system.posix_acl_access" || name == "system.posix_acl_default";
}

}  // namespace

absl::Status LayerBuilder::Add(TarEntry& entry) {
  const absl::Status status = [&]() -> absl::Status {
    IMAGEFS_ASSIGN_OR_RETURN(const std::vector<std::string_view> parts, CleanPath(entry.path));
    if (parts.empty()) return absl::OkStatus();  // the root's attributes come from lower layers
    const std::string_view name = parts.back();
    for (const std::string_view& part : parts) {
      if (part.starts_with(kWhiteoutPrefix) && !IsAufs(part) && &part != &parts.back()) {
        return absl::InvalidArgumentError("a whiteout cannot be a directory");
      }
    }
    const bool whiteout = name.starts_with(kWhiteoutPrefix) && !IsAufs(name) && name != kOpaqueName;
    if (whiteout) {
      const std::string_view hidden = name.substr(kWhiteoutPrefix.size());
      if (hidden.empty() || hidden == "." || hidden == "..") {
        return absl::InvalidArgumentError("it is a whiteout without a valid name");
      }
    }
    IMAGEFS_ASSIGN_OR_RETURN(const InodeId directory, ResolveParent(parts, true));
    if (name == kOpaqueName) {
      tree_.inode(directory).opaque = true;
      return absl::OkStatus();
    }
    if (whiteout) return AddWhiteout(directory, name.substr(kWhiteoutPrefix.size()));
    if (entry.global) {
      tree_.Unlink(directory, name);
      return absl::OkStatus();
    }
    if (entry.hard_link) return AddHardLink(directory, name, entry);
    return AddNode(directory, name, entry);
  }();
  if (status.ok() && tree_.memory_bytes() + pending_bytes_ > kMaxTreeBytes) return TooManyNames();
  return Annotate(status, StrCat("tar entry \"", Printable(entry.path), "\""));
}

absl::StatusOr<InodeId> LayerBuilder::ResolveParent(const std::vector<std::string_view>& parts,
                                                    bool create) {
  // The remaining parts, next one last. Targets of links are pushed on top; their text lives in the
  // tree's arena.
  std::vector<std::string_view> todo(parts.rbegin() + 1, parts.rend());
  InodeId at = Tree::kRoot;
  int links = 0;
  while (!todo.empty()) {
    const std::string_view part = todo.back();
    todo.pop_back();
    if (part.empty() || part == ".") continue;
    if (part == "..") {
      at = tree_.inode(at).parent;  // the root is its own parent
      continue;
    }
    if (part.size() > kMaxName) {
      return absl::InvalidArgumentError("a link in its path has a name longer than 255 bytes");
    }
    const DirentId found = tree_.Find(at, part);
    if (found != kNoId) {
      const InodeId child = tree_.dirent(found).inode;
      const Inode& inode = tree_.inode(child);
      if (S_ISDIR(inode.mode)) {
        at = child;
        continue;
      }
      if (S_ISLNK(inode.mode)) {
        if (++links > kMaxLinks) {
          return absl::InvalidArgumentError("too many symbolic links in its path");
        }
        if (inode.symlink.starts_with('/')) at = Tree::kRoot;
        const std::vector<std::string_view> target = Split(inode.symlink, '/');
        todo.insert(todo.end(), target.rbegin(), target.rend());
        continue;
      }
      if (!IsWhiteout(inode)) {
        if (!create) return kNoId;
        return absl::InvalidArgumentError(
            StrCat("\"", Printable(part), "\" in its path is not a directory"));
      }
      if (!create) return kNoId;
      tree_.Unlink(at, part);
    } else if (!create) {
      return kNoId;
    }
    Inode made;
    made.mode = S_IFDIR | 0755;
    made.implied = true;
    made.opaque = found != kNoId;  // replaces a whiteout: lower entries stay hidden
    const InodeId child = tree_.NewInode(made);
    Link(at, part, child);
    at = child;
  }
  return at;
}

void LayerBuilder::Link(InodeId directory, std::string_view name, InodeId inode) {
  const DirentId dirent = tree_.Link(directory, name, inode);
  if (!IsAufs(name)) return;
  aufs_.push_back(dirent);
  pending_bytes_ += sizeof(dirent);
}

// A whiteout hides entries of lower layers, not this layer's own entry of that name.
absl::Status LayerBuilder::AddWhiteout(InodeId directory, std::string_view name) {
  if (const DirentId found = tree_.Find(directory, name); found != kNoId) {
    Inode& own = tree_.inode(tree_.dirent(found).inode);
    if (S_ISDIR(own.mode)) own.opaque = true;
    return absl::OkStatus();
  }
  Inode whiteout;
  whiteout.mode = S_IFCHR;
  tree_.Link(directory, name, tree_.NewInode(whiteout));
  return absl::OkStatus();
}

absl::Status LayerBuilder::AddHardLink(InodeId directory, std::string_view name, TarEntry& entry) {
  const std::string_view target = entry.link;
  IMAGEFS_ASSIGN_OR_RETURN(const std::vector<std::string_view> parts, CleanPath(target));
  InodeId inode = kNoId;
  if (!parts.empty()) {
    IMAGEFS_ASSIGN_OR_RETURN(const InodeId parent, ResolveParent(parts, false));
    const DirentId found = parent == kNoId ? kNoId : tree_.Find(parent, parts.back());
    if (found != kNoId) inode = tree_.dirent(found).inode;
  }
  if (inode == kNoId || IsWhiteout(tree_.inode(inode))) {
    return absl::InvalidArgumentError(
        StrCat("it is a hard link to \"", Printable(target),
               "\", which this layer does not have (the runtimes refuse such a layer as well)"));
  }
  if (S_ISDIR(tree_.inode(inode).mode)) {
    return absl::InvalidArgumentError(
        StrCat("it is a hard link to the directory \"", Printable(target), "\""));
  }
  if (const DirentId old = tree_.Find(directory, name); old != kNoId) {
    if (tree_.dirent(old).inode == inode) {
      ApplyLinkEntry(inode, entry);
      return absl::OkStatus();
    }
    tree_.Unlink(directory, name);
    if (tree_.inode(inode).nlink == 0) {
      return absl::InvalidArgumentError("the hard link replaces the directory of its own target");
    }
  }
  Link(directory, name, inode);
  ApplyLinkEntry(inode, entry);
  return absl::OkStatus();
}

// The runtimes treat a new link like any other new file (chown, setxattr, chmod, utimensat), which
// changes the inode for all its names.
void LayerBuilder::ApplyLinkEntry(InodeId id, TarEntry& entry) {
  Inode& inode = tree_.inode(id);
  const auto xattrs = [&]() -> std::map<std::string, std::string>& {
    const auto [it, is_new] = link_xattrs_.try_emplace(id);
    if (is_new) {
      for (const Xattr& xattr : tree_.Xattrs(id)) {
        pending_bytes_ += xattr.name.size() + xattr.value.size() + sizeof(Xattr);
        it->second[xattr.name] = xattr.value;
      }
    }
    return it->second;
  };
  // containerd and Docker always call chown, and thereby drop the capability of any file with two
  // names; podman calls it only if it has an effect.
  if (entry.uid != inode.uid || entry.gid != inode.gid) xattrs().erase("security.capability");
  inode.uid = entry.uid;
  inode.gid = entry.gid;
  if (!S_ISLNK(inode.mode)) inode.mode = (inode.mode & S_IFMT) | (entry.mode & 07777);
  inode.mtime_seconds = entry.mtime_seconds;
  inode.mtime_nanoseconds = entry.mtime_nanoseconds;
  for (Xattr& xattr : entry.xattrs) {
    if (!KeepXattr(xattr.name, inode.mode)) continue;
    pending_bytes_ += xattr.name.size() + xattr.value.size() + sizeof(Xattr);
    xattrs()[xattr.name] = std::move(xattr.value);
  }
}

absl::Status LayerBuilder::AddNode(InodeId directory, std::string_view name, TarEntry& entry) {
  Inode inode;
  inode.mode = entry.mode;
  inode.uid = entry.uid;
  inode.gid = entry.gid;
  inode.mtime_seconds = entry.mtime_seconds;
  inode.mtime_nanoseconds = entry.mtime_nanoseconds;
  if (S_ISREG(entry.mode)) {
    inode.size = entry.size;
  } else if (S_ISLNK(entry.mode)) {
    if (entry.link.empty() || entry.link.size() > kMaxTarget) {
      return absl::InvalidArgumentError("its link target is empty or longer than 4,095 bytes");
    }
    inode.mode |= 0777;
    inode.size = entry.link.size();
    inode.symlink = tree_.Intern(entry.link);
  } else if (S_ISCHR(entry.mode) || S_ISBLK(entry.mode)) {
    inode.rdev_major = entry.rdev_major;
    inode.rdev_minor = entry.rdev_minor;
  } else if (!S_ISDIR(entry.mode) && !S_ISFIFO(entry.mode)) {
    return absl::InvalidArgumentError("its type is not one that an image can have");
  }

  InodeId id = kNoId;
  if (const DirentId old = tree_.Find(directory, name); old != kNoId) {
    const InodeId old_id = tree_.dirent(old).inode;
    Inode& there = tree_.inode(old_id);
    if (S_ISDIR(there.mode) && S_ISDIR(inode.mode)) {
      inode.opaque = there.opaque;
      inode.first_child = there.first_child;
      inode.parent = there.parent;
      there = inode;
      id = old_id;
    } else {
      // The previous entry, a file or whiteout, hid everything below it in lower layers.
      inode.opaque = S_ISDIR(inode.mode);
      tree_.Unlink(directory, name);
    }
  }
  if (id == kNoId) {
    id = tree_.NewInode(inode);
    Link(directory, name, id);
  }
  std::erase_if(entry.xattrs, [&](const Xattr& x) { return !KeepXattr(x.name, entry.mode); });
  tree_.SetXattrs(id, std::move(entry.xattrs));
  if (!S_ISREG(entry.mode)) return absl::OkStatus();
  const bool whole = entry.extents.size() == 1 && entry.extents[0].length == entry.size;
  if (whole || entry.extents.empty()) {
    tree_.SetExtents(id, std::move(entry.extents));
  } else {
    // Count the segments as stored, as laid out, and as moves.
    pending_bytes_ +=
        sizeof(SparseFile) + entry.extents.size() * (2 * sizeof(Extent) + sizeof(Move));
    sparse_.push_back({id, std::move(entry.extents)});
  }
  return absl::OkStatus();
}

// Gives a sparse file whole grains from `end` on: grains that contain any byte of a segment are
// stored, the others are holes. The grain size grows with the file, so that no file needs many
// chunks.
void LayerBuilder::LayOutSparse(SparseFile& file, uint64_t& end, std::vector<Move>& moves) {
  const uint64_t size = tree_.inode(file.inode).size;
  uint64_t grain = kSparseGrain;
  while (size / grain > kMaxSparseGrains) grain *= 2;
  std::vector<Extent> extents;
  for (const Extent& segment : file.segments) {
    const uint64_t first = segment.file_offset / grain * grain;
    const uint64_t last =
        std::min(RoundUp(segment.file_offset + segment.length, grain), RoundUp(size, grain));
    uint64_t covered = extents.empty() ? 0 : extents.back().file_offset + extents.back().length;
    if (extents.empty() || covered < first) {
      extents.push_back({first, end, 0, 1});
      covered = first;
    }
    if (last > covered) {
      extents.back().length += last - covered;
      end += last - covered;
    }
    moves.push_back(
        {segment.data_offset,
         extents.back().data_offset + (segment.file_offset - extents.back().file_offset),
         segment.length});
  }
  if (!extents.empty()) {
    Extent& tail = extents.back();
    tail.length = std::min(tail.length, size - tail.file_offset);
  }
  tree_.SetExtents(file.inode, std::move(extents));
}

absl::StatusOr<LayerBuilder::Result> LayerBuilder::Finish(uint64_t tar_size) && {
  Result result;
  for (const DirentId id : aufs_) {
    const Dirent& dirent = tree_.dirent(id);
    // It may already have been removed, alone or with its parent.
    if (dirent.inode != kNoId) tree_.Unlink(dirent.parent, dirent.name);
  }
  uint64_t end = RoundUp(tar_size, kBlock);
  for (SparseFile& file : sparse_) {
    if (tree_.inode(file.inode).nlink == 0) continue;  // replaced by a later entry
    LayOutSparse(file, end, result.moves);
    if (end > kMaxDataBytes) break;
  }
  if (end > kMaxDataBytes) {
    return absl::InvalidArgumentError("the layer is larger than the 2 TiB that an index can name");
  }
  for (auto& [inode, xattrs] : link_xattrs_) {
    std::vector<Xattr> list;
    for (auto& [name, value] : xattrs) list.push_back({name, std::move(value)});
    tree_.SetXattrs(inode, std::move(list));
  }
  result.data_size = end;
  result.tree = std::move(tree_);
  return result;
}

}  // namespace imagefs
