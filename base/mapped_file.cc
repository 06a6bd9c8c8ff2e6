// SPDX-License-Identifier: Apache-2.0
#include "base/mapped_file.h"

#include <signal.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <memory>
#include <thread>

#include "absl/base/call_once.h"
#include "absl/base/const_init.h"
#include "absl/synchronization/mutex.h"
#include "base/status.h"
#include "base/text.h"
#include "base/thread_role.h"

namespace imagefs {

namespace {

constexpr int kTries = 1000;

// Maps `fd` in place of what is mapped there. A raw system call, because sanitizers intercept
// mmap(2), which a signal handler cannot have, and ThreadSanitizer takes it for a write that races
// with the readers, who learn of it from `generation`. Every argument has the width of a register:
// the upper half of a narrower one on the stack would be left as it is.
bool Replace(uintptr_t begin, size_t size, int flags, int fd) {
  return syscall(SYS_mmap, begin, size, long{PROT_READ}, static_cast<long>(flags | MAP_FIXED),
                 static_cast<long>(fd), long{0}) == static_cast<long>(begin);
}

}  // namespace

// All mappings, in a form that a signal handler can read: a list of blocks that only grows. A
// signal handler receives no context, so this is process-wide.
class MappingGuards {
 public:
  using Guard = MappedFile::Guard;

  static Guard* Take(uintptr_t begin, uintptr_t end) {
    absl::MutexLock lock(&mu_);
    for (Block* block = &first_;; block = block->next.load()) {
      for (Guard& guard : block->guards) {
        if (guard.begin.load() != 0) continue;
        guard.generation.store((guard.generation.load() + 2) / 2 * 2);
        guard.end.store(end);
        guard.begin.store(begin);
        return &guard;
      }
      if (block->next.load() == nullptr) {
        block->next.store(std::make_unique<Block>().release());
      }
    }
  }

  // Always changes the number, so that a concurrent MapAgain notices.
  static void MarkDamaged(Guard& guard) {
    uint64_t was = guard.generation.load();
    while (!guard.generation.compare_exchange_weak(was, (was + 2) | 1)) {
    }
  }

  static void Release(Guard* guard) { guard->begin.store(0); }

  // Called by the handler. Returns true if the address lies in a mapping, which now reads as zeros.
  static bool Cover(uintptr_t address) {
    for (Block* block = &first_; block != nullptr; block = block->next.load()) {
      for (Guard& guard : block->guards) {
        const uintptr_t begin = guard.begin.load();
        const uintptr_t end = guard.end.load();
        // Check again: the guard may have been reused for another mapping in between.
        if (address < begin || address >= end || guard.begin.load() != begin) continue;
        guard.covering.fetch_add(1);
        MarkDamaged(guard);
        const bool replaced =
            Replace(begin, end - begin, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1);
        guard.covering.fetch_sub(1);
        return replaced;
      }
    }
    return false;
  }

  static void Install() {
    struct sigaction action = {};
    action.sa_sigaction = OnBusError;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK;
    sigemptyset(&action.sa_mask);
    sigaction(SIGBUS, &action, &before_);
  }

 private:
  struct Block {
    Guard guards[128];
    std::atomic<Block*> next{nullptr};
  };

  static void OnBusError(int signal, siginfo_t* info, void*) {
    const int saved = errno;
    const bool of_an_address = info->si_code > 0;
    if (!of_an_address || !Cover(reinterpret_cast<uintptr_t>(info->si_addr))) {
      // The fault recurs on return and then reaches the previous handler.
      sigaction(SIGBUS, &before_, nullptr);
      if (!of_an_address) raise(signal);
    }
    errno = saved;
  }

  static absl::Mutex mu_;
  static Block first_;
  static struct sigaction before_;
};

ABSL_CONST_INIT absl::Mutex MappingGuards::mu_(absl::kConstInit);
MappingGuards::Block MappingGuards::first_;
struct sigaction MappingGuards::before_;

absl::StatusOr<MappedFile> MappedFile::Map(int fd, std::string_view what) {
  MayBlock("mapping a file");
  static absl::once_flag once;
  absl::call_once(once, MappingGuards::Install);
  struct stat st;
  if (fstat(fd, &st) != 0) return ErrnoStatus(errno, what);
  MappedFile file;
  if (st.st_size <= 0) return file;
  const size_t size = static_cast<size_t>(st.st_size);
  void* const address = mmap(nullptr, size, PROT_READ, MAP_SHARED, fd, 0);
  if (address == MAP_FAILED) return ErrnoStatus(errno, StrCat("mmap of ", what));
  file.bytes_ = std::string_view(static_cast<const char*>(address), size);
  const auto begin = reinterpret_cast<uintptr_t>(address);
  const auto page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
  file.guard_ = MappingGuards::Take(begin, begin + (size + page - 1) / page * page);
  return file;
}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  if (this != &other) {
    Unmap();
    bytes_ = std::exchange(other.bytes_, {});
    guard_ = std::exchange(other.guard_, nullptr);
  }
  return *this;
}

absl::Status MappedFile::CheckWhole(std::string_view what) const {
  if (!damaged()) return absl::OkStatus();
  return absl::DataLossError(
      StrCat(what, " was truncated, or can no longer be read from the disk"));
}

void MappedFile::Distrust() const {
  if (guard_ != nullptr) MappingGuards::MarkDamaged(*guard_);
}

absl::Status MappedFile::MapAgain(int fd) const {
  MayBlock("mapping a file");
  if (guard_ == nullptr) return absl::OkStatus();
  struct stat st;
  if (fstat(fd, &st) != 0) return ErrnoStatus(errno, "a mapped file");
  if (static_cast<uint64_t>(st.st_size) != bytes_.size()) {
    return absl::DataLossError("the file's size differs from that of the previous one");
  }
  if (!damaged()) Distrust();
  // A handler that saw the old mapping may still be about to put zeros in place of the new one.
  for (int i = 0; i < kTries; ++i) {
    uint64_t generation = guard_->generation.load();
    while (guard_->covering.load() != 0) std::this_thread::yield();
    const auto begin = reinterpret_cast<uintptr_t>(bytes_.data());
    if (!Replace(begin, bytes_.size(), MAP_SHARED, fd)) return ErrnoStatus(errno, "mmap");
    if (guard_->generation.compare_exchange_strong(generation, generation + 1)) {
      return absl::OkStatus();
    }
  }
  return absl::DataLossError("the file keeps being damaged");
}

void MappedFile::DropPages() const {
  if (!bytes_.empty()) madvise(const_cast<char*>(bytes_.data()), bytes_.size(), MADV_DONTNEED);
}

void MappedFile::Unmap() {
  // Release the guard first: the kernel may reuse the addresses immediately.
  if (guard_ != nullptr) MappingGuards::Release(guard_);
  if (!bytes_.empty()) munmap(const_cast<char*>(bytes_.data()), bytes_.size());
  bytes_ = {};
  guard_ = nullptr;
}

}  // namespace imagefs
