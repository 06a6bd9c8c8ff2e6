// SPDX-License-Identifier: Apache-2.0
// Writes the headers of a tar in the pax format of POSIX.1-2001, as GNU tar, libarchive, Python and
// Go read it. Equal entries give equal bytes: a header has no time but that of the file, no names
// of users, no process id. Pure.
//
// What ustar cannot hold is in records: `path`, `linkpath`, `size`, `uid`, `gid`, `mtime` (to the
// nanosecond), SCHILY.xattr.NAME for extended attributes (ACLs are among them, as the kernel has
// them), and GNU's sparse format 1.0 for files with holes.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "base/byte_range.h"
#include "image/tree.h"

namespace imagefs {

inline constexpr uint64_t kTarBlockBytes = 512;

struct PaxEntry {
  std::string path;  // relative, without "./"; "" is the root
  uint32_t mode = 0, uid = 0, gid = 0;
  uint64_t size = 0;  // of a regular file
  int64_t mtime_seconds = 0;
  uint32_t mtime_nanoseconds = 0;
  uint32_t rdev_major = 0, rdev_minor = 0;
  std::string target;        // of a symbolic link
  std::string hard_link_to;  // path of an earlier entry that is the same file; "" = none
  std::vector<Xattr> xattrs;
  // The file has holes: only these ranges follow the header, one after the other. They begin at
  // multiples of 512 and end at one or at the end of the file.
  bool sparse = false;
  std::vector<ByteRange> data;
};

// Returns the blocks before an entry's data, of which the archive then has PaxDataBytes, and
// padding to a whole block. Fails for what the format has no place for: a socket, and an attribute
// whose name contains "=" or NUL.
absl::StatusOr<std::string> PaxHeader(const PaxEntry& entry);
uint64_t PaxDataBytes(const PaxEntry& entry);

// Zeros from `size` bytes to a whole block.
std::string PaxPadding(uint64_t size);
// The end of an archive: two blocks of zeros.
std::string PaxEnd();

}  // namespace imagefs
