// SPDX-License-Identifier: Apache-2.0
#include "image/tree.h"

#include <sys/stat.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/hash/hash.h"
#include "base/text.h"

namespace imagefs {

namespace {

// Arena blocks start small, since most trees in tests and of thin layers are small.
constexpr size_t kFirstArenaBlock = 4096;
constexpr size_t kMaxArenaBlock = 256 * 1024;
// Maximum memory per slot of the name set, including while it grows.
constexpr size_t kNameSlotBytes = 20;

std::string XattrKey(const std::vector<Xattr>& xattrs) {
  std::string key;
  for (const Xattr& xattr : xattrs) {
    StrAppend(&key, xattr.name.size(), ":", xattr.value.size(), ":");
    key += xattr.name;
    key += xattr.value;
  }
  return key;
}

}  // namespace

size_t Tree::NameHash::operator()(const Key& key) const {
  return absl::HashOf(key.directory, ToAbsl(key.name));
}

size_t Tree::NameHash::operator()(DirentId id) const {
  const Dirent& dirent = (*dirents)[id];
  return (*this)(Key{dirent.parent, dirent.name});
}

Tree::Tree()
    : dirents_(std::make_unique<Dirents>()),
      names_(0, NameHash{dirents_.get()}, NameEqual{dirents_.get()}) {
  Inode root;
  root.mode = S_IFDIR | 0755;
  root.implied = true;
  root.parent = kRoot;
  inodes_.push_back(root);
}

absl::Status TooManyNames() {
  return absl::FailedPreconditionError(
      StrCat("its names and attributes take more than the ", kMaxTreeBytes >> 20,
             " MiB of memory that an image may; ask whoever built the image"));
}

DirentId Tree::Find(InodeId directory, std::string_view name) const {
  const auto it = names_.find(Key{directory, name});
  return it == names_.end() ? kNoId : *it;
}

InodeId Tree::NewInode(const Inode& attributes) {
  const InodeId id = static_cast<InodeId>(inodes_.size());
  Inode& inode = inodes_.emplace_back(attributes);
  memory_bytes_ += sizeof(Inode);
  inode.nlink = 0;
  inode.extents = kNoId;
  inode.xattrs = kNoId;
  inode.first_child = kNoId;
  inode.parent = kNoId;
  return id;
}

DirentId Tree::Link(InodeId directory, std::string_view name, InodeId inode) {
  const DirentId id = static_cast<DirentId>(dirents_->size());
  dirents_->push_back({Intern(name), directory, inode, inodes_[directory].first_child});
  inodes_[directory].first_child = id;
  names_.insert(id);
  memory_bytes_ += sizeof(Dirent) + kNameSlotBytes;
  if (S_ISDIR(inodes_[inode].mode)) {
    inodes_[inode].parent = directory;
  } else {
    ++inodes_[inode].nlink;
  }
  return id;
}

// A removed dirent stays in its directory's list, without an inode, so that removal is O(1) for any
// number of siblings.
void Tree::Unlink(InodeId directory, std::string_view name) {
  const DirentId first = Find(directory, name);
  if (first == kNoId) return;
  std::vector<DirentId> pending = {first};
  while (!pending.empty()) {
    const DirentId id = pending.back();
    pending.pop_back();
    Dirent& dirent = (*dirents_)[id];
    names_.erase(id);
    Inode& inode = inodes_[std::exchange(dirent.inode, kNoId)];
    if (!S_ISDIR(inode.mode)) {
      --inode.nlink;
      continue;
    }
    for (DirentId child = inode.first_child; child != kNoId; child = (*dirents_)[child].next) {
      if ((*dirents_)[child].inode != kNoId) pending.push_back(child);
    }
    inode.first_child = kNoId;
    inode.parent = kNoId;
  }
}

std::vector<DirentId> Tree::SortedChildren(InodeId directory) const {
  std::vector<DirentId> children;
  for (DirentId id = inodes_[directory].first_child; id != kNoId; id = dirent(id).next) {
    if (dirent(id).inode != kNoId) children.push_back(id);
  }
  // The list is in reverse order of insertion, and most archives are sorted.
  std::reverse(children.begin(), children.end());
  const auto less = [this](DirentId a, DirentId b) { return dirent(a).name < dirent(b).name; };
  if (!std::is_sorted(children.begin(), children.end(), less)) {
    std::sort(children.begin(), children.end(), less);
  }
  return children;
}

std::string_view Tree::Intern(std::string_view text) {
  if (text.empty()) return {};
  if (text.size() > arena_size_ - arena_used_) {
    const size_t next = arena_size_ == 0 ? kFirstArenaBlock : arena_size_ * 2;
    arena_size_ = std::max(std::min(next, kMaxArenaBlock), text.size());
    arena_used_ = 0;
    arena_.push_back(std::make_unique_for_overwrite<char[]>(arena_size_));
    memory_bytes_ += arena_size_;
  }
  char* const at = arena_.back().get() + arena_used_;
  std::memcpy(at, text.data(), text.size());
  arena_used_ += text.size();
  return {at, text.size()};
}

void Tree::SetExtents(InodeId inode, std::vector<Extent> extents) {
  uint32_t& slot = inodes_[inode].extents;
  if (extents.empty()) {
    slot = kNoId;
  } else if (extents.size() == 1) {
    slot = static_cast<uint32_t>(2 * single_extents_.size());
    single_extents_.push_back(extents[0]);
    memory_bytes_ += sizeof(Extent);
  } else {
    slot = static_cast<uint32_t>(2 * extent_lists_.size() + 1);
    extents.shrink_to_fit();
    memory_bytes_ += sizeof(extents) + extents.size() * sizeof(Extent);
    extent_lists_.push_back(std::move(extents));
  }
}

void Tree::SetXattrs(InodeId inode, std::vector<Xattr> xattrs) {
  if (xattrs.empty()) {
    inodes_[inode].xattrs = kNoId;
    return;
  }
  std::sort(xattrs.begin(), xattrs.end());
  const auto [it, is_new] =
      xattr_sets_.try_emplace(XattrKey(xattrs), static_cast<uint32_t>(xattrs_.size()));
  if (is_new) {
    memory_bytes_ += 2 * (it->first.size() + sizeof(*it)) + xattrs.size() * sizeof(Xattr);
    xattrs_.push_back(std::move(xattrs));
  }
  inodes_[inode].xattrs = it->second;
}

absl::Span<const Extent> Tree::Extents(InodeId inode) const {
  const uint32_t slot = inodes_[inode].extents;
  if (slot == kNoId) return {};
  if (slot % 2 == 0) return {&single_extents_[slot / 2], 1};
  return extent_lists_[slot / 2];
}

absl::Span<const Xattr> Tree::Xattrs(InodeId inode) const {
  const uint32_t slot = inodes_[inode].xattrs;
  if (slot == kNoId) return {};
  return xattrs_[slot];
}

}  // namespace imagefs
