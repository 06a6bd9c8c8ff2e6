// SPDX-License-Identifier: Apache-2.0
#include "cmd/service_manager.h"

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <systemd/sd-daemon.h>

#include <algorithm>
#include <utility>

#include "base/log.h"
#include "base/status.h"
#include "base/text.h"
#include "cmd/rendezvous.h"

namespace imagefs {
namespace {

// Prefix of the names of session descriptors, before the session's id.
constexpr std::string_view kSessionName = "session-";
constexpr uint64_t kBarrierUs = 5'000'000;

constexpr std::string_view kKnownNames[] = {kControlSocket, kSnapshotterSocket, kCriSocket};

// Returns "" or why the socket is unusable.
std::string_view WhyUnusable(const PassedSocket& socket, const std::vector<PassedSocket>& kept) {
  if (std::find(std::begin(kKnownNames), std::end(kKnownNames), socket.name) ==
      std::end(kKnownNames)) {
    return "the name is not known";
  }
  for (const PassedSocket& other : kept) {
    if (other.name == socket.name) return "another one has the same name";
  }
  if (sd_is_socket(socket.fd.get(), AF_UNIX, SOCK_STREAM, /*listening=*/1) <= 0) {
    return "not a listening AF_UNIX stream socket";
  }
  const int flags = fcntl(socket.fd.get(), F_GETFL);
  if (flags < 0 || fcntl(socket.fd.get(), F_SETFL, flags | O_NONBLOCK) != 0) return strerror(errno);
  // A second listen() makes this process the peer of new connections.
  if (listen(socket.fd.get(), kSocketBacklog) != 0) return strerror(errno);
  return "";
}

class SystemdKeeper : public DescriptorKeeper {
 public:
  explicit SystemdKeeper(std::vector<KeptDescriptor> sessions) : sessions_(std::move(sessions)) {}

  absl::Status Keep(const std::string& name, const Fd& fd) override {
    const std::string lines = StrCat("FDSTORE=1\nFDNAME=", kSessionName, name, "\nFDPOLL=0");
    const int number = fd.get();
    int result = sd_pid_notify_with_fds(0, /*unset_environment=*/0, lines.c_str(), &number, 1);
    // Messages are processed in order: when the barrier is answered, the descriptor has been
    // stored.
    if (result > 0) result = sd_notify_barrier(/*unset_environment=*/0, kBarrierUs);
    if (result > 0) return absl::OkStatus();
    return ErrnoStatus(-result, "the service manager keeps no descriptor");
  }
  void Drop(const std::string& name) override {
    NotifyServiceManager(StrCat("FDSTOREREMOVE=1\nFDNAME=", kSessionName, name));
  }
  std::vector<KeptDescriptor> Inherit() override { return std::move(sessions_); }

 private:
  std::vector<KeptDescriptor> sessions_;
};

}  // namespace

PassedDescriptors TakePassedDescriptors() {
  PassedDescriptors out;
  std::vector<PassedSocket> sockets;
  char** names = nullptr;
  const int count = sd_listen_fds_with_names(/*unset_environment=*/1, &names);
  if (count < 0) LogError("passed_sockets_unusable cause=", strerror(-count));
  for (int i = 0; i < count; ++i) {
    std::string_view name = names[i];
    Fd fd(SD_LISTEN_FDS_START + i);
    if (ConsumePrefix(&name, kSessionName)) {
      out.sessions.push_back({std::string(name), std::move(fd)});
    } else {
      sockets.push_back({std::string(name), std::move(fd)});
    }
    free(names[i]);
  }
  free(names);
  out.sockets = UsableSockets(std::move(sockets));
  return out;
}

std::unique_ptr<DescriptorKeeper> ServiceManagerKeeper(std::vector<KeptDescriptor> sessions) {
  const char* socket = getenv("NOTIFY_SOCKET");
  const char* store = getenv("FDSTORE");  // the manager's limit, since systemd 254
  const char* said = getenv("IMAGEFS_SESSION_STORE");
  const bool keeps = (store != nullptr && strcmp(store, "0") != 0) ||
                     (said != nullptr && std::string_view(said) == "systemd");
  if (socket == nullptr || !keeps) return nullptr;
  return std::make_unique<SystemdKeeper>(std::move(sessions));
}

std::vector<PassedSocket> UsableSockets(std::vector<PassedSocket> passed) {
  std::vector<PassedSocket> kept;
  for (PassedSocket& socket : passed) {
    const std::string_view why_not = WhyUnusable(socket, kept);
    if (why_not.empty()) {
      kept.push_back(std::move(socket));
    } else {
      LogWarning("passed_socket_closed name=", Printable(socket.name), " cause=", why_not);
    }
  }
  return kept;
}

void NotifyServiceManager(const std::string& lines) {
  const int result = sd_notify(/*unset_environment=*/0, lines.c_str());
  if (result < 0) LogWarning("notify_failed cause=", strerror(-result));
}

Watchdog::Clock::duration Watchdog::LimitFromEnvironment() {
  uint64_t limit_us = 0;
  if (sd_watchdog_enabled(/*unset_environment=*/0, &limit_us) <= 0) return Clock::duration::zero();
  // A limit that does not fit into the clock is no limit.
  if (limit_us > static_cast<uint64_t>(INT64_MAX) / 1000) return Clock::duration::zero();
  return std::chrono::microseconds(static_cast<int64_t>(limit_us));
}

int Watchdog::PollTimeoutMs(int timeout_ms, Clock::time_point now) const {
  if (interval_ == Clock::duration::zero()) return timeout_ms;
  const auto left = std::chrono::ceil<std::chrono::milliseconds>(next_ - now).count();
  const int64_t most = timeout_ms < 0 ? INT32_MAX : timeout_ms;
  return static_cast<int>(std::clamp<int64_t>(left, 0, most));
}

void Watchdog::Turn(Clock::time_point now) {
  if (interval_ == Clock::duration::zero() || now < next_) return;
  next_ = now + interval_;
  NotifyServiceManager("WATCHDOG=1");
}

}  // namespace imagefs
