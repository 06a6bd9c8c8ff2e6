// SPDX-License-Identifier: Apache-2.0
// Terminal: if standard input and output are the caller's terminal, and the caller is in the
// foreground, the program becomes a process group of its own in the foreground, as a job of a shell
// does; this process stops and continues with it. Otherwise (a pipeline, a background job) the
// program stays in the process group of the caller, and gets what the terminal sends to all of it.
#include "cmd/container.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#include <iterator>
#include <utility>

#include "base/failure.h"
#include "base/status.h"
#include "base/text.h"
#include "cmd/container_init.h"
#include "cmd/id_maps.h"

namespace imagefs {
namespace {

// Signals for the program, if they were sent to this process.
constexpr int kForwarded[] = {SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGALRM};

sigset_t HandledSignals() {
  sigset_t out;
  sigemptyset(&out);
  for (const int signal : kForwarded) sigaddset(&out, signal);
  sigaddset(&out, SIGCHLD);
  sigaddset(&out, SIGCONT);
  return out;
}

absl::Status NoNamespaces(int error, bool user) {
  if (!user) return ErrnoStatus(error, "cannot make the namespaces of the container");
  return WithKind(
      absl::FailedPreconditionError(
          StrCat("cannot make a user namespace: ", strerror(error),
                 "; this machine does not let users (sysctl user.max_user_namespaces, "
                 "kernel.unprivileged_userns_clone, kernel.apparmor_restrict_unprivileged_userns), "
                 "or this is a container that forbids it: run it as root")),
      FailureKind::kDenied);
}

}  // namespace

absl::StatusOr<std::unique_ptr<Container>> Container::Create(Options options) {
  std::unique_ptr<Container> container(new Container);
  IMAGEFS_RETURN_IF_ERROR(container->Clone(std::move(options)));
  return container;
}

absl::Status Container::Clone(Options options) {
  creator_ = getpid();
  sigset_t blocked = HandledSignals();
  sigaddset(&blocked, SIGTTOU);  // so that it may take the terminal back
  sigprocmask(SIG_BLOCK, &blocked, &signals_before_);
  terminal_ = isatty(STDIN_FILENO) != 0 && isatty(STDOUT_FILENO) != 0 && HasTerminal();
  int control[2], mapped[2];
  if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, control) != 0) {
    return ErrnoStatus(errno, "cannot make a socket");
  }
  control_ = Fd(control[0]);
  ContainerStart start;
  start.control = Fd(control[1]);
  const bool user = geteuid() != 0;
  if (user) {
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, mapped) != 0) {
      return ErrnoStatus(errno, "cannot make a socket");
    }
    mapped_ = Fd(mapped[0]);
    start.mapped = Fd(mapped[1]);
  }
  start.signals = signals_before_;
  start.tree = {std::move(options.binds), std::move(options.keep),
                options.read_only,        user,
                /*all_ids=*/!user,        terminal_};
  const unsigned flags = CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWIPC | CLONE_NEWUTS |
                         (user ? unsigned{CLONE_NEWUSER} : 0) | SIGCHLD;
  const auto pid =
      static_cast<pid_t>(syscall(SYS_clone, flags, nullptr, nullptr, nullptr, nullptr));
  if (pid < 0) return NoNamespaces(errno, user);
  if (pid == 0) {
    control_.Reset();
    mapped_.Reset();
    RunContainerInit(std::move(start));
  }
  init_ = pid;
  return absl::OkStatus();
}

Container::~Container() {
  if (init_ <= 0 || getpid() != creator_) return;
  kill(init_, SIGKILL);
  while (waitpid(init_, nullptr, 0) < 0 && errno == EINTR) {
  }
}

absl::StatusOr<Container::Place> Container::Prepare() {
  Fd none;
  const absl::StatusOr<ContainerMessage> ready = ReceiveFrom(control_, &none);
  if (!ready.ok() || ready->kind != ContainerMessage::kReady) {
    return absl::AbortedError("the container has ended");
  }
  return Place{ready->mount_namespace, {ready->device, ready->inode}};
}

absl::Status Container::TakeImage(const Fd& channel, const std::string& run) {
  ContainerMessage message;
  message.kind = ContainerMessage::kMount;
  if (run.size() >= sizeof(message.text)) return ErrnoStatus(ENAMETOOLONG, run);
  memcpy(message.text, run.data(), run.size());
  return SendTo(control_, message, channel.get());
}

absl::Status Container::Start(const RunSpec& spec) {
  const Fd file(memfd_create("imagefs-run", MFD_CLOEXEC));
  if (!file.valid()) return ErrnoStatus(errno, "cannot make a file in memory");
  IMAGEFS_RETURN_IF_ERROR(WriteFull(file.get(), PackRunSpec(spec)));
  ContainerMessage message;
  message.kind = ContainerMessage::kStart;
  return SendTo(control_, message, file.get());
}

void Container::RestoreSignals() { sigprocmask(SIG_SETMASK, &signals_before_, nullptr); }

bool Container::HasTerminal() const { return tcgetpgrp(STDIN_FILENO) == getpgrp(); }

absl::Status Container::MapIdsOfInit() {
  if (!mapped_.valid()) return absl::OkStatus();
  char byte = 0;
  if (read(mapped_.get(), &byte, 1) != 1) return absl::OkStatus();  // it has ended
  IMAGEFS_ASSIGN_OR_RETURN(const std::string why_not, MapIds(init_));
  byte = why_not.empty() ? kAllIds : kOwnId;
  if (send(mapped_.get(), &byte, 1, MSG_NOSIGNAL) != 1) return absl::OkStatus();
  mapped_.Reset();
  return absl::OkStatus();
}

void Container::HandleSignal(int signal, bool sent) {
  if (signal == SIGCONT) return terminal_ ? Continue() : void();
  // What the terminal sends goes to the whole process group, and so to the others as well.
  if (!sent) return;
  if (caller_ > 0) {
    // It ends with it, unless the program has just been started.
    kill(caller_, signal);
    early_signals_.push_back(signal);
    return;
  }
  PassOn(signal);
}

void Container::PassOn(int signal) {
  ContainerMessage message;
  message.kind = ContainerMessage::kSignal;
  message.value = signal;
  SendTo(control_, message).IgnoreError();
}

// Returns whether the end has come, with status_.
bool Container::HandleChildren() {
  while (true) {
    int status = 0;
    const pid_t pid = waitpid(-1, &status, WNOHANG);
    if (pid <= 0) return false;
    const int code = WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
    if (pid == init_) {
      init_ = 0;
      status_ = code;
      if (caller_ > 0) {
        kill(caller_, SIGTERM);
        while (waitpid(caller_, nullptr, 0) < 0 && errno == EINTR) {
        }
      }
      return true;
    }
    if (pid != caller_) continue;
    caller_ = 0;
    if (code == 0) {
      for (const int signal : early_signals_) PassOn(signal);
      continue;
    }
    status_ = code == ExitStatusOf(FailureKind::kInterrupted) ? code : kCannotRun;
    return true;
  }
}

void Container::Continue() {
  ContainerMessage message;
  message.kind = ContainerMessage::kContinue;
  message.value = HasTerminal() ? 1 : 0;
  SendTo(control_, message).IgnoreError();
}

// The program was stopped by the terminal: so is the job that the caller's shell knows.
void Container::SuspendWithProgram() {
  tcsetpgrp(STDIN_FILENO, getpgrp());
  // Returns once the shell continues the job, or at once if there is no shell that could.
  kill(0, SIGTSTP);
  Continue();
}

absl::StatusOr<int> Container::Supervise(pid_t caller) {
  caller_ = caller;
  const sigset_t handled = HandledSignals();
  const Fd signals(signalfd(-1, &handled, SFD_CLOEXEC | SFD_NONBLOCK));
  if (!signals.valid()) return ErrnoStatus(errno, "signalfd");
  IMAGEFS_RETURN_IF_ERROR(MapIdsOfInit());
  bool ended = HandleChildren();
  while (!ended) {
    // The other process that reads from there is gone once the program runs.
    pollfd polled[] = {{signals.get(), POLLIN, 0}, {caller_ > 0 ? -1 : control_.get(), POLLIN, 0}};
    if (poll(polled, std::size(polled), -1) < 0) continue;
    signalfd_siginfo info;
    while (!ended && read(signals.get(), &info, sizeof(info)) == sizeof(info)) {
      const int signal = static_cast<int>(info.ssi_signo);
      if (signal == SIGCHLD) {
        ended = HandleChildren();
      } else {
        HandleSignal(signal, /*sent=*/info.ssi_code <= 0);
      }
    }
    if (ended || polled[1].revents == 0) continue;
    Fd none;
    const absl::StatusOr<ContainerMessage> message = ReceiveFrom(control_, &none);
    if (message.ok() && message->kind == ContainerMessage::kStopped) {
      SuspendWithProgram();
    } else if (!message.ok()) {
      // Its end; SIGCHLD follows.
      int status = 0;
      while (init_ > 0 && waitpid(init_, &status, 0) < 0 && errno == EINTR) {
      }
      init_ = 0;
      status_ = WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
      ended = true;
    }
  }
  if (terminal_) tcsetpgrp(STDIN_FILENO, getpgrp());
  return status_;
}

}  // namespace imagefs
