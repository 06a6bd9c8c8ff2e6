// SPDX-License-Identifier: Apache-2.0
// The single place that knows which owner uses which image and where it is mounted. The runtimes of
// this machine (containerd, podman's two stores) are its Owners and keep only names and protocols;
// mounts made by the command line are in the mount table. Implemented once for all owners:
// requesting an image with the node's credentials, remembering failures, pinning it, mounting its
// trees (and remounting them once complete), reattaching sources after a restart, and the startup
// order. A command that pulls uses the store itself, with its caller's credentials.
// Startup. A call out of order aborts the process:
//   1. AddOwner, once per owner: reclaims the images held and the trees left mounted by the
//     previous process (Owner::Readopt). Local disk only.
//   2. Recover: restores the mounts of the mount table, then what the owners present, then unmounts
//     every old mount that was not reclaimed.
//   3. Serve, once the daemon's sockets answer. Credential helpers and the network are not used
//     before. Until then, requests of owners wait, and so do reads of missing bytes.
//
// Thread-safe. Asynchronous methods do not block; `done` runs exactly once, on any thread.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/functional/any_invocable.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "base/executor.h"
#include "base/monotonic.h"
#include "base/ticket_group.h"
#include "base/timer_queue.h"
#include "cache/image_store.h"
#include "fs/mount_table.h"

namespace imagefs {

class ImageUses {
 public:
  using AccessOf = std::function<SourceFactory::Access(const Reference&)>;
  struct Deps {
    ImageStore& store;
    MountTable& mounts;
    // The node's credentials for an image. Both may block. The second runs plugins only after a
    // registry has rejected everything else.
    AccessOf access_of, quick_access_of;
    int threads = 8;  // for work that blocks on credentials and the local disk
  };
  explicit ImageUses(Deps deps);
  // REQUIRES: every Owner has been destroyed.
  ~ImageUses();

  // An image held by an owner. It stays in the store while any copy of `hold` exists. REQUIRES: no
  // copy outlives the Owner.
  struct Use {
    std::shared_ptr<const void> hold;  // first: released last
    ImageRef image;                    // complete, as the store knows it
    ChainRef chain;                    // the tree of the requested layers
    size_t layers = 0;                 // number of these, from the bottom
  };
  using UseDone = absl::AnyInvocable<void(absl::StatusOr<Use>)>;

  // A tree that stays mounted at `path` while anyone holds it. Destroying the last reference
  // unmounts it and may block. The mount outlives its Owner.
  struct SharedTree {
    std::string path;
    ChainRef chain;                      // null: left by the previous process and no longer known
    bool filling = false, fuse = false;  // like MountTable::SharedMount
    bool needs_process() const { return filling || fuse; }
  };
  using Tree = std::shared_ptr<const SharedTree>;

  // An image that an owner's durable records have under a name.
  struct Wanted {
    std::string name;
    Digest manifest;
    std::string reference;  // where to fetch its bytes
  };
  struct OwnerOptions {
    std::string holder;               // one word; the owner's name in the store's records
    TrustOf trust_of = TrustTrusted;  // whose image descriptions are trusted
    std::vector<Wanted> wanted;
    bool keeps_trees = true;  // false: only presents single layers
    // Run once by Recover to let the owner mount what it presents. May call its Owner. May be
    // empty.
    std::function<void()> recovered;
  };
  class Owner;
  // Returns a tree that is completely known locally: one of the store, or a single layer of an
  // image held by `layers_holder`. For sessions of the previous process, before step 1.
  static absl::StatusOr<ChainRef> FindTree(ImageStore& store, const std::string& layers_holder,
                                           const Digest& chain_id);
  // Reclaims what was held for `wanted` and releases the rest.
  absl::StatusOr<std::unique_ptr<Owner>> AddOwner(OwnerOptions options) ABSL_LOCKS_EXCLUDED(mu_);
  // Blocks on local disk and mount(2).
  void Recover() ABSL_LOCKS_EXCLUDED(mu_);
  // Does not block.
  void Serve() ABSL_LOCKS_EXCLUDED(mu_);

  // The next two are for restored mounts, from step 3 on; both block on credentials and local disk.
  // Finds the tree of a mount, or fetches it again without an owner. Returns kFailedPrecondition if
  // its reference now names another image.
  FlightTicket FetchAgain(const MountRecord& record, const TrustOf& trust_of,
                          absl::AnyInvocable<void(absl::StatusOr<ChainRef>)> done) const;
  // Reattaches a source for missing bytes; the previous one ended with its process.
  void AttachSources(const std::string& reference, const MountOptions& options,
                     const ChainRef& chain) const;

 private:
  enum class Phase { kReclaiming, kRecovered, kServing };
  void AttachAllSources();
  void CheckPhase(Phase first, Phase last, std::string_view what) const ABSL_LOCKS_EXCLUDED(mu_);

  const Deps deps_;
  std::atomic<bool> ending_{false};
  mutable absl::Mutex mu_;
  Phase phase_ ABSL_GUARDED_BY(mu_) = Phase::kReclaiming;
  std::vector<Owner*> owners_ ABSL_GUARDED_BY(mu_);
  TimerQueue timers_{ThreadRole::kTimers};
  Executor executor_;  // last: its tasks use the members above
};

// The images of one owner.
class ImageUses::Owner {
 public:
  // Calls Stop.
  ~Owner();
  // Running calls fail with kCancelled before this returns, and so do all later calls.
  void Stop() ABSL_LOCKS_EXCLUDED(mu_);

  struct Request {
    Reference reference;
    // Exactly this image, whatever the reference now names. Local layers need no network.
    std::optional<Digest> manifest;
    std::string listed_by;  // as in ResolveRequest
    size_t layers = 0;      // from the bottom; 0 = all. kDataLoss if the image has fewer
    Priority priority = Priority::kForeground;
    // For callers that have another way and ask layer by layer: fails if the registry is silent for
    // kLookBudget, and immediately if it was silent or this request failed a moment ago.
    bool fail_fast = false;
    // May reject an image before anything is fetched.
    std::function<absl::Status(const ResolvedImage&)> accept;
  };
  // Finds an image with credentials that its registry accepts now or has accepted before, holds it
  // and makes its tree mountable. Local images are found inline.
  FlightTicket Acquire(Request request, UseDone done) ABSL_LOCKS_EXCLUDED(mu_);
  static constexpr absl::Duration kLookBudget = absl::Seconds(3);
  // Like Acquire, for an image that the caller has resolved. `source` may be null.
  FlightTicket AcquireFound(ImageRef image, std::shared_ptr<ImageSource> source, Priority priority,
                            UseDone done) ABSL_LOCKS_EXCLUDED(mu_);

  // Keeps an image while the owner has it under that name, replacing the image that had the name.
  // REQUIRES: a Use of it exists, or it is already kept. Only the owner's own record of the name
  // survives a restart. Keep and Drop block on local disk.
  void Keep(const std::string& name, const Digest& manifest) ABSL_LOCKS_EXCLUDED(mu_);
  // An image without names and uses is released, along with its trees.
  void Drop(const std::string& name) ABSL_LOCKS_EXCLUDED(mu_);

  // Returns what is local of an image that is kept or has a Use. The result has no hold, and null
  // members if nothing is local.
  Use Find(const Digest& manifest) const ABSL_LOCKS_EXCLUDED(mu_);

  // Mounts the tree of a Use. Equal requests share one mount, but one that was made while bytes
  // were missing is replaced, once complete, by one that does not need this process. The newest
  // mount stays until the image is released: with the last mount of a tree the kernel drops its
  // page cache, and the next container would start cold. Blocks on mount(2). REQUIRES: step 1 of
  // startup is over.
  absl::StatusOr<Tree> MountTree(const Use& use) ABSL_LOCKS_EXCLUDED(mu_);
  // Mounts a single layer of use.chain, in overlay form. The mount is not kept for others.
  absl::StatusOr<Tree> MountLayer(const Use& use, size_t layer);
  // In step 1 of startup: returns the tree of the lowest `layers` layers (0 = all) as the previous
  // process left it mounted, or null if it is not mounted.
  Tree Readopt(const Digest& manifest, size_t layers) ABSL_LOCKS_EXCLUDED(mu_);
  Tree ReadoptLayer(const Digest& manifest, size_t layer);
  void ReleaseKept() ABSL_LOCKS_EXCLUDED(mu_);  // trees that only MountTree keeps mounted

  // Frees the space of released images (never kept: after ten minutes). Returns bytes. Blocks.
  absl::StatusOr<uint64_t> Collect(Moment now = Moment::Now()) ABSL_LOCKS_EXCLUDED(mu_);

 private:
  friend class ImageUses;
  struct Call;
  using CallPtr = std::shared_ptr<Call>;
  struct Entry {
    ImageRef image;
    ChainRef chain;                       // of the whole image; protects it from garbage collection
    std::map<size_t, Tree> trees;         // kept mounted, by number of layers
    std::vector<std::string> references;  // of `wanted`
    size_t names = 0, holds = 0;
    bool kept = false;       // has had a name
    bool releasing = false;  // the store is being updated without the lock
    std::vector<absl::AnyInvocable<void()>> after_release;
    bool needed() const { return names + holds > 0; }
  };
  struct Failure {
    absl::Status status;
    Moment when;
  };

  Owner(ImageUses& uses, OwnerOptions options);
  absl::Status Reclaim();
  bool stopped() const ABSL_LOCKS_EXCLUDED(mu_) {
    absl::MutexLock lock(&mu_);
    return stopped_;
  }
  void Serve() ABSL_LOCKS_EXCLUDED(mu_);
  void AttachSources() ABSL_LOCKS_EXCLUDED(mu_);

  FlightTicket Begin(const CallPtr& call, absl::AnyInvocable<void()> work) ABSL_LOCKS_EXCLUDED(mu_);
  void Finish(const CallPtr& call, absl::StatusOr<Use> use) ABSL_LOCKS_EXCLUDED(mu_);
  bool TryLocal(const CallPtr& call);
  void Resolve(const CallPtr& call);
  void OnResolved(const CallPtr& call, absl::StatusOr<ImageStore::Resolved> resolved);
  void Hold(const CallPtr& call, ImageRef image, std::shared_ptr<ImageSource> source);
  void Ensure(const CallPtr& call, std::shared_ptr<ImageSource> source);
  void OnChain(const CallPtr& call, absl::StatusOr<ChainRef> chain) ABSL_LOCKS_EXCLUDED(mu_);
  void ResolveWithin(const CallPtr& call, ResolveRequest request);
  absl::Status RecentFailure(const CallPtr& call) ABSL_LOCKS_EXCLUDED(mu_);
  void RememberFailure(const CallPtr& call, const absl::Status& status) ABSL_LOCKS_EXCLUDED(mu_);

  void Leave(const Digest& manifest) ABSL_LOCKS_EXCLUDED(mu_);
  bool ReleaseIfUnused(const Digest& manifest) ABSL_LOCKS_EXCLUDED(mu_);
  Tree MakeTree(MountTable::SharedMount shown, ChainRef chain) const;

  ImageUses& uses_;
  const OwnerOptions options_;
  // Shared with the trees, which may outlive this object.
  const std::shared_ptr<std::atomic<bool>> gone_;

  mutable absl::Mutex mu_;
  bool serving_ ABSL_GUARDED_BY(mu_) = false, stopped_ ABSL_GUARDED_BY(mu_) = false;
  bool collect_ ABSL_GUARDED_BY(mu_) = false;  // something was released
  Moment abandoned_ ABSL_GUARDED_BY(mu_) = Moment::InfiniteFuture();
  absl::flat_hash_map<Digest, Entry> entries_ ABSL_GUARDED_BY(mu_);  // by manifest
  absl::flat_hash_map<std::string, Digest> names_ ABSL_GUARDED_BY(mu_);
  absl::flat_hash_map<std::string, Failure> failures_ ABSL_GUARDED_BY(mu_);
  // Running calls, and work that waits for Serve.
  uint64_t next_call_ ABSL_GUARDED_BY(mu_) = 0;
  absl::flat_hash_map<uint64_t, std::shared_ptr<TicketGroup>> calls_ ABSL_GUARDED_BY(mu_);
  std::vector<absl::AnyInvocable<void()>> waiting_ ABSL_GUARDED_BY(mu_);
  size_t tasks_ ABSL_GUARDED_BY(mu_) = 0;  // on the executor, except those of calls
};

}  // namespace imagefs
