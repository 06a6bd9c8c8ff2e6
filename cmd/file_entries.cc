// SPDX-License-Identifier: Apache-2.0
#include "cmd/file_entries.h"

#include <sys/stat.h>

#include <algorithm>
#include <utility>

#include "base/text.h"

namespace imagefs {

using control::v1::FileData;
using control::v1::FileEntry;

AnnouncedBytes::AnnouncedBytes(const FileEntry& entry) {
  if (!S_ISREG(entry.mode()) || !entry.hard_link_to().empty()) return;
  if (entry.sparse()) {
    for (const FileEntry::Range& range : entry.data())
      left_.push_back({range.begin(), range.end()});
    std::reverse(left_.begin(), left_.end());
  } else if (entry.size() > 0) {
    left_.push_back({0, entry.size()});
  }
}

absl::Status AnnouncedBytes::Take(const FileData& data) {
  const uint64_t size = data.bytes().size();
  if (left_.empty() || left_.back().begin != data.offset() || left_.back().size() < size) {
    return absl::DataLossError("the daemon sent other bytes than it had announced");
  }
  left_.back().begin += size;
  if (left_.back().empty()) left_.pop_back();
  return absl::OkStatus();
}

absl::Status AnnouncedBytes::CheckEnd() const {
  if (left_.empty()) return absl::OkStatus();
  return absl::DataLossError("the daemon sent fewer bytes of a file than it had announced");
}

absl::StatusOr<ImagePath> SplitImagePath(std::string_view text) {
  size_t begin = 0;
  for (const std::string_view transport :
       {"docker://", "oci:", "oci-archive:", "docker-archive:"}) {
    if (text.starts_with(transport)) begin = transport.size();
  }
  const size_t colon = text.find(":/", begin);
  if (colon == std::string_view::npos || colon == 0) {
    return absl::InvalidArgumentError(StrCat(
        "\"", PrintableName(text),
        "\" is not IMAGE:/PATH; the path in the image is absolute, as in alpine:3:/etc/hosts"));
  }
  return ImagePath{std::string(text.substr(0, colon)), std::string(text.substr(colon + 1))};
}

std::string NameOfCopy(std::string_view path) {
  while (path.ends_with('/')) path.remove_suffix(1);
  const std::string_view name = path.substr(path.rfind('/') + 1);
  return name == "." || name == ".." ? "" : std::string(name);
}

PaxEntry ToPaxEntry(const FileEntry& entry, std::string path, std::string hard_link_to) {
  PaxEntry out;
  out.path = std::move(path);
  out.hard_link_to = std::move(hard_link_to);
  out.mode = entry.mode();
  out.uid = entry.uid();
  out.gid = entry.gid();
  out.size = entry.size();
  out.mtime_seconds = entry.mtime_seconds();
  out.mtime_nanoseconds = entry.mtime_nanoseconds();
  out.rdev_major = entry.rdev_major();
  out.rdev_minor = entry.rdev_minor();
  out.target = entry.target();
  for (const FileEntry::Xattr& xattr : entry.xattrs()) {
    out.xattrs.push_back({xattr.name(), xattr.value()});
  }
  out.sparse = entry.sparse();
  for (const FileEntry::Range& range : entry.data())
    out.data.push_back({range.begin(), range.end()});
  return out;
}

}  // namespace imagefs
