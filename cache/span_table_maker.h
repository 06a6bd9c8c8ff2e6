// SPDX-License-Identifier: Apache-2.0
// Makes the span table of a layer whose blob and tar are both local: cuts the tar where the blob
// can be entered, and proves each span by decoding it.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/cancel.h"
#include "base/digest.h"
#include "image/decompress.h"
#include "image/span_table.h"
#include "image/zstd_parts.h"

namespace imagefs {

struct SpanTableInput {
  Digest blob_digest;
  uint64_t blob_size = 0;
  Digest diff_id;
  uint64_t tar_bytes = 0;
  uint64_t data_bytes = 0;
  std::vector<RestartPoint> points;  // ascending, the first at 0
  std::vector<LayerBuilder::Move> moves;
  int data_fd = -1;  // the layer's data file
  // Reads exactly `out.size()` bytes of the blob at `offset`.
  ReadBlobBytes read_blob;
  // A zstd frame with more content than this is cut into parts.
  uint64_t whole_frame_bytes = kWholeFrameBytes;
  static constexpr uint64_t kWholeFrameBytes = 8 << 20;
};

// Returns kUnimplemented if the blob has too few entry points to be read in parts (a large zstd
// frame with a window above kMaxZstdPartsWindow), and kDataLoss if a span does not decode to the
// tar's bytes. Blocks.
absl::StatusOr<SpanTable> MakeSpanTable(const SpanTableInput& input, const CancelToken& cancel);

// Where a table enters the blob.
std::vector<RestartPoint> PointsOf(const SpanTableReader& table);

}  // namespace imagefs
