// Loop devices over files of the store, for a kernel that mounts EROFS from block devices only.
// They are read-only, read through the page cache of their file, and carry a mark by which those of
// imagefs are told from others. Needs root, /dev/loop-control and a /dev in which devices appear.
//
// Nobody has to take one away: it goes with its last user, which is a descriptor given here or a
// mount. So none is left behind a mount that fails, or a process that is killed.
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
  std::vector<Fd> held;            // keeps them
};

// One for each file, in their order: that which there is, also if another process has made it, or a
// new one. kFailedPrecondition where this machine has none to give, or where the size of a file is
// no multiple of 512: a loop device ends before the rest.
absl::StatusOr<LoopDevices> ShareLoopDevices(const std::vector<std::string>& files);
// One that is nobody else's.
absl::StatusOr<LoopDevices> MakeLoopDevice(const std::string& file);

// Has the kernel forget what it has read through the devices of that file. It keeps pages of a
// block device apart from those of the file, and does not see there that the file was written to.
absl::Status DropLoopCaches(const std::string& file);

}  // namespace imagefs
