// SPDX-License-Identifier: Apache-2.0
// The published form of a layer's metadata, which allows mounting the layer before its bytes have
// been fetched: its index and span table in one blob. docs/formats/published.md specifies the
// format. Hostile input yields an error, never a crash or memory use beyond the limits.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/digest.h"
#include "image/erofs_reader.h"
#include "image/span_table.h"
#include "image/tree.h"

namespace imagefs {

// Media types of the artifact (OCI image-spec 1.1, manifest.md, artifactType) and of its layers.
inline constexpr std::string_view kIndexArtifactType = "application/vnd.imagefs.index.v1+json";
inline constexpr std::string_view kLayerIndexMediaType =
    "application/vnd.imagefs.layer-index.v1+zstd";
inline constexpr std::string_view kProfileMediaType = "application/vnd.imagefs.profile.v1+json";
// Annotations of a layer of the artifact: the digests of the image layer that it describes.
inline constexpr std::string_view kLayerAnnotation = "dev.imagefs.layer";
inline constexpr std::string_view kDiffIdAnnotation = "dev.imagefs.diff-id";

inline constexpr uint64_t kMaxBundleBytes = 256 << 20;      // as published
inline constexpr uint64_t kMaxUnpackedBundle = 512u << 20;  // index plus table

struct IndexBundle {
  std::string index;       // EROFS, overlay form, one device
  std::string span_table;  // image/span_table.h
};
std::string PackBundle(const IndexBundle& bundle);

// Unpacks a bundle into two empty files of at most `max_bytes` in total. Validates neither.
absl::Status UnpackBundle(std::string_view packed, uint64_t max_bytes, int index, int span_table);

// Returns the tree of a bundle after checking that it describes the given layer and is consistent:
// the table is that of a tar (only the image itself may use a table of contents), has a digest for
// each span, and names the blob, its size and the DiffID; the index has one device, with that
// DiffID and the table's data size; all files lie within it; and no inode has values that no layer
// can have. Returns kResourceExhausted if the tree takes more than `max_bytes` of memory.
absl::StatusOr<Tree> TreeOfBundle(const ErofsImage& index, const SpanTableReader& span_table,
                                  const Digest& blob, uint64_t blob_size, const Digest& diff_id,
                                  uint64_t max_bytes);

}  // namespace imagefs
