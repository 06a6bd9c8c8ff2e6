// One zstd frame, made or opened. Pure.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace imagefs {

std::string CompressZstd(std::string_view data, int level);

// kDataLoss when `frame` is no zstd frame, kResourceExhausted when it says, or turns out, to hold
// more than `max_bytes`.
absl::StatusOr<std::string> DecompressZstd(std::string_view frame, size_t max_bytes);

// How many bytes a frame says that it holds, from its first bytes (18 are enough). Nothing has been
// checked then. kDataLoss when it is no zstd frame or does not say.
absl::StatusOr<uint64_t> ZstdFrameBytes(std::string_view head);

// Hands the content of `frame` to `sink` piece by piece, in memory of min(content, 32 MiB). Errors
// as those of DecompressZstd; kDataLoss also when bytes follow the frame. An error of `sink` ends
// it.
absl::Status DecompressZstdTo(std::string_view frame, uint64_t max_bytes,
                              absl::FunctionRef<absl::Status(std::string_view)> sink);

}  // namespace imagefs
