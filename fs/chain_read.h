// SPDX-License-Identifier: Apache-2.0
// Reads bytes of layers, and of the files of a chain, for the parts that show them: FUSE and the
// calls that stream files. A file is read in three steps, of which only the second may wait:
// MissingParts finds what is not local, EnsureParts fetches and verifies it, ReadFile reads.
// Thread-safe.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "base/byte_range.h"
#include "base/cancel.h"
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

// Runs `done` exactly once, on any thread (possibly inline), when all of these parts have arrived,
// failed or been cancelled: with the pins to read them with, or with the first error.
void EnsureParts(const std::vector<std::pair<LayerRef, ByteRange>>& missing, ReaderId reader,
                 const CancelToken& cancel,
                 absl::AnyInvocable<void(absl::StatusOr<std::vector<ReadPin>>)> done);

}  // namespace imagefs
