// The threads that answer the kernel, shared by all FUSE mounts of the process: workers wait on one
// epoll set of /dev/fuse descriptors, so that a thousand idle mounts cost no thread. A worker reads
// a request, answers it from the mapped index and local data, and never waits for the network.
//
// Thread-safe.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>

#include "absl/status/statusor.h"
#include "base/fd.h"
#include "cache/chain.h"

namespace imagefs {

class DataFiles;
class LayerDirectory;

struct FuseCounters {
  uint64_t requests = 0, lookups = 0, getattrs = 0, reads = 0, read_bytes = 0, readdirs = 0,
           xattr_requests = 0, errors = 0;
};

// One mounted tree as the loop sees it. Destroying it closes the descriptor, which ends the mount
// for the kernel when no other process holds it.
class FuseSession {
 public:
  virtual ~FuseSession() = default;
};

class FuseLoop {
 public:
  struct Options {
    int workers = 0;  // 0 = min(2 x processors, 16)
  };
  static absl::StatusOr<std::unique_ptr<FuseLoop>> Create(Options options);
  virtual ~FuseLoop() = default;

  struct ServeOptions {
    // Shows the overlay markers (trusted.overlay.*): only for a layer shown by itself.
    bool overlay_form = false;
  };
  // Serves `chain` on a mounted /dev/fuse descriptor (INIT not yet answered), or on one end of a
  // socketpair in tests. `on_unmounted` runs once, on a worker, when the kernel ends the session
  // (ENODEV); not after the session was destroyed.
  virtual absl::StatusOr<std::unique_ptr<FuseSession>> Serve(
      ChainRef chain, Fd device, ServeOptions options, std::function<void()> on_unmounted) = 0;
  // Serves the files of `files` in one directory.
  virtual absl::StatusOr<std::unique_ptr<FuseSession>> ServeData(
      std::shared_ptr<DataFiles> files, Fd device, std::function<void()> on_unmounted) = 0;
  // Serves the layers of `directory`.
  virtual absl::StatusOr<std::unique_ptr<FuseSession>> ServeLayers(
      std::shared_ptr<LayerDirectory> directory, Fd device, std::function<void()> on_unmounted) = 0;
  virtual FuseCounters counters() const = 0;
};

}  // namespace imagefs
