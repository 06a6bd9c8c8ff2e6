// The one streaming pass that makes a layer: compressed bytes in; hash, decompress, hash, write the
// raw tar, parse, write the index. Two threads, a few MiB of memory, whatever the layer's size.
#pragma once

#include <atomic>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "base/cancel.h"
#include "base/digest.h"
#include "base/free_space.h"
#include "cache/layer_files.h"
#include "cache/window_memory.h"
#include "image/decompress.h"
#include "image/layer_builder.h"

namespace imagefs {

// How much one blob may become. A gzip stream gives at most 1,032 bytes for each of its own, and a
// layer of zeros comes near that, so no gzip layer is refused for its ratio. A zstd stream gives
// tens of thousands: what is beyond both figures together is no layer that anybody has made on
// purpose. What really protects the disk is the free space that is kept.
struct UnpackLimits {
  uint64_t any_layer = uint64_t{8} << 30;  // bytes that any blob may become
  uint64_t ratio = 1100;                   // and this many for each of its own
  FreeSpaceGuard::Options space;
};

struct LayerInput {
  Digest blob_digest;
  uint64_t blob_size = 0;
  Digest diff_id;
  // Reads at `offset`, waiting for the first byte; 0 at the end. Called from one other thread.
  absl::FunctionRef<absl::StatusOr<size_t>(absl::Span<char> buffer, uint64_t offset)> read;
  UnpackLimits limits = {};
  // Asked for the memory of large zstd windows, by the thread that calls `read`; empty: it is
  // taken.
  WindowWait windows = {};
};

// Compressed bytes between two places where a blob can be entered. Chosen by measurement
// (docs/benchmarks.md): the windows of half as much are twice as many, and a read that misses
// brings half as many bytes that nobody asked for.
inline constexpr uint64_t kPointSpacing = 192 << 10;

struct LayerOutput {
  uint64_t tar_bytes = 0;
  uint64_t data_bytes = 0;  // of the data file: the tar, moved sparse segments, rounded up to 512
  uint64_t index_bytes = 0;
  LayerSums sums;
  std::vector<RestartPoint> points;  // kPointSpacing apart
  std::vector<LayerBuilder::Move> moves;
};

// Writes `data` and `index` into `directory`, which exists and is empty. kDataLoss when the blob
// does not have its digest or the tar not its DiffID; kFailedPrecondition when it becomes larger
// than a layer may, kResourceExhausted when the disk would be left with too little free space.
// Then, as after any error, the files are worthless. Blocks until done; looks at `cancel` often.
// `unpacked_bytes` counts tar bytes as they are written.
absl::StatusOr<LayerOutput> MakeLayer(const LayerInput& input, const std::string& directory,
                                      const CancelToken& cancel,
                                      std::atomic<uint64_t>& unpacked_bytes);

// Parses the tar of `tar_bytes` that the file `data_fd` begins with, and writes the index of the
// layer to `index_fd` (an empty file). kDataLoss when the tar does not have the DiffID. Of the
// result, `points` is empty. `data_fd` is not changed; the sum of it is of `data_bytes`, which it
// has to have.
absl::StatusOr<LayerOutput> IndexTar(int data_fd, uint64_t tar_bytes, const Digest& diff_id,
                                     int index_fd, const CancelToken& cancel);

}  // namespace imagefs
