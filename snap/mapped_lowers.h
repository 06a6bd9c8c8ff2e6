// SPDX-License-Identifier: Apache-2.0
// The lower directories of containers in user namespaces: bind mounts that map the ids of the image
// to those of the container on this host (mount_setattr(2), MOUNT_ATTR_IDMAP), without reading or
// changing any file. They are made here rather than by containerd, because its releases differ in
// what they map (some map the parent directory, which contains no mount of ours).
//
//   <directory>/<id>/<n>   the n-th lower directory of snapshot <id>, topmost first
//
// An overlay keeps its lower mounts alive, so these may be unmounted while containers run.
// Thread-safe for different ids; methods block on mount(2).
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/container/flat_hash_set.h"
#include "absl/status/statusor.h"
#include "fs/mount_syscalls.h"

namespace imagefs {

class MappedLowers {
 public:
  // Like BindMount of fs/mount_syscalls.h.
  using Bind = std::function<absl::Status(const std::string& source, const std::string& directory,
                                          const MountFlags& flags)>;
  MappedLowers(std::string directory, Bind bind)
      : directory_(std::move(directory)), bind_(std::move(bind)) {}

  // Returns their paths in the order of `lowers`, replacing the previous mounts of the id. Uses
  // only the id maps of `ids`. On failure nothing is left behind.
  absl::StatusOr<std::vector<std::string>> Mount(uint64_t id,
                                                 const std::vector<std::string>& lowers,
                                                 const MountFlags& ids);
  // Idempotent.
  void Unmount(uint64_t id);
  // Unmounts all but these: at startup, what a killed daemon left behind.
  void UnmountOthers(const absl::flat_hash_set<uint64_t>& kept);

 private:
  std::string PathOf(uint64_t id) const;

  const std::string directory_;
  const Bind bind_;
};

}  // namespace imagefs
