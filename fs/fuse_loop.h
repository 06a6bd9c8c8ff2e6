// The threads that answer the kernel, shared by all FUSE mounts of the process: workers wait on one
// epoll set of /dev/fuse descriptors, so that a thousand idle mounts cost no thread. A worker reads
// a request, answers it from the mapped index and local data, and never waits for the network.
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

namespace imagefs {

class DataFiles;
class LayerDirectory;

struct FuseCounters {
  uint64_t requests = 0, lookups = 0, getattrs = 0, reads = 0, read_bytes = 0, readdirs = 0,
           xattr_requests = 0, errors = 0;
};

// What the kernel was granted by the reply to a session's INIT (fuse_init_out of linux/fuse.h). The
// kernel keeps to it for as long as the session lives, also when another process answers.
struct FuseAgreement {
  uint32_t minor = 0;  // of the protocol
  uint32_t max_readahead = 0;
  uint32_t flags = 0, flags2 = 0;
  friend bool operator==(const FuseAgreement&, const FuseAgreement&) = default;
};

// The device of a session. `agreed`: its INIT was answered by a process before this one, which may
// have read requests that it did not answer; the kernel is asked to send them once more. One before
// Linux 6.9 cannot: see FuseSession::fails_older.
struct FuseDevice {
  FuseDevice(Fd fd) : fd(std::move(fd)) {}  // NOLINT: of a new session
  FuseDevice(Fd fd, const FuseAgreement& agreed) : fd(std::move(fd)), agreed(agreed) {}

  Fd fd;
  std::optional<FuseAgreement> agreed;
};

// One mounted tree as the loop sees it. Destroying it closes the descriptor, which ends the mount
// for the kernel when no other process holds it.
class FuseSession {
 public:
  virtual ~FuseSession() = default;
  // Waits until INIT has been answered; kDeadlineExceeded.
  virtual absl::StatusOr<FuseAgreement> AwaitInit(absl::Duration at_most) = 0;
  // Of one that another process began: requests that it had read fail with EINTR as soon as the
  // kernel sends another one, which any statfs(2) of the mount brings about.
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
    // Shows the overlay markers (trusted.overlay.*): only for a layer shown by itself.
    bool overlay_form = false;
  };
  // Serves `chain` on a mounted /dev/fuse descriptor, or on one end of a socketpair in tests. Of an
  // earlier process's device it has to be the same tree, with the same nids. `on_unmounted` runs
  // once, on a worker, when the kernel ends the session (ENODEV); not after the session was
  // destroyed.
  virtual absl::StatusOr<std::unique_ptr<FuseSession>> Serve(
      ChainRef chain, FuseDevice device, ServeOptions options,
      std::function<void()> on_unmounted) = 0;
  // Serves the files of `files` in one directory.
  virtual absl::StatusOr<std::unique_ptr<FuseSession>> ServeData(
      std::shared_ptr<DataFiles> files, FuseDevice device, std::function<void()> on_unmounted) = 0;
  // Serves the layers of `directory`.
  virtual absl::StatusOr<std::unique_ptr<FuseSession>> ServeLayers(
      std::shared_ptr<LayerDirectory> directory, Fd device, std::function<void()> on_unmounted) = 0;
  // For a process that ends, and whose sessions another one takes over: reads no more requests.
  // Answers that are on their way are given; a read that fails from now on is not answered, since
  // the other process does better. Once.
  virtual void Leave() = 0;
  virtual FuseCounters counters() const = 0;
};

}  // namespace imagefs
