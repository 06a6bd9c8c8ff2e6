// SPDX-License-Identifier: Apache-2.0
// The memory that a zstd frame demands, from its first bytes (RFC 8878, 3.1.1.1). Pure.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <string_view>

#include "absl/status/statusor.h"
#include "base/byte_budget.h"

namespace imagefs {

// The largest supported window, as in the runtimes (zstd --long=29).
inline constexpr int kMaxZstdWindowLog = 29;
// Windows up to this size need no grant: all levels of zstd but the "ultra" ones use less.
inline constexpr uint64_t kSmallZstdWindow = 8 << 20;

// Grants memory for a window. May block. Called on the decoding thread, at the start of the frame
// that needs it.
using ZstdWindowGrant = std::function<absl::StatusOr<ByteBudget::Lease>(uint64_t bytes)>;

// The number of bytes that always suffices to tell.
inline constexpr size_t kMaxZstdHeadBytes = 18;

// The first four bytes, little-endian, of a frame and of a skippable frame.
inline constexpr uint32_t kZstdMagic = 0xFD2FB528;
inline bool IsSkippableZstd(uint32_t magic) { return (magic & 0xFFFFFFF0) == 0x184D2A50; }

// Returns nullopt if `head` is too short to tell. `window` is the size of the requested window,
// `memory` what a decoder allocates for it, which is less if the content is smaller. Both are 0 for
// anything but a frame with a window: a skippable frame, or not zstd.
struct ZstdDemand {
  uint64_t window = 0, memory = 0;
};
std::optional<ZstdDemand> ZstdDemandOf(std::string_view head);
// Returns how many bytes the header of a frame has, its magic number included; nullopt if `head` is
// too short to tell. REQUIRES: `head` begins with the magic number of a frame.
std::optional<size_t> ZstdHeadBytes(std::string_view head);

}  // namespace imagefs
