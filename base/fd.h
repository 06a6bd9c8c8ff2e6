// SPDX-License-Identifier: Apache-2.0
// File descriptors and the few file operations the project needs, with complete transfers and
// Status errors. All functions are thread-safe; EINTR is retried.
#pragma once

#include <sys/stat.h>
#include <sys/types.h>

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"

namespace imagefs {

// Owns one file descriptor; closes it on destruction. Movable, not copyable.
class Fd {
 public:
  Fd() = default;
  explicit Fd(int fd) : fd_(fd) {}
  Fd(Fd&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Fd& operator=(Fd&& other) noexcept;
  ~Fd() { Reset(); }

  int get() const { return fd_; }
  bool valid() const { return fd_ >= 0; }
  int Release() { return std::exchange(fd_, -1); }
  void Reset();
  // Returns another descriptor (close-on-exec) for the same open file.
  absl::StatusOr<Fd> Duplicate() const;

 private:
  int fd_ = -1;
};

// open(2) with O_CLOEXEC added. The error names the path.
absl::StatusOr<Fd> OpenFile(const std::string& path, int flags, mode_t mode = 0600);
// Opens a file for reading and writing, creating it if it does not exist. On a file system that has
// become read-only, opens it for reading.
absl::StatusOr<Fd> OpenOrCreate(const std::string& path);

// Reads up to buffer.size() bytes at `offset`; returns fewer only at the end of the file.
absl::StatusOr<size_t> PreadFull(int fd, absl::Span<char> buffer, uint64_t offset);
// Like PreadFull, but treats the `length` bytes from `begin` on as a file of their own.
absl::StatusOr<size_t> PreadPart(int fd, uint64_t begin, uint64_t length, absl::Span<char> buffer,
                                 uint64_t offset);
// Reads exactly out.size() bytes. Returns kDataLoss "<what> is too short" if the file ends first.
absl::Status PreadExact(int fd, absl::Span<char> out, uint64_t offset, std::string_view what);
// Writes all of `data`. ENOSPC and EDQUOT become kResourceExhausted.
absl::Status PwriteFull(int fd, std::string_view data, uint64_t offset);
absl::Status WriteFull(int fd, std::string_view data);

// Opens a user-supplied file to be read sequentially by ReadInput. It may be a pipe: a pipe without
// a writer is at its end, and one that stays silent for `patience_ms` returns kDeadlineExceeded.
absl::StatusOr<Fd> OpenInput(const std::string& path);
absl::StatusOr<size_t> ReadInput(const Fd& input, absl::Span<char> buffer, int patience_ms,
                                 std::string_view path);  // 0 = end of file

// Reads a whole file into memory, opened as by OpenInput. Returns kResourceExhausted if it is
// larger than `max_bytes`.
absl::StatusOr<std::string> ReadFile(const std::string& path, uint64_t max_bytes,
                                     int patience_ms = 10'000);
// Replaces `path` atomically: writes a temporary file in the same directory, fsyncs it, renames it,
// and fsyncs the directory.
absl::Status WriteFileDurably(const std::string& path, std::string_view data, mode_t mode = 0600);

absl::Status FsyncFd(int fd, std::string_view what);
// Makes FsyncFd and everything built on it call `call` instead of fsync(2); null restores fsync(2).
void ReplaceFsyncForTesting(int (*call)(int fd));
absl::Status FsyncDir(const std::string& dir);
// Returns the parent directory of a path: "/a" for "/a/b", "/" for "/a", "." for "a".
std::string ParentOf(const std::string& path);
// mkdir -p; existing directories are fine.
absl::Status MakeDirs(const std::string& path, mode_t mode = 0755);
// rm -rf that does not cross file systems; a missing path is fine.
absl::Status RemoveTree(const std::string& path);
// Removes the contents of an open (readable) directory in the same way; errors name `shown`, its
// path.
absl::Status EmptyFolder(const Fd& folder, const std::string& shown);
absl::StatusOr<struct stat> StatPath(const std::string& path);
// Returns whether two names lead to the same file. Equal names do, even if nothing exists there.
bool SameFile(const std::string& a, const std::string& b);

// Returns n random bytes as 2*n hex digits, for names of temporary files.
std::string RandomHex(size_t n);

}  // namespace imagefs
