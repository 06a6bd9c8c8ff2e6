// SPDX-License-Identifier: Apache-2.0
// Native EROFS layers: a layer whose uncompressed bytes are an EROFS image (erofs-image-spec), with
// whiteouts and opaque directories as overlayfs has them. Gives the same as image/layer_builder.h
// gives for a tar. The format is that of the kernel's fs/erofs/erofs_fs.h: blocks of 512 bytes to
// 64 KiB, compact and extended inodes, files in blocks, with inline tails or in chunks, inline and
// shared xattrs.
//
// Refused, with the reason: compressed files, data in other devices, what overlayfs finds in other
// layers (metacopy, redirect), xattrs with prefixes of the image's own, 48-bit block addresses.
#pragma once

#include <string_view>

#include "absl/status/statusor.h"
#include "image/layer_builder.h"

namespace imagefs {

// `image`: the layer's bytes, which are the beginning of its data file. An inline tail is copied
// behind them, because an index needs pieces that begin at multiples of 512. Returns
// kInvalidArgument for an image that is malformed or of a kind that is refused, and
// kFailedPrecondition if the tree exceeds the memory limit. The work is bounded by the size of the
// image, even for a hostile one.
absl::StatusOr<LayerBuilder::Result> ReadErofsLayer(std::string_view image);

}  // namespace imagefs
