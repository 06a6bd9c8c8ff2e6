// SPDX-License-Identifier: Apache-2.0
// The daemon's listening sockets. Each hands its connections to one gRPC server, after a look at
// who connects: this process's user and root only. A socket is either passed by the service manager
// (then it stays the manager's: its name is never taken away, and who connects while no daemon runs
// waits for the next one), or made here as <run>/NAME.sock. A name that was made here and is gone
// is made again. Used by one thread.
#pragma once

#include <poll.h>
#include <sys/types.h>

#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "base/fd.h"
#include "cmd/options.h"
#include "cmd/service_manager.h"

namespace grpc {
class Server;
}

namespace imagefs {

class Listeners {
 public:
  // Sockets of `passed` that nobody is added for are kept and not looked at: who connects there
  // waits for a daemon that serves them.
  Listeners(Paths paths, std::vector<PassedSocket> passed);
  Listeners(const Listeners&) = delete;
  Listeners& operator=(const Listeners&) = delete;
  ~Listeners() { Close(); }

  // Connections to the socket `name` go to `server`, which outlives this object or its Close. The
  // control socket is refused when another daemon listens there.
  absl::Status Add(std::string_view name, grpc::Server& server);
  // The same for the socket of commands in the store, which leads those to the daemon that know the
  // store only. Where the file system has no sockets that is logged, and all.
  void AddInStore(grpc::Server& server);

  // One entry for each socket with a server; Accept takes the same entries after poll(2).
  void AppendTo(std::vector<pollfd>* fds) const;
  void Accept(absl::Span<const pollfd> polled);

  // Every now and then: makes the sockets again whose names were taken away, and the run directory
  // where the directory above it is there. Does nothing while somebody holds the start lock.
  void Repair();

  // Before an idle exit, under the start lock: takes the names of own sockets away, such that no
  // command can have connected in the meantime. False when one has; then all is as before.
  bool Retire();
  // Takes the names of own sockets away and closes all. Idempotent.
  void Close();

 private:
  struct Listener {
    std::string name;
    std::string directory;
    Fd fd;
    bool inherited = false;
    bool gone = false;  // and that was logged
    grpc::Server* server = nullptr;
    // Of the name that was made here: somebody may have put another socket there since.
    dev_t device = 0;
    ino_t inode = 0;
  };
  static std::string PathOf(const Listener& listener);
  absl::Status Open(Listener* listener) const;
  static void RemoveName(const Listener& listener);
  absl::Status Reopen(Listener* listener);
  void AcceptFrom(const Listener& listener);
  void RefuseFrom(const Listener& listener);
  static bool Pending(const Listener& listener);

  const Paths paths_;
  std::vector<Listener> listeners_;
  Fd spare_;  // given up for a moment to refuse a connection when no descriptors are left
};

}  // namespace imagefs
