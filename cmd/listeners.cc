// SPDX-License-Identifier: Apache-2.0
#include "cmd/listeners.h"

#include <errno.h>
#include <fcntl.h>
#include <grpcpp/grpcpp.h>
#include <grpcpp/server_posix.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <utility>

#include "absl/time/time.h"
#include "base/log.h"
#include "base/status.h"
#include "base/text.h"
#include "cmd/rendezvous.h"

namespace imagefs {
namespace {

constexpr int kPauseMs = 10;
// A storm of connections must not fill the log.
constexpr absl::Duration kTellEvery = absl::Seconds(10);

Listeners::Accepts ToServer(grpc::Server& server) {
  return
      [&server](Fd connection) { grpc::AddInsecureChannelFromFd(&server, connection.Release()); };
}

Fd Spare() { return Fd(open("/dev/null", O_RDONLY | O_CLOEXEC)); }

}  // namespace

Listeners::Listeners(Paths paths, std::vector<PassedSocket> passed)
    : paths_(std::move(paths)), spare_(Spare()) {
  for (PassedSocket& socket : passed) {
    Listener listener;
    listener.name = std::move(socket.name);
    listener.directory = paths_.run;
    listener.fd = std::move(socket.fd);
    listener.inherited = true;
    listeners_.push_back(std::move(listener));
  }
}

std::string Listeners::PathOf(const Listener& listener) {
  return StrCat(listener.directory, "/", listener.name, ".sock");
}

absl::Status Listeners::Open(Listener* listener) const {
  if (listener->name == kControlSocket && listener->directory == paths_.run) {
    IMAGEFS_ASSIGN_OR_RETURN(listener->fd, ListenForCommands(paths_));
  } else {
    // The owner of a run directory's control socket owns its other sockets; the owner of the store
    // owns the socket in it.
    IMAGEFS_ASSIGN_OR_RETURN(listener->fd, ListenIn(listener->directory, listener->name));
  }
  struct stat st;
  if (lstat(PathOf(*listener).c_str(), &st) != 0) return ErrnoStatus(errno, PathOf(*listener));
  listener->device = st.st_dev;
  listener->inode = st.st_ino;
  return absl::OkStatus();
}

absl::Status Listeners::Add(std::string_view name, grpc::Server& server) {
  return Add(name, ToServer(server));
}

absl::Status Listeners::Add(std::string_view name, Accepts accept) {
  for (Listener& listener : listeners_) {
    if (listener.name != name || listener.directory != paths_.run) continue;
    if (listener.accept != nullptr) {
      return absl::InternalError(StrCat("two servers for the socket ", name));
    }
    listener.accept = std::move(accept);
    LogInfo("listening socket=", name, " passed=yes");
    return absl::OkStatus();
  }
  Listener listener;
  listener.name = name;
  listener.directory = paths_.run;
  listener.accept = std::move(accept);
  IMAGEFS_RETURN_IF_ERROR(Open(&listener));
  LogInfo("listening socket=", PathOf(listener));
  listeners_.push_back(std::move(listener));
  return absl::OkStatus();
}

void Listeners::AddInStore(std::string_view name, grpc::Server& server) {
  AddInStore(name, ToServer(server));
}

void Listeners::AddInStore(std::string_view name, Accepts accept) {
  Listener listener;
  listener.name = name;
  listener.directory = paths_.root;
  listener.accept = std::move(accept);
  if (const absl::Status status = Open(&listener); !status.ok()) {
    LogWarning("no_socket_in_store cause=", ToStd(status.message()));
    return;
  }
  listeners_.push_back(std::move(listener));
}

absl::Status Listeners::Reopen(Listener* listener) {
  // No daemon may be started meanwhile: its starter would meet an unfinished socket.
  IMAGEFS_ASSIGN_OR_RETURN(const Fd lock, TakeStartLock(paths_, /*wait=*/false));
  if (listener->directory == paths_.run) {
    const std::string above = ParentOf(paths_.run);
    struct stat st;
    // The daemon does not create the parent.
    if (stat(above.c_str(), &st) != 0) return ErrnoStatus(errno, above);
    IMAGEFS_RETURN_IF_ERROR(PrepareRunDir(paths_.run, geteuid()));
  }
  // Also serve clients in the queue of the old socket.
  while (Pending(*listener)) AcceptFrom(*listener);
  return Open(listener);
}

void Listeners::Repair() {
  for (Listener& listener : listeners_) {
    struct stat st;
    if (listener.inherited || listener.accept == nullptr) continue;
    if (lstat(PathOf(listener).c_str(), &st) == 0 || errno != ENOENT) continue;
    if (!std::exchange(listener.gone, true)) {
      LogWarning("socket_gone socket=", PathOf(listener));
    }
    if (!Reopen(&listener).ok()) continue;  // try again later
    listener.gone = false;
    LogInfo("listening socket=", PathOf(listener));
  }
}

void Listeners::AppendTo(std::vector<pollfd>* fds) const {
  for (const Listener& listener : listeners_) {
    if (listener.accept != nullptr) fds->push_back({listener.fd.get(), POLLIN, 0});
  }
}

void Listeners::Accept(absl::Span<const pollfd> polled) {
  for (const pollfd& one : polled) {
    if (one.revents == 0) continue;
    for (const Listener& listener : listeners_) {
      if (listener.accept != nullptr && listener.fd.get() == one.fd) AcceptFrom(listener);
    }
  }
}

void Listeners::AcceptFrom(const Listener& listener) {
  Fd fd(accept4(listener.fd.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
  if (!fd.valid()) return errno == EMFILE || errno == ENFILE ? RefuseFrom(listener) : void();
  absl::StatusOr<Peer> peer = PeerOf(fd.get());
  if (!peer.ok() || (peer->uid != geteuid() && peer->uid != 0)) {
    LogWarning("connection_refused socket=", listener.name,
               " uid=", peer.ok() ? peer->uid : static_cast<uid_t>(-1));
    return;
  }
  listener.accept(std::move(fd));
}

// Otherwise it would stay pending, and poll(2) would always return at once.
void Listeners::RefuseFrom(const Listener& listener) {
  spare_.Reset();
  const Fd refused(accept4(listener.fd.get(), nullptr, nullptr, SOCK_CLOEXEC));
  if (refused.valid()) ++refused_;
  if (const Moment now = Moment::Now(); now >= tell_refused_at_) {
    LogWarning("connection_refused socket=", listener.name, " connections=", refused_,
               " cause=no file descriptors are left; raise LimitNOFILE= of the service");
    refused_ = 0;
    tell_refused_at_ = now + kTellEvery;
  }
  if (!refused.valid()) poll(nullptr, 0, kPauseMs);  // another thread took the descriptor
  spare_ = Spare();
}

bool Listeners::Pending(const Listener& listener) {
  pollfd p{listener.fd.get(), POLLIN, 0};
  return poll(&p, 1, 0) > 0;
}

void Listeners::RemoveName(const Listener& listener) {
  if (listener.inherited) return;
  struct stat st;
  const std::string path = PathOf(listener);
  if (lstat(path.c_str(), &st) == 0 && st.st_dev == listener.device &&
      st.st_ino == listener.inode) {
    unlink(path.c_str());
  }
}

bool Listeners::Retire() {
  bool quiet = true;
  for (const Listener& listener : listeners_) {
    if (listener.accept == nullptr) continue;
    RemoveName(listener);
    if (!Pending(listener)) continue;
    AcceptFrom(listener);
    quiet = false;
  }
  if (quiet) return true;
  for (Listener& listener : listeners_) {
    if (listener.inherited || listener.accept == nullptr) continue;
    // Also serve clients in the queue of the old socket.
    while (Pending(listener)) AcceptFrom(listener);
    if (const absl::Status status = Open(&listener); !status.ok()) {
      LogError("listen_failed socket=", listener.name, " cause=", ToStd(status.message()));
      return true;
    }
  }
  return false;
}

void Listeners::Close() {
  for (const Listener& listener : listeners_) {
    if (listener.accept != nullptr) RemoveName(listener);
  }
  listeners_.clear();
}

}  // namespace imagefs
