// SPDX-License-Identifier: Apache-2.0
// The secret key that imagefs index --sign names. It never leaves this process.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "base/minisign.h"
#include "cmd/interrupt.h"

namespace imagefs {

// Reads a secret key of minisign. Where it has a password, that is asked for on the terminal,
// without echo, or is one line of the standard input when that is no terminal. A file that others
// than its owner can read is refused. Makes the process leave no core file and be no other's to
// trace. kCancelled when an interrupt came first.
absl::StatusOr<MinisignSecretKey> ReadSigningKey(const std::string& path, Interrupts& interrupts);

}  // namespace imagefs
