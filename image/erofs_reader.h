// Reads an EROFS image as WriteErofs makes it, straight from mapped memory. The daemon's inode
// table: no parsing at open beyond the superblock, no per-inode state. Every access is
// bounds-checked, so a damaged or hostile image gives kDataLoss, never a crash or an endless loop.
// So does a file that was cut while it was mapped, until MapAgain: what was read is only given out
// after a look at the mapping. Thread-safe (immutable).
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
  // The same of a file that is open; `name` is for errors.
  static absl::StatusOr<std::unique_ptr<ErofsImage>> OpenFd(int fd, std::string_view name);
  // For tests and fuzzing: borrows `bytes`.
  static absl::StatusOr<std::unique_ptr<ErofsImage>> FromMemory(std::string_view bytes);
  ErofsImage(const ErofsImage&) = delete;
  ErofsImage& operator=(const ErofsImage&) = delete;

  Nid root() const { return root_; }
  uint64_t inode_count() const { return inode_count_; }
  uint64_t size_bytes() const { return bytes_.size(); }
  // CRC-32C of all its bytes, seed all ones.
  uint32_t Checksum() const { return Crc32c(~0U, bytes_); }
  const std::vector<DeviceSlot>& devices() const { return devices_; }
  // True: every call fails with kDataLoss.
  bool damaged() const { return file_.damaged(); }
  // So it is from now on, since nobody knows any more what the file has.
  void Distrust() const { file_.Distrust(); }
  // Goes on with that file, which is known to have the bytes that this one had when it was opened.
  // By one thread at a time.
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

  // nullopt when the directory has no such name; kFailedPrecondition when it is no directory.
  absl::StatusOr<std::optional<Nid>> Lookup(Nid directory, std::string_view name) const {
    return Whole([&] { return Find(directory, name); });
  }

  struct DirentView {
    std::string_view name;  // until `visit` returns
    Nid nid = 0;
    uint8_t type = 0;   // DT_*
    uint64_t next = 0;  // position after this entry, for ReadDir
  };
  // Entries from `position` (0 = start) incl. "." and "..", in the order of names, until `visit`
  // returns false. Positions are stable for ever, so a directory can be read on after a restart.
  // What is visited was right, also when an error follows.
  absl::Status ReadDir(Nid directory, uint64_t position,
                       absl::FunctionRef<bool(const DirentView&)> visit) const;

  absl::StatusOr<std::string> Readlink(Nid nid) const {
    return Whole([&] { return TargetOf(nid); });
  }

  // Full names. The overlay markers are listed like any other.
  absl::StatusOr<std::vector<Xattr>> Xattrs(Nid nid) const {
    return Whole([&] { return AllXattrs(nid); });
  }
  absl::StatusOr<std::optional<std::string>> GetXattr(Nid nid, std::string_view name) const {
    return Whole([&] { return FindXattr(nid, name); });
  }

  // Where byte `offset` of a regular file lies and how far that run goes (to the end of the file at
  // most). `device` 0 = a hole. REQUIRES: offset < size.
  absl::StatusOr<Extent> Map(Nid nid, uint64_t offset) const {
    return Whole([&] { return RunAt(nid, offset); });
  }

  // Bytes of the image that belong to this inode: itself, its xattrs, names or target, chunks. Over
  // all inodes they sum up to at most size_bytes(), which bounds the walk of a hostile image.
  absl::StatusOr<uint64_t> StoredBytes(Nid nid) const {
    return Whole([&] { return BytesOf(nid); });
  }

  // The whole image as a tree with every device number shifted by `device_shift`. Hard links are
  // found by nid. kResourceExhausted when the tree would take more than `max_bytes` of memory; with
  // such a limit the pages of the image do not stay either.
  absl::StatusOr<Tree> ToTree(uint16_t device_shift = 0, uint64_t max_bytes = UINT64_MAX) const;

  // Tells the kernel that the pages touched so far may go; they come back from the page cache.
  void DropResidentPages() const { file_.DropPages(); }

 private:
  ErofsImage() = default;
  // The one place that decides whether what was read may be given out.
  template <typename Read>
  auto Whole(const Read& read) const -> decltype(read()) {
    const uint64_t generation = file_.generation();
    auto result = read();
    if (file_.IsWholeSince(generation)) return result;
    return absl::DataLossError("an index was cut, or cannot be read from the disk any more");
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

  MappedFile file_;  // of no bytes: borrowed
  std::string_view bytes_;
  Nid root_ = 0;
  uint64_t meta_offset_ = 0;
  uint64_t inode_count_ = 0;
  uint8_t flags_ = 0;
  std::vector<DeviceSlot> devices_;
};

}  // namespace imagefs
