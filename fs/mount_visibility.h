// SPDX-License-Identifier: Apache-2.0
// Whether the mounts of this daemon are visible to the machine. In a container they are only if the
// directories that they lie in have shared mounts of their own; if not, containerd uses the empty
// directories below, and nothing fails. Pure functions, but for FindHiddenMounts.
#pragma once

#include <string>
#include <vector>

#include "fs/mount_syscalls.h"

namespace imagefs {

// The mount tables of this process and of process 1, which stands for the machine.
struct MountTables {
  std::vector<MountInfo> own;
  std::vector<MountInfo> first;  // empty: not readable
  bool is_first = false;         // this is process 1, as in a container with its own processes
};

// Returns true if this process is known to have another mount namespace than the machine.
bool InOtherNamespace(const MountTables& tables);

struct HiddenMounts {
  std::string directory;
  std::string cause;

  // One line for people: the directory, what happens, the cause, the remedy.
  std::string Explain() const;
};

// Returns those of `directories` below which mounts are not visible to the machine; none in the
// machine's own namespace. Directories are as in mountinfo, and need not exist.
std::vector<HiddenMounts> HiddenIn(const MountTables& tables,
                                   const std::vector<std::string>& directories);

// The same for this process. Accesses no mount. Returns none if the tables cannot be read.
std::vector<HiddenMounts> FindHiddenMounts(const std::vector<std::string>& directories);

}  // namespace imagefs
