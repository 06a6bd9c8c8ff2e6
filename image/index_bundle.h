// What is published of a layer so that it can be shown before its bytes are there: its index and
// its span table in one blob. Specified in docs/formats/published.md. Hostile bytes give an error,
// never a crash or more memory than the limits.
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

// Of the artifact (OCI image-spec 1.1, manifest.md, artifactType) and of its layers.
inline constexpr std::string_view kIndexArtifactType = "application/vnd.imagefs.index.v1+json";
inline constexpr std::string_view kLayerIndexMediaType =
    "application/vnd.imagefs.layer-index.v1+zstd";
inline constexpr std::string_view kProfileMediaType = "application/vnd.imagefs.profile.v1+json";
// Annotations of a layer of the artifact: the digests of the image's layer that it describes.
inline constexpr std::string_view kLayerAnnotation = "dev.imagefs.layer";
inline constexpr std::string_view kDiffIdAnnotation = "dev.imagefs.diff-id";

inline constexpr uint64_t kMaxBundleBytes = 256 << 20;      // as published
inline constexpr uint64_t kMaxUnpackedBundle = 512u << 20;  // index and table

struct IndexBundle {
  std::string index;       // EROFS, overlay form, one device
  std::string span_table;  // image/span_table.h
};
std::string PackBundle(const IndexBundle& bundle);

// Unpacks a bundle into two empty files. `max_bytes`: of both. Neither is checked.
absl::Status UnpackBundle(std::string_view packed, uint64_t max_bytes, int index, int span_table);

// The tree of a bundle that describes that layer and fits itself: the table is that of a tar (of a
// table of contents nobody but the image may speak) and names the blob, its size and the DiffID;
// the index has one device, of that DiffID and of the table's data size; all files lie inside it,
// and no inode says what no layer can. kResourceExhausted when the tree takes more than `max_bytes`
// of memory.
absl::StatusOr<Tree> TreeOfBundle(const ErofsImage& index, const SpanTableReader& span_table,
                                  const Digest& blob, uint64_t blob_size, const Digest& diff_id,
                                  uint64_t max_bytes);

}  // namespace imagefs
