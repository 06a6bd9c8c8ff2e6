// SPDX-License-Identifier: Apache-2.0
// The daemon's control service (proto/control.proto), on top of the store and the mounts. A waiting
// call holds no thread: Mount and Pull run on the callbacks of the single-flight tasks they joined,
// and work that blocks on the local disk or mount(2) runs on the executor.
//
// If a caller goes away, its tickets are released, and a mount it has not been told of is undone.
// Thread-safe. Destroy the gRPC server first.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/executor.h"
#include "cache/index_trust.h"
#include "cmd/image_users.h"
#include "fetch/endpoint_identity.h"
#include "image/reference.h"

namespace grpc {
class Service;
}

namespace imagefs {

class CallMetrics;
class FuseLoop;
class ImageStore;
class MountChannels;
class MountTable;
class PodmanStore;
class Publications;
class SourceFactory;

class ControlService {
 public:
  struct Deps {
    ImageStore& store;
    SourceFactory& sources;
    MountTable& mounts;
    const FuseLoop* fuse;  // for its counters; may be null
    Executor& executor;
    Publications& publications;
    // Renews a credential that came with a call; may be empty.
    std::function<CredentialRefresh(const Reference&)> refresh_of = nullptr;
    PodmanStore* podman = nullptr;  // null in a user's daemon
    // Whose indexes of an image the command's mounts trust; not used for podman.
    TrustOf trust_of = [](const Reference&) { return IndexTrust::Any(); };
    RuntimeUsers runtime_users = nullptr;
    CallMetrics* metrics = nullptr;     // may be null
    MountChannels* channels = nullptr;  // null: no caller can mount
  };
  struct Options {
    std::string version;
    std::string root;
    std::string run;
    // Returned by Version.
    std::string config_file, ca_file, proxies;
    // Called by Shutdown; must not block.
    std::function<void(bool unmount)> request_stop;
    // Counters of parts this service does not know; may be empty.
    std::function<std::vector<std::pair<std::string, uint64_t>>()> more_counters;
    std::vector<std::string> warnings;  // shown by Status
    std::chrono::milliseconds progress_interval{100};
  };
  static std::unique_ptr<ControlService> Create(Options options, Deps deps);
  virtual ~ControlService() = default;

  // Register it with a server.
  virtual grpc::Service& service() = 0;

  struct Activity {
    int running_calls = 0;
    std::chrono::steady_clock::time_point last_call_end;  // or the start of the service
  };
  virtual Activity activity() const = 0;
};

}  // namespace imagefs
