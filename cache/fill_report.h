// SPDX-License-Identifier: Apache-2.0
// The status of a lazy layer (cache/filling_layer.h). A value type.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/byte_range.h"
#include "base/executor.h"

namespace imagefs {

struct FillReport {
  std::string state;        // "filling", "checking", "complete", "damaged"
  std::string reason;       // what is wrong, since when, what happens next; "" = nothing is wrong
  std::string cause;        // of the trouble, without times
  uint64_t blob_bytes = 0;  // of all spans
  uint64_t blob_bytes_present = 0;  // of those that are present
  uint64_t blob_bytes_fetched = 0;  // by this process
  uint64_t blob_bytes_needed = 0;   // of spans that readers requested
  uint64_t data_bytes = 0, data_bytes_present = 0;
  uint64_t waiting = 0;  // reads
  struct Transfer {
    ByteRange blob;
    Priority priority = Priority::kOnDemand;
  };
  std::vector<Transfer> in_flight;
};

}  // namespace imagefs
