// SPDX-License-Identifier: Apache-2.0
// Loop devices over files of the store, for kernels that mount EROFS only from block devices. They
// are read-only, read through the page cache of their file, and are marked as devices of imagefs.
// Needs root, /dev/loop-control and a /dev in which devices appear.
//
// A device needs no cleanup: it is removed with its last user, which is a descriptor returned here
// or a mount. So neither a failed mount nor a killed process leaves one behind.
//
// Functions are thread-safe and block on the kernel.
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/fd.h"

namespace imagefs {

struct LoopDevices {
  std::vector<std::string> paths;  // "/dev/loop7"
  std::vector<Fd> held;            // keeps the devices alive
};

// Returns one device per file, in order: an existing one, even if another process made it, or a new
// one. Returns kFailedPrecondition if this machine has no device to give, or if the size of a file
// is not a multiple of 512 (a loop device would omit the rest).
absl::StatusOr<LoopDevices> ShareLoopDevices(const std::vector<std::string>& files);
// Returns a device that is not shared.
absl::StatusOr<LoopDevices> MakeLoopDevice(const std::string& file);

// Makes the kernel forget what it has read through the file's loop devices. It caches pages of a
// block device separately from those of the file and does not notice writes to the file.
absl::Status DropLoopCaches(const std::string& file);

}  // namespace imagefs
