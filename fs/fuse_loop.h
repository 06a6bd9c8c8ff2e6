// SPDX-License-Identifier: Apache-2.0
// The threads that answer the kernel, shared by all FUSE mounts of the process. Workers wait on one
// epoll set of /dev/fuse descriptors, so that a thousand idle mounts cost no threads. A worker
// reads a request, answers it from the mapped index and local data, and never waits for the
// network.
//
// Thread-safe.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <utility>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "base/fd.h"
#include "cache/chain.h"
#include "fs/shown_as.h"

namespace imagefs {

class DataFiles;
class LayerDirectory;

struct FuseCounters {
  uint64_t requests = 0, lookups = 0, getattrs = 0, reads = 0, read_bytes = 0, readdirs = 0,
           xattr_requests = 0, errors = 0;
  uint64_t sessions = 0;  // that are served now
};

// What the reply to a session's INIT agreed with the kernel (fuse_init_out of linux/fuse.h). It
// applies for the life of the session, even after another process takes over.
struct FuseAgreement {
  uint32_t minor = 0;  // of the protocol
  uint32_t max_readahead = 0;
  uint32_t flags = 0, flags2 = 0;
  friend bool operator==(const FuseAgreement&, const FuseAgreement&) = default;
};

// The device of a session. `agreed` is set if an earlier process answered its INIT. That process
// may have read requests without answering them; the kernel is asked to resend those. Kernels
// before Linux 6.9 cannot: see FuseSession::fails_older.
struct FuseDevice {
  FuseDevice(Fd fd) : fd(std::move(fd)) {}  // NOLINT: of a new session
  FuseDevice(Fd fd, const FuseAgreement& agreed) : fd(std::move(fd)), agreed(agreed) {}

  Fd fd;
  std::optional<FuseAgreement> agreed;
};

// One session served by the loop. Destroying it closes the descriptor, which ends the mount unless
// another process holds the descriptor as well.
class FuseSession {
 public:
  virtual ~FuseSession() = default;
  // Blocks until INIT has been answered. Returns kDeadlineExceeded on timeout.
  virtual absl::StatusOr<FuseAgreement> AwaitInit(absl::Duration at_most) = 0;
  // True for a session taken over on a kernel that cannot resend: requests that the earlier process
  // had read fail with EINTR as soon as the kernel sends a new one. Any statfs(2) of the mount
  // triggers that.
  virtual bool fails_older() const = 0;
};

class FuseLoop {
 public:
  struct Options {
    int workers = 0;     // 0 = min(2 x processors, 16)
    bool resend = true;  // false: as on a kernel before Linux 6.9
  };
  static absl::StatusOr<std::unique_ptr<FuseLoop>> Create(Options options);
  virtual ~FuseLoop() = default;

  struct ServeOptions {
    // Shows the overlay markers (trusted.overlay.*). Only for a layer presented on its own.
    bool overlay_form = false;
    ShownAs shown_as;
  };
  // Serves `chain` on a mounted /dev/fuse descriptor, or on one end of a socketpair in tests. If
  // the device is an earlier process's, the tree must be the same one, with the same nids.
  // `on_unmounted` runs once, on a worker, when the kernel ends the session (ENODEV), but never
  // after the session has been destroyed.
  virtual absl::StatusOr<std::unique_ptr<FuseSession>> Serve(
      ChainRef chain, FuseDevice device, ServeOptions options,
      std::function<void()> on_unmounted) = 0;
  // Serves the files of `files` in one directory.
  virtual absl::StatusOr<std::unique_ptr<FuseSession>> ServeData(
      std::shared_ptr<DataFiles> files, FuseDevice device, std::function<void()> on_unmounted) = 0;
  // Serves the layers of `directory`.
  virtual absl::StatusOr<std::unique_ptr<FuseSession>> ServeLayers(
      std::shared_ptr<LayerDirectory> directory, Fd device, std::function<void()> on_unmounted) = 0;
  // For a process that is ending and whose sessions another one takes over: stops reading requests.
  // Requests in progress are answered, except for reads that fail from now on: those are left to
  // the other process. Call once.
  virtual void Leave() = 0;
  virtual FuseCounters counters() const = 0;
};

}  // namespace imagefs
