// SPDX-License-Identifier: Apache-2.0
// The status of a lazy layer (cache/filling_layer.h). Value types.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/byte_range.h"
#include "base/executor.h"
#include "base/timeline.h"

namespace imagefs {

// Whether bytes of a layer are present, and who asked for them.
enum class ByteState : uint8_t {
  kAbsent,
  kNeeded,      // a reader requested them
  kPrefetched,  // before any reader: a profile, the image's author, or reading ahead
  kFetched,     // to complete the layer, or by an earlier process
};
inline constexpr size_t kByteStates = 4;

// Phases of the check of a whole layer, which begins when every span is present.
enum class CheckPhase : uint8_t {
  kNone,
  kWaiting,      // for a moment without readers, or for a worker
  kRunning,      // on a worker
  kNeedsSource,  // the rest of the blob is missing, and there is no source to ask
  kFetching,     // the rest of the blob
};

struct FillReport {
  std::string state;        // "filling", "checking", "complete", "damaged"
  std::string reason;       // what is wrong, since when, what happens next; "" = nothing is wrong
  std::string cause;        // of the trouble, without times
  uint64_t blob_bytes = 0;  // of all spans
  uint64_t blob_bytes_present = 0;  // of those that are present
  uint64_t blob_bytes_fetched = 0;  // by this process
  uint64_t blob_bytes_needed = 0;   // of spans that readers requested
  uint64_t data_bytes = 0, data_bytes_present = 0;
  uint64_t hot_bytes = 0;  // of the data, pages that came with a hot pack
  uint64_t waiting = 0;    // reads
  struct Transfer {
    ByteRange blob;
    Priority priority = Priority::kOnDemand;
  };
  std::vector<Transfer> in_flight;
};

// What the status page shows of it (docs/status-page.md).
struct FillPicture {
  static constexpr size_t kMostEvents = 2000;  // the first ones tell how the layer was started
  std::vector<ByteState> spans;
  // The requests, and the reads that waited; at the end those that have not ended.
  Timeline::Reading events;
};

}  // namespace imagefs
