// SPDX-License-Identifier: Apache-2.0
// imagefs-holder keeps descriptors, so that they outlive the daemon that passed them. It is started
// with a listening socket as descriptor 3 (fs/holder_protocol.h), serves any client of its own
// user, and exits once it holds nothing. It restarts a killed daemon if no supervisor does. It
// parses nothing, has one thread, and allocates no memory after its start, so that little can kill
// it.
//
// "imagefs-holder --listen DIRECTORY" makes the socket itself, stays in the foreground, and does
// not exit: for a supervisor that ends a daemon's processes with it, such as a container runtime.
// "imagefs-holder --check DIRECTORY" exits with 0 if one listens there.
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "fs/holder_protocol.h"

namespace {

using imagefs::HolderMessage;
using imagefs::HolderRestart;
using imagefs::kHolderListener;
using imagefs::kHolderRestart;
using imagefs::ReceiveHolderMessage;
using imagefs::SendHolderMessage;

constexpr int kMaxHeld = 1 << 16;
constexpr int kMaxClients = 8;
// How long to wait for a daemon while holding nothing, and for a client that does not read.
constexpr int kPatienceMs = 60'000;
constexpr timeval kSendTimeout = {5, 0};
// The maximum pause between starts of a daemon that keeps failing.
constexpr int kLongestPauseMs = 300'000;

struct Held {
  int fd;
  char name[sizeof(HolderMessage::name)];
};

// Unused pages take no memory.
Held held[kMaxHeld];
int held_count = 0;
int clients[kMaxClients];
int client_count = 0;
bool had_client = false, was_used = false;
bool stays = false;  // --listen
HolderRestart restart;
bool left = false;       // the last daemon asked not to be restarted
int restart_pause = -1;  // in ms; -1: no restart

int Find(const char* name) {
  for (int i = 0; i < held_count; ++i) {
    if (strcmp(held[i].name, name) == 0) return i;
  }
  return -1;
}

// Takes ownership of the descriptor.
bool Keep(const char* name, int fd) {
  int at = Find(name);
  if (at < 0 && held_count == kMaxHeld) return false;
  if (at < 0) {
    at = held_count++;
    memcpy(held[at].name, name, sizeof(held[at].name));
  } else {
    close(held[at].fd);
  }
  held[at].fd = fd;
  was_used = true;
  return true;
}

void Drop(const char* name) {
  const int at = Find(name);
  if (at < 0) return;
  close(held[at].fd);
  held[at] = held[--held_count];
}

// `fd` -1: none. Returns false if the peer is gone.
bool Send(int client, const HolderMessage& message, int fd) {
  return SendHolderMessage(client, message, fd) == static_cast<ssize_t>(sizeof(message));
}

// `*fd` -1: none received. Returns false if the peer is gone.
bool Receive(int client, HolderMessage& message, int* fd) {
  const ssize_t got = ReceiveHolderMessage(client, message, fd);
  if (got < 0) return errno == EAGAIN;
  if (got == static_cast<ssize_t>(sizeof(message))) return true;
  if (*fd >= 0) close(*fd);
  return false;
}

// Returns false if the connection must be closed.
bool Answer(int client) {
  HolderMessage message;
  int fd = -1;
  if (!Receive(client, message, &fd)) return false;
  HolderMessage reply;
  reply.kind = HolderMessage::kDone;
  switch (message.kind) {
    case HolderMessage::kKeep:
      if (fd >= 0 && Keep(message.name, fd)) return Send(client, reply, -1);
      reply.kind = HolderMessage::kFull;
      break;
    case HolderMessage::kDrop:
      Drop(message.name);
      break;
    case HolderMessage::kLeave:
      left = true;
      break;
    case HolderMessage::kList:
      for (int i = 0; i < held_count; ++i) {
        HolderMessage one;
        one.kind = HolderMessage::kDescriptor;
        memcpy(one.name, held[i].name, sizeof(one.name));
        if (!Send(client, one, held[i].fd)) return false;
      }
      break;
    default:
      return fd < 0;  // spurious wakeup
  }
  if (fd >= 0) close(fd);
  return Send(client, reply, -1);
}

void Accept() {
  const int client = accept4(kHolderListener, nullptr, nullptr, SOCK_CLOEXEC);
  if (client < 0) return;
  ucred peer = {};
  socklen_t size = sizeof(peer);
  const bool ours =
      getsockopt(client, SOL_SOCKET, SO_PEERCRED, &peer, &size) == 0 && peer.uid == geteuid();
  if (ours && client_count < kMaxClients) {
    setsockopt(client, SOL_SOCKET, SO_SNDTIMEO, &kSendTimeout, sizeof(kSendTimeout));
    clients[client_count++] = client;
    had_client = true;
    left = false;
    if (restart.count > 0) restart_pause = static_cast<int>(restart.pause_ms);
  } else {
    close(client);
  }
}

// Returns whether no daemon needs the holder any more.
bool Done() { return !stays && held_count == 0 && (was_used || (had_client && client_count == 0)); }

// Returns how long to wait for the next event, in ms.
int Patience() {
  if (stays) return -1;
  if (held_count == 0) return kPatienceMs;
  return client_count == 0 && !left ? restart_pause : -1;
}

// Reads how to restart the daemon; none if it was not started by a command, because then its
// starter restarts it.
void ReadRestart() {
  char* const begin = reinterpret_cast<char*>(&restart);
  size_t size = 0;
  while (size < sizeof(restart)) {
    const ssize_t got = read(kHolderRestart, begin + size, sizeof(restart) - size);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) break;
    size += static_cast<size_t>(got);
  }
  close(kHolderRestart);
  if (size != sizeof(restart) || restart.count > HolderRestart::kMaxArguments) restart.count = 0;
}

// Starts a daemon, and doubles the pause before the next start.
void StartDaemon() {
  static const char kSaid[] = "imagefs-holder: mounts wait for a daemon, starting one\n";
  (void)!write(STDERR_FILENO, kSaid, sizeof(kSaid) - 1);
  restart_pause = restart_pause < kLongestPauseMs / 2 ? 2 * restart_pause : kLongestPauseMs;
  if (fork() != 0) return;
  signal(SIGPIPE, SIG_DFL);
  signal(SIGHUP, SIG_DFL);
  signal(SIGCHLD, SIG_DFL);
  setsid();
  char* arguments[HolderRestart::kMaxArguments + 1] = {};
  char* at = restart.arguments;
  for (uint32_t i = 0; i < restart.count; ++i, at += strlen(at) + 1) arguments[i] = at;
  execv(restart.program, arguments);
  _exit(127);
}

void Detach() {
  // The starter need not wait for the exit of this process.
  if (const pid_t child = fork(); child != 0) _exit(child < 0 ? 1 : 0);
  ReadRestart();
  const int null = open("/dev/null", O_RDWR | O_CLOEXEC);
  const int outputs = restart.count > 0 ? 1 : 3;  // how many to replace, from descriptor 0
  for (int fd = 0; null >= 0 && fd < outputs; ++fd) dup2(null, fd);
  setsid();
}

// Writes to stderr. Returns the exit status.
int Refuse(const char* what, const char* why) {
  dprintf(STDERR_FILENO, "imagefs-holder: %s: %s\n", what, why);
  return 1;
}

constexpr char kSocketName[] = "holder.sock", kTemporaryName[] = "holder.new";

bool Connects() {
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  memcpy(address.sun_path, kSocketName, sizeof(kSocketName));
  const int probe = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
  const bool connected =
      connect(probe, reinterpret_cast<const sockaddr*>(&address), sizeof(address)) == 0;
  close(probe);
  return connected;
}

// Listens in the working directory, as kHolderListener. Returns 0, or the exit status.
int Listen(const char* directory) {
  if (Connects()) return Refuse(directory, "another imagefs-holder listens there");
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  memcpy(address.sun_path, kTemporaryName, sizeof(kTemporaryName));
  const int listener = socket(AF_UNIX, SOCK_SEQPACKET, 0);
  unlink(kTemporaryName);
  if (bind(listener, reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0 ||
      chmod(kTemporaryName, 0600) != 0 || listen(listener, kMaxClients) != 0 ||
      rename(kTemporaryName, kSocketName) != 0) {
    return Refuse(directory, strerror(errno));
  }
  if (listener != kHolderListener) {
    if (dup2(listener, kHolderListener) < 0) return Refuse(directory, strerror(errno));
    close(listener);
  }
  stays = true;
  // The first process of a container gets no signal that it does not handle.
  signal(SIGTERM, [](int) { _exit(0); });
  signal(SIGINT, [](int) { _exit(0); });
  return 0;
}

void Prepare() {
  signal(SIGPIPE, SIG_IGN);
  signal(SIGHUP, SIG_IGN);
  signal(SIGCHLD, SIG_IGN);  // children are not waited for
  (void)!chdir("/");
  prctl(PR_SET_DUMPABLE, 0);
  rlimit limit = {};
  if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
  }
  fcntl(kHolderListener, F_SETFD, FD_CLOEXEC);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc == 3) {
    if (chdir(argv[2]) != 0) return Refuse(argv[2], strerror(errno));
    if (strcmp(argv[1], "--check") == 0) return Connects() ? 0 : 1;
    if (strcmp(argv[1], "--listen") != 0) return Refuse(argv[1], "not known");
    if (const int status = Listen(argv[2]); status != 0) return status;
  } else {
    Detach();
  }
  Prepare();
  while (!Done()) {
    pollfd fds[1 + kMaxClients];
    fds[0] = {kHolderListener, POLLIN, 0};
    const int count = client_count;
    for (int i = 0; i < count; ++i) fds[1 + i] = {clients[i], POLLIN, 0};
    const int ready = poll(fds, static_cast<nfds_t>(1 + count), Patience());
    if (ready < 0) continue;
    if (ready == 0 && client_count == 0 && held_count == 0) return 0;
    if (ready == 0 && held_count > 0) StartDaemon();
    if (fds[0].revents != 0) Accept();
    // In reverse order, so that closing one does not move those before it.
    for (int i = count - 1; i >= 0; --i) {
      if (fds[1 + i].revents == 0 || Answer(clients[i])) continue;
      close(clients[i]);
      clients[i] = clients[--client_count];
    }
  }
  return 0;
}
