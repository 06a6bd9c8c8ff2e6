// SPDX-License-Identifier: Apache-2.0
// The kernel presentation of a chain: the kernel's EROFS over the chain's index and the layers'
// data files. The kernel reads the files directly (Linux 6.12 and newer) or through loop devices,
// whose lifetime is that of the mount (fs/loop_devices.h). Needs CAP_SYS_ADMIN. The kernel serves
// such a mount alone, without any process.
//
// Functions are thread-safe and block on the kernel and the local disk. Mounts are created
// detached: they are invisible until AttachMount, and closing their descriptor before that ends
// them.
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/fd.h"

namespace imagefs {

// What the kernel reads. Loop devices work only for complete layers whose files stay in place.
enum class ErofsWay { kFiles, kLoopDevices };

struct ErofsSource {
  std::string index;                 // path of the EROFS image
  std::vector<std::string> devices;  // paths: slot i+1 of the index is devices[i]
  std::string context;               // SELinux context of every inode; "" = the policy's default
  // Loop devices only: a path not used by any concurrent call, at which a symbolic link to the
  // index's device exists briefly. It becomes the mount's source in mountinfo, which is more useful
  // there than the number of a device.
  std::string link;
  // What mountinfo shows as the source: a relative path, as SourceOf returns it; "" = `index`, or
  // `link`. `index` must then be absolute.
  std::string shown;
};

// Returns kFailedPrecondition, naming what the kernel lacks or rejects, with the kernel's own
// message if it has one.
absl::StatusOr<Fd> MountErofs(const ErofsSource& source, ErofsWay way);

// ProbeErofs returns how this process can use the kernel presentation, or why it cannot. It makes a
// tiny image with one device in `scratch` (an existing directory on the file system of the images),
// mounts it, reads all of it and cleans up. A way that is false in ErofsWays is not tried.
struct ErofsWays {
  bool files = true, loop_devices = true;
};
absl::StatusOr<ErofsWay> ProbeErofs(const std::string& scratch, const ErofsWays& ways = {});

}  // namespace imagefs
