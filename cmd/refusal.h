// A daemon that cannot start, on sockets of the service manager: commands and containerd wait there
// for a daemon, and would wait for ever without a word while the manager starts it again and again.
#pragma once

#include <chrono>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "cmd/options.h"
#include "cmd/service_manager.h"

namespace imagefs {

// Answers every call on the sockets, of whatever service, with kFailedPrecondition and the message
// of `why`. Returns after `at_most`, after a signal of DaemonSignals (which the caller has
// blocked), or as soon as the file `config` is another one or was changed, so that the next daemon
// tries it.
void ServeRefusal(const Paths& paths, std::vector<PassedSocket> sockets, const absl::Status& why,
                  const std::string& config, std::chrono::milliseconds at_most);

}  // namespace imagefs
