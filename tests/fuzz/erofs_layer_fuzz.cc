// SPDX-License-Identifier: Apache-2.0
// Native EROFS layers from hostile bytes: what is accepted refers to bytes of the layer only, and
// can be written as an index.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "image/erofs_layer.h"
#include "image/erofs_writer.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size > 1 << 18) return 0;
  const std::string_view image(reinterpret_cast<const char*>(data), size);
  const absl::StatusOr<imagefs::LayerBuilder::Result> result = imagefs::ReadErofsLayer(image);
  if (!result.ok()) return 0;
  if (result->data_size % 512 != 0 || result->data_size < size) abort();
  for (const imagefs::LayerBuilder::Move& move : result->moves) {
    if (move.from + move.length > size || move.to < size) abort();
    if (move.to % 512 != 0 || move.to + move.length > result->data_size) abort();
  }
  const imagefs::Tree& tree = result->tree;
  for (imagefs::InodeId id = 0; id < tree.inode_count(); ++id) {
    for (const imagefs::Extent& extent : tree.Extents(id)) {
      if (extent.data_offset % 512 != 0 || extent.device != 1 || extent.length == 0) abort();
      if (extent.data_offset + extent.length > result->data_size) abort();
      if (extent.file_offset + extent.length > tree.inode(id).size) abort();
    }
  }
  const int fd = memfd_create("index", MFD_CLOEXEC);
  if (fd < 0) return 0;
  (void)imagefs::WriteLayerIndex(tree, imagefs::Digest(), result->data_size, fd).ok();
  close(fd);
  return 0;
}
