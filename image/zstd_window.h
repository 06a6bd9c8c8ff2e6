// How much memory a zstd frame asks for, from its first bytes (RFC 8878, 3.1.1.1). Pure.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <string_view>

#include "absl/status/statusor.h"
#include "base/byte_budget.h"

namespace imagefs {

// The largest window that is decoded, as in the runtimes (zstd --long=29).
inline constexpr int kMaxZstdWindowLog = 29;
// Up to this much nobody is asked: it is what every level of zstd but the "ultra" ones takes.
inline constexpr uint64_t kSmallZstdWindow = 8 << 20;

// Grants memory for a window, and may wait for it. Called where the frame begins that needs it, by
// the thread that decodes.
using ZstdWindowGrant = std::function<absl::StatusOr<ByteBudget::Lease>(uint64_t bytes)>;

// The most bytes that tell it.
inline constexpr size_t kMaxZstdHeadBytes = 18;

// Absent while `head` is too short to tell. `window`: the size of the window that is asked for,
// `memory`: the bytes that a decoder takes for it, less when the content is smaller. 0 for what is
// no frame with a window: a skippable one, or no zstd at all.
struct ZstdDemand {
  uint64_t window = 0, memory = 0;
};
std::optional<ZstdDemand> ZstdDemandOf(std::string_view head);

}  // namespace imagefs
