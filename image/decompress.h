// SPDX-License-Identifier: Apache-2.0
// Streaming decompression of layer blobs: gzip (ISA-L; multi-member, trailing zero padding), zstd
// (multi-frame, skippable frames, windows up to 512 MiB), or none. Not thread-safe. Memory use is
// that of the window; large windows must be granted.
#pragma once

#include <cstdint>
#include <memory>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "image/manifest.h"
#include "image/span_table.h"
#include "image/zstd_window.h"

namespace imagefs {

// Detects the compression of a blob from its first bytes, regardless of its media type. Needs 6
// bytes, or fewer if the blob is shorter. Returns kNone (a plain tar) for anything but gzip and
// zstd.
LayerCompression SniffCompression(std::string_view head);

// A point from which decoding can resume.
struct RestartPoint {
  uint64_t blob_offset = 0;
  uint64_t data_offset = 0;  // output bytes before it
  SpanCodec codec = SpanCodec::kStored;
  uint8_t bit = 0;  // like SpanEntry::bit
};

class Decompressor {
 public:
  // With a nonzero `point_spacing`, records restart points, each the first possible one at least
  // that many compressed bytes after the previous: gzip members, zstd frames and deflate blocks.
  // `grant` is asked for windows larger than kSmallZstdWindow; its lease is held until a larger
  // window is needed or the decompressor is destroyed. Without `grant`, memory grows with the
  // output, so that decoding a few bytes takes little.
  static absl::StatusOr<std::unique_ptr<Decompressor>> Create(LayerCompression compression,
                                                              uint64_t point_spacing = 0,
                                                              ZstdWindowGrant grant = {});
  virtual ~Decompressor() = default;

  struct Step {
    size_t consumed = 0;  // of `in`
    size_t produced = 0;  // into `out`
  };
  // Makes progress on at least one side unless `in` is empty and nothing is pending. Returns
  // kDataLoss, with the offset in the compressed stream, for corrupt input, and kFailedPrecondition
  // if the window is too large. Errors of the grant are returned unchanged.
  virtual absl::StatusOr<Step> Run(std::string_view in, absl::Span<char> out) = 0;
  // Call after the last input. Returns kDataLoss "truncated" if the stream ended inside a member or
  // frame, or if a compressed stream was empty.
  virtual absl::Status Finish() = 0;
  // Restart points found so far, in ascending order; the first is the beginning of the stream.
  const std::vector<RestartPoint>& points() const { return points_; }

 protected:
  explicit Decompressor(uint64_t point_spacing) : point_spacing_(point_spacing) {}
  bool PointIsDue(uint64_t blob_offset) const { return UntilPointIsDue(blob_offset) == 0; }
  // Returns the number of compressed bytes until the next point is due.
  uint64_t UntilPointIsDue(uint64_t blob_offset) const {
    if (point_spacing_ == 0) return UINT64_MAX;
    if (points_.empty()) return 0;
    const uint64_t due = points_.back().blob_offset + point_spacing_;
    return due > blob_offset ? due - blob_offset : 0;
  }
  void AddPoint(const RestartPoint& point) { points_.push_back(point); }

 private:
  const uint64_t point_spacing_;
  std::vector<RestartPoint> points_;
};

}  // namespace imagefs
