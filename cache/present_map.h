// The file `present` of a layer that fills: which spans of its data file are here. It can lie,
// after a crash or when somebody wrote into the store, so each mark says of itself what it is for:
// no zeros, no turned bits and no bytes of another file are taken for a mark. What a mark says of
// the data is a sum, by which the data can be checked whatever kind of digest the span table has.
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
  // Opens the file, or makes an empty one. What is no mark counts as absent, and a file of another
  // kind as empty. `access` must outlive this.
  static absl::StatusOr<std::unique_ptr<PresentMap>> Open(const std::string& path,
                                                          const SpanTableReader& span_table);

  // What the file said when it was opened. A mark of an older version has no sum.
  struct Mark {
    bool present = false;
    std::optional<uint32_t> sum;
  };
  const Mark& mark(size_t span) const { return marks_[span]; }
  // Whether `data` is what the span should have, by its digest or by the mark that was found.
  bool Holds(size_t span, std::string_view data) const;

  // REQUIRES: the span's bytes are in the data file, and their sum (CRC-32C, seed all ones) is
  // this.
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

// Spans that `<directory>/present` names, and that are not in `<directory>/data` as they came.
// Calls `pace` with the bytes that are read next; kCancelled when that says false.
absl::StatusOr<std::vector<uint32_t>> SpansNotAsMarked(const std::string& directory,
                                                       const SpanTableReader& span_table,
                                                       absl::FunctionRef<bool(size_t)> pace);

}  // namespace imagefs
