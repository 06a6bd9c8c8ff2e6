// SPDX-License-Identifier: Apache-2.0
// Serves the service manager's sockets for a daemon that cannot start. Otherwise commands and
// containerd would wait there silently and forever while the manager restarts it again and again.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <string>
#include <tuple>
#include <vector>

#include "absl/status/status.h"
#include "cmd/options.h"
#include "cmd/service_manager.h"

namespace imagefs {

// Changes whenever the content of a file changes, and when it is created or removed.
using FileVersion = std::tuple<bool, dev_t, ino_t, off_t, time_t, long>;
FileVersion VersionOf(const std::string& file);

// Answers every call on the sockets, of any service, with kFailedPrecondition and the message of
// `why`. Returns after `at_most`, after a signal of DaemonSignals (which the caller must have
// blocked), or when the file `config` no longer has the version `tried`, which the caller took
// before reading the file. Connections after such a change are left to the next daemon.
void ServeRefusal(const Paths& paths, std::vector<PassedSocket> sockets, const absl::Status& why,
                  const std::string& config, const FileVersion& tried,
                  std::chrono::milliseconds at_most);

}  // namespace imagefs
