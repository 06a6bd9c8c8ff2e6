// SPDX-License-Identifier: Apache-2.0
// The file `present` of a lazy layer: which spans of its data file are present. It can be wrong
// after a crash or if somebody wrote to the store, so each mark identifies what it is for: zeros,
// corrupted bits and bytes of another file are not taken for a mark. A mark holds a checksum of the
// data, by which the data can be verified whatever kind of digest the span table has. See
// docs/formats/access.md. Blocks on the disk. Thread-safe for different spans.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/fd.h"
#include "image/span_table.h"

namespace imagefs {

class PresentMap {
 public:
  // Opens the file, or creates an empty one. An invalid mark counts as absent, and a file of
  // another kind as empty. `span_table` must outlive this.
  static absl::StatusOr<std::unique_ptr<PresentMap>> Open(const std::string& path,
                                                          const SpanTableReader& span_table);

  // The content of the file when it was opened. A mark of an older version has no checksum.
  struct Mark {
    bool present = false;
    std::optional<uint32_t> sum;
  };
  const Mark& mark(size_t span) const { return marks_[span]; }
  // Returns whether `data` is the right content of the span, by its digest or by the mark found on
  // opening.
  bool Holds(size_t span, std::string_view data) const;

  // REQUIRES: the span's bytes are in the data file and have the checksum `sum` (CRC-32C, seed all
  // ones).
  absl::Status Set(size_t span, uint32_t sum);
  absl::Status Clear(size_t span);

 private:
  PresentMap(const SpanTableReader& span_table, Fd file)
      : table_(span_table), file_(std::move(file)) {}
  absl::Status Load(const std::string& path);
  uint32_t TagOf(size_t span, uint32_t sum) const;

  const SpanTableReader& table_;
  const Fd file_;
  std::vector<Mark> marks_;
};

// Returns the spans that `<directory>/present` marks, but whose bytes in `<directory>/data` are not
// as they were received. Calls `pace` with the number of bytes about to be read; returns kCancelled
// if that returns false.
absl::StatusOr<std::vector<uint32_t>> SpansNotAsMarked(const std::string& directory,
                                                       const SpanTableReader& span_table,
                                                       absl::FunctionRef<bool(size_t)> pace);

}  // namespace imagefs
