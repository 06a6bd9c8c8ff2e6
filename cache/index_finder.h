// SPDX-License-Identifier: Apache-2.0
// Finds what allows an image to be mounted before its bytes are present: the index and span table
// of each layer, wherever they are published.
//
//   a table of contents in the layer itself (eStargz, zstd:chunked), named by the manifest
//   an imagefs index in the image's repository: the tag sha256-<hex>.imagefs, else the registry's
//   list of referrers; then the same in the configured repositories
//   a SOCI index, named by the manifest (version 2) or attached to the image (version 1)
//   else, if the layer is not compressed, the headers of its tar (cache/stored_layer_finder.h)
//
// Only the sources that the caller's IndexTrust allows are queried and used. Everything found is
// checked against the image before it is returned. Unusable results are logged and skipped; the
// layer is then unpacked as a whole.
//
// Indexes pass through unlinked files. Two byte budgets, shared fairly by all images, limit how
// much index data is on the disk and how much is processed in memory, so an image with many or
// large indexes delays only itself. Thread-safe; nothing here blocks.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_set.h"
#include "absl/functional/any_invocable.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "base/byte_budget.h"
#include "base/cancel.h"
#include "base/executor.h"
#include "cache/chain.h"
#include "cache/hot_pack_stream.h"
#include "cache/image_types.h"
#include "cache/index_opener.h"
#include "cache/index_trust.h"
#include "cache/sidecar_finder.h"
#include "cache/stored_layer_finder.h"
#include "fetch/source.h"
#include "image/manifest.h"
#include "image/reference.h"

namespace imagefs {

class IndexFinder {
 public:
  struct Options {
    bool lookup = true;     // false: full passes only
    bool hot_packs = true;  // use those that are published with an index
    // Queried after the image's own repository; their content is kConfigured.
    std::vector<Reference> repositories;
    // Returns OK if a configured key has signed that artifact, which makes it kSigned wherever it
    // is stored. Empty: there are no keys. Called on network threads.
    std::function<absl::Status(const Manifest& artifact)> verify_signature;
    // The directory of the unlinked files; on the store's disk.
    std::string directory;
    // Limit on the memory for opening indexes, over all images.
    uint64_t memory = 64 << 20;
    // Opens one of `repositories`.
    std::function<absl::StatusOr<std::shared_ptr<ImageSource>>(const Reference&)> open;
    // Skips the lookup for an image whose missing layers are smaller than this in total.
    uint64_t min_bytes = 256 << 10;
  };
  explicit IndexFinder(Options options);
  // REQUIRES: every Find has ended. Waits for running work.
  ~IndexFinder();

  struct Found {
    std::vector<FoundIndexRef> layers;    // one per layer; null: nothing usable
    std::string profile;                  // as published with the index; "" = none
    std::shared_ptr<HotPackStream> pack;  // that is published with it and on its way; may be null
  };
  using Done = absl::AnyInvocable<void(Found)>;
  // `wanted[i]`: layer i is not present. `runs`: the image's program is about to run, so its hot
  // pack is of use. Never fails; at worst all results are null.
  void Find(ImageRef image, std::shared_ptr<ImageSource> source, std::vector<bool> wanted,
            IndexTrust trust, bool runs, CancelToken cancel, Done done);

  // Starts the queries about that manifest that Find will need, while the caller is still fetching
  // the image's configuration.
  void Prefetch(const Digest& manifest, const std::shared_ptr<ImageSource>& source,
                IndexTrust trust);

  void AppendCounters(std::vector<std::pair<std::string, uint64_t>>& out) const;
  FlightReport Flights() const { return stored_->Flights(); }

 private:
  class Job;
  struct Alive;

  // Returns whether a signature may satisfy `trust`, so that artifacts not trusted otherwise are
  // examined.
  bool MayBeSigned(IndexTrust trust) const;
  // Returns who vouches for the index of a sidecar, or why nobody that `trust` allows does.
  // REQUIRES: it has one.
  absl::StatusOr<IndexSource> Classify(const Sidecar& sidecar, IndexSource unsigned_is,
                                       IndexTrust trust) const;
  // Artifacts whose hot pack had wrong bytes. Outlives the finder.
  class Liars {
   public:
    void Add(const Digest& artifact) {
      absl::MutexLock lock(&mu_);
      artifacts_.insert(artifact);
    }
    bool Has(const Digest& artifact) const {
      absl::MutexLock lock(&mu_);
      return artifacts_.contains(artifact);
    }

   private:
    mutable absl::Mutex mu_;
    absl::flat_hash_set<Digest> artifacts_ ABSL_GUARDED_BY(mu_);
  };

  const Options options_;
  const IndexOpener opener_;
  // Acquired in this order: a holder of memory never waits for download space.
  ByteBudget download_, memory_;
  const std::shared_ptr<Liars> liars_ = std::make_shared<Liars>();
  std::atomic<uint64_t> found_{0}, refused_{0}, absent_{0}, packs_{0};
  CancelSource stop_;
  absl::Mutex mu_;
  int alive_ ABSL_GUARDED_BY(mu_) = 0;
  std::unique_ptr<Executor> work_;
  std::unique_ptr<StoredLayerFinder> stored_;
  std::unique_ptr<SidecarFinder> sidecars_;
};

}  // namespace imagefs
