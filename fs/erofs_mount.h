// The kernel presentation of a chain: the kernel's own EROFS over the chain's index and the layers'
// data files, without loop devices (Linux 6.12 and newer; needs CAP_SYS_ADMIN). Such a mount is
// served by the kernel alone: no process has to live for it.
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

struct ErofsSource {
  std::string index;                 // path of the EROFS image
  std::vector<std::string> devices;  // paths: slot i+1 of the index is devices[i]
  std::string context;               // SELinux context of every inode; "" = the policy's default
};

// kFailedPrecondition names what the kernel lacks or refuses, with its own words where it has any.
absl::StatusOr<Fd> MountErofs(const ErofsSource& source);

// Makes and mounts a tiny image with one device in `scratch` (an existing directory of the file
// system that the images lie on) and takes both away again: OK when this process may use the kernel
// presentation, else why it may not.
absl::Status ProbeErofs(const std::string& scratch);

}  // namespace imagefs
