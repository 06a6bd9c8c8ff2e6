// SPDX-License-Identifier: Apache-2.0
// Bounded lookup tables for state of hosts and blobs. Their keys come from outside and must not
// consume unbounded memory.
#pragma once

#include <cstddef>

namespace imagefs {

inline constexpr size_t kMaxTableEntries = 4096;

// Call before an insertion. Clears a full table: its contents can be learned again.
template <typename Table>
void BoundTable(Table& table) {
  if (table.size() >= kMaxTableEntries) table.clear();
}

}  // namespace imagefs
