// The container runtime interface, passed on: the kubelet connects here instead of to containerd,
// every call goes to containerd as it came and its answer back, and the credentials of PullImage
// are remembered on the way (fetch/node_credentials.h) until the image is removed.
//
// Messages are passed on as bytes, so that no field of a newer version is lost; only PullImage and
// RemoveImage are looked into. Only the image and runtime services of runtime.v1 and
// runtime.v1alpha2 are passed on. Thread-safe.
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "fetch/node_credentials.h"

namespace grpc {
class Server;
}

namespace imagefs {

class CriProxy {
 public:
  struct Options {
    std::string containerd = "/run/containerd/containerd.sock";  // may appear later
    size_t memory_bytes = 64 << 20;  // what all connections together may buffer
  };
  // Listens nowhere: connections are given to server() by grpc::AddInsecureChannelFromFd.
  static absl::StatusOr<std::unique_ptr<CriProxy>> Start(
      const Options& options, std::shared_ptr<NodeCredentials> credentials);
  // Ends calls that run with kCancelled.
  virtual ~CriProxy() = default;

  virtual grpc::Server* server() = 0;
};

}  // namespace imagefs
