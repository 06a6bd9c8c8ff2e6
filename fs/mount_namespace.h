// SPDX-License-Identifier: Apache-2.0
// Mount namespaces other than this process's: which one a caller is in, and what became of a mount
// that was made there. Nothing here keeps a namespace alive. Thread-safe; no network, no wait.
#pragma once

#include <cstdint>

#include "absl/status/statusor.h"
#include "base/fd.h"
#include "fs/mount_syscalls.h"

namespace imagefs {

// Returns the number of the calling thread's mount namespace: the one that the kernel never uses
// again (NS_GET_MNTNS_ID, Linux 6.11), or before that the inode of /proc/thread-self/ns/mnt.
absl::StatusOr<uint64_t> OwnMountNamespace();

// Whether there is a mount namespace of that number now; false if the kernel (before 6.11) or a
// filter of system calls cannot tell. Root only. Source: listmount(2).
bool NamespaceExists(uint64_t name_space);

// The kernel's number of a mount that it never uses again (STATX_MNT_ID_UNIQUE, Linux 6.8); 0 if
// the kernel has none.
uint64_t UniqueMountId(const Fd& root);

// Returns the mount with that unique number in that namespace, with an empty mount point, and an
// empty source before Linux 6.13. Returns kNotFound if the mount or the namespace is gone, and
// kUnimplemented if the kernel (before 6.11) or a filter of system calls cannot tell. Source:
// statmount(2), struct statmount of linux/mount.h.
absl::StatusOr<MountInfo> FindMountIn(uint64_t name_space, uint64_t unique_id);

}  // namespace imagefs
