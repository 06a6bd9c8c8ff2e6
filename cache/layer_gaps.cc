// SPDX-License-Identifier: Apache-2.0
#include "cache/layer_gaps.h"

#include <fcntl.h>

#include <algorithm>

#include "base/fd.h"
#include "base/status.h"

namespace imagefs {
namespace {

absl::Status Clear(int data, uint64_t begin, uint64_t end) {
  std::string bytes;
  for (uint64_t at = begin; at < end; at += bytes.size()) {
    bytes.resize(std::min<uint64_t>(end - at, 1 << 20));
    IMAGEFS_RETURN_IF_ERROR(PreadExact(data, absl::MakeSpan(bytes), at, "data"));
    if (bytes.find_first_not_of('\0') == std::string::npos) continue;
    bytes.assign(bytes.size(), '\0');
    IMAGEFS_RETURN_IF_ERROR(PwriteFull(data, bytes, at));
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status ClearGaps(const std::string& directory, const SpanTableReader& span_table) {
  if (!span_table.moves().empty()) return absl::OkStatus();
  IMAGEFS_ASSIGN_OR_RETURN(const Fd data, OpenFile(directory + "/data", O_RDWR | O_NOFOLLOW));
  uint64_t end = 0;
  for (size_t i = 0; i < span_table.span_count(); ++i) {
    const SpanEntry span = span_table.span(i);
    IMAGEFS_RETURN_IF_ERROR(Clear(data.get(), end, span.data_begin));
    end = span.data_end();
  }
  return Clear(data.get(), end, span_table.data_bytes());
}

}  // namespace imagefs
