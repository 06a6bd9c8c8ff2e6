// SPDX-License-Identifier: Apache-2.0
// The daemon's control service (proto/control.proto) over the store and the mounts. A waiting call
// holds no thread: Mount and Pull are driven by the callbacks of the flights they joined; what
// blocks on local disk or mount(2) runs on the executor.
//
// When a caller goes away its tickets are given up, and a mount that it has not learned of is
// undone. Thread-safe. Destroy the gRPC server before it.
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
#include "fetch/endpoint_identity.h"
#include "image/reference.h"

namespace grpc {
class Service;
}

namespace imagefs {

class FuseLoop;
class ImageStore;
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
    // How a credential that came with a call is renewed; may be empty.
    std::function<CredentialRefresh(const Reference&)> refresh_of = nullptr;
    PodmanStore* podman = nullptr;  // null: a user's daemon
    // Whose descriptions of an image the mounts of the command believe, podman's excepted.
    TrustOf trust_of = [](const Reference&) { return IndexTrust::Any(); };
  };
  // After an image was mounted by full passes because nobody had published an index of it.
  struct AutoPublish {
    bool enabled = false;
    std::string repository;  // "" = the image's own
  };
  struct Options {
    AutoPublish publish;
    std::string version;
    std::string root;
    std::string run;
    // What Version answers.
    std::string config_file, ca_file, log_level, proxies;
    // Called by Shutdown; returns at once.
    std::function<void(bool unmount)> request_stop;
    // Counters of what this service does not know; may be empty.
    std::function<std::vector<std::pair<std::string, uint64_t>>()> more_counters;
    std::chrono::milliseconds progress_interval{100};
  };
  static std::unique_ptr<ControlService> Create(Options options, Deps deps);
  virtual ~ControlService() = default;

  // To be registered with a server.
  virtual grpc::Service& service() = 0;

  struct Activity {
    int running_calls = 0;
    std::chrono::steady_clock::time_point last_call_end;  // or the start
  };
  virtual Activity activity() const = 0;
};

}  // namespace imagefs
