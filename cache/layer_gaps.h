// What lies between the spans of a layer's data file. Blocks on the disk. Thread-safe.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "image/span_table.h"

namespace imagefs {

// Makes zeros of what no span brings, where the table moves nothing there. Writes only what is not.
absl::Status ClearGaps(const std::string& directory, const SpanTableReader& span_table);

}  // namespace imagefs
