// SPDX-License-Identifier: Apache-2.0
// The single streaming pass that makes a layer: reads compressed bytes and decompresses them,
// hashes them, hashes, writes and parses the raw tar, and writes the index. Uses three threads (the
// caller's is the last of them) and a few MiB of memory, whatever the layer's size; with a span
// table, as many as it is given, and SpanStream::kMostBytes of memory.
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
#include "cache/layer_files.h"
#include "cache/span_stream.h"
#include "cache/store_space.h"
#include "cache/window_memory.h"
#include "image/decompress.h"
#include "image/layer_builder.h"
#include "image/layer_form.h"

namespace imagefs {

// Limits how much a blob may expand to. A gzip stream expands by a factor of at most 1,032, and a
// layer of zeros comes near that, so no gzip layer is rejected for its ratio. A zstd stream can
// reach tens of thousands; no legitimate layer exceeds both limits. The real protection of the disk
// is the reserved free space.
struct UnpackLimits {
  uint64_t any_layer = uint64_t{8} << 30;  // bytes that any blob may expand to
  uint64_t ratio = 1100;                   // plus this many for each of its own bytes
};

struct LayerInput {
  Digest blob_digest;
  uint64_t blob_size = 0;
  Digest diff_id;
  // Reads at `offset`; blocks for the first byte. Returns 0 at the end. Called from one other
  // thread.
  absl::FunctionRef<absl::StatusOr<size_t>(absl::Span<char> buffer, uint64_t offset)> read;
  UnpackLimits limits = {};
  // Called by the thread that calls `read` to acquire memory for large zstd windows; empty: no
  // limit.
  WindowWait windows = {};
  StoreSpace* space = nullptr;  // asked before bytes are written; null: no limit
  // False: the tar is not hashed, so that it may be of any DiffID, and the checksum of the data
  // file stays unknown: HashData follows. REQUIRES: true unless `form` is a tar.
  bool hash_tar = true;
  LayerForm form = {};
  // How the blob is decoded by many threads; null: by one. If the table is false, MakeLayer fails
  // and makes nothing. REQUIRES: `hash_tar`, and `form` is a tar.
  const SpanStream::Decoding* spans = nullptr;
};

// Compressed bytes between two restart points of a blob. Chosen by measurement
// (docs/benchmarks.md): half as much would need twice as many windows, and a read that misses would
// fetch half as many unneeded bytes.
inline constexpr uint64_t kPointSpacing = 192 << 10;

struct LayerOutput {
  uint64_t tar_bytes = 0;   // of what the blob gives: a tar, a file or an EROFS image
  uint64_t data_bytes = 0;  // of the data file: that, what was moved, rounded up to 512
  uint64_t index_bytes = 0;
  LayerSums sums;
  std::vector<RestartPoint> points;  // kPointSpacing apart
  std::vector<LayerBuilder::Move> moves;
  LayerForm form;  // with its content's digest
};

// Writes `data` and `index` into `directory`, which must exist and be empty. Returns kDataLoss if
// the blob does not match its digest or the tar its DiffID, kFailedPrecondition if the layer
// exceeds its limits, and kResourceExhausted if too little free space would remain. After any error
// the files are invalid. Blocks; checks `cancel` often. `unpacked_bytes` counts tar bytes as they
// are written.
absl::StatusOr<LayerOutput> MakeLayer(const LayerInput& input, const std::string& directory,
                                      const CancelToken& cancel,
                                      std::atomic<uint64_t>& unpacked_bytes);

// Returns the checksum of a layer's data file, or kDataLoss if the tar at its beginning does not
// match the DiffID.
absl::StatusOr<Digest> HashData(int data_fd, uint64_t tar_bytes, uint64_t data_bytes,
                                const Digest& diff_id, const CancelToken& cancel);

// Parses the first `tar_bytes` of the file `data_fd`, which have that form, and writes the index of
// the layer to `index_fd` (an empty file). Returns kDataLoss if they do not match the form's
// content or the DiffID. In the result, `points` is empty. Does not change `data_fd`; its checksum
// covers `data_bytes`, which must be its size.
absl::StatusOr<LayerOutput> IndexData(int data_fd, uint64_t tar_bytes, const LayerForm& form,
                                      const Digest& diff_id, int index_fd,
                                      const CancelToken& cancel);

}  // namespace imagefs
