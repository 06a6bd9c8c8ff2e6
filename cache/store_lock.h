// SPDX-License-Identifier: Apache-2.0
// Ownership of a store, and whether it has content.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "base/fd.h"

namespace imagefs {

// Locks the store in `root` for this process: a flock on <root>/lock, which the kernel releases
// however the process ends. Returns kFailedPrecondition if another process holds it; the message
// names its pid. Waits up to 30 s for a holder that was killed and is about to exit. Succeeds on a
// disk that takes no writes. Returns kFailedPrecondition on a file system that several machines may
// write to without seeing each other's locks.
absl::StatusOr<Fd> LockStore(const std::string& root);

// Returns whether that process is gone or was killed and has only exiting threads left, which still
// hold its files. Gives such threads normal scheduling: idle-priority ones would take long to exit
// on a busy machine.
bool IsExitingAfterKill(std::string_view pid);

// Returns the name of a file system type (statfs(2)) on which a store is refused, "" for any other.
std::string_view UnsafeFileSystem(uint64_t type);

// Returns whether the store contains anything but records.
bool StoreHasContent(const std::string& root);

}  // namespace imagefs
