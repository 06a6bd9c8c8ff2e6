// SPDX-License-Identifier: Apache-2.0
// The file `hot` of a lazy layer: which pages of its data file came with a hot pack and may have
// been served before their spans came. The kernel may have kept them beyond the end of a process,
// so a later one of the same boot still compares them with their spans.
//
// 64 bytes: the id of the boot, then zeros. Then one bit per page, the lowest first.
//
// Blocks on the disk. Not thread-safe.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "base/byte_range.h"
#include "base/fd.h"

namespace imagefs {

class HotMarks {
 public:
  explicit HotMarks(std::string path) : path_(std::move(path)) {}

  // Returns the pages that an earlier process of this boot marked, as parts of a data file of
  // `data_bytes`.
  absl::StatusOr<std::vector<ByteRange>> Read(uint64_t data_bytes);
  // Marks the pages that `range` of the data file is part of. Creates the file.
  absl::Status Set(ByteRange range) { return Write(range, true); }
  absl::Status Clear(ByteRange range) {
    return bits_.empty() ? absl::OkStatus() : Write(range, false);
  }
  // Removes the file: every page was compared.
  void Remove();

 private:
  absl::Status Write(ByteRange range, bool marked);

  const std::string path_;
  Fd file_;
  std::string bits_;  // as in the file
};

}  // namespace imagefs
