// SPDX-License-Identifier: Apache-2.0
// Runs the verbs of the command. Prints to stdout and stderr; returns the exit status of
// docs/json.md.
#pragma once

#include <memory>
#include <string_view>

#include "absl/status/statusor.h"
#include "cmd/cli.h"
#include "cmd/daemon.h"
#include "cmd/options.h"
#include "cmd/output.h"

namespace imagefs {

// Only the program imagefsd has these.
struct DaemonProgramParts {
  absl::StatusOr<std::unique_ptr<Daemon>> (*start)(Daemon::Options);
  int (*run)(const GlobalOptions&, const DaemonArgs&, Paths, std::string_view version, Output&);
  int (*doctor)(const GlobalOptions&, const DoctorArgs&, Paths, std::string_view version, Output&);
  int (*login)(const GlobalOptions&, const LoginArgs&, Paths, std::string_view version, Output&);
  int (*logout)(const GlobalOptions&, const LogoutArgs&, Paths, std::string_view version, Output&);
};

// Returns whether the verb runs the daemon, or a part of it, in its own process: `daemon`,
// `doctor`, `login`, `logout`, `mount --foreground`.
bool NeedsDaemonProgram(const Command& command);

// `daemon` is null in a program that cannot be a daemon. REQUIRES: it is not null if
// NeedsDaemonProgram(command).
int RunCommand(const Command& command, std::string_view version, const DaemonProgramParts* daemon);

}  // namespace imagefs
