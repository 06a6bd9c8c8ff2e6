// SPDX-License-Identifier: Apache-2.0
// Mounts as the command does, for the verbs that leave a mount (mount_verb.cc).
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "cmd/client_session.h"

namespace imagefs {

// Has the image mounted: by the daemon, or by this process if only it can reach the directory.
// `name_space` as in MountForDaemon::Options.
absl::StatusOr<control::v1::MountResult> MountBy(ClientSession& session, DaemonClient& client,
                                                 control::v1::MountRequest& request,
                                                 const std::string& name_space = "");

}  // namespace imagefs
