// SPDX-License-Identifier: Apache-2.0
// What the files of a FUSE mount have in place of what the image says about them: owner and
// permissions, as other FUSE file systems let one choose by -o uid=, gid=, umask=. Pure.
#pragma once

#include <sys/stat.h>

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace imagefs {

// What is not set is the image's.
struct ShownAs {
  std::optional<uint32_t> uid, gid;
  // Permissions are 0777 without the bits of the mask: of directories, and of all other files but
  // symbolic links.
  std::optional<uint32_t> directory_mask, file_mask;

  bool any() const { return uid || gid || directory_mask || file_mask; }
  // Returns kInvalidArgument for a mask of more than 0777, or the number that is no user's.
  absl::Status Check() const;
  void ApplyTo(struct stat* file) const;
  // In the words of -o: uid=, gid=, dmask=, fmask=.
  std::vector<std::string> Words() const;
  // The words with commas between them; "" = all is the image's. Parse reads that back.
  std::string ToString() const;
  static absl::StatusOr<ShownAs> Parse(std::string_view text);

  friend bool operator==(const ShownAs&, const ShownAs&) = default;
};

// Parses an octal number of permission bits: up to 0777.
std::optional<uint32_t> ParseMask(std::string_view text);

}  // namespace imagefs
