// A file in memory, mapped read-only. The file may be closed and unlinked. Movable; const methods
// are thread-safe.
//
// A file that is cut while it is mapped, or lies on a bad sector, would end the process by SIGBUS
// at the next touch. Instead the whole mapping turns into zeros and is `damaged` until MapAgain. So
// whoever reads `bytes` asks CheckWhole after the last touch, and gives nothing on before. Where
// MapAgain is called, one looks at `generation` before the first touch and at IsWholeSince after
// the last.
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
  MappedFile() = default;  // of no bytes
  // The whole of `fd` as it is now. `what` names it in errors. The first call installs a handler of
  // SIGBUS; faults elsewhere go on to the one before.
  static absl::StatusOr<MappedFile> Map(int fd, std::string_view what);
  MappedFile(MappedFile&& other) noexcept
      : bytes_(std::exchange(other.bytes_, {})), guard_(std::exchange(other.guard_, nullptr)) {}
  MappedFile& operator=(MappedFile&& other) noexcept;
  ~MappedFile() { Unmap(); }

  std::string_view bytes() const { return bytes_; }
  // True: some of what was read may have been zeros that are not in the file.
  bool damaged() const { return generation() % 2 != 0; }
  // kDataLoss when it is damaged.
  absl::Status CheckWhole(std::string_view what) const;
  // Odd while it is damaged; another number whenever it was in between.
  uint64_t generation() const {
    return guard_ == nullptr ? 0 : guard_->generation.load(std::memory_order_acquire);
  }
  // Whether all that was read since `generation` was this is what the file has.
  bool IsWholeSince(uint64_t generation) const {
    std::atomic_thread_fence(std::memory_order_acquire);
    return generation % 2 == 0 && this->generation() == generation;
  }
  // Damaged from now on: somebody doubts what the file has.
  void Distrust() const;
  // Maps that file in the place of the one before, which ends the damage. kDataLoss when its size
  // is another one, or it is cut at the same time. By one thread at a time.
  absl::Status MapAgain(int fd) const;
  // Tells the kernel that the pages touched so far may go; they come back from the page cache.
  void DropPages() const;

 private:
  friend class MappingGuards;
  // What the handler knows of one mapping.
  struct Guard {
    std::atomic<uintptr_t> begin{0};  // 0 = of none
    std::atomic<uintptr_t> end{0};
    std::atomic<uint64_t> generation{0};
    std::atomic<int> covering{0};  // handlers that are about to turn it into zeros
  };

  void Unmap();
  std::string_view bytes_;
  Guard* guard_ = nullptr;
};

}  // namespace imagefs
