// SPDX-License-Identifier: Apache-2.0
// Where the larger files of a layer lie in its data file. Reading ahead needs to know where a file
// ends; files that are smaller than a span need no entry, so that the table of a layer of 50,000
// files has a few thousand entries of 8 bytes. A value type.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "base/byte_range.h"
#include "image/erofs_reader.h"

namespace imagefs {

class FileRuns {
 public:
  static constexpr uint64_t kLeastBytes = 64 << 10;  // of a file that has an entry

  // Reads the tree of a layer (overlay form). A hostile or damaged index costs at most the time to
  // read it once, and entries are then missing.
  static FileRuns Of(const ErofsImage& index);

  // Returns the run that has at least half of `read`, which the kernel extends to whole pages on
  // either side.
  std::optional<ByteRange> At(ByteRange read) const;
  size_t size() const { return runs_.size(); }

 private:
  struct Run {
    uint32_t begin = 0, end = 0;  // in blocks
  };
  std::vector<Run> runs_;  // ascending, disjoint
};

}  // namespace imagefs
