// Tables of contents that travel inside a layer's blob: eStargz (gzip) and zstd:chunked. Each
// regular file, or each chunk of a large one, is compressed by itself there, and a JSON document
// says where it lies and which digest its bytes have. The manifest names the digest of that
// document, so that everything read through it is checked.
//
// How a caller comes from a manifest to a layer:
//   FindToc            from the annotations; for eStargz `range` is still empty, then
//   ParseEstargzFooter from the last kEstargzFooterBytes of the blob: the range
//   OpenToc            the blob's bytes in `range` -> a file with JSON
//   BuildFromToc       JSON -> tree and spans
//
// An error of any of them means that this layer is to be read as one without a table.
//
// The tree is what LayerBuilder makes of the entries as tar entries, with everything that the tar
// has: also the landmarks and, for eStargz, the table itself, which is a file of the layer's tar
// and so covered by the DiffID. It differs from that of the tar where a table can say less: eStargz
// rounds times to seconds. Names that may have been no UTF-8 (JSON cannot hold them, writers put
// U+FFFD there) are an error.
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
inline constexpr uint64_t kMaxTocBlobBytes = 64 << 20;  // as it lies in the blob
inline constexpr size_t kMaxTocEntries = 4 << 20;
inline constexpr size_t kEstargzFooterBytes = 51;

enum class TocKind : uint8_t { kEstargz, kZstdChunked };

struct TocLocation {
  TocKind kind = TocKind::kEstargz;
  Digest digest;            // kEstargz: of the JSON; kZstdChunked: of the bytes in `range`
  ByteRange range;          // of the blob; kEstargz: empty until the footer was read
  uint64_t json_bytes = 0;  // kZstdChunked
};

// From a layer's descriptor in a manifest. Absent when there is none or it cannot be right.
std::optional<TocLocation> FindToc(const Descriptor& layer);

// `tail`: the last kEstargzFooterBytes of the blob.
absl::StatusOr<ByteRange> ParseEstargzFooter(std::string_view tail, uint64_t blob_size);

// `blob_bytes`: exactly those of `location.range`. How many bytes they say that they unpack to,
// which nothing but OpenToc checks.
uint64_t AnnouncedTocBytes(const TocLocation& location, std::string_view blob_bytes);

struct OpenedToc {
  ByteRange json;  // of `out`
  // kEstargz: the table as an entry of the layer's tar. Its one extent is `json`.
  std::optional<TarEntry> entry;
};
// Unpacks them into the empty file `out`. kDataLoss when they are not what the manifest says or
// hold more than AnnouncedTocBytes.
absl::StatusOr<OpenedToc> OpenToc(const TocLocation& location, std::string_view blob_bytes,
                                  int out);

// `entry`: as OpenToc gave it. kUnimplemented for chunks larger than the limits of
// image/span_table.h and for an eStargz table of more than 93 MiB, kResourceExhausted when what
// is made takes more than `max_bytes` of memory.
absl::StatusOr<TableLayer> BuildFromToc(const TocLocation& location, std::string_view json,
                                        std::optional<TarEntry> entry, const Descriptor& blob,
                                        const Digest& diff_id, uint64_t max_bytes = UINT64_MAX);

}  // namespace imagefs
