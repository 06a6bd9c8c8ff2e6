// SPDX-License-Identifier: Apache-2.0
// Asks the user for a password. Not thread-safe: there is one standard input.
#pragma once

#include <cstddef>
#include <string_view>

#include "absl/status/statusor.h"
#include "base/secret.h"
#include "cmd/interrupt.h"

namespace imagefs {

// Returns whether a user can be asked: standard input is a terminal.
bool CanAskUser();

// Reads one line of standard input, without its newline; bytes after it are left there. On a
// terminal, writes `question` to standard error and does not show what is typed. Returns kNotFound
// if the input ends before its first byte, kInvalidArgument for a line longer than `max_bytes`, and
// kCancelled after an interrupt. Blocks.
absl::StatusOr<Secret> ReadPassword(std::string_view question, size_t max_bytes,
                                    Interrupts& interrupts);

// The same for text that may be shown while it is typed.
absl::StatusOr<Secret> ReadAnswer(std::string_view question, size_t max_bytes,
                                  Interrupts& interrupts);

}  // namespace imagefs
