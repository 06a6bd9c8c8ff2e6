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

// How long a daemon that cannot start answers calls before it fails: it is the pause between two
// tries as well, since the manager has none that grows (RestartSteps= needs systemd 254).
constexpr auto kRefusal = std::chrono::seconds(10);

// Another daemon like this one, for SessionHolder.
std::vector<std::string> RestartCommand(const Command& command, const Paths& paths) {
  std::vector<std::string> out = DaemonCommand(
      paths,
      {StrCat(command.idle_exit_seconds), command.log_level, command.ca_file, command.config});
  out.insert(out.begin(), DaemonProgram());
  return out;
}

absl::StatusOr<std::unique_ptr<Daemon>> Start(const Command& command, const Paths& paths,
                                              std::string_view version,
                                              const std::vector<PassedSocket>& sockets,
                                              std::vector<KeptDescriptor> sessions) {
  Daemon::Options options;
  options.paths = paths;
  options.version = version;
  options.ca_file = command.ca_file;
  options.log_level = command.log_level.empty() ? kDefaultLogLevel : command.log_level;
  options.config_file = ConfigFile(command.config);
  IMAGEFS_ASSIGN_OR_RETURN(options.config, LoadConfig(command.config));
  options.idle_exit = std::chrono::seconds(command.idle_exit_seconds);
  options.starter_holds_lock = command.ready_fd >= 0;
  // One that ends when it is idle is started on demand, by no supervisor.
  if (command.idle_exit_seconds > 0) options.restart = RestartCommand(command, paths);
  options.sessions = std::move(sessions);
  for (const PassedSocket& socket : sockets) {
    IMAGEFS_ASSIGN_OR_RETURN(Fd fd, socket.fd.Duplicate());
    options.sockets.push_back({socket.name, std::move(fd)});
  }
  return Daemon::Start(std::move(options));
}

}  // namespace

int RunDaemon(const Command& command, Paths paths, std::string_view version, Output& out) {
  BlockDaemonSignals();
  SetLogLevel(ParseLogLevel(command.log_level));
  PassedDescriptors passed = TakePassedDescriptors();
  std::vector<PassedSocket> sockets = std::move(passed.sockets);
  const std::string config = ConfigFile(command.config);
  const FileVersion tried = VersionOf(config);
  absl::StatusOr<std::unique_ptr<Daemon>> daemon =
      Start(command, paths, version, sockets, std::move(passed.sessions));
  ReportReady(command.ready_fd, daemon.status());
  if (!daemon.ok()) {
    const int status = out.Fail(daemon.status());
    if (!sockets.empty()) {
      ServeRefusal(paths, std::move(sockets), daemon.status(), config, tried, kRefusal);
    }
    return status;
  }
  sockets.clear();  // the daemon has its own descriptors of them
  (*daemon)->Serve();
  return 0;
}

}  // namespace imagefs
