// SPDX-License-Identifier: Apache-2.0
// An in-memory file tree, built from a layer's tar or by merging layers, before it is written as an
// EROFS image. Built once, by one thread, then written and dropped. Compact, since an image may
// have a million entries: names and targets are in an arena, hard links are dirents that share an
// inode.
//
// Two forms:
//   overlay form  a single layer: a whiteout is a character device 0:0, an opaque directory has
//                 Inode::opaque, a directory without an entry of its own has Inode::implied
//   merged form   what a container sees: no whiteouts, opaque is clear
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/status/status.h"
#include "absl/types/span.h"

namespace imagefs {

// A run of a file's bytes. Ranges that no extent covers are holes (zeros).
struct Extent {
  uint64_t file_offset = 0;
  uint64_t data_offset = 0;  // in the layer's data file; a multiple of 512
  uint64_t length = 0;       // bytes
  uint16_t device = 1;       // 1-based: which layer's data file (always 1 in overlay form)
  bool operator==(const Extent&) const = default;
};

struct Xattr {
  std::string name;  // full, e.g. "security.capability"
  std::string value;
  auto operator<=>(const Xattr&) const = default;  // NOLINT(modernize-use-nullptr)
};

using InodeId = uint32_t;
using DirentId = uint32_t;
inline constexpr uint32_t kNoId = UINT32_MAX;

struct Inode {
  uint32_t mode = 0;  // type and permissions, like st_mode
  uint32_t uid = 0;
  uint32_t gid = 0;
  uint32_t nlink = 0;  // names of a file; for a directory, set by the writer (2 + subdirectories)
  int64_t mtime_seconds = 0;
  uint32_t mtime_nanoseconds = 0;
  uint32_t rdev_major = 0;
  uint32_t rdev_minor = 0;
  bool opaque = false;
  bool implied = false;
  uint64_t size = 0;             // regular file: bytes; symbolic link: length of the target
  std::string_view symlink;      // target, in the arena
  uint32_t extents = kNoId;      // private to Tree: see Extents()
  uint32_t xattrs = kNoId;       // private to Tree: see Xattrs()
  DirentId first_child = kNoId;  // private to Tree: see SortedChildren()
  InodeId parent = kNoId;        // directories; the root is its own parent
};

struct Dirent {
  std::string_view name;  // in the arena
  InodeId parent = kNoId;
  InodeId inode = kNoId;
  DirentId next = kNoId;
};

// Memory limit of a tree. An image with a million files takes a third of it.
inline constexpr uint64_t kMaxTreeBytes = 512 << 20;

// Returns the kFailedPrecondition error for a tree over the limit.
absl::Status TooManyNames();

class Tree {
 public:
  Tree();  // has a root directory: 0755, root:root, time 0, implied
  Tree(Tree&&) = default;
  Tree& operator=(Tree&&) = default;

  static constexpr InodeId kRoot = 0;

  Inode& inode(InodeId id) { return inodes_[id]; }
  const Inode& inode(InodeId id) const { return inodes_[id]; }
  const Dirent& dirent(DirentId id) const { return (*dirents_)[id]; }
  size_t inode_count() const { return inodes_.size(); }  // includes those that lost their last name
  // Approximate memory use, including room for containers to grow. O(1).
  uint64_t memory_bytes() const { return memory_bytes_; }

  // Returns kNoId if absent. O(1).
  DirentId Find(InodeId directory, std::string_view name) const;
  // Returns a new inode without a name.
  InodeId NewInode(const Inode& attributes);
  // Adds a name for `inode` (incrementing nlink unless it is a directory). REQUIRES: the name is
  // absent.
  DirentId Link(InodeId directory, std::string_view name, InodeId inode);
  // Removes a name; removes a directory with everything below it. Iterative: any depth is fine.
  void Unlink(InodeId directory, std::string_view name);
  // Returns the children of a directory, sorted bytewise by name.
  std::vector<DirentId> SortedChildren(InodeId directory) const;

  std::string_view Intern(std::string_view text);  // copies into the arena
  void SetExtents(InodeId inode, std::vector<Extent> extents);
  // Sorts by name; identical sets are stored once.
  void SetXattrs(InodeId inode, std::vector<Xattr> xattrs);
  absl::Span<const Extent> Extents(InodeId inode) const;
  absl::Span<const Xattr> Xattrs(InodeId inode) const;

 private:
  // The name set holds only dirent ids and looks the names up in the dirents, which must therefore
  // have a stable address when the tree is moved.
  using Dirents = std::deque<Dirent>;
  struct Key {
    InodeId directory;
    std::string_view name;
  };
  struct NameHash {
    using is_transparent = void;
    const Dirents* dirents;
    size_t operator()(DirentId id) const;
    size_t operator()(const Key& key) const;
  };
  struct NameEqual {
    using is_transparent = void;
    const Dirents* dirents;
    bool operator()(DirentId a, DirentId b) const { return a == b; }
    bool operator()(DirentId a, const Key& b) const {
      const Dirent& dirent = (*dirents)[a];
      return dirent.parent == b.directory && dirent.name == b.name;
    }
    bool operator()(const Key& a, DirentId b) const { return (*this)(b, a); }
  };

  // Deques, so that growing copies nothing and the peak stays near the final size.
  std::deque<Inode> inodes_;
  std::unique_ptr<Dirents> dirents_;
  absl::flat_hash_set<DirentId, NameHash, NameEqual> names_;
  std::vector<std::unique_ptr<char[]>> arena_;
  size_t arena_used_ = 0, arena_size_ = 0;  // of the last block
  // Inode::extents is twice an index, plus 1 if it is an index into extent_lists_.
  std::deque<Extent> single_extents_;
  std::deque<std::vector<Extent>> extent_lists_;
  std::deque<std::vector<Xattr>> xattrs_;
  absl::flat_hash_map<std::string, uint32_t> xattr_sets_;
  uint64_t memory_bytes_ = 0;
};

}  // namespace imagefs
