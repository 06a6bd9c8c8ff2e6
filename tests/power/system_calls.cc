// SPDX-License-Identifier: Apache-2.0
// fsync(2), fdatasync(2) and open(2) of the whole process, LevelDB's library included: what the
// executable defines comes before what the C library does. No header that declares open is
// included, since with 64-bit offsets it would be given another name.
#include <stdarg.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "tests/power/synced_disk.h"

namespace {

constexpr int kAtFdcwd = -100;
constexpr int kNeedMode = 0100 | 020000000;  // O_CREAT, O_TMPFILE

int Open(const char* path, int flags, int mode) {
  return static_cast<int>(syscall(SYS_openat, kAtFdcwd, imagefs::PathToOpen(path), flags, mode));
}

}  // namespace

extern "C" {

int fsync(int fd) { return imagefs::OnSync(fd) ? 0 : static_cast<int>(syscall(SYS_fsync, fd)); }

int fdatasync(int fd) {
  return imagefs::OnSync(fd) ? 0 : static_cast<int>(syscall(SYS_fdatasync, fd));
}

int open(const char* path, int flags, ...) {
  va_list rest;
  va_start(rest, flags);
  const int mode = (flags & kNeedMode) != 0 ? va_arg(rest, int) : 0;
  va_end(rest);
  return Open(path, flags, mode);
}

int open64(const char* path, int flags, ...) {
  va_list rest;
  va_start(rest, flags);
  const int mode = (flags & kNeedMode) != 0 ? va_arg(rest, int) : 0;
  va_end(rest);
  return Open(path, flags, mode);
}

}  // extern "C"
