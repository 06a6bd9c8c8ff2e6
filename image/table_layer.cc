// SPDX-License-Identifier: Apache-2.0
#include "image/table_layer.h"

#include <sys/stat.h>

#include <algorithm>
#include <limits>
#include <string_view>
#include <utility>

#include "base/status.h"
#include "base/text.h"
#include "image/rfc3339.h"

namespace imagefs {
namespace {

constexpr size_t kMaxXattrName = 255;
constexpr size_t kMaxXattrValue = 64 << 10;
constexpr int64_t kMaxMajor = int64_t{1} << 12, kMaxMinor = int64_t{1} << 20;

absl::Status Refuse(const TableEntry& entry, std::string_view why) {
  return absl::InvalidArgumentError(
      StrCat("table of contents, entry \"", Printable(entry.path), "\": ", why));
}

std::optional<uint32_t> TypeBits(std::string_view type) {
  if (type == "reg" || type == "hardlink") return S_IFREG;
  if (type == "dir") return S_IFDIR;
  if (type == "symlink") return S_IFLNK;
  if (type == "char") return S_IFCHR;
  if (type == "block") return S_IFBLK;
  if (type == "fifo") return S_IFIFO;
  return std::nullopt;
}

// As in image/tar.cc: chown(2) treats -1 as "do not change", so the owner is root.
std::optional<uint32_t> OwnerId(int64_t id) {
  if (id == -1 || id == std::numeric_limits<uint32_t>::max()) return 0;
  if (id < std::numeric_limits<int32_t>::min() || id > std::numeric_limits<uint32_t>::max()) {
    return std::nullopt;
  }
  return static_cast<uint32_t>(id);
}

absl::Status SetTime(const TableEntry& entry, TarEntry& out) {
  const std::optional<FileTime> time = ParseRfc3339(entry.mtime);
  if (!time.has_value()) {
    return Refuse(entry, StrCat("\"", Printable(entry.mtime, 40), "\" is not a time"));
  }
  out.mtime_seconds = time->seconds;
  out.mtime_nanoseconds = time->nanoseconds;
  return absl::OkStatus();
}

// If several xattrs have the same name, the last one wins.
absl::Status SetXattrs(TableEntry& entry, TarEntry& out) {
  for (const Xattr& xattr : entry.xattrs) {
    if (xattr.name.empty() || xattr.name.size() > kMaxXattrName ||
        xattr.value.size() > kMaxXattrValue) {
      return Refuse(entry, StrCat("an xattr \"", Printable(xattr.name), "\" of ",
                                  xattr.value.size(), " bytes exceeds the limit of Linux"));
    }
  }
  std::reverse(entry.xattrs.begin(), entry.xattrs.end());
  std::stable_sort(entry.xattrs.begin(), entry.xattrs.end(),
                   [](const Xattr& a, const Xattr& b) { return a.name < b.name; });
  const auto last = std::unique(entry.xattrs.begin(), entry.xattrs.end(),
                                [](const Xattr& a, const Xattr& b) { return a.name == b.name; });
  entry.xattrs.erase(last, entry.xattrs.end());
  out.xattrs = std::move(entry.xattrs);
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<TarEntry> ToTarEntry(TableEntry entry) {
  TarEntry out;
  const std::optional<uint32_t> type = TypeBits(entry.type);
  if (!type.has_value()) {
    return Refuse(entry, StrCat("unknown type \"", Printable(entry.type, 40), "\""));
  }
  const std::optional<uint32_t> owner = OwnerId(entry.uid), group = OwnerId(entry.gid);
  if (!owner || !group) {
    return Refuse(entry, StrCat("owner ", entry.uid, ":", entry.gid, " does not fit into 32 bits"));
  }
  out.mode = *type | (static_cast<uint32_t>(entry.mode) & 07777);
  out.uid = *owner;
  out.gid = *group;
  if (*type == S_IFCHR || *type == S_IFBLK) {
    if (entry.major < 0 || entry.minor < 0 || entry.major >= kMaxMajor ||
        entry.minor >= kMaxMinor) {
      return Refuse(entry, "device numbers that Linux does not support");
    }
    out.rdev_major = static_cast<uint32_t>(entry.major);
    out.rdev_minor = static_cast<uint32_t>(entry.minor);
  }
  out.hard_link = entry.type == "hardlink";
  if (*type == S_IFREG && !out.hard_link) {
    if (entry.size < 0) return Refuse(entry, "a negative size");
    out.size = static_cast<uint64_t>(entry.size);
  }
  IMAGEFS_RETURN_IF_ERROR(SetTime(entry, out));
  IMAGEFS_RETURN_IF_ERROR(SetXattrs(entry, out));
  if (out.hard_link || *type == S_IFLNK) out.link = std::move(entry.link);
  out.path = std::move(entry.path);
  return out;
}

}  // namespace imagefs
