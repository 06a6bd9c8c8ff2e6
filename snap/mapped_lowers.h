// The lower directories of containers in user namespaces: bind mounts which show the ids of the
// image as those of the container's ids on this host (mount_setattr(2), MOUNT_ATTR_IDMAP). Nothing
// is read or changed for that. They are made here and not left to containerd, whose releases differ
// in what they map (some the directory above, which has no mount of ours in it).
//
//   <directory>/<id>/<n>   the n-th lower directory of snapshot <id>, topmost first
//
// An overlay keeps what it was mounted over, so that they may go under running containers.
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
  // As BindMount of fs/mount_syscalls.h.
  using Bind = std::function<absl::Status(const std::string& source, const std::string& directory,
                                          const MountFlags& flags)>;
  MappedLowers(std::string directory, Bind bind)
      : directory_(std::move(directory)), bind_(std::move(bind)) {}

  // Their paths in the order of `lowers`. Takes the place of what the id had. Of `ids` only the
  // maps are looked at. On failure nothing is left.
  absl::StatusOr<std::vector<std::string>> Mount(uint64_t id,
                                                 const std::vector<std::string>& lowers,
                                                 const MountFlags& ids);
  // Idempotent.
  void Unmount(uint64_t id);
  // Hides all but these: at start, what a killed daemon left behind.
  void UnmountOthers(const absl::flat_hash_set<uint64_t>& kept);

 private:
  std::string PathOf(uint64_t id) const;

  const std::string directory_;
  const Bind bind_;
};

}  // namespace imagefs
