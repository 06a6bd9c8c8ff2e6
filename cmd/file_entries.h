// SPDX-License-Identifier: Apache-2.0
// What the verbs share that get files of an image from the daemon (proto: FileItems).
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "base/byte_range.h"
#include "image/pax_writer.h"
#include "proto/control.pb.h"

namespace imagefs {

// Checks that exactly the bytes of a file come that its entry announced, in order, so that a file
// that was cut short never looks whole.
class AnnouncedBytes {
 public:
  AnnouncedBytes() = default;  // nothing is announced
  explicit AnnouncedBytes(const control::v1::FileEntry& entry);
  // The next bytes came: returns kDataLoss if they are not those that were announced.
  absl::Status Take(const control::v1::FileData& data);
  // Returns kDataLoss unless everything came.
  absl::Status CheckEnd() const;

 private:
  std::vector<ByteRange> left_;  // last first
};

// Splits "REF:/PATH" at the first ":/" behind the transport. Returns kInvalidArgument if there is
// no absolute path.
struct ImagePath {
  std::string reference, path;
};
absl::StatusOr<ImagePath> SplitImagePath(std::string_view text);

// Returns the name that a copy of `path` gets, or "" if the path names the content of a directory:
// "/", or one that ends with "/." or "..".
std::string NameOfCopy(std::string_view path);

// Converts an entry for an archive in which it has the path `path`, and its hard link the path
// `hard_link_to`.
PaxEntry ToPaxEntry(const control::v1::FileEntry& entry, std::string path,
                    std::string hard_link_to);

}  // namespace imagefs
