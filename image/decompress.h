// Streaming decompression of layer blobs: gzip (ISA-L; multi-member, trailing zero padding), zstd
// (multi-frame, skippable frames, windows to 512 MiB), or none. Not thread-safe. Memory is that of
// the window, which for the large ones has to be granted.
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

// What the first bytes of a blob are, whatever its media type says. Needs up to 6 bytes, fewer only
// when the blob is that short. Neither gzip nor zstd is kNone: taken as a plain tar.
LayerCompression SniffCompression(std::string_view head);

// A place where decoding may begin anew.
struct RestartPoint {
  uint64_t blob_offset = 0;
  uint64_t data_offset = 0;  // bytes of output in front of it
  SpanCodec codec = SpanCodec::kStored;
  uint8_t bit = 0;  // as in SpanEntry
};

class Decompressor {
 public:
  // With `point_spacing`, notes places where decoding may begin anew, that many compressed bytes
  // apart or the next possible one behind: every gzip member or zstd frame, and deflate blocks.
  // 0 notes none. `grant` is asked for windows of more than kSmallZstdWindow, and its lease is kept
  // as long as the decompressor or until a larger one is needed; without it memory is taken as the
  // output comes, so that who decodes few bytes takes little.
  static absl::StatusOr<std::unique_ptr<Decompressor>> Create(LayerCompression compression,
                                                              uint64_t point_spacing = 0,
                                                              ZstdWindowGrant grant = {});
  virtual ~Decompressor() = default;

  struct Step {
    size_t consumed = 0;  // of `in`
    size_t produced = 0;  // into `out`
  };
  // Makes progress on at least one side unless `in` is empty and nothing is pending. Corrupt input
  // is kDataLoss and says where (offset in the compressed stream); a window that is too large is
  // kFailedPrecondition. Errors of the grant come back unchanged.
  virtual absl::StatusOr<Step> Run(std::string_view in, absl::Span<char> out) = 0;
  // After the last input: kDataLoss "truncated" when the stream ended inside a member or frame, or
  // when a compressed stream had no byte at all.
  virtual absl::Status Finish() = 0;
  // Those found so far, in ascending order; the first is the stream's beginning.
  const std::vector<RestartPoint>& points() const { return points_; }

 protected:
  explicit Decompressor(uint64_t point_spacing) : point_spacing_(point_spacing) {}
  bool PointIsDue(uint64_t blob_offset) const { return UntilPointIsDue(blob_offset) == 0; }
  // Compressed bytes until the next point is wanted.
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
