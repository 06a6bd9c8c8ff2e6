// SPDX-License-Identifier: Apache-2.0
// A file mapped read-only into memory. The file may be closed and unlinked. Movable; const methods
// are thread-safe.
//
// Accessing a mapping whose file was truncated, or that lies on a bad sector, would normally kill
// the process with SIGBUS. Instead, the whole mapping is replaced by zeros and is `damaged` until
// MapAgain. Readers of `bytes` must therefore call CheckWhole after their last access and before
// they use the result. Where MapAgain may be called, readers must instead read `generation` before
// the first access and check IsWholeSince after the last.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <string_view>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace imagefs {

class MappedFile {
 public:
  MappedFile() = default;  // empty
  // Maps the whole of `fd` at its current size. `what` names it in errors. The first call installs
  // a SIGBUS handler; faults elsewhere are passed on to the previous handler.
  static absl::StatusOr<MappedFile> Map(int fd, std::string_view what);
  MappedFile(MappedFile&& other) noexcept
      : bytes_(std::exchange(other.bytes_, {})), guard_(std::exchange(other.guard_, nullptr)) {}
  MappedFile& operator=(MappedFile&& other) noexcept;
  ~MappedFile() { Unmap(); }

  std::string_view bytes() const { return bytes_; }
  // True if bytes read may have been zeros that are not in the file.
  bool damaged() const { return generation() % 2 != 0; }
  // Returns kDataLoss if damaged.
  absl::Status CheckWhole(std::string_view what) const;
  // Odd while damaged; changes whenever the mapping is damaged or repaired.
  uint64_t generation() const {
    return guard_ == nullptr ? 0 : guard_->generation.load(std::memory_order_acquire);
  }
  // Returns whether everything read since `generation` was returned matches the file.
  bool IsWholeSince(uint64_t generation) const {
    std::atomic_thread_fence(std::memory_order_acquire);
    return generation % 2 == 0 && this->generation() == generation;
  }
  // Marks the mapping as damaged, because the file's content is in doubt.
  void Distrust() const;
  // Maps `fd` in place of the previous file and clears the damage. Returns kDataLoss if its size
  // differs or it is truncated meanwhile. One thread at a time.
  absl::Status MapAgain(int fd) const;
  // Advises the kernel to drop the resident pages; they come back from the page cache.
  void DropPages() const;

 private:
  friend class MappingGuards;
  // The handler's view of one mapping.
  struct Guard {
    std::atomic<uintptr_t> begin{0};  // 0 = unused
    std::atomic<uintptr_t> end{0};
    std::atomic<uint64_t> generation{0};
    std::atomic<int> covering{0};  // handlers about to replace it with zeros
  };

  void Unmap();
  std::string_view bytes_;
  Guard* guard_ = nullptr;
};

}  // namespace imagefs
