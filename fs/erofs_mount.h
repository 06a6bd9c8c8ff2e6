// The kernel presentation of a chain: the kernel's own EROFS over the chain's index and the layers'
// data files. It reads the files themselves (Linux 6.12 and newer), or loop devices over them,
// which come and go with the mount (fs/loop_devices.h). Needs CAP_SYS_ADMIN. Such a mount is served
// by the kernel alone: no process has to live for it.
//
// Functions are thread-safe and block on the kernel and the local disk. Mounts are made detached:
// they are visible to nobody until AttachMount, and end when their descriptor is closed before.
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/fd.h"

namespace imagefs {

// What the kernel reads. From loop devices only what is there whole and stays where it is.
enum class ErofsWay { kFiles, kLoopDevices };

struct ErofsSource {
  std::string index;                 // path of the EROFS image
  std::vector<std::string> devices;  // paths: slot i+1 of the index is devices[i]
  std::string context;               // SELinux context of every inode; "" = the policy's default
  // For loop devices: a path that no other call uses at the same time, where a link to the index's
  // device is for a moment. It is the mount's source in mountinfo, as the number of a device would
  // say nothing.
  std::string link;
};

// kFailedPrecondition names what the kernel lacks or refuses, with its own words where it has any.
absl::StatusOr<Fd> MountErofs(const ErofsSource& source, ErofsWay way);

// How this process may use the kernel presentation, else why it may not: makes a tiny image with
// one device in `scratch` (an existing directory of the file system that the images lie on), mounts
// it, reads it through and takes all away again. What is false is not tried.
struct ErofsWays {
  bool files = true, loop_devices = true;
};
absl::StatusOr<ErofsWay> ProbeErofs(const std::string& scratch, const ErofsWays& ways = {});

}  // namespace imagefs
