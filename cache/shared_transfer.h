// SPDX-License-Identifier: Apache-2.0
// Copies images between a store and a shared one (cache/shared_store.h). For ImageStore. Blocks on
// the disk.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "base/cancel.h"
#include "cache/chain.h"
#include "cache/layer_store.h"
#include "cache/shared_store.h"
#include "image/manifest.h"

namespace imagefs {

// Adds an image, whose layers are those of `chain` and complete, to the shared store in
// `directory`. Returns the bytes that were added.
absl::StatusOr<uint64_t> ExportImage(const LayerStore& layers, const ResolvedImage& image,
                                     const Chain& chain, const std::string& directory,
                                     const CancelToken& cancel);

// Copies these layers of a shared store into `layers`. Returns them, pinned, once they are durable.
absl::StatusOr<std::vector<LayerRef>> ImportLayers(LayerStore& layers, const SharedStores& from,
                                                   const std::vector<Digest>& diff_ids,
                                                   const CancelToken& cancel);

}  // namespace imagefs
