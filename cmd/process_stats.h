// SPDX-License-Identifier: Apache-2.0
// What this process uses, from /proc. Blocks on that.
#pragma once

#include <cstdint>

namespace imagefs {

// What cannot be read is 0.
struct ProcessStats {
  uint64_t resident_bytes = 0, virtual_bytes = 0;
  double cpu_seconds = 0;
  double start_unix_seconds = 0;
  uint64_t threads = 0;
  uint64_t open_fds = 0, max_fds = 0;
};
ProcessStats ReadProcessStats();

}  // namespace imagefs
