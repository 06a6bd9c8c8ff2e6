// SPDX-License-Identifier: Apache-2.0
// Reads bytes of layers, and of the files of a chain, to answer FUSE requests. Thread-safe.
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

// Fills `out` with the bytes at `offset` of the layer's data file, or with the in-memory bytes that
// one of `pins` has for them. Returns kDataLoss if the file ends first.
absl::Status ReadLayer(const Layer& layer, uint64_t offset, absl::Span<char> out,
                       absl::Span<const ReadPin> pins);

// Fills `out` with the bytes at `offset` of a file. REQUIRES: the file is long enough.
absl::Status ReadFile(const Chain& chain, Nid nid, uint64_t offset, absl::Span<char> out,
                      absl::Span<const ReadPin> pins);

// Returns the parts of [offset, offset + size) of a file that lie in partially present layers, as
// ranges of the data files of those layers.
absl::StatusOr<std::vector<std::pair<LayerRef, ByteRange>>> MissingParts(const Chain& chain,
                                                                         Nid nid, uint64_t offset,
                                                                         size_t size);

}  // namespace imagefs
