// Reads the bytes of layers, and of the files of a chain, for the answers of FUSE. Thread-safe.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "base/byte_range.h"
#include "cache/chain.h"
#include "image/tree.h"

namespace imagefs {

// Fills `out` with the bytes at `offset` of the layer's data file, or with what one of `pins` has
// in memory in their place. kDataLoss when the file ends before.
absl::Status ReadLayer(const Layer& layer, uint64_t offset, absl::Span<char> out,
                       absl::Span<const ReadPin> pins);

// Fills `out` with the bytes at `offset` of a file. REQUIRES: the file has them.
absl::Status ReadFile(const Chain& chain, Nid nid, uint64_t offset, absl::Span<char> out,
                      absl::Span<const ReadPin> pins);

// The parts of [offset, offset + size) of a file that lie in layers of which bytes are missing, as
// ranges of those layers' data files.
absl::StatusOr<std::vector<std::pair<LayerRef, ByteRange>>> PartsToFill(const Chain& chain, Nid nid,
                                                                        uint64_t offset,
                                                                        size_t size);

}  // namespace imagefs
