// SPDX-License-Identifier: Apache-2.0
// The memory that unpacking takes for large zstd windows (image/zstd_window.h), for the whole
// store: a frame of a few bytes may request 512 MiB. Fair among sources; no source can take all of
// it. Thread-safe.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "absl/status/statusor.h"
#include "base/byte_budget.h"
#include "base/cancel.h"

namespace imagefs {

// Blocks for memory; see WindowMemory::Wait.
using WindowWait =
    std::function<absl::StatusOr<ByteBudget::Lease>(uint64_t bytes, const CancelToken& cancel)>;

class WindowMemory {
 public:
  static constexpr uint64_t kTotal = uint64_t{768} << 20;
  // The limit for a source that already holds some; a single window may be larger.
  static constexpr uint64_t kShare = uint64_t{256} << 20;

  WindowMemory() : budget_(kTotal, kShare) {}

  // Blocks until the memory is free or `cancel` fires (kCancelled); logs if it has to wait.
  absl::StatusOr<ByteBudget::Lease> Wait(const std::string& source, uint64_t bytes,
                                         const CancelToken& cancel);
  uint64_t held() const { return budget_.held(); }

 private:
  ByteBudget budget_;
};

}  // namespace imagefs
