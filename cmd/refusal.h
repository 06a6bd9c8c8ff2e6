// SPDX-License-Identifier: Apache-2.0
// A daemon that cannot start, on sockets of the service manager: commands and containerd wait there
// for a daemon, and would wait for ever without a word while the manager starts it again and again.
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

// What changes with the content of a file, or when it comes or goes.
using FileVersion = std::tuple<bool, dev_t, ino_t, off_t, time_t, long>;
FileVersion VersionOf(const std::string& file);

// Answers every call on the sockets, of whatever service, with kFailedPrecondition and the message
// of `why`. Returns after `at_most`, after a signal of DaemonSignals (which the caller has
// blocked), or as soon as the file `config` is no longer of the version `tried`, which the caller
// took before it read the file. Who connects after such a change is left to the next daemon.
void ServeRefusal(const Paths& paths, std::vector<PassedSocket> sockets, const absl::Status& why,
                  const std::string& config, const FileVersion& tried,
                  std::chrono::milliseconds at_most);

}  // namespace imagefs
