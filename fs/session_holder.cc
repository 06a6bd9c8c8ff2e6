// SPDX-License-Identifier: Apache-2.0
#include "fs/session_holder.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <utility>

#include "base/failure.h"
#include "base/log.h"
#include "base/status.h"
#include "base/subprocess.h"
#include "base/text.h"

namespace imagefs {
namespace {

constexpr char kSocket[] = "holder.sock";
constexpr int kBacklog = 8;
// The holder answers immediately unless it has been stopped (SIGSTOP).
constexpr timeval kReplyTimeout = {10, 0};

// Returns the address of a name in a directory whose path may be too long for an address.
sockaddr_un AddressIn(const Fd& directory, std::string_view name) {
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  snprintf(address.sun_path, sizeof(address.sun_path), "/proc/self/fd/%d/%.*s", directory.get(),
           static_cast<int>(name.size()), name.data());
  return address;
}

absl::StatusOr<Fd> NewSocket() {
  Fd fd(socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
  if (!fd.valid()) return ErrnoStatus(errno, "a socket for imagefs-holder");
  return fd;
}

absl::Status Send(const Fd& socket, const HolderMessage& message, const Fd* fd) {
  const int number = fd == nullptr ? -1 : fd->get();
  if (SendHolderMessage(socket.get(), message, number) >= 0) return absl::OkStatus();
  return ErrnoStatus(errno, "imagefs-holder");
}

}  // namespace

absl::Status SessionHolder::Keep(const std::string& name, const Fd& fd) {
  absl::MutexLock lock(&mu_);
  absl::StatusOr<HolderMessage> reply = absl::UnavailableError("");
  // The first attempt may reach a holder that is just exiting.
  for (int attempt = 0; attempt < 2 && absl::IsUnavailable(reply.status()); ++attempt) {
    if (!connection_.valid() && !ConnectLocked().ok()) IMAGEFS_RETURN_IF_ERROR(StartLocked());
    reply = CallLocked(HolderMessage::kKeep, name, &fd);
  }
  IMAGEFS_RETURN_IF_ERROR(reply.status());
  if (reply->kind == HolderMessage::kDone) return absl::OkStatus();
  return absl::ResourceExhaustedError("imagefs-holder can keep no more descriptors");
}

void SessionHolder::Drop(const std::string& name) {
  absl::MutexLock lock(&mu_);
  if (!connection_.valid()) return;  // no holder, so nothing to drop
  const auto reply = CallLocked(HolderMessage::kDrop, name, nullptr);
  // After the last drop the holder exits, possibly before its reply arrives.
  if (!reply.ok() && !absl::IsUnavailable(reply.status())) {
    LogWarning("session_not_dropped error=", reply.status().message());
  }
}

void SessionHolder::Leave() {
  absl::MutexLock lock(&mu_);
  if (!connection_.valid()) return;
  const auto reply = CallLocked(HolderMessage::kLeave, "", nullptr);
  if (!reply.ok() && !absl::IsUnavailable(reply.status())) {
    LogWarning("holder_not_left error=", reply.status().message());
  }
}

std::vector<KeptDescriptor> SessionHolder::Inherit() {
  std::vector<KeptDescriptor> out;
  absl::MutexLock lock(&mu_);
  if (!ConnectLocked().ok()) return out;
  const absl::Status status = ListLocked(out);
  if (!status.ok()) LogWarning("sessions_not_inherited error=", status.message());
  return out;
}

absl::Status SessionHolder::ListLocked(std::vector<KeptDescriptor>& out) {
  HolderMessage message;
  message.kind = HolderMessage::kList;
  IMAGEFS_RETURN_IF_ERROR(Send(connection_, message, nullptr));
  while (true) {
    Fd fd;
    IMAGEFS_ASSIGN_OR_RETURN(const HolderMessage reply, ReceiveLocked(&fd));
    if (reply.kind == HolderMessage::kDone) return absl::OkStatus();
    if (reply.kind == HolderMessage::kDescriptor && fd.valid()) {
      out.push_back({reply.name, std::move(fd)});
    }
  }
}

absl::Status SessionHolder::ConnectLocked() {
  IMAGEFS_ASSIGN_OR_RETURN(const Fd directory, OpenFile(options_.run_dir, O_PATH | O_DIRECTORY));
  IMAGEFS_ASSIGN_OR_RETURN(Fd fd, NewSocket());
  const sockaddr_un address = AddressIn(directory, kSocket);
  if (connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0) {
    return ErrnoStatus(errno, kSocket);
  }
  ucred peer = {};
  socklen_t size = sizeof(peer);
  if (getsockopt(fd.get(), SOL_SOCKET, SO_PEERCRED, &peer, &size) != 0 || peer.uid != geteuid()) {
    return absl::PermissionDeniedError("the process at holder.sock is another user's");
  }
  setsockopt(fd.get(), SOL_SOCKET, SO_RCVTIMEO, &kReplyTimeout, sizeof(kReplyTimeout));
  setsockopt(fd.get(), SOL_SOCKET, SO_SNDTIMEO, &kReplyTimeout, sizeof(kReplyTimeout));
  connection_ = std::move(fd);
  return absl::OkStatus();
}

absl::Status SessionHolder::StartLocked() {
  IMAGEFS_ASSIGN_OR_RETURN(const Fd directory, OpenFile(options_.run_dir, O_PATH | O_DIRECTORY));
  IMAGEFS_ASSIGN_OR_RETURN(const Fd listener, NewSocket());
  const std::string temporary = StrCat("holder.", getpid());
  unlinkat(directory.get(), temporary.c_str(), 0);
  const sockaddr_un address = AddressIn(directory, temporary);
  if (bind(listener.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0 ||
      fchmodat(directory.get(), temporary.c_str(), 0600, 0) != 0 ||
      listen(listener.get(), kBacklog) != 0 ||
      renameat(directory.get(), temporary.c_str(), directory.get(), kSocket) != 0) {
    const absl::Status status = ErrnoStatus(errno, StrCat(options_.run_dir, "/", kSocket));
    unlinkat(directory.get(), temporary.c_str(), 0);
    return status;
  }
  IMAGEFS_RETURN_IF_ERROR(SpawnHolder(listener));
  return ConnectLocked();
}

// Returns a pipe with the command to start a daemon; invalid if the holder must not start one.
absl::StatusOr<Fd> SessionHolder::RestartPipe() const {
  if (options_.restart.empty()) return Fd();
  const auto message = std::make_unique<HolderRestart>();
  message->pause_ms = static_cast<uint32_t>(absl::ToInt64Milliseconds(options_.restart_after));
  message->count = static_cast<uint32_t>(options_.restart.size() - 1);
  std::string arguments;
  for (size_t i = 1; i < options_.restart.size(); ++i) arguments += options_.restart[i] + '\0';
  const std::string& program = options_.restart.front();
  if (program.size() >= sizeof(message->program) || arguments.size() > sizeof(message->arguments) ||
      message->count > HolderRestart::kMaxArguments) {
    return absl::InvalidArgumentError("the command line of a daemon is too long");
  }
  memcpy(message->program, program.data(), program.size());
  memcpy(message->arguments, arguments.data(), arguments.size());
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) return ErrnoStatus(errno, "pipe");
  Fd reader(ends[0]);
  const Fd writer(ends[1]);
  // Small enough for a pipe without a reader.
  static_assert(sizeof(HolderRestart) < 32 << 10);
  const char* bytes = reinterpret_cast<const char*>(message.get());
  IMAGEFS_RETURN_IF_ERROR(WriteFull(writer.get(), std::string_view(bytes, sizeof(*message))));
  return reader;
}

absl::Status SessionHolder::SpawnHolder(const Fd& listener) const {
  IMAGEFS_ASSIGN_OR_RETURN(const Fd restart, RestartPipe());
  SpawnOptions holder;
  holder.program = options_.program;
  holder.argv = {"imagefs-holder", options_.run_dir};  // tells people whose it is
  holder.descriptors = {{kHolderListener, listener.get()}};
  if (restart.valid()) {
    holder.descriptors.emplace_back(kHolderRestart, restart.get());
    // A restarted daemon gets the environment of the previous one.
    holder.environment = OwnEnvironment();
  }
  const absl::StatusOr<pid_t> pid = Spawn(holder);
  if (!pid.ok()) return Annotate(pid.status(), StrCat("starting ", options_.program));
  // It forks the actual holder and exits immediately.
  int status = 0;
  while (waitpid(*pid, &status, 0) < 0 && errno == EINTR) {
  }
  if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) {
    return absl::InternalError(StrCat(options_.program, " failed"));
  }
  return absl::OkStatus();
}

absl::StatusOr<HolderMessage> SessionHolder::CallLocked(HolderMessage::Kind kind,
                                                        const std::string& name, const Fd* fd) {
  HolderMessage message;
  message.kind = kind;
  if (name.size() >= sizeof(message.name))
    return absl::InvalidArgumentError("the name is too long");
  memcpy(message.name, name.data(), name.size());
  absl::StatusOr<HolderMessage> reply = absl::UnavailableError("");
  if (const absl::Status sent = Send(connection_, message, fd); sent.ok()) {
    Fd none;
    reply = ReceiveLocked(&none);
  } else {
    reply = absl::UnavailableError(sent.message());
  }
  // A late reply must not be taken for that of another call.
  if (!reply.ok()) connection_.Reset();
  return reply;
}

// Returns kUnavailable if the holder has exited.
absl::StatusOr<HolderMessage> SessionHolder::ReceiveLocked(Fd* fd) {
  HolderMessage message;
  int number = -1;
  const ssize_t got = ReceiveHolderMessage(connection_.get(), message, &number);
  *fd = Fd(number);
  if (got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) {
    return WithKind(absl::DeadlineExceededError("imagefs-holder does not answer"),
                    FailureKind::kOther);
  }
  if (got <= 0)
    return WithKind(absl::UnavailableError("imagefs-holder has ended"), FailureKind::kOther);
  if (got != static_cast<ssize_t>(sizeof(message))) {
    return WithKind(absl::UnavailableError("imagefs-holder sent an unexpected message"),
                    FailureKind::kOther);
  }
  return message;
}

}  // namespace imagefs
