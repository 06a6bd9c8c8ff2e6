// What the readers of foreign tables of contents (image/toc.h, image/ztoc.h) have in common: the
// entries that they find and the layer that they make of them.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "base/byte_range.h"
#include "image/layer_builder.h"
#include "image/span_table.h"
#include "image/tar.h"

namespace imagefs {

// A layer as its table of contents describes it, not a byte of its blob read.
struct TableLayer {
  LayerBuilder::Result layer;
  SpanTable span_table;
  // Of the data file: what the image's author has marked as read at the start.
  std::optional<ByteRange> prefetch;
};

// An entry as such a table says it, unchecked.
struct TableEntry {
  std::string type;  // dir, reg, symlink, hardlink, char, block, fifo
  std::string path, link;
  int64_t mode = 0, uid = 0, gid = 0;
  int64_t size = 0;
  int64_t major = 0, minor = 0;
  std::string mtime;  // RFC 3339; "" and Go's zero time: 1970
  std::vector<Xattr> xattrs;
};

// The same as a tar entry without extents, under the rules of image/tar.h.
absl::StatusOr<TarEntry> ToTarEntry(TableEntry entry);

}  // namespace imagefs
