// The records of a PAX header (type 'x' or 'g' of a tar), read as Go's archive/tar reads them.
// Pure; memory is that of the header's body.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "image/tree.h"

namespace imagefs {

// Decimal digits with or without a sign, which is how records hold numbers.
std::optional<int64_t> PaxNumber(std::string_view text);

struct PaxTime {
  int64_t seconds = 0;
  uint32_t nanoseconds = 0;
};

// "-1.5" is one and a half seconds before 1970: -2 seconds and 500,000,000 ns.
std::optional<PaxTime> ParsePaxTime(std::string_view text);

// Of each key the last value, "" where there is none: an empty value says the same, that what the
// tar header says holds. Values are not looked at before somebody needs them: an entry's records
// may be replaced by another header's. The views point into `body` and `joined_map`, so that it is
// neither copied nor moved.
struct PaxRecords {
  PaxRecords() = default;
  PaxRecords(const PaxRecords&) = delete;
  PaxRecords& operator=(const PaxRecords&) = delete;

  // Reads `body`. kDataLoss when it is malformed, kInvalidArgument for a name that no file can
  // have.
  absl::Status Parse();
  // Whether they describe a sparse file of a version that is known.
  bool IsSparse() const;
  // SCHILY.xattr.*, sorted by name, the last value of each, which may be empty.
  // kInvalidArgument for one that Linux has no room for.
  absl::StatusOr<std::vector<Xattr>> Xattrs() const;
  void Clear();

  std::string body;
  std::string_view path, link, uname, gname, size, uid, gid, mtime, atime, ctime;
  std::string_view sparse_name, sparse_major, sparse_minor, sparse_map, sparse_count, sparse_size,
      sparse_real_size;

 private:
  absl::Status Add(std::string_view key, std::string_view value);

  std::vector<std::pair<std::string_view, std::string_view>> xattrs_;  // all values, in order
  std::string joined_map_;      // of sparse version 0.0, in the form of 0.1
  bool length_is_due_ = false;  // of the segment whose offset joined_map_ ends with
};

}  // namespace imagefs
