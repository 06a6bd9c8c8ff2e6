// SPDX-License-Identifier: Apache-2.0
// Builds chains by hand: a tree, an index and data files in a directory of the test.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "cache/chain.h"
#include "image/tree.h"

namespace imagefs {

class TestChain {
 public:
  explicit TestChain(int layers = 1);

  Tree& tree() { return tree_; }
  Inode& inode(std::string_view path);

  // Paths are relative to the root; parents must exist.
  void Dir(std::string_view path, uint32_t permissions = 0755);
  void File(std::string_view path, std::string_view content, uint32_t permissions = 0644,
            uint16_t layer = 1);
  // A file that has only these parts, {offset, content, layer}; the rest is a hole.
  struct Part {
    uint64_t offset = 0;  // a multiple of 512
    std::string content;
    uint16_t layer = 1;
  };
  void Sparse(std::string_view path, uint64_t size, const std::vector<Part>& parts);
  void Symlink(std::string_view path, std::string_view target);
  void Node(std::string_view path, uint32_t mode, uint32_t major, uint32_t minor);
  void HardLink(std::string_view path, std::string_view existing);
  void Xattrs(std::string_view path, std::vector<Xattr> xattrs);

  // Writes `directory`/index and `directory`/data<N>; the chain's id is the digest of the index.
  ChainRef Build(const std::string& directory, bool overlay_form = false) const;

 private:
  InodeId Find(std::string_view path) const;
  InodeId Add(std::string_view path, const Inode& attributes);
  Extent Append(uint64_t file_offset, std::string_view content, uint16_t layer);

  Tree tree_;
  std::vector<std::string> data_;  // per layer
};

// `size` non-repeating bytes, the same for the same seed.
std::string PatternBytes(size_t size, uint64_t seed);

}  // namespace imagefs
