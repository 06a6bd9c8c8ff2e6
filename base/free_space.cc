// SPDX-License-Identifier: Apache-2.0
#include "base/free_space.h"

#include <errno.h>
#include <sys/statvfs.h>

#include <algorithm>

#include "base/status.h"
#include "base/text.h"
#include "base/units.h"

namespace imagefs {

namespace {

// Number of concurrent writers for which the reserve is guaranteed.
constexpr uint64_t kWriters = 16;
constexpr uint64_t kLeastCheckBytes = 64 << 10;

}  // namespace

absl::Status FreeSpaceGuard::Allow(uint64_t bytes) {
  unchecked_ += bytes;
  if (unchecked_ < next_check_) return absl::OkStatus();
  unchecked_ = 0;
  struct statvfs disk;
  if (fstatvfs(fd_, &disk) != 0) return ErrnoStatus(errno, "the free space cannot be determined");
  const uint64_t free = disk.f_bavail * disk.f_frsize;
  const uint64_t reserve =
      std::min(options_.max_reserve, disk.f_blocks * disk.f_frsize / options_.reserve_divisor);
  const uint64_t room = free > reserve ? free - reserve : 0;
  next_check_ = std::min(options_.check_bytes, std::max(kLeastCheckBytes, room / kWriters));
  if (room >= bytes) return absl::OkStatus();
  return absl::ResourceExhaustedError(
      StrCat("the disk has ", FormatBytes(free), " of free space left, and ", FormatBytes(reserve),
             " are kept for everybody else; `imagefs evict` and `imagefs rm` give space back"));
}

}  // namespace imagefs
