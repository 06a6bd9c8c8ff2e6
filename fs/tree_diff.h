// SPDX-License-Identifier: Apache-2.0
// Finds how the merged tree of one image differs from that of another: by path, in the order of
// FileWalk. Compares metadata, and content where both trees show the same bytes of the same layer;
// the caller reads the rest. Not thread-safe. Blocks on memory-mapped indexes only.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "cache/chain.h"
#include "fs/image_files.h"

namespace imagefs {

class TreeDiff {
 public:
  struct Options {
    bool times = false;  // compare times of modification
    // Compare device nodes and the attributes that give privileges (image/privileges.h), which an
    // unproven layer does not show.
    bool privileges = true;
  };
  TreeDiff(ChainRef before, ChainRef after, Options options);

  struct Difference {
    std::string path;
    std::optional<ErofsImage::Stat> before, after;  // nullopt: the tree has no such path
    // What differs, of a path that both have: "type" alone, or of "mode", "owner", "device",
    // "target", "mtime", "xattrs", "size".
    std::vector<std::string_view> what;
    // Both are regular files of the same size whose bytes are to be read and compared.
    bool compare_content = false;
  };
  // Returns the next path that differs, or may differ; nullopt after the last one.
  absl::StatusOr<std::optional<Difference>> Next();

 private:
  using Entry = FileWalk::Entry;
  absl::Status Advance(FileWalk& walk, std::optional<Entry>& entry) const;
  absl::StatusOr<Difference> Compare(const Entry& before, const Entry& after) const;
  absl::Status CompareAttributes(const Entry& before, const Entry& after, Difference& out) const;
  absl::StatusOr<std::vector<Xattr>> XattrsOf(const Chain& chain, Nid nid) const;

  const ChainRef before_, after_;
  const Options options_;
  FileWalk before_walk_, after_walk_;
  std::optional<Entry> before_entry_, after_entry_;
  bool begun_ = false;
};

// Returns true if every layer of the chain was proven.
bool IsProven(const Chain& chain);

}  // namespace imagefs
