// SPDX-License-Identifier: Apache-2.0
// Images on the local disk: resolves references, fetches each layer and chain once regardless of
// the number of callers (single-flight), and records them durably. Owns the flights of references,
// blobs, layers and chains.
//
//   <root>/lock              held (flock) by the process that owns the store
//   <root>/db/               LevelDB: images, layer states, mounts (docs/formats/store.md)
//   <root>/layers/<name>/    data (raw tar), index (EROFS, overlay form); the name is the DiffID if
//                            the layer was hashed (cache/identity.h)
//   <root>/chains/<name>     index of the merged tree
//   <root>/blobs/<digest>    compressed bytes while a layer is being made (resumed after a crash)
//
// The states of a layer: absent -> filling -> written (all bytes present, DiffID checked, readable)
// -> complete (synced: survives a crash of the machine). A layer written in another boot is dropped
// at start. Results may be only written; WaitDurable waits for complete.
//
// Thread-safe. Asynchronous methods return immediately; `done` runs exactly once, on any thread.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/functional/any_invocable.h"
#include "absl/status/statusor.h"
#include "base/cancel.h"
#include "base/executor.h"
#include "base/flight.h"
#include "base/histogram.h"
#include "cache/chain.h"
#include "cache/check_report.h"
#include "cache/fill_scheduler.h"
#include "cache/filling_layer.h"
#include "cache/image_picture.h"
#include "cache/image_types.h"
#include "cache/index_finder.h"
#include "cache/kept_blobs.h"
#include "cache/kv.h"
#include "cache/parallel_passes.h"
#include "cache/profile.h"
#include "cache/scrubber.h"
#include "cache/shared_store.h"
#include "cache/store_space.h"
#include "cache/store_usage.h"
#include "fetch/image_verifier.h"
#include "fetch/source.h"
#include "image/manifest.h"
#include "image/reference.h"

namespace imagefs {

struct ImageRecord {
  std::string reference;      // canonical
  Platform platform;          // none for an artifact
  std::string artifact_type;  // "" = an image
  Digest manifest_digest;
  Digest chain_id;
  uint64_t compressed_bytes = 0;
  uint64_t unpacked_bytes = 0;  // tar bytes of the layers that are present
  uint64_t disk_bytes = 0;      // that these layers occupy on the disk
  bool pinned = false, listed = true;
  // Of the least finished of its layers; kAbsent also if none has any data.
  LayerState state = LayerState::kAbsent;
  size_t layers = 0;
  int64_t created_unix = 0;  // when it was resolved
};

class ImageStore {
 public:
  // Called for whoever acts on what happens to images; each may be empty. Called on any thread
  // without locks; must not block.
  struct Events {
    // An image that EnsureChain or EnsureOwned was called for can be read, and is recorded.
    std::function<void(const ImageRef&, const Chain&)> readable;
    // The profile of that manifest's first run was recorded.
    std::function<void(const Digest&)> profiled;
  };
  struct Options {
    std::string root;
    int layer_workers = 0;                      // layers unpacked at once; 0 = processors + 2
    uint64_t hash_behind = uint64_t{16} << 20;  // LayerStore::Options
    FillScheduler::Options fill;
    ParallelPasses::Options parallel;
    // How images are mounted before their bytes are present. The store sets `open` and `directory`.
    IndexFinder::Options index;
    // The credentials with which `index.repositories` are opened; may be empty (anonymous).
    std::function<SourceFactory::Access(const Reference&)> access_of;
    bool profiles = true;  // record and replay profiles
    Events events;
    Scrubber::Options scrub;
    // Give a local layer to every image that claims its DiffID, without any check of access.
    bool share_all = false;
    bool keep_blobs = false;  // of layers that were made: kept_blobs()
    SpaceLimits space;
    absl::Duration keep_partial = absl::Hours(24);  // age of what interrupted pulls leave
    std::vector<std::string> shared;                // directories: cache/shared_store.h
    // Who is asked whether an image may be used; nullopt = nobody.
    std::optional<ImageVerifier::Options> verify;
  };
  // Takes the lock, opens the store, and repairs what a crash left (drops unfinished files, keeps
  // complete layers). Returns kFailedPrecondition, with the owner's pid, if another process owns
  // the store.
  static absl::StatusOr<std::unique_ptr<ImageStore>> Open(Options options, SourceFactory& sources);
  virtual ~ImageStore() = default;  // cancels running work and waits for it

  struct Resolved {
    ImageRef image;
    // Where missing layers come from; null if the image was found locally and nothing is missing.
    std::shared_ptr<ImageSource> source;
    bool from_store = false;
  };
  // Finds an image, and asks the verifiers about it. Whatever makes an image visible has it from
  // here, or had it before from an earlier process.
  virtual FlightTicket Resolve(ResolveRequest request,
                               absl::AnyInvocable<void(absl::StatusOr<Resolved>)> done) = 0;

  // Makes the image's chain mountable and pins it. A layer with a description from a source that
  // `trust` allows can be mounted before its bytes are present; they are fetched on demand. Every
  // other layer is first fetched and proven; with an empty `trust`, all are.
  virtual FlightTicket EnsureChain(ImageRef image, std::shared_ptr<ImageSource> source,
                                   IndexTrust trust, Priority priority,
                                   absl::AnyInvocable<void(absl::StatusOr<ChainRef>)> done) = 0;
  // Like EnsureChain, for a caller that reads some files and runs nothing: what it reads is not
  // recorded as the image's first run, and what that run read is not fetched for it.
  virtual FlightTicket EnsureFiles(ImageRef image, std::shared_ptr<ImageSource> source,
                                   IndexTrust trust,
                                   absl::AnyInvocable<void(absl::StatusOr<ChainRef>)> done) = 0;
  // Like EnsureChain, for an image that is not listed. It is protected from the collector, also
  // across restarts, by the part of the program named by `holder` (a word), until ReleaseHeld.
  virtual FlightTicket EnsureOwned(const std::string& holder, ImageRef image,
                                   std::shared_ptr<ImageSource> source, IndexTrust trust,
                                   Priority priority,
                                   absl::AnyInvocable<void(absl::StatusOr<ChainRef>)> done) = 0;
  // Releases an image held by EnsureOwned. The next Collect removes its bytes if nothing else needs
  // them.
  virtual absl::Status ReleaseHeld(const std::string& holder, const Digest& manifest) = 0;
  virtual absl::StatusOr<std::vector<ImageRef>> ListHeld(const std::string& holder) const = 0;
  // Sets the source of the missing bytes of a chain that an earlier process left.
  virtual void AttachSource(const ChainRef& chain, const Reference& reference,
                            const SourceFactory::Access& access) = 0;
  // Starts automatic collection: what was mounted or held by the previous process is held again.
  virtual void StartCollecting() = 0;
  // Stops automatic collection: what nobody holds any more may be held by the next process. To be
  // called during shutdown, before mounts are released. Waits for a running collection.
  virtual void StopCollecting() = 0;
  // One per layer of the chain, bottom first; nullopt: the layer is fully present.
  virtual std::vector<std::optional<FillReport>> FillReports(const ChainRef& chain) const = 0;
  // What the status page shows of an image and its chain. Reads the indexes of lazy layers.
  virtual ImagePicture Picture(const ChainRef& /*chain*/, const Digest& /*manifest*/) const {
    return {};
  }
  // Fetches everything and builds the span table of every layer that supports random access, as the
  // file `access` in the layer's directory. Neither lists nor holds the image.
  virtual FlightTicket MakeIndexes(ImageRef image, std::shared_ptr<ImageSource> source,
                                   absl::AnyInvocable<void(absl::StatusOr<ChainRef>)> done) = 0;
  virtual ProfileKeeper& profiles() = 0;
  // Removes the data of an image's layers that nobody holds and that can be read in ranges. Returns
  // the bytes freed.
  virtual absl::StatusOr<uint64_t> Evict(const Reference& reference) = 0;
  // What occupies the store. Blocks on the disk.
  virtual absl::StatusOr<StoreUsage> Usage() = 0;
  virtual absl::StatusOr<PruneResult> Prune(const PruneRequest& request) = 0;
  // Adds an image whose layers are complete to the shared store in `directory`, which is made if it
  // is missing. Returns the bytes that were added. Blocks.
  virtual absl::StatusOr<uint64_t> Export(const ResolvedImage& image, const ChainRef& chain,
                                          const std::string& directory,
                                          const CancelToken& cancel) = 0;
  // Copies an image of the shared store in `directory` into this store, durably, and lists it.
  // Blocks.
  virtual absl::StatusOr<ImageRef> Import(const std::string& directory, const Reference& reference,
                                          const Platform& platform, const CancelToken& cancel) = 0;
  // The images of the configured shared stores. Blocks on these.
  virtual std::vector<SharedStores::Listed> ListShared() const = 0;
  // A pinned image is not removed to make room. kNotFound if it is not listed, or not pinned.
  virtual absl::Status Pin(const Reference& reference) = 0;
  virtual absl::Status Unpin(const Reference& reference) = 0;
  // Checks what is present of these images (none: of the whole store) as described in
  // cache/store_check.h. Blocks. Returns kCancelled once `pace` returns false.
  virtual absl::StatusOr<CheckReport> Check(const std::vector<Reference>& references, bool repair,
                                            Scrubber::Pace pace) = 0;
  // Runs `done` when every layer of the chain is complete; requests what is missing.
  virtual void WaitDurable(ChainRef chain, absl::AnyInvocable<void(absl::Status)> done) = 0;

  // Returns the chain of that name if it is present (no network, no flight), else kNotFound.
  virtual absl::StatusOr<ChainRef> FindChain(const Digest& chain_id) = 0;
  // Returns the chain recorded for the image, or kNotFound if it is not present.
  virtual absl::StatusOr<ChainRef> FindChainOf(const ImageRef& image) = 0;
  // Returns whether EnsureChain needs no source for the image: every layer recorded for it is
  // present.
  virtual bool HasLayers(const ResolvedImage& image, IndexTrust trust) const = 0;
  virtual std::optional<LayerProgress> Progress(const LayerKey& layer) const = 0;
  // Bytes of the blob that interrupted pulls left, approximately: they are not fetched again.
  virtual uint64_t ResumableBytes(const Digest& blob) const = 0;
  virtual LayerState StateOf(const LayerKey& layer) const = 0;
  // By the layer's name.
  virtual LayerState StateOfName(const Digest& id) const = 0;
  // Who vouches for the local content of the layer: a name as in IndexSourceName, "proven" if it
  // was hashed, or "" if nothing is present.
  virtual std::string_view SourceOf(const LayerKey& layer) const = 0;

  // With `also_held`, also images that are held and not listed.
  virtual absl::StatusOr<std::vector<ImageRecord>> ListImages(bool also_held) const = 0;
  // Returns the resolved image of a record, or of a shared store, or kNotFound with a remedy.
  virtual absl::StatusOr<ImageRef> FindImage(const Reference& reference,
                                             const Platform& platform) const = 0;
  // Returns a listed or held image of that manifest, or kNotFound.
  virtual absl::StatusOr<ImageRef> FindManifest(const Digest& manifest) const = 0;
  // Deletes every record of that reference (all platforms), then collects layers and chains that no
  // record and no holder needs. Returns the bytes freed.
  virtual absl::StatusOr<uint64_t> Remove(const Reference& reference) = 0;
  // Collects everything that is not needed, except what interrupted pulls left lately. Returns the
  // bytes freed.
  virtual absl::StatusOr<uint64_t> Collect() = 0;

  virtual std::vector<LayerInfo> ListLayers() const = 0;
  virtual std::vector<FlightReport> Flights() const = 0;
  // Named counters: layers_built, layers_reused, layers_dropped, blob_bytes_fetched, ...
  virtual std::vector<std::pair<std::string, uint64_t>> Counters() const = 0;
  // "read_wait" by `cause`, "decode".
  virtual std::vector<HistogramReport> Histograms() const { return {}; }
  // What is used, as of the last measurement and the writes since; does not search the disk.
  virtual absl::StatusOr<StoreSpace::Reading> Space() const {
    return absl::UnimplementedError("this store does not measure");
  }
  virtual KeyValueStore& kv() = 0;
  // Null unless Options::keep_blobs.
  virtual KeptBlobs* kept_blobs() { return nullptr; }
};

}  // namespace imagefs
