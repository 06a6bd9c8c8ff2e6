// Makes the span table of a layer whose blob and tar are both at hand: cuts the tar at the places
// where the blob can be entered, and proves each span by decoding it.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "base/cancel.h"
#include "base/digest.h"
#include "image/decompress.h"
#include "image/span_table.h"

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
  // Reads the whole of `out` from the blob at `offset`.
  absl::FunctionRef<absl::Status(absl::Span<char> out, uint64_t offset)> read_blob;
};

// kUnimplemented when the blob cannot be entered often enough to be read in parts (a zstd blob of
// one large frame); kDataLoss when a span does not give the tar's bytes. Blocks.
absl::StatusOr<SpanTable> MakeSpanTable(const SpanTableInput& input, const CancelToken& cancel);

}  // namespace imagefs
