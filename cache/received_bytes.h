// SPDX-License-Identifier: Apache-2.0
// The bytes of a requested range, as a transfer delivers them: in any order, and possibly twice.
#pragma once

#include <cstdint>
#include <cstring>
#include <string_view>

#include "absl/status/status.h"
#include "base/byte_range.h"

namespace imagefs {

// Copies those bytes of `data`, which begins at `offset`, that `received` lacks to where they
// belong in `buffer`, which holds `requested`. Others may be read by another thread meanwhile.
// Returns kInternal for bytes outside of the range.
inline absl::Status TakeReceived(ByteRange requested, uint64_t offset, std::string_view data,
                                 char* buffer, RangeSet& received) {
  if (offset < requested.begin || offset > requested.end || data.size() > requested.end - offset) {
    return absl::InternalError("bytes that were not requested");
  }
  const ByteRange here = {offset, offset + data.size()};
  for (const ByteRange& part : received.Missing(here)) {
    std::memcpy(buffer + (part.begin - requested.begin), data.data() + (part.begin - offset),
                part.size());
  }
  received.Add(here);
  return absl::OkStatus();
}

}  // namespace imagefs
