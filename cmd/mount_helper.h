// SPDX-License-Identifier: Apache-2.0
// mount.imagefs, the program that mount(8) runs for the type "imagefs" (in fstab or after -t): the
// command imagefs under another name.
#pragma once

#include <string_view>
#include <variant>

#include "cmd/cli.h"

namespace imagefs {

// Returns whether a program invoked under this name is the helper.
bool IsMountHelper(std::string_view program);

// Returns the requested mount, or, if there is nothing to do, the text to print and the exit status
// of mount(8): 1 for wrong usage; 0 after -f, which checks everything that does not need a daemon.
std::variant<Command, CliExit> ParseMountHelper(int argc, const char* const* argv,
                                                std::string_view version);

// Converts the exit status of the verb `mount` to that of mount(8).
int MountHelperStatus(int verb_status);

}  // namespace imagefs
