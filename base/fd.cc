// SPDX-License-Identifier: Apache-2.0
#include "base/fd.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/random.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdio>
#include <memory>
#include <vector>

#include "base/directory.h"
#include "base/failure.h"
#include "base/status.h"
#include "base/text.h"
#include "base/thread_role.h"

namespace imagefs {
namespace {

// A directory this deep is moved up before it is emptied, so that a maliciously deep tree exhausts
// neither descriptors nor the stack.
constexpr int kMaxDepth = 64;

std::atomic<int (*)(int)> fsync_call{fsync};

// One removal of a tree. Follows no symbolic links. Does not enter file systems mounted below,
// which make the removal fail.
class Removal {
 public:
  explicit Removal(std::string shown) : shown_(std::move(shown)) {}

  absl::Status Run(const std::string& path) {
    if (unlink(path.c_str()) == 0 || errno == ENOENT) return absl::OkStatus();
    if (errno != EISDIR) return ErrnoStatus(errno, shown_);
    const Fd folder(open(path.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
    if (!folder.valid()) return ErrnoStatus(errno, shown_);
    IMAGEFS_RETURN_IF_ERROR(EmptyAll(folder));
    if (rmdir(path.c_str()) == 0 || errno == ENOENT) return absl::OkStatus();
    return ErrnoStatus(errno, shown_);
  }

  absl::Status EmptyAll(const Fd& folder) {
    struct stat st;
    if (fstat(folder.get(), &st) != 0) return ErrnoStatus(errno, shown_);
    top_ = folder.get();
    device_ = st.st_dev;
    do {
      moved_up_ = false;
      IMAGEFS_RETURN_IF_ERROR(Empty(folder, 1));
    } while (moved_up_);
    return absl::OkStatus();
  }

 private:
  absl::Status Empty(const Fd& folder, int depth) {
    IMAGEFS_ASSIGN_OR_RETURN(const std::vector<std::string> names, ListDir(folder, shown_));
    for (const std::string& name : names) IMAGEFS_RETURN_IF_ERROR(Remove(folder, name, depth));
    return absl::OkStatus();
  }

  // Without root, the owner of a folder without permissions has to give some first: never to the
  // root of another file system.
  Fd OpenFolder(const Fd& parent, const std::string& name) const {
    constexpr int kFlags = O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC;
    Fd folder(openat(parent.get(), name.c_str(), O_RDONLY | kFlags));
    if (folder.valid() || errno != EACCES) return folder;
    const Fd place(openat(parent.get(), name.c_str(), O_PATH | kFlags));
    struct stat st;
    if (!place.valid() || fstat(place.get(), &st) != 0) return folder;
    if (st.st_dev != device_) {
      errno = EACCES;
      return folder;
    }
    if (chmod(StrCat("/proc/self/fd/", place.get()).c_str(), S_IRWXU) != 0) return folder;
    return Fd(openat(parent.get(), name.c_str(), O_RDONLY | kFlags));
  }

  absl::Status Remove(const Fd& parent, const std::string& name, int depth) {
    if (unlinkat(parent.get(), name.c_str(), 0) == 0 || errno == ENOENT) return absl::OkStatus();
    const auto failed = [&] {
      return ErrnoStatus(errno, StrCat(shown_, depth > 1 ? "/.../" : "/", name));
    };
    if (errno != EISDIR) return failed();
    if (depth >= kMaxDepth) {
      const std::string up = StrCat(".removed-", RandomHex(8));
      if (renameat(parent.get(), name.c_str(), top_, up.c_str()) != 0) return failed();
      moved_up_ = true;
      return absl::OkStatus();
    }
    const Fd folder = OpenFolder(parent, name);
    struct stat st;
    if (!folder.valid() || fstat(folder.get(), &st) != 0) return failed();
    if (st.st_dev != device_) {
      return WithKind(
          absl::FailedPreconditionError(StrCat(shown_, "/.../", name, ": is a mount point")),
          FailureKind::kBusy);
    }
    // Without root, only what may be written to can be emptied.
    if ((st.st_mode & S_IRWXU) != S_IRWXU) fchmod(folder.get(), S_IRWXU);
    IMAGEFS_RETURN_IF_ERROR(Empty(folder, depth + 1));
    if (unlinkat(parent.get(), name.c_str(), AT_REMOVEDIR) == 0 || errno == ENOENT) {
      return absl::OkStatus();
    }
    return failed();
  }

  const std::string shown_;
  int top_ = -1;  // the directory being emptied
  dev_t device_ = 0;
  bool moved_up_ = false;
};

}  // namespace

Fd& Fd::operator=(Fd&& other) noexcept {
  if (this != &other) {
    Reset();
    fd_ = std::exchange(other.fd_, -1);
  }
  return *this;
}

void Fd::Reset() {
  if (fd_ >= 0) close(std::exchange(fd_, -1));
}

absl::StatusOr<Fd> Fd::Duplicate() const {
  Fd copy(fcntl(fd_, F_DUPFD_CLOEXEC, 0));
  if (!copy.valid()) return ErrnoStatus(errno, "duplicating a file descriptor");
  return copy;
}

absl::StatusOr<Fd> OpenFile(const std::string& path, int flags, mode_t mode) {
  MayBlock("opening a file");
  int fd = -1;
  do {
    fd = open(path.c_str(), flags | O_CLOEXEC, mode);
  } while (fd < 0 && errno == EINTR);
  if (fd < 0) return ErrnoStatus(errno, path);
  return Fd(fd);
}

absl::StatusOr<Fd> OpenOrCreate(const std::string& path) {
  absl::StatusOr<Fd> file = OpenFile(path, O_RDWR | O_CREAT);
  if (!absl::IsFailedPrecondition(file.status())) return file;
  return OpenFile(path, O_RDONLY);
}

absl::StatusOr<size_t> PreadFull(int fd, absl::Span<char> buffer, uint64_t offset) {
  size_t done = 0;
  while (done < buffer.size()) {
    const ssize_t n =
        pread(fd, buffer.data() + done, buffer.size() - done, static_cast<off_t>(offset + done));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return ErrnoStatus(errno, "reading");
    if (n == 0) break;
    done += static_cast<size_t>(n);
  }
  return done;
}

absl::StatusOr<size_t> PreadPart(int fd, uint64_t begin, uint64_t length, absl::Span<char> buffer,
                                 uint64_t offset) {
  const uint64_t left = offset < length ? length - offset : 0;
  return PreadFull(fd, buffer.subspan(0, std::min<uint64_t>(buffer.size(), left)), begin + offset);
}

absl::Status PreadExact(int fd, absl::Span<char> out, uint64_t offset, std::string_view what) {
  const absl::StatusOr<size_t> got = PreadFull(fd, out, offset);
  if (!got.ok()) return got.status();
  if (*got != out.size()) return absl::DataLossError(StrCat(what, " is too short"));
  return absl::OkStatus();
}

absl::Status PwriteFull(int fd, std::string_view data, uint64_t offset) {
  while (!data.empty()) {
    const ssize_t n = pwrite(fd, data.data(), data.size(), static_cast<off_t>(offset));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return ErrnoStatus(errno, "writing");
    data.remove_prefix(static_cast<size_t>(n));
    offset += static_cast<uint64_t>(n);
  }
  return absl::OkStatus();
}

absl::Status WriteFull(int fd, std::string_view data) {
  while (!data.empty()) {
    const ssize_t n = write(fd, data.data(), data.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return ErrnoStatus(errno, "writing");
    data.remove_prefix(static_cast<size_t>(n));
  }
  return absl::OkStatus();
}

absl::StatusOr<Fd> OpenInput(const std::string& path) {
  return OpenFile(path, O_RDONLY | O_NONBLOCK | O_NOCTTY);
}

absl::StatusOr<size_t> ReadInput(const Fd& input, absl::Span<char> buffer, int patience_ms,
                                 std::string_view path) {
  while (true) {
    const ssize_t n = read(input.get(), buffer.data(), buffer.size());
    if (n >= 0) return static_cast<size_t>(n);
    if (errno == EINTR) continue;
    if (errno != EAGAIN) return ErrnoStatus(errno, path);
    pollfd p{input.get(), POLLIN, 0};
    if (poll(&p, 1, patience_ms) == 0) {
      return WithKind(absl::DeadlineExceededError(StrCat(
                          path, ": a pipe that delivered nothing for ", patience_ms / 1000, " s")),
                      FailureKind::kTimeout);
    }
  }
}

absl::StatusOr<std::string> ReadFile(const std::string& path, uint64_t max_bytes, int patience_ms) {
  IMAGEFS_ASSIGN_OR_RETURN(const Fd fd, OpenInput(path));
  std::string content;
  char buffer[16384];
  while (true) {
    IMAGEFS_ASSIGN_OR_RETURN(const size_t n,
                             ReadInput(fd, absl::MakeSpan(buffer), patience_ms, path));
    if (n == 0) return content;
    if (content.size() + n > max_bytes) {
      return absl::ResourceExhaustedError(StrCat(path, ": larger than ", max_bytes, " bytes"));
    }
    content.append(buffer, n);
  }
}

absl::Status WriteFileDurably(const std::string& path, std::string_view data, mode_t mode) {
  const std::string temporary = StrCat(path, ".tmp-", RandomHex(6));
  const absl::Status status = [&]() -> absl::Status {
    IMAGEFS_ASSIGN_OR_RETURN(const Fd fd, OpenFile(temporary, O_WRONLY | O_CREAT | O_EXCL, mode));
    IMAGEFS_RETURN_IF_ERROR(Annotate(WriteFull(fd.get(), data), temporary));
    IMAGEFS_RETURN_IF_ERROR(FsyncFd(fd.get(), temporary));
    if (rename(temporary.c_str(), path.c_str()) != 0) return ErrnoStatus(errno, path);
    return FsyncDir(ParentOf(path));
  }();
  if (!status.ok()) unlink(temporary.c_str());
  return status;
}

absl::Status FsyncFd(int fd, std::string_view what) {
  MayBlock("a sync");
  int result = -1;
  do {
    result = fsync_call.load(std::memory_order_relaxed)(fd);
  } while (result != 0 && errno == EINTR);
  return result == 0 ? absl::OkStatus() : ErrnoStatus(errno, what);
}

void ReplaceFsyncForTesting(int (*call)(int fd)) { fsync_call = call == nullptr ? fsync : call; }

absl::Status FsyncDir(const std::string& dir) {
  IMAGEFS_ASSIGN_OR_RETURN(const Fd fd, OpenFile(dir, O_RDONLY | O_DIRECTORY));
  return FsyncFd(fd.get(), dir);
}

std::string ParentOf(const std::string& path) {
  const size_t slash = path.rfind('/');
  if (slash == std::string::npos) return ".";
  return slash == 0 ? "/" : path.substr(0, slash);
}

absl::Status MakeDirs(const std::string& path, mode_t mode) {
  MayBlock("making folders");
  for (size_t slash = 0; slash != std::string::npos;) {
    slash = path.find('/', slash + 1);
    const std::string prefix = path.substr(0, slash);
    if (prefix.empty() || mkdir(prefix.c_str(), mode) == 0) continue;
    const int error_number = errno;
    struct stat st;
    if (stat(prefix.c_str(), &st) == 0) {
      if (S_ISDIR(st.st_mode)) continue;
      return ErrnoStatus(ENOTDIR, prefix);
    }
    return ErrnoStatus(error_number, prefix);
  }
  return absl::OkStatus();
}

absl::Status RemoveTree(const std::string& path) {
  MayBlock("removing files");
  return Removal(path).Run(path);
}

absl::Status EmptyFolder(const Fd& folder, const std::string& shown) {
  return Removal(shown).EmptyAll(folder);
}

absl::StatusOr<struct stat> StatPath(const std::string& path) {
  MayBlock("looking for a file");
  struct stat st;
  if (stat(path.c_str(), &st) != 0) return ErrnoStatus(errno, path);
  return st;
}

bool SameFile(const std::string& a, const std::string& b) {
  if (a == b) return true;
  const absl::StatusOr<struct stat> one = StatPath(a), other = StatPath(b);
  return one.ok() && other.ok() && one->st_dev == other->st_dev && one->st_ino == other->st_ino;
}

std::string RandomHex(size_t n) {
  std::string bytes(n, '\0');
  for (size_t done = 0; done < n;) {
    const ssize_t got = getrandom(bytes.data() + done, n - done, 0);
    if (got > 0) done += static_cast<size_t>(got);
  }
  return absl::BytesToHexString(bytes);
}

}  // namespace imagefs
