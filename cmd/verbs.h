// What each verb of the command does. Prints to stdout and stderr; returns the exit status of
// docs/cli.md.
#pragma once

#include <memory>
#include <string_view>

#include "absl/status/statusor.h"
#include "cmd/cli.h"
#include "cmd/daemon.h"

namespace imagefs {

// Makes a daemon in this process; what only the program imagefsd has.
using StartDaemon = absl::StatusOr<std::unique_ptr<Daemon>> (*)(Daemon::Options);

// Whether the verb makes a daemon of its own process: `daemon`, `mount --foreground`.
bool NeedsDaemonProgram(const Command& command);

// `start_daemon` is null in a program that cannot be a daemon. REQUIRES: then it is not needed.
int RunCommand(const Command& command, std::string_view version, StartDaemon start_daemon);

}  // namespace imagefs
