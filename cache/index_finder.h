// Finds what makes an image showable before its bytes are here: for each layer its index and span
// table, from wherever somebody has left one.
//
//   a table of contents in the layer itself (eStargz, zstd:chunked), named by the manifest
//   an imagefs index beside the image: the tag sha256-<hex>.imagefs, else the registry's list of
//   referrers; then the same in the repositories of the configuration
//   a SOCI index, named by the manifest (version 2) or beside the image (version 1)
//
// Asked and used is only what the caller's IndexTrust allows. Everything found is checked against
// the image before it is handed out; what is not usable is logged and passed over, and the layer is
// then taken by a pass over the whole.
//
// Indexes go through unlinked files. Two budgets that all images share fairly bound how many bytes
// of them wait on the disk, and how many are worked on in memory: an image with many or large
// indexes waits for itself. Thread-safe; nothing here blocks.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/functional/any_invocable.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "base/byte_budget.h"
#include "base/cancel.h"
#include "base/executor.h"
#include "cache/chain.h"
#include "cache/image_types.h"
#include "cache/index_opener.h"
#include "cache/index_trust.h"
#include "fetch/source.h"
#include "image/manifest.h"
#include "image/reference.h"

namespace imagefs {

class IndexFinder {
 public:
  struct Options {
    bool lookup = true;  // false: full passes only
    // Asked after the image's own; what is there is kConfigured.
    std::vector<Reference> repositories;
    // OK when a key of the fleet has signed that artifact, which then is kSigned wherever it lies;
    // empty: there are no keys. Called on the network's threads.
    std::function<absl::Status(const Manifest& artifact)> verify_signature;
    // Where unlinked files are made; on the disk of the store.
    std::string directory;
    // What opening indexes may take of memory, for all images together.
    uint64_t memory = 64 << 20;
    // Opens one of `repositories`.
    std::function<absl::StatusOr<std::shared_ptr<ImageSource>>(const Reference&)> open;
    // An image whose missing layers are smaller in all is not looked up.
    uint64_t min_bytes = 256 << 10;
  };
  explicit IndexFinder(Options options);
  // REQUIRES: every Find has ended. Waits for work that runs.
  ~IndexFinder();

  struct Found {
    std::vector<FoundIndexRef> layers;  // one a layer; null: nothing usable
    std::string profile;                // as published with the index; "" = none
  };
  using Done = absl::AnyInvocable<void(Found)>;
  // `wanted[i]`: layer i is not here. Always answers, with nulls at worst.
  void Find(ImageRef image, std::shared_ptr<ImageSource> source, std::vector<bool> wanted,
            IndexTrust trust, CancelToken cancel, Done done);

  // Begins the questions about that manifest whose answers Find will want, while the caller is
  // still busy with the image's configuration.
  void Prefetch(const Digest& manifest, const std::shared_ptr<ImageSource>& source,
                IndexTrust trust);

  void AppendCounters(std::vector<std::pair<std::string, uint64_t>>& out) const;

  // What lies beside a manifest.
  struct Sidecar {
    std::shared_ptr<ImageSource> source;
    std::optional<Manifest> index;  // an imagefs index
    std::optional<Digest> soci;     // manifest of a SOCI index
  };

 private:
  class Job;
  struct Lookup;
  using SidecarDone = absl::AnyInvocable<void(std::shared_ptr<const Sidecar>)>;
  void FindSidecar(const Digest& manifest, const std::shared_ptr<ImageSource>& source,
                   SidecarDone done);
  void QueryReferrers(const std::shared_ptr<Lookup>& lookup);
  void OnReferrers(const std::shared_ptr<Lookup>& lookup,
                   absl::StatusOr<std::vector<Descriptor>> referrers);
  void FinishLookup(const std::shared_ptr<Lookup>& lookup, std::shared_ptr<const Sidecar> beside);

  // Whether `trust` may be won by a signature, so that what is not believed otherwise is looked at.
  bool MayBeSigned(IndexTrust trust) const;
  // Who vouches for an artifact; an error says why nobody whom `trust` allows does.
  absl::StatusOr<IndexSource> Classify(const Manifest& artifact, IndexSource unsigned_is,
                                       IndexTrust trust) const;

  const Options options_;
  const IndexOpener opener_;
  // Taken in this order: who has memory never waits for room.
  ByteBudget download_, memory_;
  std::atomic<uint64_t> found_{0}, refused_{0}, lookups_{0};
  CancelSource stop_;
  absl::Mutex mu_;
  absl::flat_hash_map<std::string, std::shared_ptr<Lookup>> lookups_by_key_ ABSL_GUARDED_BY(mu_);
  int alive_ ABSL_GUARDED_BY(mu_) = 0;
  std::unique_ptr<Executor> work_;
};

}  // namespace imagefs
