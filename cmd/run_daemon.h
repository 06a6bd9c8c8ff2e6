// SPDX-License-Identifier: Apache-2.0
// The verb `daemon`: a process that is the daemon until it is told to end.
#pragma once

#include <string_view>

#include "cmd/cli.h"
#include "cmd/options.h"
#include "cmd/output.h"

namespace imagefs {

int RunDaemon(const GlobalOptions& global, const DaemonArgs& args, Paths paths,
              std::string_view version, Output& out);

}  // namespace imagefs
