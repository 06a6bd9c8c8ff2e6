// SPDX-License-Identifier: Apache-2.0
// The process that owns a store. It opens the store, recovers the recorded mounts, and serves
// commands until it is told to stop or has been idle long enough. The only place that knows every
// part.
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
    std::string ca_file;  // in addition to the system's CAs
    Config config;
    std::string config_file;               // path of `config`; Version reports it
    std::vector<PassedSocket> sockets;     // passed by the service manager
    std::vector<KeptDescriptor> sessions;  // that it kept for the previous daemon
    std::chrono::seconds idle_exit{0};     // without calls and mounts that need it; 0 = never
    // SIGTERM and SIGINT end Serve. REQUIRES: the caller has blocked them in every thread.
    bool handle_signals = true;
    // The starter of this process holds the start lock until the daemon listens.
    bool starter_holds_lock = false;
    // As in SessionHolder::Options; empty if a supervisor starts the next daemon.
    std::vector<std::string> restart;
  };
  // Returns a daemon that listens. The error is meant for the user, e.g. if another daemon owns the
  // store.
  static absl::StatusOr<std::unique_ptr<Daemon>> Start(Options options);
  // Stops serving if Serve has not. Blocks until running work has ended. Mounts and FUSE sessions
  // are left for the next daemon (docs/lifetimes.md), unless Serve was told to forget them.
  virtual ~Daemon() = default;

  // Serves until a signal, RequestStop, a Shutdown call or the idle timeout; returns when every
  // call has ended. Mounts and their records outlive it (docs/lifetimes.md), except after SIGINT,
  // which is meant for a daemon run by hand, and after RequestStop(true): these unmount everything
  // and delete the records.
  virtual void Serve() = 0;
  // Thread-safe. Returns at once.
  virtual void RequestStop(bool forget_mounts) = 0;
};

}  // namespace imagefs
