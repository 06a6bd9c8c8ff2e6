// SPDX-License-Identifier: Apache-2.0
// Aborts when a layer that a parser accepted breaks a rule that the rest of the project builds on.
#pragma once

#include <cstdint>
#include <cstdlib>

#include "image/table_layer.h"

namespace imagefs {

inline void CheckTable(const TableLayer& table) {
  const auto check = [](bool holds) {
    if (!holds) std::abort();
  };
  const SpanTable& span_table = table.span_table;
  check(span_table.data_bytes % 512 == 0 && span_table.data_bytes == table.layer.data_size);
  check(span_table.tar_bytes <= span_table.data_bytes);
  uint64_t end = 0;
  for (const SpanEntry& span : span_table.spans) {
    check(span.data_bytes > 0 && span.data_bytes <= kMaxSpanDataBytes);
    check(span.blob_bytes > 0 && span.blob_bytes <= kMaxSpanBlobBytes);
    check(span.skip <= kMaxSpanSkip && span.bit <= 7);
    check(span.data_begin >= end && span.data_end() <= span_table.data_bytes);
    check(span.blob_end() <= span_table.blob_size);
    check(span.window_offset + span.window_bytes <= span_table.windows.size());
    end = span.data_end();
  }
  if (table.prefetch.has_value()) {
    check(!table.prefetch->empty() && table.prefetch->end <= span_table.data_bytes);
  }
  for (InodeId id = 0; id < table.layer.tree.inode_count(); ++id) {
    for (const Extent& extent : table.layer.tree.Extents(id)) {
      check(extent.data_offset % 512 == 0 && extent.length <= span_table.data_bytes);
      check(extent.data_offset <= span_table.data_bytes - extent.length);
    }
  }
}

}  // namespace imagefs
