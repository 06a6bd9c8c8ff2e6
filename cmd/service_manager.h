// SPDX-License-Identifier: Apache-2.0
// What systemd has to do with the daemon, by sd_listen_fds(3), sd_notify(3) and
// sd_watchdog_enabled(3): listening sockets that it passes, descriptors that it keeps, the states
// that it is told, the pings that it waits for. Without systemd all of it does nothing. The only
// user of libsystemd is this header's .cc.
#pragma once

#include <chrono>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/fd.h"
#include "fs/descriptor_keeper.h"

namespace imagefs {

// Names of sockets, as FileDescriptorName= of imagefs.socket has them. The one of NAME is
// <run>/NAME.sock where the daemon makes it itself.
inline constexpr char kControlSocket[] = "control";
inline constexpr char kSnapshotterSocket[] = "snapshotter";
inline constexpr char kCriSocket[] = "cri";

struct PassedSocket {
  std::string name;
  Fd fd;
};

struct PassedDescriptors {
  std::vector<PassedSocket> sockets;     // see UsableSockets
  std::vector<KeptDescriptor> sessions;  // that the daemon before this one had it keep
};
// Those that the service manager passed to this process. Changes the environment, so that children
// do not take them for theirs: call it once, before the process has threads that read it.
PassedDescriptors TakePassedDescriptors();

// The service manager's descriptor store (sd_pid_notify_with_fds(3), FDSTORE=1), with what it had;
// null where it keeps none: there is no manager, or its unit does not say so
// (FileDescriptorStoreMax=, and before systemd 254 also IMAGEFS_SESSION_STORE=systemd in the
// environment).
std::unique_ptr<DescriptorKeeper> ServiceManagerKeeper(std::vector<KeptDescriptor> sessions);

// Those of `passed` that the daemon can use: a name that it knows, once, and a listening stream
// socket of AF_UNIX. Others are logged and closed. Those kept do not block in accept(2), and
// whoever connects from now on sees this process at the other end (SO_PEERCRED), not the manager.
std::vector<PassedSocket> UsableSockets(std::vector<PassedSocket> passed);

// Lines of sd_notify(3). What cannot be sent is logged: nobody waits for the answer.
void NotifyServiceManager(const std::string& lines);

// Pings of the watchdog. They come from the loop that does the daemon's work and from nowhere else,
// so that a loop that hangs is noticed. Not thread-safe.
class Watchdog {
 public:
  using Clock = std::chrono::steady_clock;
  // What the service manager waits for; 0 = it does not.
  static Clock::duration LimitFromEnvironment();
  explicit Watchdog(Clock::duration limit) : interval_(limit / 2) {}

  // How long poll(2) may wait: `timeout_ms` (-1 = without end), or less.
  int PollTimeoutMs(int timeout_ms, Clock::time_point now) const;
  // Once a turn of the loop: sends a ping when it is time.
  void Turn(Clock::time_point now);

 private:
  const Clock::duration interval_;  // 0 = nobody waits
  Clock::time_point next_;          // the first turn pings
};

}  // namespace imagefs
