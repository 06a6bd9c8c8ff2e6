// SPDX-License-Identifier: Apache-2.0
// The verb `daemon`: runs the daemon in this process until it is told to stop.
#pragma once

#include <string_view>

#include "cmd/cli.h"
#include "cmd/options.h"
#include "cmd/output.h"

namespace imagefs {

int RunDaemon(const GlobalOptions& global, const DaemonArgs& args, Paths paths,
              std::string_view version, Output& out);

}  // namespace imagefs
