// SPDX-License-Identifier: Apache-2.0
// Access to local files by name: in a directory, or as members of a tar archive, which is never
// unpacked. OCI layouts and docker archives are read through this.
//
// Immutable once open, hence thread-safe. May block on local disk.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "fetch/source.h"

namespace imagefs {

class NamedFiles {
 public:
  virtual ~NamedFiles() = default;
  // Opens a regular file by its relative name. Returns kNotFound if there is none. Errors name the
  // container and the file.
  virtual absl::StatusOr<LocalBlob> Open(std::string_view name) const = 0;
  // Names the container in messages.
  const std::string& path() const { return path_; }

  // Reads a whole file of at most `max_bytes`.
  absl::StatusOr<std::string> Read(std::string_view name, uint64_t max_bytes) const;

 protected:
  explicit NamedFiles(std::string path) : path_(std::move(path)) {}

 private:
  const std::string path_;
};

// Symbolic links are followed as usual; anything but a regular file is rejected.
absl::StatusOr<std::unique_ptr<NamedFiles>> OpenDirectory(const std::string& path);

// Reads the headers of an uncompressed tar once and records where its members are. Links resolve to
// other members only, never outside the archive; if several members share a name, the last one
// wins.
absl::StatusOr<std::unique_ptr<NamedFiles>> OpenArchive(const std::string& path);

// Reads all bytes of a LocalBlob. REQUIRES: the caller has bounded blob.length.
absl::StatusOr<std::string> ReadLocalBlob(const LocalBlob& blob);

}  // namespace imagefs
