// SPDX-License-Identifier: Apache-2.0
// Shared by the readers of foreign tables of contents (image/toc.h, image/ztoc.h): the entries that
// they read and the layer that they build.
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

// A layer built from its table of contents, without reading its blob.
struct TableLayer {
  LayerBuilder::Result layer;
  SpanTable span_table;
  // Range of the data file that the image's author marked as read at startup.
  std::optional<ByteRange> prefetch;
};

// An entry of such a table, not validated.
struct TableEntry {
  std::string type;  // dir, reg, symlink, hardlink, char, block, fifo
  std::string path, link;
  int64_t mode = 0, uid = 0, gid = 0;
  int64_t size = 0;
  int64_t major = 0, minor = 0;
  std::string mtime;  // RFC 3339; "" and Go's zero time: 1970
  std::vector<Xattr> xattrs;
};

// Converts to a tar entry without extents, under the rules of image/tar.h.
absl::StatusOr<TarEntry> ToTarEntry(TableEntry entry);

}  // namespace imagefs
