// SPDX-License-Identifier: Apache-2.0
// Decides how the headers of an uncompressed layer are read by range requests: how much is
// requested next, and whether to go on at all. A request costs a round trip, in which the line
// could have carried bytes of the layer; a layer of many small files is therefore better streamed.
// Pure.
#pragma once

#include <cstdint>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "base/byte_range.h"

namespace imagefs {

class ScanPlan {
 public:
  // For a blob of that size, which is not empty.
  explicit ScanPlan(uint64_t blob_bytes) : blob_bytes_(blob_bytes) {}

  // Returns what to request next. The next header begins at `position`; less than the bytes up to
  // `needed`, which were not all part of the last request, is of no use. `elapsed`: since the first
  // request. Returns kResourceExhausted, with the reason, if the layer should be streamed instead.
  // REQUIRES: position < needed <= the size of the blob, and position never decreases.
  absl::StatusOr<ByteRange> Next(uint64_t position, uint64_t needed, absl::Duration elapsed);

  uint64_t requests() const { return requests_; }
  uint64_t bytes() const { return bytes_; }  // requested

 private:
  absl::Status CheckWorth(uint64_t position, absl::Duration elapsed) const;

  const uint64_t blob_bytes_;
  uint64_t requests_ = 0, bytes_ = 0;
  ByteRange last_;
};

}  // namespace imagefs
