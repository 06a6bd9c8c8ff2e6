// SPDX-License-Identifier: Apache-2.0
// The answers to the kernel's requests, as libfuse low-level callbacks, for three kinds of
// sessions:
//
// - A mounted tree. Every answer comes from the mapped index and local data files, so a callback
//   waits for nothing else. It keeps no state: the nodeid is the EROFS nid (FUSE_ROOT_ID stands for
//   the root's), so there are no lookup counts, no open files and nothing to rebuild after a
//   restart.
// - The data of partially present layers, one file each, which are the devices of the kernel's
//   EROFS.
// - The directories of podman's additional layer store.
//
// If a read needs bytes that are not local, the fetch answers it when they arrive; likewise for a
// lookup of a layer that is not local. The worker does not wait.
//
// Content never changes, so the kernel may cache entries, attributes, negative lookups, directory
// listings and symbolic links forever. With warm caches, only these requests still arrive: statfs,
// listxattr, and getxattr for an image that has extended attributes.
//
// Thread-safe: any number of workers may answer requests of one tree concurrently.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "base/monotonic.h"
#include "cache/chain.h"
#include "fs/data_files.h"
#include "fs/fuse_loop.h"
#include "fs/layer_directory.h"
#include "fs/layer_nodes.h"

struct fuse_lowlevel_ops;

namespace imagefs {

// The largest reply: the kernel reads at most 256 pages per request.
inline constexpr size_t kFuseReplyBytes = size_t{1} << 20;
// How far the kernel may read ahead for a sequential reader.
inline constexpr uint32_t kFuseReadAheadBytes = uint32_t{4} << 20;

// What a worker lends to the request it is answering: a reply buffer, so that no request allocates
// one, and counters that only this worker writes.
struct alignas(64) FuseWorkerContext {
  FuseWorkerContext() : reply(std::make_unique_for_overwrite<char[]>(kFuseReplyBytes)) {}

  std::unique_ptr<char[]> reply;
  // Keeps the request's session alive; an asynchronous answer takes a reference.
  std::shared_ptr<void> session;
  std::atomic<uint64_t> requests{0}, lookups{0}, getattrs{0}, reads{0}, read_bytes{0}, readdirs{0},
      xattr_requests{0}, errors{0};

  static void Count(std::atomic<uint64_t>& counter, uint64_t n = 1) {
    counter.fetch_add(n, std::memory_order_relaxed);
  }
  void AddTo(FuseCounters& sum) const;
};

// Sets the calling thread's context. REQUIRES: called by the worker before it processes a request.
void SetFuseWorkerContext(FuseWorkerContext* context);

// The user data of a session.
struct FuseServed {
  virtual ~FuseServed() = default;
  // Some file has a POSIX ACL, which the kernel must then query before granting access.
  bool has_acls = false;
  // `agreed` is set once the reply to INIT has been written.
  absl::Mutex mu;
  std::optional<FuseAgreement> agreed ABSL_GUARDED_BY(mu);
  TimedCondition init_done;
  std::atomic<bool> init_answered{false};
  // The INIT being answered is synthetic (FuseDevice::agreed); its reply does not go to the kernel.
  bool replaying = false;
  // The kernel cannot resend the requests that the previous process had read. The first request
  // received shows which number the kernel has reached; all requests before it then fail.
  std::atomic<bool> fail_older{false};
  // This process is ending and another one takes over; failed reads are left to that one.
  std::atomic<bool> leaving{false};
};

struct FuseTree : FuseServed {
  ChainRef chain;
  bool overlay_form = false;
  ShownAs shown_as;
  // Reads that the data file could not satisfy, logged at a decreasing rate.
  std::atomic<uint64_t> failed_reads{0};

  const ErofsImage& index() const { return *chain->index; }
};

struct FuseData : FuseServed {
  std::shared_ptr<DataFiles> files;
};

struct FuseLayers : FuseServed {
  std::shared_ptr<LayerDirectory> directory;
  LayerNodes nodes;
};

// The callbacks. REQUIRES: the session's user data is a FuseServed* that points to a FuseTree.
const fuse_lowlevel_ops& FuseTreeOperations();
// Likewise for a FuseData.
const fuse_lowlevel_ops& FuseDataOperations();
// Likewise for a FuseLayers.
const fuse_lowlevel_ops& FuseLayersOperations();

}  // namespace imagefs
