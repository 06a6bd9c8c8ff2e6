// Files by name on this disk: below a directory, or as members of a tar archive that is never
// unpacked. What OCI layouts and docker archives are read through.
//
// Immutable once open, so thread-safe. May block on local disk.
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
  // A regular file by its relative name; kNotFound when there is none. Errors name the container
  // and the file.
  virtual absl::StatusOr<LocalBlob> Open(std::string_view name) const = 0;
  // Names the container in messages.
  const std::string& path() const { return path_; }

  // The whole file, at most `max_bytes` of it.
  absl::StatusOr<std::string> Read(std::string_view name, uint64_t max_bytes) const;

 protected:
  explicit NamedFiles(std::string path) : path_(std::move(path)) {}

 private:
  const std::string path_;
};

// Symbolic links are followed as the system does; what is no regular file is refused.
absl::StatusOr<std::unique_ptr<NamedFiles>> OpenDirectory(const std::string& path);

// Reads the headers of an uncompressed tar once and keeps the places of its members. Links lead to
// other members only, never out of the archive; the last of several members of one name counts.
absl::StatusOr<std::unique_ptr<NamedFiles>> OpenArchive(const std::string& path);

// Bytes of a LocalBlob, all of them. REQUIRES: the caller has bounded blob.length.
absl::StatusOr<std::string> ReadLocalBlob(const LocalBlob& blob);

}  // namespace imagefs
