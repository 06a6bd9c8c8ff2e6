// SPDX-License-Identifier: Apache-2.0
// mount.imagefs, the program that mount(8) runs for the type "imagefs" (an entry of fstab, or
// `mount -t imagefs REF DIR`): the command imagefs under another name.
//   mount.imagefs REF DIR [-sfnv] [-N NAMESPACE] [-o WORDS] [-t TYPE]
// Pure.
#pragma once

#include <string_view>
#include <variant>

#include "cmd/cli.h"

namespace imagefs {

// Whether a program that was called by this name is the helper.
bool IsMountHelper(std::string_view program);

// The mount that was asked for, or what to print and the exit status (of mount(8)) where there is
// nothing to do: 1 wrong usage; 0 after -f, which checks everything that needs no daemon.
std::variant<Command, CliExit> ParseMountHelper(int argc, const char* const* argv,
                                                std::string_view version);

// mount(8)'s exit status for the one of the verb `mount`.
int MountHelperStatus(int verb_status);

}  // namespace imagefs
