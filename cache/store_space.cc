// SPDX-License-Identifier: Apache-2.0
#include "cache/store_space.h"

#include <errno.h>
#include <sys/statvfs.h>

#include <algorithm>
#include <utility>

#include "base/failure.h"
#include "base/status.h"
#include "base/text.h"
#include "base/units.h"

namespace imagefs {
namespace {

constexpr uint64_t kLeastCheckBytes = 64 << 10;
// Number of concurrent writers for which the reserve is guaranteed.
constexpr uint64_t kWriters = 16;

struct FileSystem {
  uint64_t total = 0, free = 0;
};

absl::StatusOr<FileSystem> QueryFileSystem(const std::string& path) {
  struct statvfs disk;
  if (statvfs(path.c_str(), &disk) != 0) {
    return ErrnoStatus(errno, StrCat("the free space of ", path, " cannot be determined"));
  }
  return FileSystem{disk.f_blocks * disk.f_frsize, disk.f_bavail * disk.f_frsize};
}

uint64_t PercentOf(uint64_t bytes, unsigned percent) {
  return bytes / 100 * percent + bytes % 100 * percent / 100;
}

uint64_t Above(uint64_t a, uint64_t b) { return a > b ? a - b : 0; }

}  // namespace

uint64_t SpaceAmount::Of(uint64_t file_system) const {
  return std::min(bytes, PercentOf(file_system, percent));
}

absl::StatusOr<std::unique_ptr<StoreSpace>> StoreSpace::Open(const std::string& root,
                                                             SpaceLimits limits) {
  std::unique_ptr<StoreSpace> space(new StoreSpace(root, std::move(limits)));
  IMAGEFS_ASSIGN_OR_RETURN(const FileSystem disk, QueryFileSystem(root));
  if (!space->limits_.limit.all()) {
    space->limit_ = std::max<uint64_t>(1, space->limits_.limit.Of(disk.total));
    space->high_ = PercentOf(space->limit_, space->limits_.high);
  }
  space->next_check_ = space->limits_.check_bytes;
  return space;
}

absl::Status StoreSpace::Admit(uint64_t bytes, Writer writer) {
  absl::Status status = CheckLimit(bytes, writer);
  if (status.ok()) {
    status = CheckFree(bytes);
    if (!status.ok()) used_.fetch_sub(bytes, std::memory_order_relaxed);
  }
  if (!status.ok()) {
    refused_.fetch_add(1, std::memory_order_relaxed);
    Press();
  }
  return status;
}

absl::Status StoreSpace::CheckLimit(uint64_t bytes, Writer writer) {
  const uint64_t used = used_.fetch_add(bytes, std::memory_order_relaxed) + bytes;
  if (limit_ == 0 || used <= high_) return absl::OkStatus();
  const bool more = writer == Writer::kWhole && !exhausted_.load(std::memory_order_relaxed);
  if (used <= limit_ + (more ? kOvershoot : 0)) {
    // Once for each crossing; the keeper looks again when a round has ended.
    if (used - bytes <= high_) Press();
    return absl::OkStatus();
  }
  used_.fetch_sub(bytes, std::memory_order_relaxed);
  return WithKind(
      absl::ResourceExhaustedError(StrCat(
          "the store ", root_, " has reached its limit of ", FormatBytes(limit_), " (store.limit)",
          exhausted_.load(std::memory_order_relaxed) ? ", and nothing more can be given back now"
                                                     : "",
          "; `imagefs df` shows what it holds, and `imagefs umount`, `unpin` and `rm` give some "
          "back")),
      FailureKind::kNoSpace);
}

absl::Status StoreSpace::CheckFree(uint64_t bytes) {
  const uint64_t unchecked = unchecked_.fetch_add(bytes, std::memory_order_relaxed) + bytes;
  if (unchecked < next_check_.load(std::memory_order_relaxed)) return absl::OkStatus();
  unchecked_.store(0, std::memory_order_relaxed);
  IMAGEFS_ASSIGN_OR_RETURN(const FileSystem disk, QueryFileSystem(root_));
  if (disk.total == 0) return absl::OkStatus();  // the file system does not say
  const uint64_t reserve = limits_.reserve.Of(disk.total);
  const uint64_t room = Above(disk.free, reserve);
  if (room >= bytes) {
    next_check_ = std::min(limits_.check_bytes, std::max(kLeastCheckBytes, room / kWriters));
    return absl::OkStatus();
  }
  next_check_ = 0;  // look again before every write, until there is room
  return WithKind(
      absl::ResourceExhaustedError(StrCat(
          "the disk of ", root_, " has ", FormatBytes(disk.free), " of free space left, and ",
          FormatBytes(reserve),
          " are kept for everybody else (store.reserve); `imagefs prune` and `imagefs evict` give "
          "space back")),
      FailureKind::kNoSpace);
}

void StoreSpace::OnPressure(std::function<void()> callback) {
  absl::MutexLock lock(&callback_mu_);
  callback_ = std::move(callback);
}

void StoreSpace::Press() {
  absl::MutexLock lock(&callback_mu_);
  if (callback_) callback_();
}

uint64_t StoreSpace::Reading::Excess() const {
  const uint64_t above = limit > 0 && used > high ? used - low : 0;
  // A little more than is missing, so that the next write does not fail again.
  const uint64_t short_of = free < reserve ? reserve - free + reserve / 8 : 0;
  return std::max(above, short_of);
}

bool StoreSpace::Reading::Spare(bool before) const {
  const uint64_t margin = before ? 0 : total / 100, less = before ? 0 : limit / 20;
  const bool enough_free =
      total == 0 || (free >= background_min_free + margin && free > reserve + margin);
  return enough_free && (limit == 0 || used + less <= low);
}

absl::StatusOr<StoreSpace::Reading> StoreSpace::Read() const {
  IMAGEFS_ASSIGN_OR_RETURN(const FileSystem disk, QueryFileSystem(root_));
  Reading out;
  out.used = used_.load(std::memory_order_relaxed);
  out.limit = limit_;
  out.high = high_;
  out.low = PercentOf(limit_, limits_.low);
  out.total = disk.total;
  out.free = disk.free;
  out.reserve = limits_.reserve.Of(disk.total);
  out.background_min_free = PercentOf(disk.total, limits_.background_min_free);
  return out;
}

void StoreSpace::SetMeasured(uint64_t used, bool exhausted) {
  used_.store(used, std::memory_order_relaxed);
  exhausted_.store(exhausted, std::memory_order_relaxed);
}

}  // namespace imagefs
