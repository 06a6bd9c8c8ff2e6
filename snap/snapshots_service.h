// SPDX-License-Identifier: Apache-2.0
// Serves containerd.services.snapshots.v1 (proto/containerd/snapshots.proto), the protocol of
// containerd's proxy plugins of type "snapshot", with a Snapshotter. Thread-safe. The gRPC server
// must be destroyed before it, and it before the snapshotter.
#pragma once

#include <memory>

namespace grpc {
class Service;
}

namespace imagefs {

class Snapshotter;

class SnapshotsService {
 public:
  static std::unique_ptr<SnapshotsService> Create(Snapshotter& snapshotter);
  virtual ~SnapshotsService() = default;
  // For registration with a server.
  virtual grpc::Service& service() = 0;
};

}  // namespace imagefs
