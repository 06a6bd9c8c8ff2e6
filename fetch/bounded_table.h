// Tables that remember something of hosts and blobs by names that come from outside: what others
// name must not take memory without end.
#pragma once

#include <cstddef>

namespace imagefs {

inline constexpr size_t kMaxTableEntries = 4096;

// Before an insertion. A full table is emptied: whatever it held can be found out again.
template <typename Table>
void BoundTable(Table& table) {
  if (table.size() >= kMaxTableEntries) table.clear();
}

}  // namespace imagefs
