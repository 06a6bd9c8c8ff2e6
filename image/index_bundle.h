// SPDX-License-Identifier: Apache-2.0
// The published form of a layer's metadata, which allows mounting the layer before its bytes have
// been fetched: its index and span table in one blob, for which a mount waits, and the windows of
// the span table in another one, of which parts are fetched when they are needed.
// docs/formats/published.md specifies the format, and the earlier one that has all in one blob and
// is only read. Hostile input yields an error, never a crash or memory use beyond the limits.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/digest.h"
#include "image/erofs_reader.h"
#include "image/manifest.h"
#include "image/span_table.h"
#include "image/tree.h"

namespace imagefs {

// Media types of the artifact (OCI image-spec 1.1, manifest.md, artifactType) and of its layers.
inline constexpr std::string_view kIndexArtifactType = "application/vnd.imagefs.index.v1+json";
inline constexpr std::string_view kLayerIndexMediaType =
    "application/vnd.imagefs.layer-index.v2+zstd";
inline constexpr std::string_view kLayerWindowsMediaType =
    "application/vnd.imagefs.layer-windows.v1";
// Of earlier versions: with the windows.
inline constexpr std::string_view kOldLayerIndexMediaType =
    "application/vnd.imagefs.layer-index.v1+zstd";
inline constexpr std::string_view kProfileMediaType = "application/vnd.imagefs.profile.v1+json";
// Annotations of a layer of the artifact: the digests of the image layer that it describes.
inline constexpr std::string_view kLayerAnnotation = "dev.imagefs.layer";
inline constexpr std::string_view kDiffIdAnnotation = "dev.imagefs.diff-id";

inline constexpr uint64_t kMaxBundleBytes = 256 << 20;      // as published
inline constexpr uint64_t kMaxUnpackedBundle = 512u << 20;  // index plus table

struct IndexBundle {
  std::string index;       // EROFS, overlay form, one device
  std::string span_table;  // image/span_table.h, with its windows
};
struct PackedBundle {
  std::string index;    // the blob for which a mount waits
  std::string windows;  // the other one; "" = there are no windows
};
// Returns an error if the span table is not valid, or its windows have not come.
absl::StatusOr<PackedBundle> PackBundle(const IndexBundle& bundle);

// The blob of the windows, as the other one describes it. A value type.
struct PublishedWindows {
  Descriptor blob;             // digest and size
  uint32_t piece_bytes = 0;    // a power of two from 4 KiB to 1 MiB
  std::vector<Digest> pieces;  // of the blob's bytes, piece by piece; the last one may be shorter
  std::string repository;      // where the blob is: "host/path"; "" = with the layers
  uint64_t PieceCount() const { return (blob.size + piece_bytes - 1) / piece_bytes; }
};

// Unpacks what describes the layer of that blob into two empty files of at most `max_bytes` in
// total, not counting the hole for windows that come later. Returns where these are; nullopt: there
// are none, or they are in the span table. Validates neither file.
absl::StatusOr<std::optional<PublishedWindows>> UnpackBundle(std::string_view packed,
                                                             uint64_t max_bytes, const Digest& blob,
                                                             int index, int span_table);

// Returns the tree of a bundle after checking that it describes the given layer and is consistent:
// the table is that of a tar (only the image itself may use a table of contents), has a digest for
// each span, and names the blob, its size and the DiffID; the index has one device, with that
// DiffID and the table's data size; all files lie within it; and no inode has values that no layer
// can have. Returns kResourceExhausted if the tree takes more than `max_bytes` of memory.
absl::StatusOr<Tree> TreeOfBundle(const ErofsImage& index, const SpanTableReader& span_table,
                                  const Digest& blob, uint64_t blob_size, const Digest& diff_id,
                                  uint64_t max_bytes);

}  // namespace imagefs
