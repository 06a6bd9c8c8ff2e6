// The images whose layers are snapshots that were never unpacked: found from the labels that
// containerd sends with a layer, held in the store while any of their snapshots exists.
//
// Thread-safe. Asynchronous methods return at once; `done` runs exactly once, on any thread.
#pragma once

#include <cstdint>
#include <functional>
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
#include "base/relay.h"
#include "cache/image_store.h"
#include "snap/snapshot_table.h"

namespace imagefs {

// What the labels of a layer's Prepare say.
struct LayerLabels {
  std::string chain_id;            // of the stack that ends with this layer, as text
  Reference reference;             // with the manifest's digest where the labels have it
  std::optional<Digest> manifest;  // of the platform's manifest
};
// nullopt: the labels name no image, so that the layer has to be unpacked. Understands those of
// containerd's image handlers (containerd.io/snapshot/cri.*) and those of the stargz family
// (containerd.io/snapshot/remote/stargz.*). kInvalidArgument when they contradict themselves.
absl::StatusOr<std::optional<LayerLabels>> ParseLayerLabels(const SnapshotLabels& labels);

class LazyImages {
 public:
  struct Deps {
    ImageStore& store;
    Executor& executor;  // outlives this object and is idle before it goes
    // With what an image is asked for on behalf of this node. May block.
    std::function<SourceFactory::Access(const Reference&)> access_of;
    TrustOf trust_of = TrustTrusted;
  };
  explicit LazyImages(Deps deps) : deps_(std::move(deps)) {}

  // Keeps an image in the store while it is being looked at.
  using Use = std::shared_ptr<const void>;
  struct Layer {
    ImageStore::ImageRef image;
    uint32_t level = 0;  // of the layer, 0 = bottom
    Use use;
  };
  // Finds the layer's image, with credentials that its registry accepts now or has accepted
  // before, and makes all of it showable. kNotFound when the image has no such layer, or the parent
  // (the label snapshot.ref of what lies below, "" = nothing) is not what lies below it.
  FlightTicket Ensure(const LayerLabels& labels, const std::string& parent_ref,
                      absl::AnyInvocable<void(absl::StatusOr<Layer>)> done);
  // The tree of the layers up to that of a lazy snapshot.
  FlightTicket EnsureTree(const SnapshotRecord& record,
                          absl::AnyInvocable<void(absl::StatusOr<ChainRef>)> done);

  // One more, one less snapshot of that image. True when that was the last one: the image is no
  // longer held then, and the store may collect it.
  void Retain(const Digest& manifest);
  bool Release(const Digest& manifest);

  // True once when, long enough ago, an image was left that never became a snapshot: what was
  // brought of it, kept for whoever tries again, may be collected.
  bool TakeAbandoned(Moment now);

  // At start: takes up what the process before this one held for these snapshots and lets go of the
  // rest. Asks nothing of the network.
  absl::Status Recover(const std::vector<SnapshotRecord>& records);
  // The name of a lazy snapshot's tree; nullopt when its image is not known here any more.
  std::optional<Digest> TreeOf(const SnapshotRecord& record) const;
  // The layer of a lazy snapshot alone; null when it is not here (any more).
  LayerRef FindLayer(const SnapshotRecord& record) const;

 private:
  struct Entry {
    ImageStore::ImageRef image;
    ChainRef chain;        // of the whole image: keeps the collector away
    size_t snapshots = 0;  // that exist
    size_t uses = 0;
  };
  using ChainDone = absl::AnyInvocable<void(absl::StatusOr<ChainRef>)>;
  Use Take(const ImageStore::ImageRef& image);
  void Leave(const Digest& manifest);
  bool DropLocked(const Digest& manifest) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  ImageStore::ImageRef Find(const Digest& manifest) const;
  ChainRef HeldChain(const Digest& manifest) const;
  void EnsureImage(const std::shared_ptr<Relay>& relay, ImageStore::ImageRef image,
                   std::shared_ptr<ImageSource> source, ChainDone done);
  struct Asked {
    ImageStore::Resolved resolved;
    std::string key;  // of failures_
  };
  // With `impatient`, what failed a moment ago fails at once.
  void Resolve(const std::shared_ptr<Relay>& relay, const Reference& reference, bool impatient,
               absl::AnyInvocable<void(absl::StatusOr<Asked>)> done);
  void EnsureLevel(const std::shared_ptr<Relay>& relay, const SnapshotRecord& record,
                   ChainDone done);

  const Deps deps_;
  // An image that could not be had with these credentials: the next layers, which the same pull
  // asks for, are not worth all that patience again.
  struct Failure {
    absl::Status status;
    Moment when;
  };
  absl::Status RecentFailure(const std::string& key);
  void RememberFailure(const std::string& key, const absl::Status& status);

  mutable absl::Mutex mu_;
  Moment abandoned_ ABSL_GUARDED_BY(mu_) = Moment::InfiniteFuture();
  absl::flat_hash_map<std::string, Failure> failures_ ABSL_GUARDED_BY(mu_);
  absl::flat_hash_map<Digest, Entry> images_ ABSL_GUARDED_BY(mu_);  // by manifest
};

}  // namespace imagefs
