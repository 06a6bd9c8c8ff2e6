// SPDX-License-Identifier: Apache-2.0
// The secret key for imagefs index --sign. It never leaves this process.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "base/minisign.h"
#include "cmd/interrupt.h"

namespace imagefs {

// Reads a minisign secret key. If it has a password, asks for it on the terminal without echo, or
// reads one line of standard input if that is not a terminal. Rejects a file that anyone but its
// owner can read. Prevents core files of this process and tracing by others. Returns kCancelled if
// interrupted.
absl::StatusOr<MinisignSecretKey> ReadSigningKey(const std::string& path, Interrupts& interrupts);

}  // namespace imagefs
