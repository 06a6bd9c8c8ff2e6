// SPDX-License-Identifier: Apache-2.0
// Passes over large blobs that many processors share
// (docs/adr/0028-one-layer-on-many-processors.md): a layer that is fetched as a whole, and of which
// an index is published, is decompressed by the spans of that index's table. Owned by LayerStore.
//
// The table is no more than a hint. A layer is made of the digests of its blob and its tar, and a
// table that does not lead to them costs time: the layer is then made as if there were none.
//
// Thread-safe.
#pragma once

#include <atomic>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "base/cancel.h"
#include "base/executor.h"
#include "cache/chain.h"
#include "cache/fill_scheduler.h"
#include "cache/layer_maker.h"
#include "image/manifest.h"

namespace imagefs {

class ParallelPasses {
 public:
  struct Options {
    // On fewer processors one thread decompresses a layer, as fast. 0: always one.
    int least_processors = 4;
    // Of smaller blobs it takes less time than to look for an index.
    uint64_t least_bytes = 64 << 20;
    int processors = 0;  // 0 = UsableProcessors()
  };
  // Decodes on the scheduler's workers. It must outlive every call.
  ParallelPasses(const Options& options, FillScheduler& scheduler);

  // Whether a table of that blob would be used.
  bool Wants(const Descriptor& blob) const;

  struct Result {
    absl::StatusOr<LayerOutput> made;
    bool lied = false;  // the table: it is of no use to anybody
  };
  // MakeLayer, by the table of `found` if it is right and fewer than kMostPasses do so now.
  // REQUIRES: `found` is not null, input.hash_tar, and input.form is a tar. Blocks.
  Result Make(LayerInput input, const FoundIndexRef& found, const std::string& directory,
              const PriorityRef& priority, const CancelToken& cancel,
              std::atomic<uint64_t>& unpacked_bytes);

  void AppendCounters(std::vector<std::pair<std::string, uint64_t>>& out) const;

 private:
  static constexpr int kMostPasses = 2;  // each takes SpanStream::kMostBytes of memory
  absl::StatusOr<LayerOutput> MakeBySpans(LayerInput& input, const FoundIndex& found,
                                          const std::string& directory, const PriorityRef& priority,
                                          const CancelToken& cancel,
                                          std::atomic<uint64_t>& unpacked_bytes,
                                          absl::Status& windows);

  const Options options_;
  const bool enough_processors_;
  FillScheduler& scheduler_;
  std::atomic<int> running_{0};
  std::atomic<uint64_t> made_{0}, useless_{0};
};

}  // namespace imagefs
