#include "image/tree.h"

#include <sys/stat.h>

#include <algorithm>
#include <cassert>
#include <cstring>

namespace imagefs {
namespace {

constexpr size_t kArenaBlock = 256 << 10;
// In Inode::extents: the handle names a list, not a single extent.
constexpr uint32_t kListBit = 1u << 31;

bool IsDirectory(const Inode& inode) { return S_ISDIR(inode.mode); }

}  // namespace

Tree::Tree() {
  Inode root;
  root.mode = S_IFDIR | 0755;
  root.implied = true;
  root.parent = kRoot;
  inodes_.push_back(root);
}

DirentId Tree::Find(InodeId directory, std::string_view name) const {
  const auto it = names_.find({directory, name});
  return it == names_.end() ? kNoId : it->second;
}

InodeId Tree::NewInode(const Inode& attributes) {
  assert(inodes_.size() < kListBit);
  inodes_.push_back(attributes);
  Inode& inode = inodes_.back();
  inode.nlink = 0;
  inode.first_child = kNoId;
  inode.parent = kNoId;
  return static_cast<InodeId>(inodes_.size() - 1);
}

DirentId Tree::Link(InodeId directory, std::string_view name, InodeId inode) {
  const auto id = static_cast<DirentId>(dirents_.size());
  Dirent dirent;
  dirent.name = Intern(name);
  dirent.parent = directory;
  dirent.inode = inode;
  dirent.next = inodes_[directory].first_child;
  dirents_.push_back(dirent);
  inodes_[directory].first_child = id;
  names_.emplace(std::make_pair(directory, dirent.name), id);
  Inode& target = inodes_[inode];
  if (IsDirectory(target)) {
    target.parent = directory;
  } else {
    ++target.nlink;
  }
  return id;
}

// A dirent that lost its name stays in its directory's list with inode kNoId: lists are walked
// once, when the tree is written, while unlinking from the middle of a million names would be
// quadratic.
void Tree::Unlink(InodeId directory, std::string_view name) {
  const auto it = names_.find({directory, name});
  if (it == names_.end()) return;
  std::vector<DirentId> doomed = {it->second};
  while (!doomed.empty()) {
    Dirent& dirent = dirents_[doomed.back()];
    doomed.pop_back();
    names_.erase(std::make_pair(dirent.parent, dirent.name));
    Inode& inode = inodes_[dirent.inode];
    dirent.inode = kNoId;
    if (!IsDirectory(inode)) {
      --inode.nlink;
      continue;
    }
    for (DirentId child = inode.first_child; child != kNoId; child = dirents_[child].next) {
      if (dirents_[child].inode != kNoId) doomed.push_back(child);
    }
    inode.first_child = kNoId;
    inode.parent = kNoId;
  }
}

std::vector<DirentId> Tree::SortedChildren(InodeId directory) const {
  std::vector<DirentId> children;
  for (DirentId id = inodes_[directory].first_child; id != kNoId; id = dirents_[id].next) {
    if (dirents_[id].inode != kNoId) children.push_back(id);
  }
  std::sort(children.begin(), children.end(),
            [this](DirentId a, DirentId b) { return dirents_[a].name < dirents_[b].name; });
  return children;
}

std::string_view Tree::Intern(std::string_view text) {
  if (text.size() > arena_size_ - arena_used_) {
    arena_size_ = std::max(kArenaBlock, text.size());
    arena_used_ = 0;
    arena_.push_back(std::make_unique_for_overwrite<char[]>(arena_size_));
  }
  if (text.empty()) return {};
  char* place = arena_.back().get() + arena_used_;
  std::memcpy(place, text.data(), text.size());
  arena_used_ += text.size();
  return {place, text.size()};
}

void Tree::SetExtents(InodeId inode, std::vector<Extent> extents) {
  if (extents.empty()) {
    inodes_[inode].extents = kNoId;
  } else if (extents.size() == 1) {
    single_extents_.push_back(extents.front());
    inodes_[inode].extents = static_cast<uint32_t>(single_extents_.size() - 1);
  } else {
    extent_lists_.push_back(std::move(extents));
    inodes_[inode].extents = static_cast<uint32_t>(extent_lists_.size() - 1) | kListBit;
  }
}

void Tree::SetXattrs(InodeId inode, std::vector<Xattr> xattrs) {
  if (xattrs.empty()) {
    inodes_[inode].xattrs = kNoId;
    return;
  }
  std::sort(xattrs.begin(), xattrs.end());
  // The key of a set: every string with its length in front, so that no two sets share one.
  std::string key;
  for (const Xattr& xattr : xattrs) {
    for (const std::string* part : {&xattr.name, &xattr.value}) {
      const auto size = static_cast<uint32_t>(part->size());
      key.append(reinterpret_cast<const char*>(&size), sizeof(size));
      key.append(*part);
    }
  }
  const auto [it, added] =
      xattr_sets_.try_emplace(std::move(key), static_cast<uint32_t>(xattrs_.size()));
  if (added) xattrs_.push_back(std::move(xattrs));
  inodes_[inode].xattrs = it->second;
}

absl::Span<const Extent> Tree::Extents(InodeId inode) const {
  const uint32_t handle = inodes_[inode].extents;
  if (handle == kNoId) return {};
  if ((handle & kListBit) != 0) return extent_lists_[handle & ~kListBit];
  return absl::MakeConstSpan(&single_extents_[handle], 1);
}

absl::Span<const Xattr> Tree::Xattrs(InodeId inode) const {
  const uint32_t handle = inodes_[inode].xattrs;
  return handle == kNoId ? absl::Span<const Xattr>() : absl::MakeConstSpan(xattrs_[handle]);
}

}  // namespace imagefs
