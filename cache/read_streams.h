// Who reads a layer in sequence, and how far to read ahead of each. Pure; not thread-safe.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

namespace imagefs {

class ReadStreams {
 public:
  // Spans [first, last) are read. Returns how many of those from `last` on to ask for in advance:
  // twice as many each time that a reader goes on where it was. `profiled`: what comes next is
  // known by other means, so that going on is chance at first.
  uint32_t Advance(uint32_t first, uint32_t last, bool profiled);

 private:
  struct Stream {
    uint32_t next = 0;   // where it is
    uint32_t ahead = 0;  // spans
    uint32_t steps = 0;
  };
  std::array<Stream, 4> streams_;
  size_t oldest_ = 0;
};

}  // namespace imagefs
