// SPDX-License-Identifier: Apache-2.0
// Tables of contents embedded in a layer's blob: eStargz (gzip) and zstd:chunked. In such a blob
// each regular file, or each chunk of a large one, is compressed separately, and a JSON document
// lists where it is and the digest of its bytes. The manifest contains the digest of that document,
// so that everything read through it is verified.
//
// How to get from a manifest to a layer:
//   FindToc            from the annotations; for eStargz `range` is still empty, then
//   ParseEstargzFooter from the last kEstargzFooterBytes of the blob: the range
//   OpenToc            the blob's bytes in `range` -> a file with JSON
//   BuildFromToc       JSON -> tree and spans
//
// If any of them fails, treat the layer as one without a table.
//
// The tree is the one that LayerBuilder would build from the tar, including the landmarks and, for
// eStargz, the table itself, which is a file of the layer's tar and thus covered by the DiffID. It
// differs where a table is less precise: eStargz rounds times to seconds. Names that may not have
// been UTF-8 (JSON cannot represent them; writers substitute U+FFFD) are an error.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "base/byte_range.h"
#include "base/digest.h"
#include "image/manifest.h"
#include "image/table_layer.h"

namespace imagefs {

inline constexpr uint64_t kMaxTocBytes = 256 << 20;     // of the JSON
inline constexpr uint64_t kMaxTocBlobBytes = 64 << 20;  // as stored in the blob
inline constexpr size_t kMaxTocEntries = 4 << 20;
inline constexpr size_t kEstargzFooterBytes = 51;

enum class TocKind : uint8_t { kEstargz, kZstdChunked };

struct TocLocation {
  TocKind kind = TocKind::kEstargz;
  Digest digest;            // kEstargz: of the JSON; kZstdChunked: of the bytes in `range`
  ByteRange range;          // of the blob; kEstargz: empty until the footer has been read
  uint64_t json_bytes = 0;  // kZstdChunked
};

// Locates the table from a layer's descriptor in a manifest. Returns nullopt if there is none or it
// is invalid.
std::optional<TocLocation> FindToc(const Descriptor& layer);

// `tail`: the last kEstargzFooterBytes of the blob.
absl::StatusOr<ByteRange> ParseEstargzFooter(std::string_view tail, uint64_t blob_size);

// `blob_bytes`: exactly those of `location.range`. Returns the unpacked size that they claim, which
// only OpenToc verifies.
uint64_t AnnouncedTocBytes(const TocLocation& location, std::string_view blob_bytes);

struct OpenedToc {
  ByteRange json;  // of `out`
  // kEstargz: the table as an entry of the layer's tar. Its only extent is `json`.
  std::optional<TarEntry> entry;
};
// Unpacks `blob_bytes` into the empty file `out`. Returns kDataLoss if they do not match the
// manifest or hold more than AnnouncedTocBytes.
absl::StatusOr<OpenedToc> OpenToc(const TocLocation& location, std::string_view blob_bytes,
                                  int out);

// `entry`: from OpenToc. Returns kUnimplemented for chunks larger than the limits of
// image/span_table.h and for an eStargz table of more than 93 MiB, kResourceExhausted if the
// result takes more than `max_bytes` of memory.
absl::StatusOr<TableLayer> BuildFromToc(const TocLocation& location, std::string_view json,
                                        std::optional<TarEntry> entry, const Descriptor& blob,
                                        const Digest& diff_id, uint64_t max_bytes = UINT64_MAX);

}  // namespace imagefs
