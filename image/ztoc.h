// SPDX-License-Identifier: Apache-2.0
// SOCI's zTOC: an external table of contents for layers whose blobs are plain gzip or plain tar. It
// lists every entry of the tar and, about every 4 MiB, a point at which decompression can resume,
// with the 32 KiB window that a decompressor needs there.
//
// What is verified and what is trusted: every span has the digest of its bytes in the *blob*, so
// those bytes are the image's as long as the zTOC comes from its author. The windows of the points
// and the entries are trusted. A zTOC named by digest in the image's manifest (image/soci.h,
// version 2) is as trustworthy as the image; one that was merely found as a referrer (version 1) is
// not.
//
// `tar_bytes` of the table is the size that the zTOC declares: up to the end-of-archive blocks. If
// the tar has padding after them, the DiffID covers more than that.
#pragma once

#include <cstdint>
#include <string_view>

#include "absl/status/statusor.h"
#include "base/digest.h"
#include "image/manifest.h"
#include "image/table_layer.h"

namespace imagefs {

inline constexpr uint64_t kMaxZtocBytes = 256 << 20;

// Returns kUnimplemented for layers that zTOC or the limits of image/span_table.h cannot
// represent, kResourceExhausted if the result takes more than `max_bytes` of memory.
absl::StatusOr<TableLayer> BuildFromZtoc(std::string_view bytes, const Descriptor& blob,
                                         const Digest& diff_id, uint64_t max_bytes = UINT64_MAX);

}  // namespace imagefs
