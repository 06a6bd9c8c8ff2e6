// SPDX-License-Identifier: Apache-2.0
// Who uses which image: mounts of the command line, containerd, podman. A snapshot of the state
// when it is asked for. Thread-safe.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "base/digest.h"
#include "fs/mount_table.h"
#include "proto/control.pb.h"

namespace imagefs {

struct ImageUser {
  enum class Kind { kMount, kContainerd, kPodman } kind = Kind::kMount;
  Digest manifest;
  std::string name;         // a directory, a namespace, or podman's name
  uint64_t containers = 0;  // kContainerd
};

// The runtimes' uses; may be empty.
using RuntimeUsers = std::function<std::vector<ImageUser>()>;

std::vector<ImageUser> FindImageUsers(const MountTable& mounts, const RuntimeUsers& runtimes);

// "the mount /mnt, containerd (k8s.io, 3 containers) and podman (name)"; "" without users.
std::string UsersInWords(const std::vector<ImageUser>& users, const Digest& manifest);
void FillUsers(const std::vector<ImageUser>& users, const Digest& manifest,
               control::v1::Image* image);

}  // namespace imagefs
