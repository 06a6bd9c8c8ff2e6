// SPDX-License-Identifier: Apache-2.0
#include "cmd/run_daemon.h"

#include <signal.h>

#include <chrono>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/fd.h"
#include "base/log.h"
#include "base/status.h"
#include "base/text.h"
#include "cmd/config.h"
#include "cmd/daemon.h"
#include "cmd/interrupt.h"
#include "cmd/refusal.h"
#include "cmd/rendezvous.h"
#include "cmd/service_manager.h"

namespace imagefs {
namespace {

// How long a daemon that cannot start answers calls before it exits. This is also the pause between
// two starts, since the manager has no back-off (RestartSteps= needs systemd 254).
constexpr auto kRefusal = std::chrono::seconds(10);

// The command that starts another daemon like this one, for SessionHolder.
std::vector<std::string> RestartCommand(const GlobalOptions& global, const DaemonArgs& args,
                                        const Paths& paths) {
  std::vector<std::string> out = DaemonCommand(
      paths, {StrCat(args.idle_exit_seconds), global.log_level, global.ca_file, global.config});
  out.insert(out.begin(), DaemonProgram());
  return out;
}

absl::StatusOr<std::unique_ptr<Daemon>> Start(const GlobalOptions& global, const DaemonArgs& args,
                                              const Paths& paths, std::string_view version,
                                              const std::vector<PassedSocket>& sockets,
                                              std::vector<KeptDescriptor> sessions) {
  Daemon::Options options;
  options.paths = paths;
  options.version = version;
  options.ca_file = global.ca_file;
  options.config_file = ConfigFile(global.config);
  IMAGEFS_ASSIGN_OR_RETURN(options.config, LoadConfig(global.config));
  if (global.log_level.empty() && !options.config.log_level.empty()) {
    SetLogLevel(ParseLogLevel(options.config.log_level));
  }
  options.idle_exit = std::chrono::seconds(args.idle_exit_seconds);
  options.starter_holds_lock = args.ready_fd >= 0;
  // A daemon with an idle exit was started on demand, not by a supervisor.
  if (args.idle_exit_seconds > 0) options.restart = RestartCommand(global, args, paths);
  options.sessions = std::move(sessions);
  for (const PassedSocket& socket : sockets) {
    IMAGEFS_ASSIGN_OR_RETURN(Fd fd, socket.fd.Duplicate());
    options.sockets.push_back({socket.name, std::move(fd)});
  }
  return Daemon::Start(std::move(options));
}

}  // namespace

int RunDaemon(const GlobalOptions& global, const DaemonArgs& args, Paths paths,
              std::string_view version, Output& out) {
  BlockDaemonSignals();
  SetLogLevel(ParseLogLevel(global.log_level));
  PassedDescriptors passed = TakePassedDescriptors();
  std::vector<PassedSocket> sockets = std::move(passed.sockets);
  const std::string config = ConfigFile(global.config);
  const FileVersion tried = VersionOf(config);
  absl::StatusOr<std::unique_ptr<Daemon>> daemon =
      Start(global, args, paths, version, sockets, std::move(passed.sessions));
  ReportReady(args.ready_fd, daemon.status());
  if (!daemon.ok()) {
    const int status = out.Fail(NoDaemonBecause(daemon.status()));
    if (!sockets.empty()) {
      ServeRefusal(paths, std::move(sockets), daemon.status(), config, tried, kRefusal);
    }
    return status;
  }
  sockets.clear();  // the daemon has its own duplicates
  (*daemon)->Serve();
  return 0;
}

}  // namespace imagefs
