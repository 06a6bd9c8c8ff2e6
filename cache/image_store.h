// Images on this disk: resolves references, brings layers and chains here once however many ask,
// and remembers them durably. The flights of reference, blob, layer and chain live here.
//
//   <root>/lock              held (flock) by the one process that owns the store
//   <root>/db/               LevelDB: images, layer states, mounts (docs/formats/store.md)
//   <root>/layers/<name>/    data (raw tar), index (EROFS, overlay form); the name is the DiffID of
//                            a layer that was hashed (cache/identity.h)
//   <root>/chains/<name>     index of the merged tree
//   <root>/blobs/<digest>    compressed bytes while a layer is being made (resumed after a crash)
//
// A layer's states: absent -> filling -> written (all bytes here, DiffID checked: readable) ->
// complete (synced to disk: survives a crash of the machine). A written layer of another boot is
// dropped at start. `Ready` results may be written; WaitDurable waits for complete.
//
// Thread-safe. Asynchronous methods return at once; `done` runs exactly once, on any thread.
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
#include "base/executor.h"
#include "base/flight.h"
#include "cache/chain.h"
#include "cache/check_report.h"
#include "cache/fill_scheduler.h"
#include "cache/filling_layer.h"
#include "cache/image_types.h"
#include "cache/index_finder.h"
#include "cache/kv.h"
#include "cache/profile.h"
#include "cache/scrubber.h"
#include "fetch/source.h"
#include "image/manifest.h"
#include "image/reference.h"

namespace imagefs {

struct ImageRecord {
  std::string reference;  // canonical
  Platform platform;
  Digest manifest_digest;
  Digest chain_id;
  uint64_t compressed_bytes = 0;
  uint64_t unpacked_bytes = 0;  // tar bytes of the layers that are here
  size_t layers = 0;
  int64_t created_unix = 0;  // when it was resolved
};

class ImageStore {
 public:
  struct Options {
    std::string root;
    int layer_workers = 0;  // layers unpacked at once; 0 = processors + 2
    FillScheduler::Options fill;
    // How images are shown before their bytes are here. `open` and `directory` are filled in.
    IndexFinder::Options index;
    // With what credentials `index.repositories` are opened; may be empty (anonymous).
    std::function<SourceFactory::Access(const Reference&)> access_of;
    bool profiles = true;  // recorded and replayed
    Scrubber::Options scrub;
    // A layer that is here is given to every image that claims its DiffID, whoever asks.
    bool share_all = false;
  };
  // Opens the store, repairs what a crash left (drops half-made files, keeps complete layers), and
  // takes the lock. kFailedPrecondition when another process owns it; the message names its pid.
  static absl::StatusOr<std::unique_ptr<ImageStore>> Open(Options options, SourceFactory& sources);
  virtual ~ImageStore() = default;  // cancels and waits for what runs

  struct Resolved {
    ImageRef image;
    // Where missing layers come from; null when the image was found here and nothing is missing.
    std::shared_ptr<ImageSource> source;
    bool from_store = false;
  };
  virtual FlightTicket Resolve(ResolveRequest request,
                               absl::AnyInvocable<void(absl::StatusOr<Resolved>)> done) = 0;

  // Makes the image's chain showable and pins it. A layer that somebody whom `trust` allows has
  // described is shown before its bytes are here, which come when they are asked for; every other
  // one is fetched and proven first, and with an empty `trust` all are.
  virtual FlightTicket EnsureChain(ImageRef image, std::shared_ptr<ImageSource> source,
                                   IndexTrust trust, Priority priority,
                                   absl::AnyInvocable<void(absl::StatusOr<ChainRef>)> done) = 0;
  // The same of an image that is not listed: it is kept from the collector, also over restarts, by
  // the part of the program that `holder` (a word) names, until it releases it.
  virtual FlightTicket EnsureOwned(const std::string& holder, ImageRef image,
                                   std::shared_ptr<ImageSource> source, IndexTrust trust,
                                   Priority priority,
                                   absl::AnyInvocable<void(absl::StatusOr<ChainRef>)> done) = 0;
  // What was held by EnsureOwned. Its bytes go with the next Collect if nothing else needs them.
  virtual absl::Status ReleaseHeld(const std::string& holder, const Digest& manifest) = 0;
  virtual absl::StatusOr<std::vector<ImageRef>> ListHeld(const std::string& holder) const = 0;
  // Where the missing bytes of a chain that an earlier process left come from.
  virtual void AttachSource(const ChainRef& chain, const Reference& reference,
                            const SourceFactory::Access& access) = 0;
  // From here on nothing is collected by itself: what nobody holds any more may be held by the next
  // process. For one that ends, before it lets go of what is shown. Waits for what is under way.
  virtual void StopCollecting() = 0;
  // Of the layers of a chain, bottom first; nullopt: the layer is here whole.
  virtual std::vector<std::optional<FillReport>> FillReports(const ChainRef& chain) const = 0;
  // Brings everything here and makes the span table of every layer that can be read in parts; that
  // of a layer is then the file `access` in its directory.
  virtual FlightTicket MakeIndexes(ImageRef image, std::shared_ptr<ImageSource> source,
                                   absl::AnyInvocable<void(absl::StatusOr<ChainRef>)> done) = 0;
  virtual ProfileKeeper& profiles() = 0;
  // Takes the data of an image's layers away that nobody holds and that can be read in ranges.
  // Returns the bytes given back.
  virtual absl::StatusOr<uint64_t> Evict(const Reference& reference) = 0;
  // Checks what is here of these images (none: the whole store), as cache/store_check.h says.
  // Blocks; kCancelled once `pace` is false.
  virtual absl::StatusOr<CheckReport> Check(const std::vector<Reference>& references, bool repair,
                                            Scrubber::Pace pace) = 0;
  // Runs `done` when every layer of the chain is complete; asks for what is missing.
  virtual void WaitDurable(ChainRef chain, absl::AnyInvocable<void(absl::Status)> done) = 0;

  // The chain of that name if it is here (no network, no flight); kNotFound otherwise.
  virtual absl::StatusOr<ChainRef> FindChain(const Digest& chain_id) = 0;
  // The chain that the image was recorded with; kNotFound when it is not here.
  virtual absl::StatusOr<ChainRef> FindChainOf(const ImageRef& image) = 0;
  // Whether EnsureChain needs no source for the image: every layer that it was recorded with is
  // here.
  virtual bool HasLayers(const ResolvedImage& image, IndexTrust trust) const = 0;
  virtual std::optional<LayerProgress> Progress(const LayerKey& layer) const = 0;
  virtual LayerState StateOf(const LayerKey& layer) const = 0;
  // Of the layer of that name.
  virtual LayerState StateOfName(const Digest& id) const = 0;
  // Whose word what is here of the layer is shown by: as IndexSourceName says it, "proven" when it
  // was hashed, "" when nothing is here.
  virtual std::string_view SourceOf(const LayerKey& layer) const = 0;

  virtual absl::StatusOr<std::vector<ImageRecord>> ListImages() const = 0;
  // The resolved image of a record; kNotFound with the remedy when it is not known here.
  virtual absl::StatusOr<ImageRef> FindImage(const Reference& reference,
                                             const Platform& platform) const = 0;
  // Forgets every record of that reference (all platforms), then collects layers and chains that no
  // record and no holder needs. Returns the bytes given back.
  virtual absl::StatusOr<uint64_t> Remove(const Reference& reference) = 0;
  // Collects what nothing needs.
  virtual absl::StatusOr<uint64_t> Collect() = 0;

  virtual std::vector<LayerInfo> ListLayers() const = 0;
  virtual std::vector<FlightReport> Flights() const = 0;
  // Named counters: layers_built, layers_reused, layers_dropped, blob_bytes_fetched, ...
  virtual std::vector<std::pair<std::string, uint64_t>> Counters() const = 0;
  virtual KeyValueStore& kv() = 0;
};

}  // namespace imagefs
