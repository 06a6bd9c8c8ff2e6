// What each verb of the command does. Prints to stdout and stderr; returns the exit status of
// docs/cli.md.
#pragma once

#include <string_view>

#include "cmd/cli.h"

namespace imagefs {

int RunCommand(const Command& command, std::string_view version);

}  // namespace imagefs
