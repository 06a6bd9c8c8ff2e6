// SPDX-License-Identifier: Apache-2.0
#include "fs/mount_visibility.h"

#include <unistd.h>

#include <algorithm>

#include "base/fd.h"
#include "base/status.h"
#include "base/text.h"

namespace imagefs {
namespace {

constexpr uint64_t kMaxTableBytes = uint64_t{64} << 20;

bool Has(const std::vector<MountInfo>& mounts, uint64_t id) {
  return std::any_of(mounts.begin(), mounts.end(),
                     [id](const MountInfo& mount) { return mount.id == id; });
}

}  // namespace

bool InOtherNamespace(const MountTables& tables) {
  if (tables.is_first) return true;
  if (tables.own.empty() || tables.first.empty()) return false;
  // The kernel's numbers of mounts are unique across namespaces. Mounts come and go between the
  // readings of the tables, so one that is in both is enough.
  return std::none_of(tables.own.begin(), tables.own.end(),
                      [&](const MountInfo& mount) { return Has(tables.first, mount.id); });
}

std::string HiddenMounts::Explain() const {
  return StrCat(directory, ": what is mounted there is not visible outside this container: ", cause,
                "; containers made from it would be empty: give the directory a volume of its own "
                "with mountPropagation: Bidirectional (rshared)");
}

std::vector<HiddenMounts> HiddenIn(const MountTables& tables,
                                   const std::vector<std::string>& directories) {
  std::vector<HiddenMounts> out;
  if (!InOtherNamespace(tables)) return out;
  for (const std::string& directory : directories) {
    const MountInfo* mount = FindMountOf(tables.own, directory);
    if (mount == nullptr || !mount->shared) {
      out.push_back({directory, "the mount that it lies in is not shared"});
      continue;
    }
    if (tables.is_first || tables.first.empty()) continue;  // who the peers are cannot be seen
    const bool peer = std::any_of(
        tables.first.begin(), tables.first.end(),
        [mount](const MountInfo& other) { return other.peer_group == mount->peer_group; });
    if (!peer) out.push_back({directory, "the mount that it lies in is shared, but not with them"});
  }
  return out;
}

std::vector<HiddenMounts> FindHiddenMounts(const std::vector<std::string>& directories) {
  MountTables tables;
  tables.is_first = getpid() == 1;
  absl::StatusOr<std::vector<MountInfo>> own = ReadMountInfo();
  if (!own.ok()) return {};
  tables.own = *std::move(own);
  // Not readable for an ordinary user if hidepid= is set.
  if (const absl::StatusOr<std::string> first = ReadFile("/proc/1/mountinfo", kMaxTableBytes);
      first.ok()) {
    tables.first = ParseMountInfo(*first);
  }
  return HiddenIn(tables, directories);
}

}  // namespace imagefs
