// SPDX-License-Identifier: Apache-2.0
// Unmounts as the command does: what it has mounted in a mount namespace that is not the daemon's,
// it unmounts itself. Part of the verbs.
#pragma once

#include "absl/status/status.h"

namespace imagefs {

class DaemonClient;

namespace control::v1 {
class UnmountReply;
class UnmountRequest;
}  // namespace control::v1

// Like DaemonClient::Unmount, for directories as this process sees them.
absl::Status Unmount(DaemonClient& client, control::v1::UnmountRequest request,
                     control::v1::UnmountReply* reply);

}  // namespace imagefs
