// SPDX-License-Identifier: Apache-2.0
// The files and directories that a result was made from, absent ones included, and whether they are
// still what they were. Not thread-safe; const methods may be called concurrently.
#pragma once

#include <sys/stat.h>

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace imagefs {

class WatchedFiles {
 public:
  // These block on the disk. What is absent, or below a directory that this process may not search,
  // is kNotFound, an empty list, or false.
  absl::StatusOr<std::string> Read(const std::string& path, uint64_t max_bytes);
  absl::StatusOr<std::vector<std::string>> List(const std::string& directory);  // sorted
  bool IsDirectory(const std::string& path);

  // Returns whether any of what was looked at is another file now, or was written. Blocks.
  bool Changed() const;

 private:
  struct Version {
    int error = 0;  // errno of stat(2)
    mode_t mode = 0;
    uint64_t device = 0, inode = 0, size = 0;
    int64_t modified_ns = 0, changed_ns = 0;
    bool operator==(const Version&) const = default;
  };
  static Version Look(const std::string& path);
  // Remembers the version of before the file is read.
  Version Note(const std::string& path);

  std::map<std::string, Version> seen_;
};

}  // namespace imagefs
