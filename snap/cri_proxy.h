// SPDX-License-Identifier: Apache-2.0
// A proxy for the Container Runtime Interface. The kubelet connects to it instead of to containerd.
// It forwards every call to containerd unchanged and returns the answer, and it remembers the
// credentials of PullImage (fetch/node_credentials.h) until the image is removed.
//
// Messages are forwarded as bytes, so that fields of newer versions are preserved; only PullImage
// and RemoveImage are parsed. Only the image and runtime services of runtime.v1 and
// runtime.v1alpha2 are forwarded. Thread-safe.
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
    size_t memory_bytes = 64 << 20;  // total buffer limit of all connections
  };
  // Does not listen. Connections are added to server() with grpc::AddInsecureChannelFromFd.
  static absl::StatusOr<std::unique_ptr<CriProxy>> Start(
      const Options& options, std::shared_ptr<NodeCredentials> credentials);
  // Ends running calls with kCancelled.
  virtual ~CriProxy() = default;

  virtual grpc::Server* server() = 0;
};

}  // namespace imagefs
