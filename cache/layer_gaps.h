// SPDX-License-Identifier: Apache-2.0
// The gaps between the spans of a layer's data file. Blocks on the disk. Thread-safe.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "image/span_table.h"

namespace imagefs {

// Zeroes the bytes that no span covers, unless the table moves data. Writes only where needed.
absl::Status ClearGaps(const std::string& directory, const SpanTableReader& span_table);

}  // namespace imagefs
