// Bytes of a layer, for the answers of FUSE. Thread-safe.
#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "cache/chain.h"

namespace imagefs {

// Fills `out` with the bytes at `offset` of the layer's data file, or with what one of `pins` has
// in memory in their place. kDataLoss when the file ends before.
absl::Status ReadLayer(const Layer& layer, uint64_t offset, absl::Span<char> out,
                       absl::Span<const ReadPin> pins);

}  // namespace imagefs
