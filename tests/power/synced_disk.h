// SPDX-License-Identifier: Apache-2.0
// What of a folder outlives the machine's loss of power, in the strictest reading of fsync(2): the
// bytes that a file had when it was synced last, and the names that a folder had when the folder
// was. A name that was made, changed or removed since is as before; a file that was never synced is
// empty. Real file systems keep more, so who is right on this disk is right on theirs.
//
// Process-wide, since it takes part in the system calls (tests/power/system_calls.cc). Thread-safe.
#pragma once

#include <cstddef>
#include <string>

namespace imagefs {

// For system_calls.cc. True: the file is on a disk that is watched, and counts as synced.
bool OnSync(int fd);
// The path to be opened instead of `path`.
const char* PathToOpen(const char* path);

class SyncedDisk {
 public:
  // Watches `root`, a folder that is there. One at a time.
  explicit SyncedDisk(const std::string& root);
  ~SyncedDisk();
  SyncedDisk(const SyncedDisk&) = delete;
  SyncedDisk& operator=(const SyncedDisk&) = delete;

  // Syncs so far. The disk changes with nothing else.
  size_t steps() const;
  // What the last of them was of, for messages.
  std::string StepName(size_t step) const;
  // Makes `target` what is left of the root after that many syncs.
  void Restore(size_t steps, const std::string& target) const;
};

// The boot that /proc tells of from now on; "" = the real one.
void SetBootId(const std::string& id);

}  // namespace imagefs
