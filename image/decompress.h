// Streaming decompression of layer blobs: gzip (ISA-L; multi-member, trailing zero padding), zstd
// (multi-frame, skippable frames, window bounded to 128 MiB), or none. Not thread-safe. Memory is
// bounded, whatever the input.
#pragma once

#include <cstdint>
#include <memory>
#include <string_view>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "image/manifest.h"

namespace imagefs {

// What the first bytes of a blob are, whatever its media type says. Needs up to 6 bytes, fewer only
// when the blob is that short. Neither gzip nor zstd is kNone: taken as a plain tar.
LayerCompression SniffCompression(std::string_view head);

class Decompressor {
 public:
  static absl::StatusOr<std::unique_ptr<Decompressor>> Create(LayerCompression compression);
  virtual ~Decompressor() = default;

  struct Step {
    size_t consumed = 0;  // of `in`
    size_t produced = 0;  // into `out`
  };
  // Makes progress on at least one side unless `in` is empty and nothing is pending. Corrupt input
  // is kDataLoss and says where (offset in the compressed stream).
  virtual absl::StatusOr<Step> Run(std::string_view in, absl::Span<char> out) = 0;
  // After the last input: kDataLoss "truncated" when the stream ended inside a member or frame, or
  // when a compressed stream had no byte at all.
  virtual absl::Status Finish() = 0;
};

}  // namespace imagefs
