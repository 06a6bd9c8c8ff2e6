// Images on this disk: resolves references, brings layers and chains here once however many ask,
// and remembers them durably. The flights of reference, blob, layer and chain live here.
//
//   <root>/lock              held (flock) by the one process that owns the store
//   <root>/db/               LevelDB: images, layer states, mounts (docs/formats/store.md)
//   <root>/layers/<DiffID>/  data (raw tar), index (EROFS, overlay form)
//   <root>/chains/<ChainID>  index of the merged tree
//   <root>/blobs/<digest>    compressed bytes while a layer is being made (resumed after a crash)
//
// A layer's states: absent -> filling -> written (all bytes here, DiffID checked: readable) ->
// complete (synced to disk: survives a crash of the machine). A written layer of another boot is
// dropped at start. `Ready` results may be written; WaitDurable waits for complete.
//
// Thread-safe. Asynchronous methods return at once; `done` runs exactly once, on any thread.
#pragma once

#include <cstdint>
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
#include "cache/kv.h"
#include "fetch/source.h"
#include "image/manifest.h"
#include "image/reference.h"

namespace imagefs {

enum class PullPolicy {
  kMissing,  // ask the registry only when the reference is not known here
  kAlways,   // ask the registry, fall back to nothing
  kNever,    // only what is here
};

enum class LayerState { kAbsent, kFilling, kWritten, kComplete };
std::string_view LayerStateName(LayerState state);  // "absent", "filling", "written", "complete"

// What is going on with one layer, for progress lines.
struct LayerProgress {
  enum class Activity { kWaiting, kDownloading, kUnpacking, kIndexing, kDone, kFailed };
  Activity activity = Activity::kWaiting;
  uint64_t blob_bytes = 0;        // compressed size
  uint64_t downloaded_bytes = 0;  // of those here
  uint64_t unpacked_bytes = 0;    // tar bytes written
  uint32_t callers = 0;           // of the layer's flight; more than 1 = shared
};

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

struct FlightReport {
  std::string name;  // "resolve", "layer", "chain", ...
  FlightCounters counters;
  std::vector<std::pair<std::string, size_t>> running;  // key, callers
};

class ImageStore {
 public:
  struct Options {
    std::string root;
    int layer_workers = 0;  // layers unpacked at once; 0 = processors + 2
  };
  // Opens the store, repairs what a crash left (drops half-made files, keeps complete layers), and
  // takes the lock. kFailedPrecondition when another process owns it; the message names its pid.
  static absl::StatusOr<std::unique_ptr<ImageStore>> Open(Options options, SourceFactory& sources);
  virtual ~ImageStore() = default;  // cancels and waits for what runs

  using ImageRef = std::shared_ptr<const ResolvedImage>;
  struct ResolveRequest {
    Reference reference;
    Platform platform;
    SourceFactory::Access access;
    PullPolicy policy = PullPolicy::kMissing;
  };
  struct Resolved {
    ImageRef image;
    // Where missing layers come from; null when the image was found here and nothing is missing.
    std::shared_ptr<ImageSource> source;
    bool from_store = false;
  };
  virtual FlightTicket Resolve(ResolveRequest request,
                               absl::AnyInvocable<void(absl::StatusOr<Resolved>)> done) = 0;

  // Brings every layer of the image and the merged index here and pins them in one step.
  virtual FlightTicket EnsureChain(ImageRef image, std::shared_ptr<ImageSource> source,
                                   Priority priority,
                                   absl::AnyInvocable<void(absl::StatusOr<ChainRef>)> done) = 0;
  // Runs `done` when every layer of the chain is complete.
  virtual void WaitDurable(ChainRef chain, absl::AnyInvocable<void(absl::Status)> done) = 0;

  // The chain if it is here entirely (no network, no flight); kNotFound otherwise.
  virtual absl::StatusOr<ChainRef> FindChain(const Digest& chain_id) = 0;
  virtual std::optional<LayerProgress> Progress(const Digest& diff_id) const = 0;
  virtual LayerState StateOf(const Digest& diff_id) const = 0;

  virtual absl::StatusOr<std::vector<ImageRecord>> ListImages() const = 0;
  // The resolved image of a record; kNotFound with the remedy when it is not known here.
  virtual absl::StatusOr<ImageRef> FindImage(const Reference& reference,
                                             const Platform& platform) const = 0;
  // Forgets every record of that reference (all platforms), then collects layers and chains that no
  // record and no holder needs. Returns the bytes given back.
  virtual absl::StatusOr<uint64_t> Remove(const Reference& reference) = 0;
  // Collects what nothing needs.
  virtual absl::StatusOr<uint64_t> Collect() = 0;

  struct LayerInfo {
    Digest diff_id;
    LayerState state = LayerState::kAbsent;
    uint64_t data_bytes = 0;
    uint64_t index_bytes = 0;
  };
  virtual std::vector<LayerInfo> ListLayers() const = 0;
  virtual std::vector<FlightReport> Flights() const = 0;
  // Named counters: layers_built, layers_reused, layers_dropped, blob_bytes_fetched, ...
  virtual std::vector<std::pair<std::string, uint64_t>> Counters() const = 0;
  virtual KeyValueStore& kv() = 0;
};

}  // namespace imagefs
