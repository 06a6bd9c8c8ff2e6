// SPDX-License-Identifier: Apache-2.0
// Keeps image content from filling up a disk: reserves some space for everybody else.
#pragma once

#include <cstdint>

#include "absl/status/status.h"

namespace imagefs {

// Must be asked before bytes are written to the file system of `fd`. Not thread-safe. Queries the
// kernel every `check_bytes` written, so that small files always pass, and more often as space gets
// scarce, so that concurrent writers respect the reserve as well. `fd` must outlive it.
class FreeSpaceGuard {
 public:
  struct Options {
    // The space to keep free: the smaller of the two.
    uint64_t max_reserve = uint64_t{1} << 30;
    uint64_t reserve_divisor = 20;  // 1/20 of the file system
    uint64_t check_bytes = 8 << 20;
  };
  FreeSpaceGuard(int fd, Options options)
      : fd_(fd), options_(options), next_check_(options.check_bytes) {}

  // Returns kResourceExhausted, with the free and the required space, if writing `bytes` would
  // leave too little.
  absl::Status Allow(uint64_t bytes);

 private:
  const int fd_;
  const Options options_;
  uint64_t next_check_;     // number of bytes after which to query the kernel
  uint64_t unchecked_ = 0;  // bytes since the last query
};

}  // namespace imagefs
