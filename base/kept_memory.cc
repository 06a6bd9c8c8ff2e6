// SPDX-License-Identifier: Apache-2.0
#include "base/kept_memory.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>

#include "absl/memory/memory.h"
#include "base/status.h"

namespace imagefs {

// A value is in the one of two slots that has the higher generation; 0 = the slot is being written.
// What a process has stored stays in the order in which it has stored it, whenever the process
// ends.
struct KeptMemory::Slot {
  uint64_t generation;
  uint64_t size;
  char value[];
};

namespace {

constexpr int kSeals = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL;
constexpr size_t kHeader = 16;

size_t FileSize(size_t most_bytes) { return 2 * (kHeader + most_bytes); }

}  // namespace

absl::StatusOr<std::unique_ptr<KeptMemory>> KeptMemory::Create(const char* name,
                                                               size_t most_bytes) {
  Fd fd(memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (!fd.valid()) return ErrnoStatus(errno, "memfd_create");
  if (ftruncate(fd.get(), static_cast<off_t>(FileSize(most_bytes))) != 0 ||
      fcntl(fd.get(), F_ADD_SEALS, kSeals) != 0) {
    return ErrnoStatus(errno, "memfd");
  }
  return Adopt(std::move(fd), most_bytes);
}

// The seals keep its size: no access to the mapping can fail.
absl::StatusOr<std::unique_ptr<KeptMemory>> KeptMemory::Adopt(Fd fd, size_t most_bytes) {
  struct stat info = {};
  if (fcntl(fd.get(), F_GET_SEALS) != kSeals || fstat(fd.get(), &info) != 0 ||
      info.st_size != static_cast<off_t>(FileSize(most_bytes))) {
    return absl::InvalidArgumentError("not memory that was kept by this version");
  }
  void* const map =
      mmap(nullptr, FileSize(most_bytes), PROT_READ | PROT_WRITE, MAP_SHARED, fd.get(), 0);
  if (map == MAP_FAILED) return ErrnoStatus(errno, "mmap");
  madvise(map, FileSize(most_bytes), MADV_DONTDUMP);
  return absl::WrapUnique(new KeptMemory(std::move(fd), most_bytes, static_cast<char*>(map)));
}

KeptMemory::KeptMemory(Fd fd, size_t most_bytes, char* map)
    : fd_(std::move(fd)), most_bytes_(most_bytes), map_(map) {
  static_assert(sizeof(Slot) == kHeader);
}

KeptMemory::~KeptMemory() { munmap(map_, FileSize(most_bytes_)); }

KeptMemory::Slot* KeptMemory::SlotAt(int i) const {
  return reinterpret_cast<Slot*>(map_ + static_cast<size_t>(i) * (kHeader + most_bytes_));
}

bool KeptMemory::IsWhole(const Slot& slot) const {
  return slot.generation != 0 && slot.size <= most_bytes_;
}

Secret KeptMemory::Read() const {
  const Slot* newest = nullptr;
  for (int i = 0; i < 2; ++i) {
    const Slot* const slot = SlotAt(i);
    if (!IsWhole(*slot)) continue;
    if (newest == nullptr || slot->generation > newest->generation) newest = slot;
  }
  return newest == nullptr ? Secret() : Secret(std::string_view(newest->value, newest->size));
}

void KeptMemory::Write(std::string_view value) {
  Slot* slots[] = {SlotAt(0), SlotAt(1)};
  // A slot that is not whole counts as the oldest.
  if (!IsWhole(*slots[1]) || (IsWhole(*slots[0]) && slots[0]->generation > slots[1]->generation)) {
    std::swap(slots[0], slots[1]);
  }
  Slot& out = *slots[0];
  Slot& before = *slots[1];
  const uint64_t generation = IsWhole(before) ? before.generation + 1 : 1;
  const size_t used = std::min<uint64_t>(out.size, most_bytes_);
  out.generation = 0;
  std::atomic_signal_fence(std::memory_order_seq_cst);
  std::memcpy(out.value, value.data(), value.size());
  if (used > value.size()) explicit_bzero(out.value + value.size(), used - value.size());
  out.size = value.size();
  std::atomic_signal_fence(std::memory_order_seq_cst);
  out.generation = generation;
  std::atomic_signal_fence(std::memory_order_seq_cst);
  if (!IsWhole(before)) return;
  const size_t old = std::min<uint64_t>(before.size, most_bytes_);
  before.generation = 0;
  explicit_bzero(before.value, old);
  before.size = 0;
}

}  // namespace imagefs
