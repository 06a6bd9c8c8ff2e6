// SPDX-License-Identifier: Apache-2.0
// The files of an image as paths, for callers that read an image without a mount. A path is looked
// up as in a root directory of its own: symbolic links and ".." lead nowhere else. Only metadata:
// fs/chain_read.h reads bytes. Const methods are thread-safe.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/byte_range.h"
#include "cache/chain.h"
#include "image/erofs_reader.h"

namespace imagefs {

struct FoundFile {
  Nid nid = 0;
  std::string path;  // absolute, without symbolic links, ".", ".." and double slashes
};

// Finds an absolute path. A symbolic link at its end is followed if `follow`, or if a slash or "."
// follows it. Returns kNotFound with the most similar names if there is no such file, and
// kFailedPrecondition for more than 40 symbolic links.
absl::StatusOr<FoundFile> FindFile(const ErofsImage& image, std::string_view path, bool follow);

// Visits a file and all that is below it: a directory before what is in it, the names of a
// directory in bytewise order. Memory use is that of the depth. Not thread-safe. `image` must
// outlive it.
class FileWalk {
 public:
  struct Entry {
    std::string path;
    ErofsImage::Stat stat;
  };
  // Descends at most `max_depth` directories.
  FileWalk(const ErofsImage& image, FoundFile start, uint32_t max_depth)
      : image_(image), start_(std::move(start)), max_depth_(max_depth) {}

  // Returns the next entry, nullopt after the last one, and kDataLoss if the index is damaged.
  absl::StatusOr<std::optional<Entry>> Next();

 private:
  struct Level {
    Nid directory = 0;
    size_t path_bytes = 0;                           // of the directory's path in path_
    uint64_t position = 0;                           // in the directory, after `names`
    std::vector<std::pair<std::string, Nid>> names;  // the next ones
    size_t next = 0;                                 // in `names`
    bool at_end = false;
  };
  absl::Status Refill(Level& level) const;
  absl::Status Enter(const Entry& entry);

  const ErofsImage& image_;
  const FoundFile start_;
  const uint32_t max_depth_;
  bool begun_ = false;
  std::string path_;
  std::vector<Level> levels_;
  uint64_t directories_ = 0;  // so far: bounds the walk in a damaged index
};

// Returns the extended attributes that a reader of the mounted tree can see, sorted by name.
absl::StatusOr<std::vector<Xattr>> FileXattrs(const Chain& chain, Nid nid);

// Returns the parts of a regular file that have data, in order, not adjacent; all else are zeros.
// They begin and end at multiples of `kDataRangeUnit`, or at the end of the file. If there are more
// than `kMaxDataRanges`, the last one reaches to the end of the file.
inline constexpr uint64_t kDataRangeUnit =
    4096;  // a page: what a hole of a file on a disk is made of
inline constexpr size_t kMaxDataRanges = 65'536;
absl::StatusOr<std::vector<ByteRange>> DataRanges(const ErofsImage& image,
                                                  const ErofsImage::Stat& file);

// Finds the layer that an entry comes from. Not thread-safe. `chain` must outlive it.
class LayerFinder {
 public:
  explicit LayerFinder(const Chain& chain) : chain_(chain) {}
  // Returns the topmost layer that has the entry, or null if that is not known: a path that a lower
  // layer redirects by a symbolic link has another name there.
  absl::StatusOr<const Layer*> Find(const FileWalk::Entry& entry);

 private:
  absl::Status EnterParent(std::string_view parent);

  const Chain& chain_;
  std::optional<std::string> parent_;
  std::vector<std::optional<Nid>> directories_;  // of each layer: its `parent_`
};

}  // namespace imagefs
