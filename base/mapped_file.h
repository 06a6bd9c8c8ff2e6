// A file in memory, mapped read-only. The file may be closed and unlinked; it may not be cut while
// it is mapped, since reading what is gone ends the process. Movable; const methods are
// thread-safe.
#pragma once

#include <cstddef>
#include <string_view>
#include <utility>

#include "absl/status/statusor.h"

namespace imagefs {

class MappedFile {
 public:
  MappedFile() = default;  // of no bytes
  // The whole of `fd` as it is now. `what` names it in errors.
  static absl::StatusOr<MappedFile> Map(int fd, std::string_view what);
  MappedFile(MappedFile&& other) noexcept : bytes_(std::exchange(other.bytes_, {})) {}
  MappedFile& operator=(MappedFile&& other) noexcept;
  ~MappedFile() { Unmap(); }

  std::string_view bytes() const { return bytes_; }
  // Tells the kernel that the pages touched so far may go; they come back from the page cache.
  void DropPages() const;

 private:
  void Unmap();
  std::string_view bytes_;
};

}  // namespace imagefs
