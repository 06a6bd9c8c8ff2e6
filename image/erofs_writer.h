// SPDX-License-Identifier: Apache-2.0
// Writes a Tree as an EROFS image with 512-byte blocks: inodes and directories only; file contents
// stay in the data files, which device slots name. docs/formats/index.md specifies the format,
// following the kernel's fs/erofs/erofs_fs.h. The output is deterministic.
//
//   root inode first (its nid has 16 bits), extended inodes (nanosecond times, 32-bit owners),
//   regular files chunk-based with 8-byte chunk indexes (one chunk when contiguous), directories
//   and short symbolic links tail-packed inline where they fit a block, xattrs inline, directories
//   sorted, superblock checksum set.
//   volume_name: "imagefs", NUL, a version byte, a flags byte (kIndexHasXattrs ...), zeros.
//   Overlay form stores Inode::opaque as xattr trusted.overlay.opaque=y and Inode::implied as
//   trusted.imagefs.implied=y.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/digest.h"
#include "image/tree.h"

namespace imagefs {

inline constexpr uint8_t kIndexVersion = 1;
inline constexpr uint8_t kIndexHasXattrs = 1;    // some inode has an xattr
inline constexpr uint8_t kIndexOverlayForm = 2;  // a single layer
inline constexpr uint8_t kIndexHasAcls = 4;      // some inode has a POSIX ACL

struct DeviceSlot {
  std::string tag;          // DiffID, 64 hex digits
  uint64_t size_bytes = 0;  // of the data file; a multiple of 512
};

struct ErofsWriterOptions {
  std::vector<DeviceSlot> devices;  // slot i is device i+1
  bool overlay_form = false;
};

// Writes to `fd` (an empty file) in large pieces. Does not fsync.
absl::Status WriteErofs(const Tree& tree, const ErofsWriterOptions& options, int fd);

// Writes the index of one layer: in overlay form, with the layer's data file as its device. All
// writers of such an index must use this, since verification compares the bytes. Returns the number
// of bytes.
absl::StatusOr<uint64_t> WriteLayerIndex(const Tree& tree, const Digest& diff_id,
                                         uint64_t data_bytes, int fd);

}  // namespace imagefs
