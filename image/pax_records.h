// SPDX-License-Identifier: Apache-2.0
// Parses the records of a PAX header (tar types 'x' and 'g') like Go's archive/tar. Pure; memory
// use is that of the header's body.
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

// Decimal digits with an optional sign, as numbers are written in records.
std::optional<int64_t> PaxNumber(std::string_view text);

struct PaxTime {
  int64_t seconds = 0;
  uint32_t nanoseconds = 0;
};

// "-1.5" is one and a half seconds before 1970: -2 seconds and 500,000,000 ns.
std::optional<PaxTime> ParsePaxTime(std::string_view text);

// The last value of each key, or "" if absent: an empty value also means that the tar header's
// value applies. Values are parsed lazily, since another header may replace an entry's records. Not
// copyable or movable, since the views point into `body` and `joined_map_`.
struct PaxRecords {
  PaxRecords() = default;
  PaxRecords(const PaxRecords&) = delete;
  PaxRecords& operator=(const PaxRecords&) = delete;

  // Parses `body`. Returns kDataLoss if it is malformed, kInvalidArgument for an impossible file
  // name.
  absl::Status Parse();
  // Returns whether the records describe a sparse file of a known version.
  bool IsSparse() const;
  // Returns SCHILY.xattr.*, sorted by name, with the last value of each (possibly empty). Returns
  // kInvalidArgument for one that exceeds Linux's limits.
  absl::StatusOr<std::vector<Xattr>> Xattrs() const;
  void Clear();

  std::string body;
  std::string_view path, link, uname, gname, size, uid, gid, mtime, atime, ctime;
  std::string_view sparse_name, sparse_major, sparse_minor, sparse_map, sparse_count, sparse_size,
      sparse_real_size;

 private:
  absl::Status Add(std::string_view key, std::string_view value);

  std::vector<std::pair<std::string_view, std::string_view>> xattrs_;  // all values, in order
  std::string joined_map_;      // the map of sparse version 0.0, in the format of 0.1
  bool length_is_due_ = false;  // the length of the last segment in joined_map_ is still missing
};

}  // namespace imagefs
