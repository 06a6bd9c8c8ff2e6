// SPDX-License-Identifier: Apache-2.0
// The containerd snapshotter and its gRPC server. The daemon accepts connections and hands them to
// `server()`.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "cache/image_store.h"
#include "snap/image_uses.h"
#include "snap/snapshotter.h"

namespace grpc {
class Server;
}

namespace imagefs {

class SnapshotsServer {
 public:
  struct Options {
    std::string root;  // the store
    std::string run;   // the run directory
    TrustOf trust_of = TrustTrusted;
    bool only_verified = false;  // as in Snapshotter::Options
    // Gives containerd the blobs of layers, if the store keeps them.
    std::string containerd;  // its socket
    // Opens an image's repository with the node's credentials.
    std::function<absl::StatusOr<std::shared_ptr<ImageSource>>(const Reference&)> open;
  };
  // Registers an owner with `uses`.
  static absl::StatusOr<std::unique_ptr<SnapshotsServer>> Open(Options options, ImageStore& store,
                                                               ImageUses& uses);
  virtual ~SnapshotsServer() = default;

  virtual grpc::Server* server() = 0;
  // Ends running calls. If `hide`, unmounts the trees that no container is using.
  virtual void Shutdown(bool hide) = 0;
  virtual bool empty() const = 0;  // whether there are no snapshots
  virtual std::vector<std::pair<std::string, uint64_t>> Counters() const = 0;
  virtual std::vector<Snapshotter::ImageUse> ImagesInUse() const = 0;
};

}  // namespace imagefs
