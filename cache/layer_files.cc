// SPDX-License-Identifier: Apache-2.0
#include "cache/layer_files.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <memory>
#include <utility>

#include "absl/functional/function_ref.h"
#include "absl/types/span.h"
#include "base/fd.h"
#include "base/status.h"
#include "base/text.h"

namespace imagefs {
namespace {

// Bytes are synced one slice at a time: syncing all at once would fill the disk's queue and delay
// concurrent syncs of records.
constexpr off_t kSyncSlice = 4 << 20;
constexpr size_t kChunkBytes = 1 << 20;
constexpr size_t kDirectAlignment = 4096;

absl::Status SyncFile(const std::string& path) {
  IMAGEFS_ASSIGN_OR_RETURN(const Fd fd, OpenFile(path, O_RDONLY));
  struct stat st;
  if (fstat(fd.get(), &st) != 0) return ErrnoStatus(errno, path);
  for (off_t at = 0; at < st.st_size; at += kSyncSlice) {
    constexpr unsigned kAndWait =
        SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE | SYNC_FILE_RANGE_WAIT_AFTER;
    if (sync_file_range(fd.get(), at, kSyncSlice, kAndWait) == 0) continue;
    if (errno == EIO || errno == ENOSPC || errno == EDQUOT) return ErrnoStatus(errno, path);
    break;  // not supported by this file system
  }
  return FsyncFd(fd.get(), path);
}

struct FreeBuffer {
  void operator()(char* buffer) const { std::free(buffer); }
};

using Visit = absl::FunctionRef<absl::Status(std::string_view bytes, uint64_t offset)>;

absl::Status ForEachChunk(int fd, const std::string& path, Visit visit) {
  const std::unique_ptr<char, FreeBuffer> buffer(
      static_cast<char*>(std::aligned_alloc(kDirectAlignment, kChunkBytes)));
  for (uint64_t at = 0;; at += kChunkBytes) {
    const absl::StatusOr<size_t> got = PreadFull(fd, absl::MakeSpan(buffer.get(), kChunkBytes), at);
    if (!got.ok()) return absl::DataLossError(StrCat(path, ": ", got.status().message()));
    if (*got > 0) IMAGEFS_RETURN_IF_ERROR(visit(std::string_view(buffer.get(), *got), at));
    if (*got < kChunkBytes) return absl::OkStatus();
  }
}

// Rewrites the readable content of the file in place, so that all of it must be synced again.
// Concurrent readers see no difference.
absl::Status WriteAgain(const std::string& path, absl::FunctionRef<void(std::string_view)> sum) {
  IMAGEFS_ASSIGN_OR_RETURN(const Fd fd, OpenFile(path, O_RDWR | O_NOFOLLOW));
  return ForEachChunk(fd.get(), path, [&](std::string_view bytes, uint64_t offset) {
    sum(bytes);
    return Annotate(PwriteFull(fd.get(), bytes, offset), path);
  });
}

// Reads the file from the disk. REQUIRES: none of its pages is dirty.
absl::Status ReadFromDisk(const std::string& path,
                          absl::FunctionRef<absl::Status(std::string_view)> sum) {
  absl::StatusOr<Fd> fd = OpenFile(path, O_RDONLY | O_DIRECT);
  if (!fd.ok()) {
    // Not supported by this file system. Pages that are not mapped are dropped from the cache on
    // request.
    IMAGEFS_ASSIGN_OR_RETURN(fd, OpenFile(path, O_RDONLY));
    (void)posix_fadvise(fd->get(), 0, 0, POSIX_FADV_DONTNEED);
  }
  return ForEachChunk(fd->get(), path,
                      [&](std::string_view bytes, uint64_t) { return sum(bytes); });
}

// Compares one file with its expected checksum while it is read.
class DataSum {
 public:
  explicit DataSum(const LayerSums& sums) : expected_(sums.data) {}
  void operator()(std::string_view bytes) { hash_.Update(bytes); }
  bool Holds() { return hash_.Finish() == expected_; }

 private:
  const Digest expected_;
  Sha256 hash_;
};

class IndexSum {
 public:
  explicit IndexSum(const LayerSums& sums) : expected_(sums.index.value_or(0)) {}
  void operator()(std::string_view bytes) { sum_ = Crc32c(sum_, bytes); }
  bool Holds() { return std::exchange(sum_, ~0U) == expected_; }

 private:
  const uint32_t expected_;
  uint32_t sum_ = ~0U;
};

template <typename Sum>
absl::Status SyncCarefully(const std::string& path, Sum sum) {
  IMAGEFS_RETURN_IF_ERROR(WriteAgain(path, [&](std::string_view bytes) { sum(bytes); }));
  if (!sum.Holds()) {
    return absl::DataLossError(StrCat(path, ": its bytes are not those that were written"));
  }
  IMAGEFS_RETURN_IF_ERROR(SyncFile(path));
  IMAGEFS_RETURN_IF_ERROR(ReadFromDisk(path, [&](std::string_view bytes) {
    sum(bytes);
    return absl::OkStatus();
  }));
  if (sum.Holds()) return absl::OkStatus();
  return absl::InternalError(StrCat(path, ": the disk returns other data than was synced to it"));
}

// The span table is rebuilt if it is wrong, so no checksum of it is kept.
absl::Status SyncAccess(const std::string& path, bool careful) {
  if (::access(path.c_str(), F_OK) != 0) return absl::OkStatus();
  if (careful) IMAGEFS_RETURN_IF_ERROR(WriteAgain(path, [](std::string_view) {}));
  return SyncFile(path);
}

// Makes the directory need another sync.
absl::Status ChangeDirectory(const std::string& directory) {
  const std::string path = StrCat(directory, "/tmp-", RandomHex(8));
  IMAGEFS_RETURN_IF_ERROR(OpenFile(path, O_WRONLY | O_CREAT | O_EXCL, 0600).status());
  return unlink(path.c_str()) == 0 ? absl::OkStatus() : ErrnoStatus(errno, path);
}

}  // namespace

bool IsLink(const std::string& path) {
  struct stat st;
  return lstat(path.c_str(), &st) == 0 && S_ISLNK(st.st_mode);
}

std::string StampOf(const std::string& path) {
  struct stat st;
  if (stat(path.c_str(), &st) != 0) return "";
  const auto nanos = [](const timespec& time) {
    return int64_t{time.tv_sec} * 1'000'000'000 + time.tv_nsec;
  };
  return StrCat(st.st_ino, " ", st.st_size, " ", nanos(st.st_mtim), " ", nanos(st.st_ctim));
}

absl::StatusOr<LayerSums> SumsOfLayer(const std::string& directory) {
  LayerSums sums;
  IMAGEFS_ASSIGN_OR_RETURN(const Fd data, OpenFile(directory + "/data", O_RDONLY));
  IMAGEFS_ASSIGN_OR_RETURN(sums.data, Sha256OfFile(data.get()));
  IMAGEFS_ASSIGN_OR_RETURN(const Fd index, OpenFile(directory + "/index", O_RDONLY));
  IMAGEFS_ASSIGN_OR_RETURN(sums.index, Crc32cOfFile(index.get()));
  return sums;
}

absl::StatusOr<LayerSums> SumsOnDisk(const std::string& directory,
                                     absl::FunctionRef<bool(size_t bytes)> pace) {
  LayerSums sums;
  Sha256 hash;
  const auto paced = [&](size_t bytes) {
    return pace(bytes) ? absl::OkStatus() : absl::CancelledError("the check was cancelled");
  };
  IMAGEFS_RETURN_IF_ERROR(ReadFromDisk(directory + "/data", [&](std::string_view bytes) {
    hash.Update(bytes);
    return paced(bytes.size());
  }));
  sums.data = hash.Finish();
  sums.index = ~0U;
  IMAGEFS_RETURN_IF_ERROR(ReadFromDisk(directory + "/index", [&](std::string_view bytes) {
    sums.index = Crc32c(*sums.index, bytes);
    return paced(bytes.size());
  }));
  return sums;
}

void DropCached(const std::string& directory) {
  for (const char* name : {"/data", "/index"}) {
    const absl::StatusOr<Fd> fd = OpenFile(directory + name, O_RDONLY);
    if (fd.ok()) (void)posix_fadvise(fd->get(), 0, 0, POSIX_FADV_DONTNEED);
  }
}

absl::Status CopyDifferences(int from, int to) {
  std::string right(kChunkBytes, '\0'), there(kChunkBytes, '\0');
  for (uint64_t at = 0;; at += right.size()) {
    IMAGEFS_ASSIGN_OR_RETURN(const size_t got, PreadFull(from, absl::MakeSpan(right), at));
    const std::string_view part(right.data(), got);
    const absl::StatusOr<size_t> had = PreadFull(to, absl::MakeSpan(there), at);
    if (!had.ok() || std::string_view(there.data(), *had) != part) {
      IMAGEFS_RETURN_IF_ERROR(PwriteFull(to, part, at));
    }
    if (got == right.size()) continue;
    const auto size = static_cast<off_t>(at + got);
    struct stat st;
    if (fstat(to, &st) != 0) return ErrnoStatus(errno, "a file that is repaired");
    if (st.st_size != size && ftruncate(to, size) != 0) {
      return ErrnoStatus(errno, "a file that is repaired");
    }
    return absl::OkStatus();
  }
}

absl::Status SyncLayer(const std::string& directory, const LayerSums& sums, bool careful) {
  const std::string data = directory + "/data", index = directory + "/index";
  if (careful && !sums.known()) {
    return absl::DataLossError("it may not be on the disk, and its checksum is unknown");
  }
  if (careful) {
    // The data of a shared store was synced by whoever wrote it.
    if (!IsLink(data)) IMAGEFS_RETURN_IF_ERROR(SyncCarefully(data, DataSum(sums)));
    IMAGEFS_RETURN_IF_ERROR(SyncCarefully(index, IndexSum(sums)));
  } else {
    IMAGEFS_RETURN_IF_ERROR(SyncFile(data));
    IMAGEFS_RETURN_IF_ERROR(SyncFile(index));
  }
  IMAGEFS_RETURN_IF_ERROR(SyncAccess(directory + "/access", careful));
  for (const std::string& one : {directory, ParentOf(directory)}) {
    if (careful) IMAGEFS_RETURN_IF_ERROR(ChangeDirectory(one));
    IMAGEFS_RETURN_IF_ERROR(FsyncDir(one));
  }
  return absl::OkStatus();
}

absl::Status CopyBytes(FilePlace from, FilePlace to, uint64_t length,
                       absl::FunctionRef<absl::Status(size_t bytes)> allow) {
  constexpr uint64_t kPieceBytes = 256 << 10;
  const uint64_t piece = std::min(length, kPieceBytes);
  const auto buffer = std::make_unique_for_overwrite<char[]>(piece);
  for (uint64_t done = 0; done < length;) {
    const size_t n = std::min(piece, length - done);
    IMAGEFS_RETURN_IF_ERROR(allow(n));
    IMAGEFS_ASSIGN_OR_RETURN(
        const size_t got, PreadFull(from.fd, absl::MakeSpan(buffer.get(), n), from.offset + done));
    if (got != n)
      return absl::DataLossError("the layer's data file ends before the bytes that it must have");
    IMAGEFS_RETURN_IF_ERROR(PwriteFull(to.fd, std::string_view(buffer.get(), n), to.offset + done));
    done += n;
  }
  return absl::OkStatus();
}

absl::Status WriteHole(const std::string& path, uint64_t bytes) {
  IMAGEFS_ASSIGN_OR_RETURN(const Fd fd, OpenFile(path, O_WRONLY | O_CREAT | O_EXCL, 0600));
  if (ftruncate(fd.get(), static_cast<off_t>(bytes)) != 0) return ErrnoStatus(errno, path);
  return absl::OkStatus();
}

}  // namespace imagefs
