// SPDX-License-Identifier: Apache-2.0
#include "snap/mapped_lowers.h"

#include <errno.h>
#include <sys/mount.h>
#include <unistd.h>

#include <utility>

#include "base/directory.h"
#include "base/fd.h"
#include "base/log.h"
#include "base/status.h"
#include "base/text.h"

namespace imagefs {
namespace {

std::vector<std::string> NamesIn(const std::string& directory) {
  absl::StatusOr<std::vector<std::string>> names = ListDir(directory);
  if (names.ok()) return *std::move(names);
  if (!absl::IsNotFound(names.status())) {
    LogWarning("snapshot.mapped_unreadable directory=", directory,
               " cause=", names.status().message());
  }
  return {};
}

}  // namespace

std::string MappedLowers::PathOf(uint64_t id) const { return StrCat(directory_, "/", id); }

absl::StatusOr<std::vector<std::string>> MappedLowers::Mount(uint64_t id,
                                                             const std::vector<std::string>& lowers,
                                                             const MountFlags& ids) {
  Unmount(id);
  MountFlags flags;
  flags.id_map = ids.id_map;
  flags.gid_map = ids.gid_map;
  std::vector<std::string> paths;
  for (const std::string& lower : lowers) {
    paths.push_back(StrCat(PathOf(id), "/", paths.size()));
    absl::Status status = MakeDirs(paths.back(), 0700);
    if (status.ok()) status = bind_(lower, paths.back(), flags);
    if (status.ok()) continue;
    Unmount(id);
    return status;
  }
  return paths;
}

void MappedLowers::Unmount(uint64_t id) {
  const std::string path = PathOf(id);
  for (const std::string& name : NamesIn(path)) {
    const std::string mount = StrCat(path, "/", name);
    // EINVAL: not mounted yet, or already unmounted by someone else.
    if (umount2(mount.c_str(), MNT_DETACH | UMOUNT_NOFOLLOW) != 0 && errno != EINVAL) {
      LogWarning("snapshot.mapped_stays cause=", ErrnoStatus(errno, mount).message());
    }
    rmdir(mount.c_str());
  }
  if (rmdir(path.c_str()) != 0 && errno != ENOENT) {
    LogWarning("snapshot.mapped_stays cause=", ErrnoStatus(errno, path).message());
  }
}

void MappedLowers::UnmountOthers(const absl::flat_hash_set<uint64_t>& kept) {
  for (const std::string& name : NamesIn(directory_)) {
    const auto id = ParseDecimal(name);
    if (id.has_value() && !kept.contains(*id)) Unmount(*id);
  }
}

}  // namespace imagefs
