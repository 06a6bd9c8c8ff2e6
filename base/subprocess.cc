// SPDX-License-Identifier: Apache-2.0
#include "base/subprocess.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <memory>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "base/failure.h"
#include "base/fd.h"
#include "base/status.h"
#include "base/text.h"

extern char** environ;

namespace imagefs {
namespace {

using Clock = std::chrono::steady_clock;

constexpr size_t kReadBytes = 4096;
constexpr int kFreeNumbers = 10;  // above the descriptors that a program can be given

// A child process; unless waited for, it is killed, with its process group, and reaped.
class Child {
 public:
  explicit Child(pid_t pid) : pid_(pid) {}
  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;
  ~Child() {
    if (pid_ <= 0) return;
    kill(-pid_, SIGKILL);
    Reap();
  }
  pid_t pid() const { return pid_; }
  int Reap() {
    int status = 0;
    while (waitpid(pid_, &status, 0) < 0 && errno == EINTR) {
    }
    pid_ = 0;
    return status;
  }

 private:
  pid_t pid_;
};

// Returns pointers into `strings`, which must not change, followed by a null pointer.
std::vector<char*> PointersTo(std::vector<std::string>& strings) {
  std::vector<char*> out;
  out.reserve(strings.size() + 1);
  for (std::string& text : strings) out.push_back(text.data());
  out.push_back(nullptr);
  return out;
}

// When the wait for a program ends: at its deadline, or when the call is cancelled.
class Limits {
 public:
  explicit Limits(const ProgramCall& call)
      : timeout_(call.timeout),
        deadline_(Clock::now() + call.timeout),
        cancelled_(std::make_shared<Fd>(eventfd(0, EFD_CLOEXEC))),
        registration_(call.cancel.OnCancel([fd = cancelled_] {
          const uint64_t one = 1;
          (void)!write(fd->get(), &one, sizeof(one));
        })) {}

  bool valid() const { return cancelled_->valid(); }
  // Waits until `fd` is readable or at its end. `late` says what has not happened by the deadline.
  absl::Status WaitReadable(int fd, std::string_view late) const {
    while (true) {
      const auto left =
          std::chrono::duration_cast<std::chrono::milliseconds>(deadline_ - Clock::now());
      struct pollfd fds[] = {{fd, POLLIN, 0}, {cancelled_->get(), POLLIN, 0}};
      const int ready = left.count() <= 0 ? 0 : poll(fds, 2, static_cast<int>(left.count()));
      if (ready < 0 && errno == EINTR) continue;
      if (ready < 0) return ErrnoStatus(errno, "it cannot be waited for");
      if (ready == 0) {
        return WithKind(
            absl::DeadlineExceededError(StrCat(late, " within ", timeout_.count(), " seconds")),
            FailureKind::kOther);
      }
      if (fds[1].revents != 0) return absl::CancelledError("it was ended: nobody waits for it");
      return absl::OkStatus();
    }
  }

 private:
  const std::chrono::seconds timeout_;
  const Clock::time_point deadline_;
  // Shared with the callback, which may still run when this object is gone.
  const std::shared_ptr<Fd> cancelled_;
  const CancelToken::Registration registration_;
};

// Reads what the program writes until it has closed its end.
absl::Status ReadOutput(const Fd& from, const ProgramCall& call, const Limits& limits,
                        std::string& output) {
  // Possibly a secret: reserve enough so that it is never reallocated.
  output.reserve(call.max_output_bytes + kReadBytes);
  while (true) {
    IMAGEFS_RETURN_IF_ERROR(limits.WaitReadable(from.get(), "no answer"));
    const size_t before = output.size();
    output.resize(before + kReadBytes);
    const ssize_t got = read(from.get(), output.data() + before, kReadBytes);
    const int error = errno;
    output.resize(before + static_cast<size_t>(std::max<ssize_t>(got, 0)));
    if (got < 0 && error == EINTR) continue;
    if (got < 0) return ErrnoStatus(error, "its answer cannot be read");
    if (got == 0) return absl::OkStatus();
    if (output.size() <= call.max_output_bytes) continue;
    if (!call.cut_output) {
      return absl::ResourceExhaustedError(
          StrCat("its answer is longer than ", call.max_output_bytes >> 10, " KiB"));
    }
    output.resize(call.max_output_bytes);
  }
}

}  // namespace

std::vector<std::string> OwnEnvironment() {
  std::vector<std::string> out;
  for (char** variable = environ; *variable != nullptr; ++variable) out.emplace_back(*variable);
  return out;
}

absl::StatusOr<pid_t> Spawn(const SpawnOptions& options) {
  posix_spawn_file_actions_t actions;
  posix_spawnattr_t attributes;
  posix_spawn_file_actions_init(&actions);
  posix_spawnattr_init(&attributes);
  const absl::Cleanup destroy = [&] {
    posix_spawn_file_actions_destroy(&actions);
    posix_spawnattr_destroy(&attributes);
  };
  // Move the sources out of the way first: one may have a number that another is to get.
  std::vector<Fd> copies;
  int highest = STDERR_FILENO;
  for (const auto& [number, source] : options.descriptors) {
    highest = std::max(highest, number);
    if (source == kDevNull) {
      posix_spawn_file_actions_addopen(&actions, number, "/dev/null", O_RDWR, 0);
      continue;
    }
    const Fd& copy = copies.emplace_back(fcntl(source, F_DUPFD_CLOEXEC, kFreeNumbers));
    if (!copy.valid()) return ErrnoStatus(errno, "cannot be started");
    posix_spawn_file_actions_adddup2(&actions, copy.get(), number);
  }
  posix_spawn_file_actions_addclosefrom_np(&actions, highest + 1);
  if (!options.directory.empty()) {
    posix_spawn_file_actions_addchdir_np(&actions, options.directory.c_str());
  }
  sigset_t none, all;
  sigemptyset(&none);
  sigfillset(&all);
  posix_spawnattr_setsigmask(&attributes, &none);
  posix_spawnattr_setsigdefault(&attributes, &all);
  int flags = POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF;
  if (options.group == SpawnOptions::Group::kOwn) flags |= POSIX_SPAWN_SETPGROUP;
  if (options.group == SpawnOptions::Group::kOwnSession) flags |= POSIX_SPAWN_SETSID;
  posix_spawnattr_setflags(&attributes, static_cast<int16_t>(flags));
  std::vector<std::string> arguments = options.argv, variables = options.environment;
  pid_t pid = -1;
  const int error = posix_spawnp(&pid, options.program.c_str(), &actions, &attributes,
                                 PointersTo(arguments).data(), PointersTo(variables).data());
  if (error == ENOENT) {
    return absl::NotFoundError(options.program.find('/') == std::string::npos
                                   ? "not found in PATH"
                                   : "there is no such program");
  }
  if (error != 0) return ErrnoStatus(error, "cannot be started");
  return pid;
}

bool ProgramResult::succeeded() const {
  return WIFEXITED(wait_status) && WEXITSTATUS(wait_status) == 0;
}

std::string ProgramResult::HowItEnded() const {
  return WIFEXITED(wait_status) ? StrCat("it ended with status ", WEXITSTATUS(wait_status))
                                : StrCat("it was killed by signal ", WTERMSIG(wait_status));
}

std::string ProgramResult::Complaint() const {
  std::string out = HowItEnded();
  const std::string line = output.substr(0, output.find('\n'));
  if (!line.empty() && line.find('{') == std::string::npos) {
    StrAppend(&out, " (", Printable(line), ")");
  }
  return out;
}

absl::StatusOr<ProgramResult> RunProgram(const ProgramCall& call) {
  const Limits limits(call);
  // An in-memory file as standard input: a program that does not read it causes no SIGPIPE.
  Fd input(memfd_create("program-input", MFD_CLOEXEC));
  int pipe_fds[2];
  if (!limits.valid() || !input.valid() || pipe2(pipe_fds, O_CLOEXEC) != 0) {
    return ErrnoStatus(errno, "cannot be started");
  }
  Fd output(pipe_fds[0]);
  Fd child_end(pipe_fds[1]);
  IMAGEFS_RETURN_IF_ERROR(PwriteFull(input.get(), call.input, 0));
  SpawnOptions program;
  program.program = call.argv.front();
  program.argv = call.argv;
  program.environment = call.environment;
  if (call.add_own_environment) {
    for (std::string& variable : OwnEnvironment()) {
      program.environment.push_back(std::move(variable));
    }
  }
  const int answer = call.answers_on_errors ? STDERR_FILENO : STDOUT_FILENO;
  const int other = call.answers_on_errors ? STDOUT_FILENO : STDERR_FILENO;
  program.descriptors = {{STDIN_FILENO, input.get()}, {answer, child_end.get()}, {other, kDevNull}};
  if (call.descriptor_3 != kDevNull) program.descriptors.emplace_back(3, call.descriptor_3);
  program.group = SpawnOptions::Group::kOwn;
  IMAGEFS_ASSIGN_OR_RETURN(pid_t pid, Spawn(program));
  Child child(pid);
  child_end.Reset();
  ProgramResult result;
  IMAGEFS_RETURN_IF_ERROR(ReadOutput(output, call, limits, result.output));
  Fd exited(static_cast<int>(syscall(SYS_pidfd_open, child.pid(), 0)));
  if (exited.valid()) {
    IMAGEFS_RETURN_IF_ERROR(limits.WaitReadable(exited.get(), "it did not end"));
  }
  result.wait_status = child.Reap();
  return result;
}

}  // namespace imagefs
