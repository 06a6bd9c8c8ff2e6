// SPDX-License-Identifier: Apache-2.0
// The snapshotter and the gRPC server that containerd reaches it by. The daemon accepts connections
// and hands them to `server()`.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "cache/image_store.h"
#include "snap/image_uses.h"

namespace grpc {
class Server;
}

namespace imagefs {

class SnapshotsServer {
 public:
  struct Options {
    std::string root;  // of the store
    std::string run;   // of mounts
    TrustOf trust_of = TrustTrusted;
  };
  // Becomes an owner of `uses`.
  static absl::StatusOr<std::unique_ptr<SnapshotsServer>> Open(Options options, ImageStore& store,
                                                               ImageUses& uses);
  virtual ~SnapshotsServer() = default;

  virtual grpc::Server* server() = 0;
  // Ends the calls that run. With `hide`, the trees that containers do not use now are unmounted.
  virtual void Shutdown(bool hide) = 0;
  virtual bool empty() const = 0;  // there is no snapshot
  virtual std::vector<std::pair<std::string, uint64_t>> Counters() const = 0;
};

}  // namespace imagefs
