// SPDX-License-Identifier: Apache-2.0
// The daemon's listening sockets. Each passes its connections on, mostly to a gRPC server, after
// checking the peer: only this process's user and root may connect. A socket is either passed by
// the service manager (which keeps it: its name is never removed, and clients that connect while no
// daemon runs wait for the next one) or created here as <run>/NAME.sock. A name that was created
// here and has disappeared is created again. Used by one thread.
#pragma once

#include <poll.h>
#include <sys/types.h>

#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "base/fd.h"
#include "base/monotonic.h"
#include "cmd/options.h"
#include "cmd/service_manager.h"

namespace grpc {
class Server;
}

namespace imagefs {

class Listeners {
 public:
  // Sockets of `passed` without an Add are kept open but not polled: clients wait for a daemon that
  // serves them.
  Listeners(Paths paths, std::vector<PassedSocket> passed);
  Listeners(const Listeners&) = delete;
  Listeners& operator=(const Listeners&) = delete;
  ~Listeners() { Close(); }

  // Passes connections to the socket `name` to `server`, which must outlive this object or its
  // Close. The control socket is refused if another daemon listens there.
  absl::Status Add(std::string_view name, grpc::Server& server);
  // The same for what is not gRPC. `accept` gets non-blocking connections; it must not block.
  using Accepts = std::function<void(Fd connection)>;
  absl::Status Add(std::string_view name, Accepts accept);
  // The same for a socket in the store, through which commands find the daemon that know only the
  // store, or see another run directory. If the file system does not support sockets, only logs
  // that.
  void AddInStore(std::string_view name, grpc::Server& server);
  void AddInStore(std::string_view name, Accepts accept);

  // Appends one entry per socket with a server; pass the same entries to Accept after poll(2).
  void AppendTo(std::vector<pollfd>* fds) const;
  void Accept(absl::Span<const pollfd> polled);

  // Call periodically. Creates the sockets again whose names were removed, and the run directory if
  // its parent exists. Does nothing while another process holds the start lock.
  void Repair();

  // Removes the names of the daemon's own sockets before an idle exit, such that no command can
  // have connected in between. Returns false if one has; then everything is as before. REQUIRES:
  // the start lock is held.
  bool Retire();
  // Removes the names of the daemon's own sockets and closes all sockets. Idempotent.
  void Close();

 private:
  struct Listener {
    std::string name;
    std::string directory;
    Fd fd;
    bool inherited = false;
    bool gone = false;  // the name has disappeared, and that was logged
    Accepts accept;     // null: not served
    // Of the name created here: another process may have replaced the socket since.
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
  Fd spare_;              // closed briefly to refuse a connection when no descriptors are left
  uint64_t refused_ = 0;  // since the last line about it
  Moment tell_refused_at_ = Moment::InfinitePast();
};

}  // namespace imagefs
