// SPDX-License-Identifier: Apache-2.0
#include "cmd/container_init.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/audit.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/keyctl.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <stddef.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#include <algorithm>
#include <iterator>
#include <optional>
#include <utility>
#include <vector>

#include "absl/types/span.h"
#include "base/directory.h"
#include "base/failure.h"
#include "base/pass_fd.h"
#include "base/status.h"
#include "base/text.h"
#include "cmd/output.h"
#include "cmd/run_spec.h"
#include "fs/mount_namespace.h"

namespace imagefs {
namespace {

constexpr uint64_t kMaxSpecBytes = 16 << 20;

// The arguments of ContinueContainerInit: this, the descriptor, the mask of signals, flags, the
// directory to keep, and three for each bind.
constexpr std::string_view kInitVerb = "__container";
constexpr int kFirstBind = 6;
constexpr char kReadOnly = 'r', kUserNamespace = 'u', kTerminal = 't';

[[noreturn]] void End(int status, const absl::Status& why) {
  (void)Output(/*json=*/false).Fail(why);
  _exit(status);
}

std::vector<char*> Pointers(std::vector<std::string>& texts) {
  std::vector<char*> out;
  for (std::string& text : texts) out.push_back(text.data());
  out.push_back(nullptr);
  return out;
}

std::vector<std::string> ContinueArguments(const ContainerStart& start) {
  uint64_t mask = 0;
  for (int signal = 1; signal <= 64; ++signal) {
    if (sigismember(&start.signals, signal) == 1) mask |= uint64_t{1} << (signal - 1);
  }
  std::string flags = "-";
  if (start.tree.read_only) flags.push_back(kReadOnly);
  if (start.tree.user_namespace) flags.push_back(kUserNamespace);
  if (start.tree.all_ids) flags.push_back(kAllIds);
  if (start.tree.terminal) flags.push_back(kTerminal);
  std::vector<std::string> out = {
      "imagefs", std::string(kInitVerb), StrCat(start.control.get()), StrCat(mask),
      flags,     start.tree.keep};
  for (const BindArg& bind : start.tree.binds) {
    out.insert(out.end(), {bind.source, bind.destination, bind.read_only ? "ro" : "rw"});
  }
  return out;
}

// Returns only if it fails.
absl::Status ExecuteReadOnly(const ContainerStart& start) {
  const auto failed = [] { return ErrnoStatus(errno, "cannot execute this program read-only"); };
  IMAGEFS_ASSIGN_OR_RETURN(const Fd file, OpenFile("/proc/self/exe", O_PATH));
  IMAGEFS_ASSIGN_OR_RETURN(const struct stat st, StatFd(file, "/proc/self/exe"));
  IMAGEFS_ASSIGN_OR_RETURN(const std::string path, PathOf(file, "/proc/self/exe"));
  const Fd here(open_tree(AT_FDCWD, path.c_str(), OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC));
  if (!here.valid()) return failed();
  IMAGEFS_ASSIGN_OR_RETURN(const struct stat found, StatFd(here, path));
  if (IdOf(found) != IdOf(st)) {
    return absl::FailedPreconditionError(StrCat(path, " was replaced meanwhile; run it again"));
  }
  mount_attr read_only = {};
  read_only.attr_set = MOUNT_ATTR_RDONLY;
  if (mount_setattr(here.get(), "", AT_EMPTY_PATH, &read_only, sizeof(read_only)) != 0 ||
      fcntl(start.control.get(), F_SETFD, 0) != 0) {
    return failed();
  }
  std::vector<std::string> words = ContinueArguments(start);
  std::vector<char*> arguments = Pointers(words);
  execveat(here.get(), "", arguments.data(), environ, AT_EMPTY_PATH);
  return failed();
}

// The capabilities that docker gives to containers. The bounding set: what a program of root gets.
constexpr int kCapabilities[] = {
    CAP_CHOWN,   CAP_DAC_OVERRIDE, CAP_FSETID,           CAP_FOWNER,
    CAP_MKNOD,   CAP_NET_RAW,      CAP_SETGID,           CAP_SETUID,
    CAP_SETFCAP, CAP_SETPCAP,      CAP_NET_BIND_SERVICE, CAP_SYS_CHROOT,
    CAP_KILL,    CAP_AUDIT_WRITE};

absl::Status DropCapabilities() {
  for (int capability = 0; capability <= 63; ++capability) {
    if (std::find(std::begin(kCapabilities), std::end(kCapabilities), capability) !=
        std::end(kCapabilities)) {
      continue;
    }
    // EINVAL: this kernel has no more of them.
    if (prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) != 0 && errno != EINVAL) {
      return ErrnoStatus(errno, "cannot drop capabilities");
    }
  }
  prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
  return absl::OkStatus();
}

// Before Linux 6.2 a program can put words into the input of its terminal (TIOCSTI), which the
// caller's shell then reads; on the console also by TIOCLINUX. The program shares the caller's.
absl::Status ForbidTerminalInput() {
#if defined(__x86_64__)
  constexpr uint32_t kArchitecture = AUDIT_ARCH_X86_64;
#else
  constexpr uint32_t kArchitecture = AUDIT_ARCH_AARCH64;
#endif
  constexpr uint32_t kOther = 54;  // ioctl of 386 and arm
  constexpr uint32_t kDenied = SECCOMP_RET_ERRNO | EPERM;
  constexpr uint32_t kX32 = 0x40000000;
  sock_filter filter[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, arch)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, kArchitecture, 2, 0),
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, kOther, 3, 6),
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
      BPF_STMT(BPF_ALU | BPF_AND | BPF_K, ~kX32),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_ioctl, 0, 3),
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, args[1])),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, TIOCSTI, 2, 0),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, TIOCLINUX, 1, 0),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
      BPF_STMT(BPF_RET | BPF_K, kDenied),
  };
  const sock_fprog program = {static_cast<unsigned short>(std::size(filter)), filter};  // NOLINT
  if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program, 0, 0) == 0 || errno == EINVAL) {
    return absl::OkStatus();  // EINVAL: a kernel without filters
  }
  return ErrnoStatus(errno, "cannot protect the terminal");
}

absl::Status BecomeUser(const UserIds& ids, bool all_ids) {
  // A namespace of one id has no other groups, and the kernel does not let it change them.
  if (all_ids && setgroups(ids.groups.size(), ids.groups.data()) != 0) {
    return ErrnoStatus(errno, "cannot set the groups of the program");
  }
  if (setresgid(ids.gid, ids.gid, ids.gid) == 0 && setresuid(ids.uid, ids.uid, ids.uid) == 0) {
    return absl::OkStatus();
  }
  if (errno != EINVAL) return ErrnoStatus(errno, "cannot become the user of the program");
  return absl::FailedPreconditionError(
      StrCat("user ", ids.uid, ":", ids.gid,
             " has no number on this machine; give this user more in /etc/subuid and /etc/subgid"));
}

// Executes `program`, which is looked up in PATH if it has no slash. Returns errno.
int Execute(const std::string& program, std::vector<char*>& arguments,
            std::vector<char*>& environment, std::string_view path) {
  if (program.find('/') != std::string::npos) {
    execve(program.c_str(), arguments.data(), environment.data());
    return errno;
  }
  int error = ENOENT;
  for (const std::string_view directory : Split(path, ':')) {
    const std::string file = StrCat(directory.empty() ? "." : directory, "/", program);
    execve(file.c_str(), arguments.data(), environment.data());
    // As a shell: one that may not be executed is reported if there is no other.
    if (errno == EACCES) error = EACCES;
    if (errno != ENOENT && errno != ENOTDIR && errno != EACCES) return errno;
  }
  return error;
}

[[noreturn]] void Complain(const RunSpec& spec, const std::string& program, int error) {
  const std::string name = PrintableName(program);
  if (error == ENOENT || error == ENOTDIR) {
    struct stat st;
    if (program.find('/') != std::string::npos && stat(program.c_str(), &st) == 0) {
      End(kNoProgram, absl::NotFoundError(StrCat(
                          name, ": the interpreter or loader that it names is not in the image")));
    }
    if (spec.programs.size() > 1) {
      End(kNoProgram, absl::NotFoundError("the image has no shell (SHELL, /bin/bash, /bin/sh)"));
    }
    End(kNoProgram, absl::NotFoundError(
                        StrCat(name, ": no such program in the image",
                               program.find('/') == std::string::npos ? " (by its PATH)" : "")));
  }
  if (error == ENOEXEC) {
    End(kCannotExecute,
        absl::FailedPreconditionError(
            StrCat(name, ": it is no program for this machine, and no script with a #! line")));
  }
  End(kCannotExecute, ErrnoStatus(error, StrCat("cannot execute ", name)));
}

class Init {
 public:
  explicit Init(ContainerStart start) : start_(std::move(start)), tree_(start_.tree) {}

  [[noreturn]] void Run() {
    absl::Status status = Prepare();
    if (!status.ok()) End(kCannotRun, status);
    Serve();
    status = Enter();
    if (!status.ok()) End(kCannotRun, status);
    child_ = fork();
    if (child_ < 0) End(kCannotRun, ErrnoStatus(errno, "cannot start the program"));
    if (child_ == 0) RunProgramHere();
    if (start_.tree.terminal) setpgid(child_, child_);
    WaitForProgram();
  }

 private:
  absl::Status Prepare();
  void Serve();
  absl::Status Enter();
  absl::Status FindIds();
  [[noreturn]] void RunProgramHere();
  [[noreturn]] void WaitForProgram();
  void Reap();
  void Obey();

  ContainerStart start_;
  ContainerTree tree_;
  RunSpec spec_;
  UserIds ids_;
  pid_t child_ = 0;
};

absl::Status Init::Prepare() {
  // The caller's keys are not the program's.
  syscall(SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, nullptr);
  return tree_.Open();
}

// Tells that it is ready, and does what the command asks for until the program can start.
void Init::Serve() {
  ContainerMessage ready;
  ready.kind = ContainerMessage::kReady;
  const absl::StatusOr<uint64_t> number = OwnMountNamespace();
  if (!number.ok()) End(kCannotRun, number.status());
  ready.mount_namespace = *number;
  struct stat st;
  if (stat("/", &st) == 0) {
    ready.device = st.st_dev;
    ready.inode = st.st_ino;
  }
  if (!SendTo(start_.control, ready).ok()) _exit(kCannotRun);
  while (true) {
    Fd fd;
    const absl::StatusOr<ContainerMessage> message = ReceiveFrom(start_.control, &fd);
    if (!message.ok()) _exit(kCannotRun);
    if (message->kind == ContainerMessage::kMount) {
      const absl::Status status = tree_.MountImage(fd, message->text);
      if (!status.ok()) End(kCannotRun, status);
    } else if (message->kind == ContainerMessage::kStart) {
      struct stat size;
      if (fstat(fd.get(), &size) != 0 || static_cast<uint64_t>(size.st_size) > kMaxSpecBytes) {
        _exit(kCannotRun);
      }
      std::string packed(static_cast<size_t>(size.st_size), '\0');
      const auto got = PreadFull(fd.get(), absl::MakeSpan(packed.data(), packed.size()), 0);
      absl::StatusOr<RunSpec> spec = UnpackRunSpec(packed);
      if (!got.ok() || !spec.ok()) End(kCannotRun, spec.status());
      spec_ = *std::move(spec);
      return;
    }
  }
}

absl::Status Init::FindIds() {
  const Fd root(open("/", O_PATH | O_DIRECTORY | O_CLOEXEC));
  IMAGEFS_ASSIGN_OR_RETURN(ids_, FindUserIn(root, spec_.user));
  if (start_.tree.all_ids || (ids_.uid == 0 && ids_.gid == 0)) return absl::OkStatus();
  constexpr char kRemedy[] =
      "with newuidmap (package uidmap) and ranges in /etc/subuid and /etc/subgid it can be any";
  if (spec_.user_asked) {
    return WithKind(absl::FailedPreconditionError(
                        StrCat("--user ", spec_.user,
                               ": without root and subordinate ids, the program can only be root "
                               "of the container, which is you; ",
                               kRemedy)),
                    FailureKind::kDenied);
  }
  Output(/*json=*/false)
      .Note(StrCat("imagefs: warning: the image wants user ", PrintableName(spec_.user, 60),
                   "; without root and subordinate ids, the program runs as root of the container, "
                   "which is you; ",
                   kRemedy, "\n"));
  IMAGEFS_ASSIGN_OR_RETURN(ids_, FindUserIn(root, "0"));
  ids_.groups.clear();
  return absl::OkStatus();
}

absl::Status Init::Enter() {
  IMAGEFS_RETURN_IF_ERROR(tree_.Enter(spec_.directory));
  IMAGEFS_RETURN_IF_ERROR(FindIds());
  if (ValueIn(spec_.environment, "HOME").empty()) SetIn(&spec_.environment, "HOME", ids_.home);
  return absl::OkStatus();
}

void Init::RunProgramHere() {
  if (start_.tree.terminal) {
    setpgid(0, 0);
    tcsetpgrp(STDIN_FILENO, getpid());  // SIGTTOU is blocked
  }
  absl::Status status = DropCapabilities();
  if (status.ok()) status = ForbidTerminalInput();
  if (status.ok()) status = BecomeUser(ids_, start_.tree.all_ids);
  if (!status.ok()) End(kCannotRun, status);
  umask(022);
  // No descriptor of the machine's tree is left when a path of the image is followed.
  close_range(3, ~0U, 0);
  if (chdir(spec_.directory.c_str()) != 0) {
    End(kCannotRun, ErrnoStatus(errno, StrCat("--workdir ", spec_.directory)));
  }
  std::vector<std::string> words = {""};
  words.insert(words.end(), spec_.arguments.begin(), spec_.arguments.end());
  std::vector<char*> environment = Pointers(spec_.environment);
  pthread_sigmask(SIG_SETMASK, &start_.signals, nullptr);
  int error = ENOENT;
  std::string failed = spec_.programs[0];
  for (const std::string& program : spec_.programs) {
    words[0] = program;
    std::vector<char*> arguments = Pointers(words);
    const int now = Execute(program, arguments, environment, ValueIn(spec_.environment, "PATH"));
    if (now == ENOENT || now == ENOTDIR) continue;
    error = now;
    failed = program;
    break;
  }
  Complain(spec_, failed, error);
}

void Init::Reap() {
  while (true) {
    int status = 0;
    const pid_t pid = waitpid(-1, &status, WNOHANG | (start_.tree.terminal ? WUNTRACED : 0));
    if (pid <= 0) return;
    if (pid != child_) continue;
    if (WIFSTOPPED(status)) {
      ContainerMessage stopped;
      stopped.kind = ContainerMessage::kStopped;
      (void)SendTo(start_.control, stopped);
    } else {
      _exit(WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status));
    }
  }
}

// Takes a message of the command, or ends with it.
void Init::Obey() {
  Fd fd;
  const absl::StatusOr<ContainerMessage> message = ReceiveFrom(start_.control, &fd);
  if (!message.ok()) _exit(kCannotRun);
  if (message->kind == ContainerMessage::kSignal) {
    kill(child_, message->value);
  } else if (message->kind == ContainerMessage::kContinue) {
    if (message->value != 0) tcsetpgrp(STDIN_FILENO, getpgid(child_));
    kill(-child_, SIGCONT);
  }
}

void Init::WaitForProgram() {
  sigset_t children;
  sigemptyset(&children);
  sigaddset(&children, SIGCHLD);
  sigprocmask(SIG_BLOCK, &children, nullptr);
  const Fd ended(signalfd(-1, &children, SFD_CLOEXEC | SFD_NONBLOCK));
  // Of the caller's descriptors none is held open by this process.
  const int null = open("/dev/null", O_RDWR | O_CLOEXEC);
  if (null >= 0 && !start_.tree.terminal) {
    for (int fd = 0; fd <= 2; ++fd) dup2(null, fd);
  }
  while (true) {
    Reap();
    pollfd polled[] = {{ended.get(), POLLIN, 0}, {start_.control.get(), POLLIN, 0}};
    if (poll(polled, std::size(polled), -1) < 0) continue;
    if ((polled[0].revents & POLLIN) != 0) {
      signalfd_siginfo info;
      while (read(ended.get(), &info, sizeof(info)) > 0) {
      }
    }
    if (polled[1].revents != 0) Obey();
  }
}

}  // namespace

absl::Status SendTo(const Fd& socket, const ContainerMessage& message, int fd) {
  const ssize_t sent = SendWithFd(socket.get(), &message, sizeof(message), fd);
  if (sent == static_cast<ssize_t>(sizeof(message))) return absl::OkStatus();
  return absl::UnavailableError("the other process of the container is gone");
}

absl::StatusOr<ContainerMessage> ReceiveFrom(const Fd& socket, Fd* fd) {
  ContainerMessage message;
  int number = -1;
  const ssize_t got = ReceiveWithFd(socket.get(), &message, sizeof(message), &number);
  if (number >= 0) *fd = Fd(number);
  if (got != static_cast<ssize_t>(sizeof(message))) {
    return absl::UnavailableError("the other process of the container is gone");
  }
  message.text[sizeof(message.text) - 1] = '\0';
  return message;
}

void RunContainerInit(ContainerStart start) {
  if (start.mapped.valid()) {
    // Only then may the command write the maps of ids. No secret was ever in this process.
    prctl(PR_SET_DUMPABLE, 1, 0, 0, 0);
    char mapped = 0;
    if (write(start.mapped.get(), &mapped, 1) != 1 || read(start.mapped.get(), &mapped, 1) != 1) {
      _exit(kCannotRun);  // the command has said why
    }
    start.tree.all_ids = mapped == kAllIds;
    if (setresgid(0, 0, 0) != 0 || setresuid(0, 0, 0) != 0) {
      End(kCannotRun, ErrnoStatus(errno, "cannot become root of the container"));
    }
  }
  End(kCannotRun, ExecuteReadOnly(start));
}

void ContinueContainerInit(int argc, char** argv) {
  if (argc < kFirstBind || std::string_view(argv[1]) != kInitVerb) return;
  ContainerStart start;
  const std::optional<uint64_t> control = ParseDecimal(argv[2]), mask = ParseDecimal(argv[3]);
  if (!control.has_value() || !mask.has_value()) return;
  start.control = Fd(static_cast<int>(*control));
  if (fcntl(start.control.get(), F_SETFD, FD_CLOEXEC) != 0) return;
  sigemptyset(&start.signals);
  for (int signal = 1; signal <= 64; ++signal) {
    if ((*mask >> (signal - 1) & 1) != 0) sigaddset(&start.signals, signal);
  }
  const std::string_view flags = argv[4];
  const auto has = [flags](char flag) { return flags.find(flag) != std::string_view::npos; };
  start.tree.read_only = has(kReadOnly);
  start.tree.user_namespace = has(kUserNamespace);
  start.tree.all_ids = has(kAllIds);
  start.tree.terminal = has(kTerminal);
  start.tree.keep = argv[5];
  for (int i = kFirstBind; i + 2 < argc; i += 3) {
    start.tree.binds.push_back({argv[i], argv[i + 1], std::string_view(argv[i + 2]) == "ro"});
  }
  Init init(std::move(start));
  init.Run();
}

}  // namespace imagefs
