// containerd.services.snapshots.v1 (proto/containerd/snapshots.proto) over a Snapshotter: what
// containerd's proxy plugins of type "snapshot" speak. Thread-safe. Destroy the gRPC server before
// it, and it before the snapshotter.
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
  // To be registered with a server.
  virtual grpc::Service& service() = 0;
};

}  // namespace imagefs
