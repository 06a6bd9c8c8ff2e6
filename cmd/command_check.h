// SPDX-License-Identifier: Apache-2.0
// Which arguments of a command exclude each other, need each other or have no effect together. For
// cmd/cli.h, which checks each argument alone. Pure.
#pragma once

#include <string>

namespace imagefs {

struct Command;

// Returns "" or what is wrong, for a usage error.
std::string CheckCommand(const Command& command);

}  // namespace imagefs
