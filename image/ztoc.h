// SOCI's zTOC: a table of contents that lies beside an image, for layers whose blobs are plain
// gzip or plain tar. It names every entry of the tar and, about every 4 MiB of it, a point at which
// decompression can begin, with the 32 KiB that a decompressor needs to know there.
//
// What is checked and what is believed: every span has the digest of its bytes in the *blob*, so
// those are the image's as far as the zTOC is the author's. The points' windows and the entries are
// believed. A zTOC that the image's manifest names by digest (image/soci.h, version 2) is as good
// as the image; one that was merely found beside it (version 1) is not.
//
// `tar_bytes` of the table is the size that the zTOC says: up to the end-of-archive blocks. Where
// the tar has padding behind them, the DiffID covers more than that.
#pragma once

#include <cstdint>
#include <string_view>

#include "absl/status/statusor.h"
#include "base/digest.h"
#include "image/manifest.h"
#include "image/table_layer.h"

namespace imagefs {

inline constexpr uint64_t kMaxZtocBytes = 256 << 20;

// kUnimplemented for layers that zTOC or the limits of image/span_table.h have no room for,
// kResourceExhausted when what is made takes more than `max_bytes` of memory.
absl::StatusOr<TableLayer> BuildFromZtoc(std::string_view bytes, const Descriptor& blob,
                                         const Digest& diff_id, uint64_t max_bytes = UINT64_MAX);

}  // namespace imagefs
