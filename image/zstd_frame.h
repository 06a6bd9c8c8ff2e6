// SPDX-License-Identifier: Apache-2.0
// Compresses and decompresses single zstd frames. Pure.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"

namespace imagefs {

// Decodes the bytes of one frame as they come. Not thread-safe. Windows up to 512 MiB are accepted:
// callers limit them (image/zstd_window.h).
class ZstdStream {
 public:
  // Returns kResourceExhausted if there is no memory.
  static absl::StatusOr<std::unique_ptr<ZstdStream>> Create();
  virtual ~ZstdStream() = default;
  struct Step {
    size_t consumed = 0, produced = 0;
    bool ended = false;  // the frame; the next byte is the first of another one
  };
  // Decodes until `in` is consumed and all that it gives is in `out`, or until `out` is full.
  // Returns kDataLoss if these are not the bytes of a frame.
  virtual absl::StatusOr<Step> Run(std::string_view in, absl::Span<char> out) = 0;
  virtual void Reset() = 0;  // another frame begins
};

std::string CompressZstd(std::string_view data, int level);

// Returns kDataLoss if `frame` is not a zstd frame, kResourceExhausted if it claims to hold, or
// holds, more than `max_bytes`.
absl::StatusOr<std::string> DecompressZstd(std::string_view frame, size_t max_bytes);

// Returns the content size that a frame claims, from its first bytes (18 are enough), without
// verifying it. Returns kDataLoss if it is not a zstd frame or does not declare its size.
absl::StatusOr<uint64_t> ZstdFrameBytes(std::string_view head);

// Passes the content of `frame` to `sink` piece by piece, using min(content, 32 MiB) of memory.
// Errors are those of DecompressZstd; also returns kDataLoss if bytes follow the frame. Stops at
// the first error of `sink`.
absl::Status DecompressZstdTo(std::string_view frame, uint64_t max_bytes,
                              absl::FunctionRef<absl::Status(std::string_view)> sink);

}  // namespace imagefs
