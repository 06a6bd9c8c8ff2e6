// SPDX-License-Identifier: Apache-2.0
// Detects sequential readers of a layer and decides how far to read ahead of each. Pure; not
// thread-safe.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

namespace imagefs {

class ReadStreams {
 public:
  // In bytes of the blob.
  static constexpr uint64_t kLeast = 256 << 10, kMost = 16 << 20;

  // Spans [first, last) are read. Returns how many bytes from `last` on to prefetch: twice as many
  // each time a reader continues where it was. `profiled`: upcoming reads are known from a profile,
  // so a few sequential reads are first taken for coincidence.
  uint64_t Advance(uint32_t first, uint32_t last, bool profiled);
  // What Advance returned last for the reader that is just behind that span; 0 if there is none.
  uint64_t AheadOf(uint32_t span) const;

 private:
  struct Stream {
    uint32_t next = 0;  // its position
    uint32_t steps = 0;
    uint64_t ahead = 0;
  };
  std::array<Stream, 4> streams_;
  size_t oldest_ = 0;
};

}  // namespace imagefs
