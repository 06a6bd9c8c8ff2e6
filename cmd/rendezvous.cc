// SPDX-License-Identifier: Apache-2.0
#include "cmd/rendezvous.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <optional>
#include <thread>
#include <utility>

#include "base/failure.h"
#include "base/status.h"
#include "base/subprocess.h"
#include "base/text.h"
#include "cache/store_lock.h"
#include "cmd/service_manager.h"

namespace imagefs {
namespace {

constexpr int kStartTimeoutMs = 120'000;  // a start recovers mounts
constexpr off_t kMaxLogBytes = 4 << 20;   // a larger log is truncated at a start
constexpr size_t kMaxReadyLine = 4096;

// Socket addresses hold 107 bytes; relative to an open directory any path fits.
sockaddr_un AddressIn(const Fd& directory, std::string_view name) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  const std::string path = StrCat("/proc/self/fd/", directory.get(), "/", name);
  memcpy(address.sun_path, path.data(), std::min(path.size(), sizeof(address.sun_path) - 1));
  return address;
}

absl::StatusOr<Fd> NewSocket() {
  Fd fd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!fd.valid()) return ErrnoStatus(errno, "socket");
  return fd;
}

constexpr auto kTurn = std::chrono::milliseconds(50);    // polling interval
constexpr auto kUnreachable = std::chrono::seconds(20);  // to create its sockets again
constexpr std::string_view kStopped = " stopped";        // in the text of the store's lock

absl::Status NoDaemon(const std::string& run) {
  return WithKind(absl::NotFoundError(StrCat("no daemon is running for ", run)),
                  FailureKind::kNoDaemon);
}

absl::Status ForeignDaemon(const std::string& place) {
  return absl::PermissionDeniedError(
      StrCat("the daemon of ", place, " belongs to another user; use --run DIR and --root DIR ",
             "of your own, or become that user"));
}

// Reads the daemon's one line: "ok" or "CODE/KIND MESSAGE".
absl::Status AwaitReady(int fd, const Paths& paths) {
  std::string line;
  while (line.size() < kMaxReadyLine) {
    pollfd p{fd, POLLIN, 0};
    const int ready = poll(&p, 1, kStartTimeoutMs);
    if (ready < 0 && errno == EINTR) continue;
    if (ready < 0) return ErrnoStatus(errno, "poll");
    if (ready == 0) {
      return absl::DeadlineExceededError(StrCat("the daemon is not ready after ",
                                                kStartTimeoutMs / 1000, " s; see ", paths.log()));
    }
    char buffer[512];
    const ssize_t n = read(fd, buffer, sizeof(buffer));
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) break;
    line.append(buffer, static_cast<size_t>(n));
    if (line.back() == '\n') break;
  }
  if (line == "ok\n") return absl::OkStatus();
  if (line.empty() || line.back() != '\n') {
    return absl::UnavailableError(
        StrCat("the daemon ended before it was ready; see ", paths.log()));
  }
  line.pop_back();
  const size_t space = line.find(' ');
  const std::string_view what = std::string_view(line).substr(0, space);
  const size_t slash = std::min(what.find('/'), what.size());
  const std::optional<uint64_t> code = ParseDecimal(what.substr(0, slash));
  if (!code.has_value() || space == std::string::npos || *code == 0 || *code > 16) {
    return absl::InternalError(StrCat("the daemon said ", Printable(line)));
  }
  absl::Status status(static_cast<absl::StatusCode>(*code), line.substr(space + 1));
  const std::optional<FailureKind> kind = ParseKind(what.substr(std::min(slash + 1, what.size())));
  return kind.has_value() ? WithKind(std::move(status), *kind) : status;
}

absl::StatusOr<Fd> OpenLog(const Paths& paths) {
  struct stat st;
  const bool large = stat(paths.log().c_str(), &st) == 0 && st.st_size > kMaxLogBytes;
  return OpenFile(paths.log(), O_WRONLY | O_CREAT | O_APPEND | O_NOFOLLOW | (large ? O_TRUNC : 0));
}

absl::Status StartDaemon(const std::vector<std::string>& command, const Fd& log, const Fd& ready) {
  SpawnOptions daemon;
  daemon.program = DaemonProgram();
  daemon.argv = command;
  daemon.environment = OwnEnvironment();
  daemon.descriptors = {{STDIN_FILENO, kDevNull},
                        {STDOUT_FILENO, log.get()},
                        {STDERR_FILENO, log.get()},
                        {kReadyFd, ready.get()}};
  daemon.group = SpawnOptions::Group::kOwnSession;
  daemon.directory = std::string("/");
  return Annotate(Spawn(daemon).status(), StrCat("starting the daemon, ", daemon.program));
}

// Returns kNotFound if no daemon listens in that directory.
absl::StatusOr<Fd> ConnectIn(const std::string& place, std::string_view name,
                             const std::string& run) {
  Fd directory(open(place.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
  if (!directory.valid()) {
    if (errno == ENOENT || errno == ENOTDIR || errno == ENAMETOOLONG) return NoDaemon(run);
    if (errno == EACCES) return ForeignDaemon(place);
    return ErrnoStatus(errno, place);
  }
  IMAGEFS_ASSIGN_OR_RETURN(Fd fd, NewSocket());
  const sockaddr_un address = AddressIn(directory, StrCat(name, ".sock"));
  while (connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0) {
    if (errno == EINTR) continue;
    if (errno == ENOENT || errno == ECONNREFUSED) return NoDaemon(run);
    if (errno == EACCES) return ForeignDaemon(place);
    return ErrnoStatus(errno, StrCat("connecting to ", place, "/", name, ".sock"));
  }
  absl::StatusOr<Peer> peer = PeerOf(fd.get());
  if (!peer.ok()) return peer.status();
  if (peer->uid != geteuid()) return ForeignDaemon(place);
  return fd;
}

std::string OwnerText(const Paths& paths) { return ReadFile(paths.lock(), 64).value_or(""); }

// Returns kNotFound if no process holds the store, else kFailedPrecondition. Takes the lock for a
// moment, which a starting daemon must not meet. REQUIRES: the start lock is held.
absl::Status StoreHolder(const Paths& paths) {
  const absl::StatusOr<Fd> lock = OpenFile(paths.lock(), O_RDONLY);
  if (absl::IsNotFound(lock.status())) return NoDaemon(paths.run);
  if (!lock.ok()) return lock.status();
  if (flock(lock->get(), LOCK_EX | LOCK_NB) == 0) return NoDaemon(paths.run);
  if (errno != EWOULDBLOCK) return ErrnoStatus(errno, paths.lock());
  const std::string owner = OwnerText(paths);
  const std::string pid = owner.empty() ? "unknown" : owner.substr(0, owner.find(' '));
  (void)IsExitingAfterKill(pid);  // in case it was killed
  return absl::FailedPreconditionError(StrCat("the daemon with pid ", pid, " holds the store ",
                                              paths.root, " but listens nowhere; `kill ", pid,
                                              "` ends it"));
}

// Returns the directory of the running program, or "" if unknown.
std::string OwnDirectory() {
  char path[PATH_MAX];
  const ssize_t size = readlink("/proc/self/exe", path, sizeof(path));
  const std::string_view self(path, size > 0 ? static_cast<size_t>(size) : 0);
  const size_t slash = self.rfind('/');
  return std::string(self.substr(0, slash == std::string_view::npos ? 0 : slash));
}

}  // namespace

absl::Status NoDaemonBecause(absl::Status failure) {
  if (failure.ok() || HasKind(failure) || absl::IsPermissionDenied(failure) ||
      absl::IsDataLoss(failure)) {
    return failure;
  }
  return WithKind(std::move(failure), FailureKind::kNoDaemon);
}

absl::StatusOr<Peer> PeerOf(int socket) {
  ucred credentials{};
  socklen_t size = sizeof(credentials);
  if (getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &credentials, &size) != 0) {
    return ErrnoStatus(errno, "SO_PEERCRED");
  }
  return Peer{credentials.pid, credentials.uid};
}

absl::StatusOr<Fd> ConnectDaemon(const Paths& paths) {
  absl::StatusOr<Fd> fd = ConnectIn(paths.run, kControlSocket, paths.run);
  if (fd.ok() || !absl::IsNotFound(fd.status())) return fd;
  return ConnectInStore(paths);
}

absl::StatusOr<Fd> ConnectInStore(const Paths& paths) {
  return ConnectIn(paths.root, kControlSocket, paths.run);
}

absl::StatusOr<Fd> ConnectSocket(const Paths& paths, std::string_view name) {
  absl::StatusOr<Fd> fd = ConnectIn(paths.root, name, paths.run);
  if (fd.ok() || !absl::IsNotFound(fd.status())) return fd;
  return ConnectIn(paths.run, name, paths.run);
}

absl::Status ExplainNoDaemon(const Paths& paths) {
  if (access(paths.lock().c_str(), F_OK) != 0 && errno == ENOENT) return NoDaemon(paths.run);
  // No daemon takes the store's lock while this process holds the start lock, so it is safe to try
  // it.
  const absl::StatusOr<Fd> start = TakeStartLock(paths, /*wait=*/false);
  if (absl::IsUnavailable(start.status())) {
    return absl::UnavailableError(StrCat("a daemon of ", paths.root, " is starting or ending"));
  }
  return start.ok() ? StoreHolder(paths) : start.status();
}

absl::Status AwaitListener(const Paths& paths, std::chrono::milliseconds patience) {
  const auto until = std::chrono::steady_clock::now() + patience;
  while (true) {
    const absl::StatusOr<Fd> fd = ConnectDaemon(paths);
    if (fd.ok() || !absl::IsNotFound(fd.status())) return fd.status();
    const absl::Status why = ExplainNoDaemon(paths);
    if (!absl::IsUnavailable(why) && !absl::IsFailedPrecondition(why)) return why;
    if (std::chrono::steady_clock::now() >= until) return why;
    std::this_thread::sleep_for(kTurn);
  }
}

absl::StatusOr<Fd> ListenForCommands(const Paths& paths) {
  // Of several daemons with different stores, one gets the run directory.
  IMAGEFS_ASSIGN_OR_RETURN(const Fd claim, OpenFile(paths.run, O_RDONLY | O_DIRECTORY));
  if (flock(claim.get(), LOCK_EX) != 0) return ErrnoStatus(errno, paths.run);
  if (absl::StatusOr<Fd> other = ConnectIn(paths.run, kControlSocket, paths.run); other.ok()) {
    absl::StatusOr<Peer> peer = PeerOf(other->get());
    return WithKind(absl::FailedPreconditionError(StrCat(
                        "the daemon with pid ", peer.ok() ? peer->pid : 0, " serves ", paths.run,
                        " already; use that one, or --run DIR for a second store")),
                    FailureKind::kBusy);
  } else if (!absl::IsNotFound(other.status())) {
    return other.status();
  }
  return ListenIn(paths.run, "control");
}

absl::Status NoteStopped(const Paths& paths) {
  IMAGEFS_ASSIGN_OR_RETURN(const Fd fd, OpenFile(paths.lock(), O_WRONLY));
  return PwriteFull(fd.get(), StrCat(getpid(), kStopped), 0);
}

bool WasStopped(const Paths& paths, pid_t pid) { return OwnerText(paths) == StrCat(pid, kStopped); }

absl::StatusOr<Fd> ListenIn(const std::string& where, std::string_view name) {
  IMAGEFS_ASSIGN_OR_RETURN(Fd directory, OpenFile(where, O_PATH | O_DIRECTORY));
  IMAGEFS_ASSIGN_OR_RETURN(Fd fd, NewSocket());
  const std::string temporary = StrCat(name, ".", getpid());
  const std::string path = StrCat(where, "/", temporary);
  const std::string final_name = StrCat(name, ".sock");
  unlinkat(directory.get(), temporary.c_str(), 0);
  const sockaddr_un address = AddressIn(directory, temporary);
  if (bind(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0) {
    return ErrnoStatus(errno, StrCat("binding ", path));
  }
  // No client can connect before listen(), so the mode is set before it matters.
  if (fchmodat(directory.get(), temporary.c_str(), 0600, 0) != 0 ||
      listen(fd.get(), kSocketBacklog) != 0 ||
      renameat(directory.get(), temporary.c_str(), directory.get(), final_name.c_str()) != 0) {
    const absl::Status status = ErrnoStatus(errno, StrCat(where, "/", final_name));
    unlinkat(directory.get(), temporary.c_str(), 0);
    return status;
  }
  return fd;
}

absl::StatusOr<Fd> TakeStartLock(const Paths& paths, bool wait) {
  absl::StatusOr<Fd> fd = OpenFile(paths.start_lock(), O_RDWR | O_CREAT | O_NOFOLLOW);
  // Images can still be mounted from a file system that has become read-only.
  if (absl::IsFailedPrecondition(fd.status())) {
    fd = OpenFile(paths.start_lock(), O_RDONLY | O_NOFOLLOW);
  }
  IMAGEFS_RETURN_IF_ERROR(fd.status());
  while (flock(fd->get(), LOCK_EX | (wait ? 0 : LOCK_NB)) != 0) {
    if (errno == EINTR) continue;
    if (errno == EWOULDBLOCK) {
      return absl::UnavailableError(StrCat(paths.start_lock(), " is locked"));
    }
    return ErrnoStatus(errno, paths.start_lock());
  }
  return fd;
}

std::string DaemonProgram() {
  // Without /proc, fall back to the search path; the error then names just the program.
  const std::string directory = OwnDirectory();
  return directory.empty() ? "imagefsd" : directory + "/imagefsd";
}

std::string HolderProgram() {
  const std::string directory = OwnDirectory();
  const std::string beside = directory + "/imagefs-holder";
  if (access(beside.c_str(), X_OK) == 0) return beside;
  return directory + "/../libexec/imagefs/imagefs-holder";
}

std::vector<std::string> DaemonCommand(const Paths& paths, const DaemonSettings& settings) {
  std::vector<std::string> out = {"imagefs", "daemon"};
  const auto add = [&out](const char* option, const std::string& value) {
    if (!value.empty()) out.insert(out.end(), {option, value});
  };
  add("--root", paths.root);
  add("--run", paths.run);
  add("--idle-exit", settings.idle_seconds);
  add("--log-level", settings.log_level);
  add("--ca-file", settings.ca_file);
  add("--config", settings.config);
  return out;
}

absl::StatusOr<Fd> ConnectOrStart(const Paths& paths, const std::vector<std::string>& command) {
  absl::StatusOr<Fd> connected = ConnectDaemon(paths);
  if (connected.ok() || !absl::IsNotFound(connected.status())) return connected;
  IMAGEFS_RETURN_IF_ERROR(PrepareRunDir(paths.run, geteuid()));
  IMAGEFS_RETURN_IF_ERROR(PrepareStore(paths.root));
  const auto until = std::chrono::steady_clock::now() + kUnreachable;
  Fd lock;
  while (true) {
    IMAGEFS_ASSIGN_OR_RETURN(lock, TakeStartLock(paths, /*wait=*/true));
    // Another starter may have been faster.
    connected = ConnectDaemon(paths);
    if (connected.ok() || !absl::IsNotFound(connected.status())) return connected;
    const absl::Status why = StoreHolder(paths);
    if (absl::IsNotFound(why)) break;
    if (!absl::IsFailedPrecondition(why) || std::chrono::steady_clock::now() >= until) return why;
    // A daemon is running but cannot be reached: it needs the lock to create its sockets again.
    lock.Reset();
    std::this_thread::sleep_for(kTurn);
  }

  IMAGEFS_ASSIGN_OR_RETURN(const Fd log, OpenLog(paths));
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) return ErrnoStatus(errno, "pipe");
  Fd reader(ends[0]), writer(ends[1]);
  IMAGEFS_RETURN_IF_ERROR(StartDaemon(command, log, writer));
  writer.Reset();
  IMAGEFS_RETURN_IF_ERROR(AwaitReady(reader.get(), paths));
  return ConnectDaemon(paths);
}

void ReportReady(int ready_fd, const absl::Status& status) {
  if (ready_fd < 0) return;
  std::string line = "ok\n";
  if (!status.ok()) {
    line = StrCat(status.raw_code(), "/", KindName(KindOf(NoDaemonBecause(status))), " ",
                  status.message().substr(0, kMaxReadyLine - 32));
    for (char& c : line) {
      if (c == '\n') c = ' ';
    }
    line += '\n';
  }
  (void)WriteFull(ready_fd, line);
  close(ready_fd);
}

absl::Status WaitForExit(pid_t pid, int timeout_ms) {
  Fd process(static_cast<int>(syscall(SYS_pidfd_open, pid, 0)));
  if (!process.valid()) {
    return errno == ESRCH ? absl::OkStatus() : ErrnoStatus(errno, StrCat("pid ", pid));
  }
  pollfd p{process.get(), POLLIN, 0};
  int ready;
  do {
    ready = poll(&p, 1, timeout_ms);
  } while (ready < 0 && errno == EINTR);
  if (ready > 0) return absl::OkStatus();
  return WithKind(
      absl::DeadlineExceededError(StrCat("the daemon with pid ", pid, " has not ended yet")),
      FailureKind::kBusy);
}

}  // namespace imagefs
