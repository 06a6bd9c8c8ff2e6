// SPDX-License-Identifier: Apache-2.0
#include "cmd/signing_key.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <termios.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/secret.h"
#include "base/status.h"
#include "base/text.h"

namespace imagefs {
namespace {

// Text that grows up to a fixed capacity.
class SecretText {
 public:
  explicit SecretText(size_t capacity) : text_(capacity) {}
  bool full() const { return size_ == text_.size(); }
  // Where the next byte goes.
  char* end() { return text_.data() + size_; }
  size_t room() const { return text_.size() - size_; }
  void Grew(size_t by) { size_ += by; }
  std::string_view view() const { return text_.view().substr(0, size_); }

 private:
  SecretBuffer text_;
  size_t size_ = 0;
};

// Controls whether the terminal echoes input. The destructor restores the original mode.
class Echo {
 public:
  explicit Echo(int fd) : fd_(fd), terminal_(tcgetattr(fd, &before_) == 0) {}
  ~Echo() { Restore(); }
  Echo(const Echo&) = delete;
  Echo& operator=(const Echo&) = delete;

  bool terminal() const { return terminal_; }
  void TurnOff() const {
    if (!terminal_) return;
    termios quiet = before_;
    quiet.c_lflag &= ~static_cast<tcflag_t>(ECHO);
    tcsetattr(fd_, TCSAFLUSH, &quiet);
  }
  // Thread-safe and idempotent.
  void Restore() const {
    if (terminal_) tcsetattr(fd_, TCSAFLUSH, &before_);
  }

 private:
  const int fd_;
  termios before_{};
  const bool terminal_;
};

// A pipe may come from a program that asks its user for a password.
constexpr int kKeyPatienceMs = 120'000;

absl::Status ReadKeyFile(const std::string& path, SecretText& out) {
  IMAGEFS_ASSIGN_OR_RETURN(const Fd fd, OpenInput(path));
  struct stat st;
  if (fstat(fd.get(), &st) != 0) return ErrnoStatus(errno, path);
  if (S_ISREG(st.st_mode) && (st.st_mode & 077) != 0) {
    char mode[8];
    snprintf(mode, sizeof(mode), "%04o", st.st_mode & 07777U);
    return absl::FailedPreconditionError(
        StrCat(path, ": a secret key that others may read (mode ", mode, "); chmod 600 ", path));
  }
  while (!out.full()) {
    IMAGEFS_ASSIGN_OR_RETURN(const size_t got, ReadInput(fd, absl::MakeSpan(out.end(), out.room()),
                                                         kKeyPatienceMs, path));
    if (got == 0) return absl::OkStatus();
    out.Grew(got);
  }
  return absl::InvalidArgumentError(
      StrCat(path, ": it is too long to be a secret key of minisign"));
}

// Reads one line without its newline, byte by byte, since the bytes after it are not ours.
absl::Status ReadLine(int fd, int wake, SecretText& out) {
  bool any = false;
  while (true) {
    pollfd fds[] = {{fd, POLLIN, 0}, {wake, POLLIN, 0}};
    if (poll(fds, 2, -1) < 0 && errno != EINTR) return ErrnoStatus(errno, "standard input");
    if (fds[1].revents != 0) return absl::CancelledError("interrupted");
    if (fds[0].revents == 0) continue;
    if (out.full()) return absl::InvalidArgumentError("the password is longer than 1024 bytes");
    const ssize_t got = read(fd, out.end(), 1);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return ErrnoStatus(errno, "standard input");
    if (got == 0 && !any) {
      return absl::FailedPreconditionError(
          "it has a password; give that on the standard input or run this on a terminal");
    }
    if (got == 0 || *out.end() == '\n') return absl::OkStatus();
    out.Grew(1);
    any = true;
  }
}

absl::Status ReadPassword(const std::string& path, Interrupts& interrupts, SecretText& out) {
  const Fd wake(eventfd(0, EFD_CLOEXEC));
  if (!wake.valid()) return ErrnoStatus(errno, "eventfd");
  const Echo echo(STDIN_FILENO);
  // The first interrupt restores the terminal, because a second one exits the process at once.
  Interrupts::Scope scope(interrupts, [&wake, &echo] {
    echo.Restore();
    eventfd_write(wake.get(), 1);
  });
  if (!echo.terminal()) return ReadLine(STDIN_FILENO, wake.get(), out);
  echo.TurnOff();
  fputs(StrCat("Password of ", Printable(path), ": ").c_str(), stderr);
  const absl::Status status = ReadLine(STDIN_FILENO, wake.get(), out);
  fputs("\n", stderr);
  return status;
}

}  // namespace

absl::StatusOr<MinisignSecretKey> ReadSigningKey(const std::string& path, Interrupts& interrupts) {
  if (prctl(PR_SET_DUMPABLE, 0) != 0) return ErrnoStatus(errno, "prctl(PR_SET_DUMPABLE)");
  SecretText file(MinisignSecretKey::kMaxFileBytes + 1);
  SecretText password(MinisignSecretKey::kMaxPasswordBytes + 1);
  IMAGEFS_RETURN_IF_ERROR(ReadKeyFile(path, file));
  absl::StatusOr<bool> locked = MinisignSecretKey::NeedsPassword(file.view());
  if (!locked.ok()) return Annotate(locked.status(), path);
  if (*locked) {
    IMAGEFS_RETURN_IF_ERROR(Annotate(ReadPassword(path, interrupts, password), path));
  }
  absl::StatusOr<MinisignSecretKey> key = MinisignSecretKey::Parse(file.view(), password.view());
  if (!key.ok()) return Annotate(key.status(), path);
  return key;
}

}  // namespace imagefs
