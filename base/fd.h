// File descriptors and the few file operations that the project needs, with full transfers and
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
  // A second descriptor of the same open file (close-on-exec).
  absl::StatusOr<Fd> Duplicate() const;

 private:
  int fd_ = -1;
};

// open(2) with O_CLOEXEC added. The error names the path.
absl::StatusOr<Fd> OpenFile(const std::string& path, int flags, mode_t mode = 0600);
// For reading and writing, made where there is none. On a file system that became read-only, for
// reading: what is there can still be read.
absl::StatusOr<Fd> OpenOrCreate(const std::string& path);

// Reads up to buffer.size() bytes at `offset`; fewer only at the end of the file.
absl::StatusOr<size_t> PreadFull(int fd, absl::Span<char> buffer, uint64_t offset);
// The same of a part of a file, `length` bytes from `begin` on, as if it were a file of its own.
absl::StatusOr<size_t> PreadPart(int fd, uint64_t begin, uint64_t length, absl::Span<char> buffer,
                                 uint64_t offset);
// Reads exactly out.size() bytes; kDataLoss "<what> is too short" when the file ends before.
absl::Status PreadExact(int fd, absl::Span<char> out, uint64_t offset, std::string_view what);
// Writes all of `data`. ENOSPC and EDQUOT become kResourceExhausted.
absl::Status PwriteFull(int fd, std::string_view data, uint64_t offset);
absl::Status WriteFull(int fd, std::string_view data);

// A file that somebody named, for reading from its beginning to its end by ReadInput. It may be a
// pipe: one without a writer is at its end, and one that is silent for `patience_ms` is
// kDeadlineExceeded, so that nobody waits for ever.
absl::StatusOr<Fd> OpenInput(const std::string& path);
absl::StatusOr<size_t> ReadInput(const Fd& input, absl::Span<char> buffer, int patience_ms,
                                 std::string_view path);  // 0 = the end

// Whole file in memory, read as OpenInput says with a patience of 10 s; kResourceExhausted when
// larger than `max_bytes`.
absl::StatusOr<std::string> ReadFile(const std::string& path, uint64_t max_bytes,
                                     int patience_ms = 10'000);
// Replaces `path` atomically: temporary file in the same folder, fsync, rename, fsync of the
// folder.
absl::Status WriteFileDurably(const std::string& path, std::string_view data, mode_t mode = 0600);

absl::Status FsyncFd(int fd, std::string_view what);
// From now on FsyncFd and what uses it call this instead of fsync(2); null: fsync(2) again.
void ReplaceFsyncForTesting(int (*call)(int fd));
absl::Status FsyncDir(const std::string& dir);
// The folder that a path names something in: "/a" for "/a/b", "/" for "/a", "." for "a".
std::string ParentOf(const std::string& path);
// mkdir -p; existing folders are fine.
absl::Status MakeDirs(const std::string& path, mode_t mode = 0755);
// rm -rf that stays on one file system; a missing path is fine.
absl::Status RemoveTree(const std::string& path);
// Removes what is in an open (readable) folder in the same way; errors name `shown`, its path.
absl::Status EmptyFolder(const Fd& folder, const std::string& shown);
absl::StatusOr<struct stat> StatPath(const std::string& path);
// Whether two names lead to one file; a name is its own, also where there is none.
bool SameFile(const std::string& a, const std::string& b);

// Random bytes as 2*n hex digits, for names of temporary files.
std::string RandomHex(size_t n);

}  // namespace imagefs
