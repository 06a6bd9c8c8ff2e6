// One zstd frame made or opened in memory. Pure.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace imagefs {

std::string CompressZstd(std::string_view data, int level);

// kDataLoss when `frame` is no zstd frame, kResourceExhausted when it says, or turns out, to hold
// more than `max_bytes`.
absl::StatusOr<std::string> DecompressZstd(std::string_view frame, size_t max_bytes);

}  // namespace imagefs
