// SPDX-License-Identifier: Apache-2.0
// The process that owns a store: opens it, mounts again what was mounted, and serves commands until
// it is told to stop or has been idle for long enough. The only place that knows every part.
#pragma once

#include <chrono>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "cmd/config.h"
#include "cmd/options.h"
#include "cmd/service_manager.h"

namespace imagefs {

class Daemon {
 public:
  struct Options {
    Paths paths;
    std::string version;
    std::string ca_file;  // beside the system's CAs
    Config config;
    std::string config_file;               // where that is from, and
    std::string log_level;                 // how much is logged: for those that ask
    std::vector<PassedSocket> sockets;     // of the service manager
    std::vector<KeptDescriptor> sessions;  // that it kept for the daemon before this one
    std::chrono::seconds idle_exit{0};     // without mounts and calls; 0 = never
    // SIGTERM and SIGINT end Serve (the caller has blocked them in every thread).
    bool handle_signals = true;
    // Whoever started this process holds the start lock until it listens.
    bool starter_holds_lock = false;
    // As SessionHolder::Options has it; empty: a supervisor starts the next daemon.
    std::vector<std::string> restart;
  };
  // Returns a daemon that listens. The error is one for the user: the store is another's, ...
  static absl::StatusOr<std::unique_ptr<Daemon>> Start(Options options);
  // Ends what runs. Mounts that are left are taken down and stay recorded.
  virtual ~Daemon() = default;

  // Serves; returns after a signal, RequestStop, a Shutdown call or the idle time, when every call
  // has ended and everything is unmounted. SIGTERM keeps the records of mounts, so that the next
  // daemon mounts them again; SIGINT, meant for a daemon run by hand, does not.
  virtual void Serve() = 0;
  // Any thread.
  virtual void RequestStop(bool forget_mounts) = 0;
};

}  // namespace imagefs
