// SPDX-License-Identifier: Apache-2.0
// Reads an EROFS image written by WriteErofs, directly from mapped memory. This is the daemon's
// inode table: opening parses only the superblock, and there is no per-inode state. Every access is
// bounds-checked, so a damaged or hostile image yields kDataLoss, never a crash or an endless loop.
// So does a file that is truncated while mapped, until MapAgain: results are returned only after
// the mapping has been checked. Thread-safe (immutable).
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "base/digest.h"
#include "base/mapped_file.h"
#include "image/erofs_writer.h"
#include "image/tree.h"

namespace imagefs {

using Nid = uint64_t;  // number of a 32-byte slot in the metadata area; never 0 or 1

class ErofsImage {
 public:
  // Maps the file read-only.
  static absl::StatusOr<std::unique_ptr<ErofsImage>> Open(const std::string& path);
  // Like Open for an open file; `name` is for errors.
  static absl::StatusOr<std::unique_ptr<ErofsImage>> OpenFd(int fd, std::string_view name);
  // For tests and fuzzing: borrows `bytes`.
  static absl::StatusOr<std::unique_ptr<ErofsImage>> FromMemory(std::string_view bytes);
  ErofsImage(const ErofsImage&) = delete;
  ErofsImage& operator=(const ErofsImage&) = delete;

  Nid root() const { return root_; }
  uint64_t inode_count() const { return inode_count_; }
  uint64_t size_bytes() const { return bytes_.size(); }
  // CRC-32C of all bytes, with a seed of all ones.
  uint32_t Checksum() const { return Crc32c(~0U, bytes_); }
  const std::vector<DeviceSlot>& devices() const { return devices_; }
  // If true, every call fails with kDataLoss.
  bool damaged() const { return file_.damaged(); }
  // Marks the image as damaged, because the file's content is in doubt.
  void Distrust() const { file_.Distrust(); }
  // Continues with `fd`, which must have the bytes that this file had when it was opened. One
  // thread at a time.
  absl::Status MapAgain(int fd) const { return file_.MapAgain(fd); }
  uint8_t flags() const { return flags_; }
  bool has_xattrs() const { return (flags_ & kIndexHasXattrs) != 0; }
  bool has_acls() const { return (flags_ & kIndexHasAcls) != 0; }

  struct Stat {
    Nid nid = 0;
    uint32_t mode = 0, uid = 0, gid = 0, nlink = 0;
    int64_t mtime_seconds = 0;
    uint32_t mtime_nanoseconds = 0;
    uint64_t size = 0;
    uint32_t rdev_major = 0, rdev_minor = 0;
  };
  absl::StatusOr<Stat> GetStat(Nid nid) const {
    return Whole([&] { return StatOf(nid); });
  }

  // Returns nullopt if the directory has no such name, kFailedPrecondition if it is not a
  // directory.
  absl::StatusOr<std::optional<Nid>> Lookup(Nid directory, std::string_view name) const {
    return Whole([&] { return Find(directory, name); });
  }

  struct DirentView {
    std::string_view name;  // valid until `visit` returns
    Nid nid = 0;
    uint8_t type = 0;   // DT_*
    uint64_t next = 0;  // position after this entry, for ReadDir
  };
  // Visits entries from `position` (0 = start), including "." and "..", in name order, until
  // `visit` returns false. Positions are stable forever, so reading a directory can continue after
  // a restart. Entries visited before an error are valid.
  absl::Status ReadDir(Nid directory, uint64_t position,
                       absl::FunctionRef<bool(const DirentView&)> visit) const;

  absl::StatusOr<std::string> Readlink(Nid nid) const {
    return Whole([&] { return TargetOf(nid); });
  }

  // Returns full names. Overlay markers are included.
  absl::StatusOr<std::vector<Xattr>> Xattrs(Nid nid) const {
    return Whole([&] { return AllXattrs(nid); });
  }
  absl::StatusOr<std::optional<std::string>> GetXattr(Nid nid, std::string_view name) const {
    return Whole([&] { return FindXattr(nid, name); });
  }

  // Returns the location of byte `offset` of a regular file and how far that run extends (at most
  // to the end of the file). `device` 0 = a hole. REQUIRES: offset < size.
  absl::StatusOr<Extent> Map(Nid nid, uint64_t offset) const {
    return Whole([&] { return RunAt(nid, offset); });
  }

  // Returns the number of image bytes that belong to this inode: the inode itself, its xattrs,
  // names or target, and chunks. Over all inodes they sum to at most size_bytes(), which bounds the
  // traversal of a hostile image.
  absl::StatusOr<uint64_t> StoredBytes(Nid nid) const {
    return Whole([&] { return BytesOf(nid); });
  }

  // Converts the whole image into a tree, with every device number shifted by `device_shift`. Hard
  // links are detected by nid. Returns kResourceExhausted if the tree would take more than
  // `max_bytes` of memory; with such a limit, the pages of the image are dropped on the way as
  // well.
  absl::StatusOr<Tree> ToTree(uint16_t device_shift = 0, uint64_t max_bytes = UINT64_MAX) const;

  // Advises the kernel to drop the resident pages; they come back from the page cache.
  void DropResidentPages() const { file_.DropPages(); }

 private:
  ErofsImage() = default;
  // The single place that checks whether bytes read from the mapping are valid.
  template <typename Read>
  auto Whole(const Read& read) const -> decltype(read()) {
    const uint64_t generation = file_.generation();
    auto result = read();
    if (file_.IsWholeSince(generation)) return result;
    return absl::DataLossError("an index was truncated, or can no longer be read from the disk");
  }
  absl::StatusOr<Stat> StatOf(Nid nid) const;
  absl::StatusOr<std::optional<Nid>> Find(Nid directory, std::string_view name) const;
  absl::Status VisitDir(Nid directory, uint64_t position,
                        absl::FunctionRef<bool(const DirentView&)> visit) const;
  absl::StatusOr<std::string> TargetOf(Nid nid) const;
  absl::StatusOr<std::vector<Xattr>> AllXattrs(Nid nid) const;
  absl::StatusOr<std::optional<std::string>> FindXattr(Nid nid, std::string_view name) const;
  absl::StatusOr<Extent> RunAt(Nid nid, uint64_t offset) const;
  absl::StatusOr<uint64_t> BytesOf(Nid nid) const;

  MappedFile file_;  // empty: bytes_ is borrowed
  std::string_view bytes_;
  Nid root_ = 0;
  uint64_t meta_offset_ = 0;
  uint64_t inode_count_ = 0;
  uint8_t flags_ = 0;
  std::vector<DeviceSlot> devices_;
};

}  // namespace imagefs
