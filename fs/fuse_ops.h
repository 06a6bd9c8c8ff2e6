// The answers to the kernel's requests, as libfuse's low-level callbacks, for three kinds of
// sessions:
//
// A mounted tree. Every answer comes from the mapped index and from local data files: a callback
// never waits for anything else, and it keeps nothing: the nodeid is the EROFS nid (FUSE_ROOT_ID
// stands for the root's), so there are no lookup counts, no open files and nothing to rebuild after
// a restart.
//
// The data of layers that are being filled, a file each, which the kernel's EROFS has as its
// devices.
//
// The directories of podman's additional layer store.
//
// A read of bytes that are not here yet is answered by whoever brings them, and so is a
// lookup of a layer that is not here; the worker goes on.
//
// Content never changes, so entries, attributes, absent names, directory listings and symbolic
// links may stay in the kernel's caches for ever. What still comes up here once they are warm:
// statfs, listxattr, and getxattr of an image that has extended attributes.
//
// Thread-safe: any number of workers answer requests of one tree at a time.
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

// The largest reply: the kernel reads at most 256 pages by one request.
inline constexpr size_t kFuseReplyBytes = size_t{1} << 20;
// What the kernel may read ahead of a sequential reader.
inline constexpr uint32_t kFuseReadAheadBytes = uint32_t{4} << 20;

// What a worker lends to the request that it is answering: a reply buffer, so that no request
// allocates one, and counters that only this worker writes.
struct alignas(64) FuseWorkerContext {
  FuseWorkerContext() : reply(std::make_unique_for_overwrite<char[]>(kFuseReplyBytes)) {}

  std::unique_ptr<char[]> reply;
  // Keeps the session of the request alive, as an answer that is given later must.
  std::shared_ptr<void> session;
  std::atomic<uint64_t> requests{0}, lookups{0}, getattrs{0}, reads{0}, read_bytes{0}, readdirs{0},
      xattr_requests{0}, errors{0};

  static void Count(std::atomic<uint64_t>& counter, uint64_t n = 1) {
    counter.fetch_add(n, std::memory_order_relaxed);
  }
  void AddTo(FuseCounters& sum) const;
};

// Names the calling thread's context. REQUIRES: called by the worker before it processes a request.
void SetFuseWorkerContext(FuseWorkerContext* context);

// The user data of a session.
struct FuseServed {
  virtual ~FuseServed() = default;
  // Some file has a POSIX ACL, which the kernel then has to ask for before it grants access.
  bool has_acls = false;
  // Set once the reply to INIT has been written; guarded by `mu`.
  absl::Mutex mu;
  std::optional<FuseAgreement> agreed ABSL_GUARDED_BY(mu);
  TimedCondition init_done;
  std::atomic<bool> init_answered{false};
  // The INIT being answered is made up (FuseDevice::agreed): its reply is not for the kernel.
  bool replaying = false;
  // The kernel cannot send again what the process before this one had read: as soon as a request
  // says what number the kernel has come to, those before it fail.
  std::atomic<bool> fail_older{false};
  // This process is ending, and another one goes on: failures are its to find.
  std::atomic<bool> leaving{false};
};

struct FuseTree : FuseServed {
  ChainRef chain;
  bool overlay_form = false;
  // Reads that the data file could not satisfy; they are logged ever more rarely.
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

// The callbacks. REQUIRES: the session's user data is a FuseServed* that is a FuseTree.
const fuse_lowlevel_ops& FuseTreeOperations();
// The same of a FuseData.
const fuse_lowlevel_ops& FuseDataOperations();
// The same of a FuseLayers.
const fuse_lowlevel_ops& FuseLayersOperations();

}  // namespace imagefs
