// The one owner of "image X is wanted by H and shown at P". The runtimes of this machine
// (containerd, podman's two stores) are its Owners and keep no more than their names and their
// protocols; the mounts of the command are in the mount table. What stands here once: asking for an
// image by the node's credentials, remembering what failed, holding it, showing its trees, also
// anew once their bytes are here, finding sources again after a restart, and the order of the
// start. A command that pulls asks the store itself: by its caller's credentials, for an image that
// is listed instead of held, and with the progress of each layer.
//
// The start. A call out of this order aborts the process:
//   1. AddOwner, once for each owner: takes up what the process before this one held, and the trees
//      that it left shown (Owner::Readopt). Local disk only.
//   2. Recover: the mounts of the mount table, then what the owners show, then every old mount that
//      nobody has taken up goes.
//   3. Serve, when the daemon's sockets answer. No earlier than this do credential helpers run and
//      is the network asked: what owners ask for before it waits, and so do reads of what fills.
//
// Thread-safe. Asynchronous methods return at once; `done` runs exactly once, on any thread.
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
#include "cache/image_store.h"
#include "fs/mount_table.h"

namespace imagefs {

class ImageUses {
 public:
  using AccessOf = std::function<SourceFactory::Access(const Reference&)>;
  struct Deps {
    ImageStore& store;
    MountTable& mounts;
    // With what an image is asked for on behalf of this node. Both may block; the second asks no
    // plugin before a registry has refused what else there is.
    AccessOf access_of, quick_access_of;
    int threads = 8;  // for what blocks on credentials and the local disk
  };
  explicit ImageUses(Deps deps);
  // REQUIRES: every Owner is gone.
  ~ImageUses();

  // An image that an owner has. It stays in the store while a copy of `hold` lives.
  // REQUIRES: no copy of it outlives the Owner.
  struct Use {
    std::shared_ptr<const void> hold;  // first: goes when nothing else pins the layers
    ImageRef image;                    // whole, as the store knows it
    ChainRef chain;                    // the tree of the layers that were asked for
    size_t layers = 0;                 // so many of them, from the bottom
  };
  using UseDone = absl::AnyInvocable<void(absl::StatusOr<Use>)>;

  // A tree that is mounted at `path` for as long as somebody has it. The last one to let it go
  // unmounts it and may block. It stays mounted after its Owner has gone.
  struct SharedTree {
    std::string path;
    ChainRef chain;  // null: of the process before this one, and not known here any more
    bool filling = false, fuse = false;  // as of MountTable::SharedMount
    bool needs_process() const { return filling || fuse; }
  };
  using Tree = std::shared_ptr<const SharedTree>;

  // That an owner's durable records have this image under a name.
  struct Wanted {
    std::string name;
    Digest manifest;
    std::string reference;  // where its bytes come from
  };
  struct OwnerOptions {
    std::string holder;               // a word: the owner's name in the store's records
    TrustOf trust_of = TrustTrusted;  // whose descriptions of an image are believed
    std::vector<Wanted> wanted;
    bool keeps_trees = true;  // false: it shows layers by themselves only
    // Run once by Recover: the owner shows what is to be there. May call its Owner; may be empty.
    std::function<void()> recovered;
  };
  class Owner;
  // The tree of that name where all of it is known here: one of the store's, or a layer by itself
  // of an image that `layers_holder` holds. Before step 1, for the sessions of the process before
  // this one.
  static absl::StatusOr<ChainRef> FindTree(ImageStore& store, const std::string& layers_holder,
                                           const Digest& chain_id);
  // Takes up what was held for `wanted` and lets go of the rest.
  absl::StatusOr<std::unique_ptr<Owner>> AddOwner(OwnerOptions options) ABSL_LOCKS_EXCLUDED(mu_);
  // Blocks on local disk and mount(2).
  void Recover() ABSL_LOCKS_EXCLUDED(mu_);
  // Returns at once.
  void Serve() ABSL_LOCKS_EXCLUDED(mu_);

  // For mounts that come back, from step 3 on; both block on credentials and local disk.
  // Finds the tree of a mount, or fetches it again; no owner holds it. kFailedPrecondition where
  // its name is another image's now.
  FlightTicket FetchAgain(const MountRecord& record, const TrustOf& trust_of,
                          absl::AnyInvocable<void(absl::StatusOr<ChainRef>)> done) const;
  // Finds the source of missing bytes, which went with the process of those who mounted it.
  void AttachSources(const std::string& reference, const MountOptions& options,
                     const ChainRef& chain) const;

 private:
  enum class Phase { kTakingUp, kRecovered, kServing };
  void AttachAllSources();
  void CheckPhase(Phase first, Phase last, std::string_view what) const ABSL_LOCKS_EXCLUDED(mu_);

  const Deps deps_;
  std::atomic<bool> ending_{false};
  mutable absl::Mutex mu_;
  Phase phase_ ABSL_GUARDED_BY(mu_) = Phase::kTakingUp;
  std::vector<Owner*> owners_ ABSL_GUARDED_BY(mu_);
  Executor executor_;  // last: what it runs uses the rest
};

// The images of one owner.
class ImageUses::Owner {
 public:
  // Stops.
  ~Owner();
  // Calls that have not ended fail with kCancelled before this returns, and others from then on.
  void Stop() ABSL_LOCKS_EXCLUDED(mu_);

  struct Request {
    Reference reference;
    // The very image that is wanted, whatever the reference means now. Where its layers are here,
    // the network is not asked.
    std::optional<Digest> manifest;
    size_t layers = 0;  // only so many, from the bottom; 0 = all. More than it has: kDataLoss
    Priority priority = Priority::kForeground;
    // For those who ask for one layer of an image after the other: what could not be had with the
    // same credentials a moment ago fails at once.
    bool fail_fast = false;
    // Refuses an image before anything of it is brought. May be empty.
    std::function<absl::Status(const ResolvedImage&)> accept;
  };
  // Finds an image, with credentials that its registry accepts now or has accepted before, holds
  // it and makes its tree showable. What is here is found inline.
  FlightTicket Acquire(Request request, UseDone done) ABSL_LOCKS_EXCLUDED(mu_);
  // The same of an image that the caller has found. `source` may be null.
  FlightTicket AcquireFound(ImageRef image, std::shared_ptr<ImageSource> source, Priority priority,
                            UseDone done) ABSL_LOCKS_EXCLUDED(mu_);

  // Keeps an image for as long as the owner has it under that name, which another one may lose by
  // it. REQUIRES: a Use of it lives, or it is kept already. The owner's own record of the name is
  // what a restart goes by. Both block on local disk.
  void Keep(const std::string& name, const Digest& manifest) ABSL_LOCKS_EXCLUDED(mu_);
  // An image that nothing keeps is let go of, with its trees.
  void Drop(const std::string& name) ABSL_LOCKS_EXCLUDED(mu_);

  // What is here of an image that is kept, or of which a Use lives: without a hold, and with null
  // where nothing is.
  Use Find(const Digest& manifest) const ABSL_LOCKS_EXCLUDED(mu_);

  // Shows the tree of a Use. All who ask for the same get the same one, but what was shown while it
  // filled is exchanged for another one when all of it is here: that needs this process no longer.
  // Once shown, the newest stays so until the image is let go of: with the last mount of a tree the
  // kernel forgets what it has read of it, and the next container would start cold. Blocks on
  // mount(2). After step 1 of the start.
  absl::StatusOr<Tree> MountTree(const Use& use) ABSL_LOCKS_EXCLUDED(mu_);
  // One layer of it by itself, in overlay form; nobody keeps that for others.
  // REQUIRES: use.chain has such a layer.
  absl::StatusOr<Tree> MountLayer(const Use& use, size_t layer);
  // In step 1 of the start: the tree of so many layers (0 = all) as the process before this one
  // left it shown; null when it is not there.
  Tree Readopt(const Digest& manifest, size_t layers) ABSL_LOCKS_EXCLUDED(mu_);
  Tree ReadoptLayer(const Digest& manifest, size_t layer);
  // Takes the trees away that only MountTree keeps.
  void ReleaseKept() ABSL_LOCKS_EXCLUDED(mu_);

  // Gives back what images take on the disk that were let go of. One that was never kept is left
  // for ten minutes for whoever tries again. Returns the bytes. Blocks.
  absl::StatusOr<uint64_t> Collect(Moment now = Moment::Now()) ABSL_LOCKS_EXCLUDED(mu_);

 private:
  friend class ImageUses;
  struct Call;
  using CallPtr = std::shared_ptr<Call>;
  struct Entry {
    ImageRef image;
    ChainRef chain;                       // of the whole image: keeps the collector away
    std::map<size_t, Tree> trees;         // kept, by their number of layers
    std::vector<std::string> references;  // of `wanted`
    size_t names = 0, holds = 0;
    bool kept = false;       // it had a name once
    bool releasing = false;  // the store is being told, without the lock
    std::vector<absl::AnyInvocable<void()>> after_release;
    bool needed() const { return names + holds > 0; }
  };
  struct Failure {
    absl::Status status;
    Moment when;
  };

  Owner(ImageUses& uses, OwnerOptions options);
  absl::Status TakeUp();
  bool stopped() const ABSL_LOCKS_EXCLUDED(mu_) {
    absl::MutexLock lock(&mu_);
    return stopped_;
  }
  void Serve() ABSL_LOCKS_EXCLUDED(mu_);
  void AttachSources() ABSL_LOCKS_EXCLUDED(mu_);

  FlightTicket Begin(const CallPtr& call, absl::AnyInvocable<void()> work) ABSL_LOCKS_EXCLUDED(mu_);
  void Finish(const CallPtr& call, absl::StatusOr<Use> use) ABSL_LOCKS_EXCLUDED(mu_);
  bool TakeHere(const CallPtr& call);
  void Resolve(const CallPtr& call);
  void OnResolved(const CallPtr& call, absl::StatusOr<ImageStore::Resolved> resolved);
  void Hold(const CallPtr& call, ImageRef image, std::shared_ptr<ImageSource> source);
  void Ensure(const CallPtr& call, std::shared_ptr<ImageSource> source);
  void OnChain(const CallPtr& call, absl::StatusOr<ChainRef> chain) ABSL_LOCKS_EXCLUDED(mu_);
  absl::Status RecentFailure(const std::string& key) ABSL_LOCKS_EXCLUDED(mu_);
  void RememberFailure(const CallPtr& call, const absl::Status& status) ABSL_LOCKS_EXCLUDED(mu_);

  void Leave(const Digest& manifest) ABSL_LOCKS_EXCLUDED(mu_);
  bool LetGo(const Digest& manifest) ABSL_LOCKS_EXCLUDED(mu_);
  Tree MakeTree(MountTable::SharedMount shown, ChainRef chain) const;

  ImageUses& uses_;
  const OwnerOptions options_;
  // Shared with the trees, which may outlive this object.
  const std::shared_ptr<std::atomic<bool>> gone_;

  mutable absl::Mutex mu_;
  bool serving_ ABSL_GUARDED_BY(mu_) = false, stopped_ ABSL_GUARDED_BY(mu_) = false;
  bool collect_ ABSL_GUARDED_BY(mu_) = false;  // something was let go of
  Moment abandoned_ ABSL_GUARDED_BY(mu_) = Moment::InfiniteFuture();
  absl::flat_hash_map<Digest, Entry> entries_ ABSL_GUARDED_BY(mu_);  // by manifest
  absl::flat_hash_map<std::string, Digest> names_ ABSL_GUARDED_BY(mu_);
  absl::flat_hash_map<std::string, Failure> failures_ ABSL_GUARDED_BY(mu_);
  // Calls that have not ended, and what waits for Serve.
  uint64_t next_call_ ABSL_GUARDED_BY(mu_) = 0;
  absl::flat_hash_map<uint64_t, std::shared_ptr<TicketGroup>> calls_ ABSL_GUARDED_BY(mu_);
  std::vector<absl::AnyInvocable<void()>> waiting_ ABSL_GUARDED_BY(mu_);
  size_t tasks_ ABSL_GUARDED_BY(mu_) = 0;  // on the executor, but for those of calls
};

}  // namespace imagefs
