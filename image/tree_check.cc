// SPDX-License-Identifier: Apache-2.0
#include "image/tree_check.h"

#include <sys/stat.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "base/fd.h"
#include "base/status.h"
#include "base/text.h"

namespace imagefs {
namespace {

constexpr size_t kPiece = 256 << 10;

std::string Octal(uint32_t mode) {
  std::string digits;
  for (int shift = 15; shift >= 0; shift -= 3) {
    digits.push_back(static_cast<char>('0' + (mode >> shift & 7)));
  }
  return digits;
}

// Reads bytes of a file at `offset`; holes read as zeros.
absl::Status ReadFileBytes(const DescribedLayer& layer, InodeId id, uint64_t offset,
                           absl::Span<char> out) {
  std::memset(out.data(), 0, out.size());
  for (const Extent& extent : layer.tree.Extents(id)) {
    const uint64_t begin = std::max(offset, extent.file_offset);
    const uint64_t end = std::min(offset + out.size(), extent.file_offset + extent.length);
    if (begin >= end) continue;
    IMAGEFS_ASSIGN_OR_RETURN(const size_t got,
                             PreadFull(layer.data_fd, out.subspan(begin - offset, end - begin),
                                       extent.data_offset + (begin - extent.file_offset)));
    if (got != end - begin) return absl::DataLossError("the data file is too short");
  }
  return absl::OkStatus();
}

class TreeCheck {
 public:
  TreeCheck(const DescribedLayer& described, const DescribedLayer& own)
      : described_(described),
        own_(own),
        pieces_{std::string(kPiece, '\0'), std::string(kPiece, '\0')} {}

  absl::Status Run() {
    stack_.push_back({Tree::kRoot, Tree::kRoot, ""});
    while (!stack_.empty()) {
      const Pair directory = std::move(stack_.back());
      stack_.pop_back();
      IMAGEFS_RETURN_IF_ERROR(CheckNames(directory));
    }
    return absl::OkStatus();
  }

 private:
  struct Pair {
    InodeId described, own;
    std::string path;
  };

  absl::Status Differs(std::string_view path, std::string_view what, std::string_view described,
                       std::string_view own) const {
    return absl::DataLossError(StrCat("its description does not match its tar: ", Printable(path),
                                      ": ", what, " ", Printable(described), ", in the tar ",
                                      Printable(own)));
  }

  // Both lists are sorted by name.
  absl::Status CheckNames(const Pair& directory) {
    const std::vector<DirentId> left = described_.tree.SortedChildren(directory.described);
    const std::vector<DirentId> right = own_.tree.SortedChildren(directory.own);
    for (size_t i = 0, j = 0; i < left.size() || j < right.size();) {
      const std::string_view a = i < left.size() ? described_.tree.dirent(left[i]).name : "";
      const std::string_view b = j < right.size() ? own_.tree.dirent(right[j]).name : "";
      const bool only_left = j == right.size() || (i < left.size() && a < b);
      const bool only_right = i == left.size() || (j < right.size() && b < a);
      if (only_left || only_right) {
        return Differs(StrCat(directory.path, "/", only_left ? a : b), "name",
                       only_left ? "listed" : "missing", only_left ? "missing" : "listed");
      }
      IMAGEFS_RETURN_IF_ERROR(
          CheckInode({described_.tree.dirent(left[i]).inode, own_.tree.dirent(right[j]).inode,
                      StrCat(directory.path, "/", a)}));
      ++i;
      ++j;
    }
    return absl::OkStatus();
  }

  absl::Status CheckInode(Pair pair) {
    const Inode& a = described_.tree.inode(pair.described);
    const Inode& b = own_.tree.inode(pair.own);
    if (a.mode != b.mode) return Differs(pair.path, "mode", Octal(a.mode), Octal(b.mode));
    if (a.uid != b.uid || a.gid != b.gid) {
      return Differs(pair.path, "owner", StrCat(a.uid, ":", a.gid), StrCat(b.uid, ":", b.gid));
    }
    const bool same_time = a.mtime_seconds == b.mtime_seconds &&
                           (a.mtime_nanoseconds == b.mtime_nanoseconds || a.mtime_nanoseconds == 0);
    if (!same_time) {
      return Differs(pair.path, "time", StrCat(a.mtime_seconds, ".", a.mtime_nanoseconds),
                     StrCat(b.mtime_seconds, ".", b.mtime_nanoseconds));
    }
    if (a.rdev_major != b.rdev_major || a.rdev_minor != b.rdev_minor) {
      return Differs(pair.path, "device", StrCat(a.rdev_major, ":", a.rdev_minor),
                     StrCat(b.rdev_major, ":", b.rdev_minor));
    }
    if (a.opaque != b.opaque) {
      return Differs(pair.path, "opaque", a.opaque ? "yes" : "no", b.opaque ? "yes" : "no");
    }
    if (a.symlink != b.symlink) return Differs(pair.path, "target", a.symlink, b.symlink);
    IMAGEFS_RETURN_IF_ERROR(CheckXattrs(pair));
    if (S_ISDIR(a.mode)) {
      stack_.push_back(std::move(pair));
      return absl::OkStatus();
    }
    return CheckFile(pair, a, b);
  }

  absl::Status CheckXattrs(const Pair& pair) {
    const auto own = own_.tree.Xattrs(pair.own);
    for (const Xattr& xattr : described_.tree.Xattrs(pair.described)) {
      if (std::find(own.begin(), own.end(), xattr) == own.end()) {
        return Differs(pair.path, "attribute", xattr.name, "it differs or is missing");
      }
    }
    return absl::OkStatus();
  }

  // Names that share a file in one tree must share a file in the other.
  absl::Status CheckFile(const Pair& pair, const Inode& a, const Inode& b) {
    if (a.nlink != b.nlink) return Differs(pair.path, "names", StrCat(a.nlink), StrCat(b.nlink));
    const auto [seen, is_new] = files_.emplace(pair.described, pair.own);
    if (!is_new) {
      return seen->second == pair.own ? absl::OkStatus()
                                      : Differs(pair.path, "hard link", "one file", "another");
    }
    if (!S_ISREG(a.mode)) return absl::OkStatus();
    if (a.size != b.size) return Differs(pair.path, "size", StrCat(a.size), StrCat(b.size));
    for (uint64_t at = 0; at < a.size; at += kPiece) {
      const size_t count = std::min<uint64_t>(kPiece, a.size - at);
      IMAGEFS_RETURN_IF_ERROR(
          ReadFileBytes(described_, pair.described, at, absl::MakeSpan(pieces_[0].data(), count)));
      IMAGEFS_RETURN_IF_ERROR(
          ReadFileBytes(own_, pair.own, at, absl::MakeSpan(pieces_[1].data(), count)));
      if (std::memcmp(pieces_[0].data(), pieces_[1].data(), count) != 0) {
        return Differs(pair.path, StrCat("bytes from ", at, " on"), "are others", "are others");
      }
    }
    return absl::OkStatus();
  }

  const DescribedLayer described_, own_;
  std::vector<Pair> stack_;
  absl::flat_hash_map<InodeId, InodeId> files_;  // described -> own
  std::array<std::string, 2> pieces_;
};

}  // namespace

absl::Status CheckDescription(const DescribedLayer& described, const DescribedLayer& own) {
  return TreeCheck(described, own).Run();
}

}  // namespace imagefs
