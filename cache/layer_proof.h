// SPDX-License-Identifier: Apache-2.0
// The proof of a layer that was mounted before its bytes were hashed: its blob unpacks to the
// DiffID that the image claims, and its description agrees with the tar. The proof also produces
// the layer under its DiffID. Blocks on the disk and the processor.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "base/cancel.h"
#include "base/fd.h"
#include "cache/layer_maker.h"
#include "image/span_table.h"

namespace imagefs {

struct UnprovenLayer {
  std::string directory;              // its files: data (complete), index, access
  const SpanTableReader& span_table;  // its span table; every span's digest was verified
  Digest diff_id;                     // the claimed DiffID, or the name that stands for it
  LayerForm form;                     // not a tar: the data file begins with the blob's bytes
  const Fd& blob;  // complete; its digest was verified, unless the data file has the same bytes
  WindowWait windows = {};      // for the pass (cache/layer_maker.h)
  StoreSpace* space = nullptr;  // asked before bytes are written; null: no limit
};

struct ProvenLayer {
  LayerOutput made;
  // The span table was kept: the data file has the same layout as the unproven layer's. Otherwise
  // it must be built from `made` and the blob.
  bool has_access = false;
  LayerSums shown;  // checksums of the unproven layer's files
};

// Writes `data`, `index` and possibly `access` into `into`, an empty directory on the same file
// system; `data` may be a hard link to the unproven layer's file, which does not change any more.
// Returns kDataLoss with the claim that is false: the DiffID or the description.
absl::StatusOr<ProvenLayer> ProveLayer(const UnprovenLayer& layer, const std::string& into,
                                       const CancelToken& cancel);

// Checks that a layer whose span table was built locally, and whose data was fetched again, is the
// one that was proven before. Returns the checksums of its files, or kDataLoss if it is not. The
// first `tar_bytes` of the data file are the tar.
absl::StatusOr<LayerSums> CheckRefilled(const std::string& directory, const LayerForm& form,
                                        const Digest& diff_id, uint64_t tar_bytes,
                                        const CancelToken& cancel);

// Rebuilds the index of a proven layer, whose data is right again, in the existing file.
// `tar_bytes` as above. Returns kDataLoss if the result does not have the checksum `sum`.
absl::Status RestoreIndex(const std::string& directory, const LayerForm& form,
                          const Digest& diff_id, uint64_t tar_bytes, uint32_t sum,
                          const CancelToken& cancel);

}  // namespace imagefs
