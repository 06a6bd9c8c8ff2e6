// SPDX-License-Identifier: Apache-2.0
#include "cmd/password_prompt.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <sys/eventfd.h>
#include <termios.h>
#include <unistd.h>

#include <string>

#include "base/fd.h"
#include "base/status.h"
#include "base/text.h"

namespace imagefs {
namespace {

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

// Reads byte by byte, since the bytes after the line are not ours.
absl::StatusOr<Secret> ReadLine(int fd, int wake, size_t max_bytes) {
  SecretBuffer text(max_bytes + 1);
  size_t size = 0;
  bool any = false;
  while (true) {
    pollfd fds[] = {{fd, POLLIN, 0}, {wake, POLLIN, 0}};
    if (poll(fds, 2, -1) < 0 && errno != EINTR) return ErrnoStatus(errno, "standard input");
    if (fds[1].revents != 0) return absl::CancelledError("interrupted");
    if (fds[0].revents == 0) continue;
    if (size == text.size()) {
      return absl::InvalidArgumentError(StrCat("it is longer than ", max_bytes, " bytes"));
    }
    char* const next = text.data() + size;
    const ssize_t got = read(fd, next, 1);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return ErrnoStatus(errno, "standard input");
    if (got == 0 && !any) return absl::NotFoundError("standard input is empty");
    if (got == 0 || *next == '\n') return Secret(text.view().substr(0, size));
    ++size;
    any = true;
  }
}

absl::StatusOr<Secret> Ask(std::string_view question, size_t max_bytes, bool shown,
                           Interrupts& interrupts) {
  const Fd wake(eventfd(0, EFD_CLOEXEC));
  if (!wake.valid()) return ErrnoStatus(errno, "eventfd");
  const Echo echo(STDIN_FILENO);
  // The first interrupt restores the terminal, because a second one exits the process at once.
  Interrupts::Scope scope(interrupts, [&wake, &echo] {
    echo.Restore();
    eventfd_write(wake.get(), 1);
  });
  if (!echo.terminal()) return ReadLine(STDIN_FILENO, wake.get(), max_bytes);
  if (!shown) echo.TurnOff();
  fputs(std::string(question).c_str(), stderr);
  absl::StatusOr<Secret> answer = ReadLine(STDIN_FILENO, wake.get(), max_bytes);
  if (!shown) fputs("\n", stderr);
  return answer;
}

}  // namespace

bool CanAskUser() { return isatty(STDIN_FILENO) != 0; }

absl::StatusOr<Secret> ReadPassword(std::string_view question, size_t max_bytes,
                                    Interrupts& interrupts) {
  return Ask(question, max_bytes, /*shown=*/false, interrupts);
}

absl::StatusOr<Secret> ReadAnswer(std::string_view question, size_t max_bytes,
                                  Interrupts& interrupts) {
  return Ask(question, max_bytes, /*shown=*/true, interrupts);
}

}  // namespace imagefs
