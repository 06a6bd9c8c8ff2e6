// SPDX-License-Identifier: Apache-2.0
#include "cmd/output.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <unistd.h>

#include <string>

#include "base/failure.h"
#include "base/text.h"
#include "cmd/cli.h"
#include "cmd/print.h"

namespace imagefs {
namespace {

// Returns 0 or errno.
int WriteAll(int fd, std::string_view text) {
  while (!text.empty()) {
    const ssize_t n = write(fd, text.data(), text.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && errno == EAGAIN) {
      // The descriptor is non-blocking and its reader is slow.
      pollfd p{fd, POLLOUT, 0};
      (void)poll(&p, 1, -1);
      continue;
    }
    if (n < 0) return errno;
    text.remove_prefix(static_cast<size_t>(n));
  }
  return 0;
}

// File systems that delay writes report errors at close(2).
int CloseError(int fd) {
  const int copy = fcntl(fd, F_DUPFD_CLOEXEC, 0);
  return copy >= 0 && close(copy) != 0 && errno != EINTR ? errno : 0;
}

}  // namespace

void HoldStandardDescriptors() {
  for (int fd = 0; fd <= 2; ++fd) {
    if (fcntl(fd, F_GETFD) >= 0 || errno != EBADF) continue;
    // Opens the lowest free number, which is `fd`.
    (void)open("/dev/null", fd == STDIN_FILENO ? O_WRONLY : O_RDONLY);
  }
}

void Output::Print(std::string_view text) {
  if (text.empty() || error_ != 0) return;
  printed_ = true;
  error_ = WriteAll(STDOUT_FILENO, text);
}

void Output::Note(std::string_view text) { (void)WriteAll(STDERR_FILENO, text); }

int Output::Fail(const absl::Status& status, std::string_view object) {
  if (json_) Print(object.empty() ? ErrorJson(status) : object);
  Note(StrCat("imagefs: ", OneLine(Shortened(ToStd(status.message()))), "\n"));
  return ExitStatusOf(KindOf(status));
}

int Output::Finish(int status) {
  if (printed_ && error_ == 0) error_ = CloseError(STDOUT_FILENO);
  if (error_ == 0) return status;
  if (error_ != EPIPE) Note(StrCat("imagefs: standard output: ", strerror(error_), "\n"));
  return status == 0 ? 1 : status;
}

int PrintExit(const CliExit& exit) {
  Output output(/*json=*/false);
  output.Print(exit.output);
  output.Note(exit.error);
  return output.Finish(exit.code);
}

}  // namespace imagefs
