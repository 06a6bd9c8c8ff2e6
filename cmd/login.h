// SPDX-License-Identifier: Apache-2.0
// `imagefs login` and `imagefs logout`. They need no daemon and start none, but run in the process
// of the daemon's program: it asks registries by the daemon's means, and wipes the memory in which
// credentials were.
#pragma once

#include <string_view>

#include "cmd/cli.h"
#include "cmd/options.h"
#include "cmd/output.h"

namespace imagefs {

// Both return the exit status.
int RunLogin(const GlobalOptions& global, const LoginArgs& args, Paths paths,
             std::string_view version, Output& out);
int RunLogout(const GlobalOptions& global, const LogoutArgs& args, Paths paths,
              std::string_view version, Output& out);

}  // namespace imagefs
