// Keeps the content of images from filling a disk: some room stays for everybody else.
#pragma once

#include <cstdint>

#include "absl/status/status.h"

namespace imagefs {

// Asked before bytes are written to the file system that `fd` is on. Not thread-safe. Asks the
// kernel when `check_bytes` have been written, so that small files pass whatever the disk is like,
// and more often the less is left, so that several writers at once keep the reserve, too. `fd` must
// outlive it.
class FreeSpaceGuard {
 public:
  struct Options {
    // What has to stay free: the smaller of the two.
    uint64_t max_reserve = uint64_t{1} << 30;
    uint64_t reserve_divisor = 20;  // this part of the file system: 5 %
    uint64_t check_bytes = 8 << 20;
  };
  FreeSpaceGuard(int fd, Options options)
      : fd_(fd), options_(options), next_check_(options.check_bytes) {}

  // kResourceExhausted, with what is free and what has to be, when those bytes would leave too
  // little.
  absl::Status Allow(uint64_t bytes);

 private:
  const int fd_;
  const Options options_;
  uint64_t next_check_;     // when so many bytes have been written
  uint64_t unchecked_ = 0;  // since the kernel was asked
};

}  // namespace imagefs
