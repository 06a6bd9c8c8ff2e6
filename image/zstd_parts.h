// SPDX-License-Identifier: Apache-2.0
// The parts of a large zstd frame: runs of whole blocks, each decoded with the state that the one
// before it left (RFC 8878, 3.1.1). So a frame of any size can be fetched and decoded in pieces
// that are small, although only one after another.
#pragma once

#include <cstdint>
#include <memory>
#include <string_view>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "base/byte_range.h"
#include "base/digest.h"

namespace imagefs {

// The largest window of a frame that is decoded in parts: its decoder is kept while the parts come.
inline constexpr uint64_t kMaxZstdPartsWindow = 32 << 20;

// Returns what a decoder of the frame that begins with `head` allocates. kDataLoss: these are not
// the first bytes of a zstd frame; kUnimplemented: its window is larger than kMaxZstdPartsWindow.
absl::StatusOr<uint64_t> ZstdPartsMemory(std::string_view head);

// Decodes one frame. Not thread-safe; use it from one thread at a time.
class ZstdPartsDecoder {
 public:
  // Returns kResourceExhausted if there is no memory.
  static absl::StatusOr<std::unique_ptr<ZstdPartsDecoder>> Create();
  virtual ~ZstdPartsDecoder() = default;
  // Decodes the next part, which has exactly `out.size()` bytes of content; only the last may have
  // more, or go on after the frame's end. kDataLoss: it does not; the decoder is then of no use.
  virtual absl::Status Next(std::string_view blob, absl::Span<char> out, bool last) = 0;
};

// A value type.
struct ZstdPart {
  bool begins = false;  // a frame; its header comes first
  ByteRange blob;
  Digest digest;            // of these bytes of the blob
  uint32_t data_bytes = 0;  // > 0
};

// Finds the parts of the frames in `range` of a blob by decoding them; each has `part_bytes` of
// content, and at most a block (128 KiB) more, but for the last of a frame. `read` reads exactly
// `out.size()` bytes at `offset`; `content` is given all that was decoded, in order. Returns
// kDataLoss if the range does not consist of frames, kUnimplemented for one with a window that is
// too large.
using ReadBlobBytes = absl::FunctionRef<absl::Status(absl::Span<char> out, uint64_t offset)>;
absl::StatusOr<std::vector<ZstdPart>> FindZstdParts(
    ByteRange range, uint32_t part_bytes, ReadBlobBytes read,
    absl::FunctionRef<absl::Status(std::string_view)> content);

}  // namespace imagefs
