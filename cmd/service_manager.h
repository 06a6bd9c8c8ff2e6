// SPDX-License-Identifier: Apache-2.0
// The interface to systemd, by sd_listen_fds(3), sd_notify(3) and sd_watchdog_enabled(3): listening
// sockets it passes, descriptors it keeps, state notifications and watchdog pings. Does nothing
// without systemd. This header's .cc is the only user of libsystemd.
#pragma once

#include <chrono>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/fd.h"
#include "fs/descriptor_keeper.h"

namespace imagefs {

// Socket names, as in FileDescriptorName= of imagefs.socket. If the daemon creates the socket NAME
// itself, its path is <run>/NAME.sock.
inline constexpr char kControlSocket[] = "control";
inline constexpr char kSnapshotterSocket[] = "snapshotter";
inline constexpr char kCriSocket[] = "cri";

struct PassedSocket {
  std::string name;
  Fd fd;
};

struct PassedDescriptors {
  std::vector<PassedSocket> sockets;     // filtered by UsableSockets
  std::vector<KeptDescriptor> sessions;  // stored by the previous daemon
};
// Takes the descriptors that the service manager passed to this process. Changes the environment,
// so that child processes do not take them: call it once, before there are threads that read the
// environment.
PassedDescriptors TakePassedDescriptors();

// Returns the service manager's descriptor store (sd_pid_notify_with_fds(3), FDSTORE=1) with its
// contents, or null if there is none: there is no manager, or its unit does not enable the store
// (FileDescriptorStoreMax=, and before systemd 254 also IMAGEFS_SESSION_STORE=systemd in the
// environment).
std::unique_ptr<DescriptorKeeper> ServiceManagerKeeper(std::vector<KeptDescriptor> sessions);

// Returns the sockets of `passed` that the daemon can use: a known name, used once, and a listening
// stream socket of AF_UNIX. Logs and closes the others. Makes the sockets non-blocking, and this
// process instead of the manager the peer (SO_PEERCRED) of new connections.
std::vector<PassedSocket> UsableSockets(std::vector<PassedSocket> passed);

// Sends lines of sd_notify(3). Best effort: failures are logged.
void NotifyServiceManager(const std::string& lines);

// Watchdog pings. Only the daemon's main loop sends them, so that a hung loop is noticed. Not
// thread-safe.
class Watchdog {
 public:
  using Clock = std::chrono::steady_clock;
  // Returns the service manager's watchdog timeout; 0 = none.
  static Clock::duration LimitFromEnvironment();
  explicit Watchdog(Clock::duration limit) : interval_(limit / 2) {}

  // Returns how long poll(2) may wait: `timeout_ms` (-1 = no limit), or less.
  int PollTimeoutMs(int timeout_ms, Clock::time_point now) const;
  // Call once per iteration of the loop; sends a ping when it is due.
  void Turn(Clock::time_point now);

 private:
  const Clock::duration interval_;  // 0 = no watchdog
  Clock::time_point next_;          // the first Turn sends a ping
};

}  // namespace imagefs
