// The proof of a layer that was shown before its bytes were hashed: that its blob unpacks to the
// DiffID which the image claims, and that its description says what the tar says. What the proof
// makes on the way is the layer under its DiffID. Blocks on the disk and the processor.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "base/cancel.h"
#include "base/fd.h"
#include "cache/layer_maker.h"
#include "image/span_table.h"

namespace imagefs {

struct UnprovenLayer {
  std::string directory;              // its files: data (whole), index, access
  const SpanTableReader& span_table;  // its span table; every span's digest held
  Digest diff_id;                     // the claim
  const Fd& blob;                     // whole; its digest held
  WindowWait windows = {};            // of the pass (cache/layer_maker.h)
};

struct ProvenLayer {
  LayerOutput made;
  // The span table went along: the data file is laid out as the unproven layer's. Else it has to
  // be made, of `made` and the blob.
  bool has_access = false;
  LayerSums shown;  // of the unproven layer's files
};

// Writes `data`, `index` and perhaps `access` into `into`, an empty directory on the same file
// system; `data` may be another name of the unproven layer's file, which nobody changes any more.
// kDataLoss says which claim is false: the DiffID, or the description.
absl::StatusOr<ProvenLayer> ProveLayer(const UnprovenLayer& layer, const std::string& into,
                                       const CancelToken& cancel);

// Whether a layer whose span table was made here, and whose data came a second time, is the one
// that was proven before. kDataLoss when not, else the sums of its files.
// `tar_bytes` of the data file are the tar.
absl::StatusOr<LayerSums> CheckRefilled(const std::string& directory, const Digest& diff_id,
                                        uint64_t tar_bytes, const CancelToken& cancel);

// Makes the index of a proven layer whose data is right again, in the file that is there.
// `tar_bytes` as above. kDataLoss when that does not give an index with this sum.
absl::Status RestoreIndex(const std::string& directory, const Digest& diff_id, uint64_t tar_bytes,
                          uint32_t sum, const CancelToken& cancel);

}  // namespace imagefs
