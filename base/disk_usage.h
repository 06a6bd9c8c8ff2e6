// SPDX-License-Identifier: Apache-2.0
// What a directory tree occupies on its disk, as du(1) counts it.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"

namespace imagefs {

struct DiskUsage {
  uint64_t bytes = 0;  // blocks of all files and directories; a file with several names counts once
  uint64_t files = 0;  // everything except directories
};
// Follows no links and stays on one file system. What vanishes meanwhile is not counted, nor is a
// root that does not exist. Blocks; thread-safe.
absl::StatusOr<DiskUsage> DiskUsageOf(const std::string& root);

}  // namespace imagefs
