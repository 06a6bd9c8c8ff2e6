// SPDX-License-Identifier: Apache-2.0
// How much of a file system a store may use. Everything that writes the bytes of images asks first;
// SpaceKeeper measures what is used and gives back what is too much.
//
// Between two measurements the use is the measured one plus what was admitted since, so that no
// write needs to look at the disk. The free space of the file system is queried after every few
// megabytes, and more often as space gets scarce, so that concurrent writers respect the reserve.
//
// Thread-safe. Does not block, except for statvfs(2).
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"

namespace imagefs {

// The smaller of the two: bytes, and a part of the file system.
struct SpaceAmount {
  uint64_t bytes = UINT64_MAX;
  unsigned percent = 100;
  bool all() const { return bytes == UINT64_MAX && percent >= 100; }
  uint64_t Of(uint64_t file_system) const;
  bool operator==(const SpaceAmount&) const = default;
};

struct SpaceLimits {
  SpaceAmount limit;             // for the files of images; all(): no limit
  unsigned high = 95, low = 85;  // percent of `limit`: above `high`, give back until `low`
  SpaceAmount reserve{uint64_t{1} << 30, 5};  // of free space, for everybody else
  // Nothing is fetched that nobody asked for while less of the file system is free.
  unsigned background_min_free = 15;  // percent
  uint64_t check_bytes = 8 << 20;     // query the free space after this many bytes at the latest
};

class StoreSpace {
 public:
  // `root` must exist.
  static absl::StatusOr<std::unique_ptr<StoreSpace>> Open(const std::string& root,
                                                          SpaceLimits limits);

  // Who wants to write. A whole blob or layer may exceed the limit by kOvershoot while something
  // can still be given back, since it cannot be served from memory instead.
  enum class Writer { kPart, kWhole };
  static constexpr uint64_t kOvershoot = 64 << 20;
  // Returns kResourceExhausted, with the limit that is reached and the remedy, if these bytes must
  // not be written.
  absl::Status Admit(uint64_t bytes, Writer writer);
  // Replaces what runs, on the thread of a writer, when there is something to give back, or when a
  // write was refused. It must not block or call this object.
  void OnPressure(std::function<void()> callback) ABSL_LOCKS_EXCLUDED(callback_mu_);

  struct Reading {
    uint64_t used = 0;   // by the files of images
    uint64_t limit = 0;  // 0: none
    uint64_t high = 0, low = 0;
    uint64_t total = 0, free = 0;  // of the file system
    uint64_t reserve = 0;
    uint64_t background_min_free = 0;
    // What must be given back now; 0 if it is neither above `high` nor short of free space.
    uint64_t Excess() const;
    // True if bytes that nobody asked for may be fetched; once they may not, only when clearly more
    // is free, since what is given back ends just below `low`.
    bool Spare(bool before) const;
  };
  absl::StatusOr<Reading> Read() const;
  // The result of a measurement. `exhausted`: nothing more can be given back at the moment.
  void SetMeasured(uint64_t used, bool exhausted);
  // As of the last measurement.
  bool spare() const { return spare_.load(std::memory_order_relaxed); }
  void SetSpare(bool spare) { spare_.store(spare, std::memory_order_relaxed); }
  uint64_t refused() const { return refused_.load(std::memory_order_relaxed); }  // writes

 private:
  StoreSpace(std::string root, SpaceLimits limits)
      : root_(std::move(root)), limits_(std::move(limits)) {}
  absl::Status CheckLimit(uint64_t bytes, Writer writer);
  absl::Status CheckFree(uint64_t bytes);
  void Press() ABSL_LOCKS_EXCLUDED(callback_mu_);

  const std::string root_;
  const SpaceLimits limits_;
  uint64_t limit_ = 0, high_ = 0;  // bytes; 0: no limit. Constant after Open
  std::atomic<uint64_t> used_{0};
  std::atomic<bool> exhausted_{false}, spare_{true};
  // Bytes admitted since the free space was last queried, and after how many to query it again.
  std::atomic<uint64_t> unchecked_{0}, next_check_;
  std::atomic<uint64_t> refused_{0};
  absl::Mutex callback_mu_;  // held while the callback runs
  std::function<void()> callback_ ABSL_GUARDED_BY(callback_mu_);
};

}  // namespace imagefs
