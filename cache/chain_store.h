// SPDX-License-Identifier: Apache-2.0
// The merged indexes on the local disk and the flights that make them. Owned by ImageStore.
//
// The chain that an image was given before is found by the image's manifest and the auth scope.
// Trees are shared by name (cache/identity.h); only equal layers give equal names. A chain is cheap
// to rebuild from its layers, so its file is trusted if it was written in this boot or was synced,
// and is rebuilt otherwise. Thread-safe.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/functional/any_invocable.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "base/executor.h"
#include "base/flight.h"
#include "cache/chain.h"
#include "cache/check_report.h"
#include "cache/image_types.h"
#include "cache/kv.h"
#include "cache/layer_store.h"
#include "cache/write_watch.h"

namespace imagefs {

class ChainStore {
 public:
  // Unless `keep` is set, forgets all existing chains: their layers may have names that an earlier
  // version did not check.
  static absl::StatusOr<std::unique_ptr<ChainStore>> Open(std::string root, KeyValueStore& kv,
                                                          LayerStore& layers, bool keep);
  // REQUIRES: every caller has left its flight. Waits for running work to end.
  ~ChainStore();

  using Done = absl::AnyInvocable<void(absl::StatusOr<ChainRef>)>;
  // Finds descriptions of the image's layers: one per layer, null where there is none.
  using IndexesFound = absl::AnyInvocable<void(std::vector<FoundIndexRef>)>;
  using FindIndexes = std::function<void(CancelToken, IndexesFound)>;
  struct Request {
    ImageRef image;
    std::shared_ptr<ImageSource> source;  // null: only what is local
    IndexTrust trust;
    // What is found from a source that `trust` does not allow is LayerRequest::table. Empty: no
    // layer is described.
    FindIndexes find;
  };
  // Finds or builds the chain of the image.
  FlightTicket Ensure(Request request, Priority priority, Done done);
  // Returns the chain recorded for the image, or kNotFound if it is not present.
  absl::StatusOr<ChainRef> FindOf(const ResolvedImage& image);
  // Compares the files of these chains (all if empty) with their checksums. Repairs a damaged file
  // in place if its chain is open; with `repair`, also those that are not open.
  std::vector<CheckFinding> Check(const absl::flat_hash_set<Digest>& chains, bool repair)
      ABSL_LOCKS_EXCLUDED(repairs_mu_);
  // Returns the files below chains/ that no record names. Excludes names that are being built.
  std::vector<std::string> Strays() const;
  // Forgets every chain of a layer that turned out not to be what it claimed.
  void Forget(const Digest& layer);
  // Returns the chain of that name, pinned, or kNotFound if it or one of its layers is not present.
  absl::StatusOr<ChainRef> Find(const Digest& chain_id);
  // Returns whether anybody holds the chain of that name.
  bool InUse(const Digest& chain_id) const;
  // Number of callers of running flights whose chain contains that layer.
  uint32_t CallersOf(const LayerKey& layer) const;
  std::vector<FlightReport> Flights() const;
  void AppendCounters(std::vector<std::pair<std::string, uint64_t>>& out) const;
  // Removes chains that are neither in `keep` nor held. Adds the layers of the remaining ones to
  // `layers_needed`.
  uint64_t Collect(const absl::flat_hash_set<Digest>& keep,
                   absl::flat_hash_set<Digest>& layers_needed);

 private:
  class Job;
  struct Entry {
    std::vector<Digest> layers;  // their names, bottom first
    uint64_t bytes = 0;
    std::optional<uint32_t> sum;  // CRC-32C of the file; none in records of older versions
    std::weak_ptr<const Chain> open;
    bool repair_queued = false;
  };
  ChainStore(std::string root, KeyValueStore& kv, LayerStore& layers);
  absl::Status Load(bool keep);
  absl::StatusOr<Entry> ReadRecord(const Digest& chain_id, std::string_view value) const;
  ChainRef FindGiven(const Request& request);
  ChainRef Recent(const Request& request) const;
  void KeepRecent(const Request& request, const ChainRef& chain);
  std::vector<std::optional<Digest>> RecordedLayers(const Request& request) const;
  std::string PathOf(const Digest& chain_id) const;
  absl::Status PutRecord(const Digest& chain_id, const Entry& entry, bool synced);
  // Merges `layers` into a new index, records and pins it.
  absl::StatusOr<ChainRef> Make(const Digest& chain_id, std::vector<LayerRef> layers);
  // Writes the merged index of `layers` to a new file, and records its size and checksum in
  // `entry`.
  static absl::Status Merge(const std::vector<LayerRef>& layers, const std::string& path,
                            Entry& entry);
  bool IsDamaged(const Digest& chain_id) const;
  void Watch(const Digest& chain_id);
  void OnWritten(const Digest& chain_id);
  // Checks the file of an open chain and repairs it in place if damaged. Returns OK if it was
  // intact, or kDataLoss if it was damaged; `*repaired` tells whether it is intact now.
  absl::Status Repair(const Digest& chain_id, bool* repaired) ABSL_LOCKS_EXCLUDED(repairs_mu_);
  absl::Status Rewrite(const Entry& entry, const Chain& chain) const;
  absl::Status GoOnWith(const Digest& chain_id, const Chain& chain, const Fd& fd);
  absl::StatusOr<ChainRef> OpenChain(const Digest& chain_id, std::optional<uint32_t> sum,
                                     std::vector<LayerRef> layers);
  absl::Status CheckLayers(const Chain& chain);
  void Sync(const Digest& chain_id);

  const std::string root_;
  KeyValueStore& kv_;
  LayerStore& layers_;
  std::string boot_id_;
  FlightTable<ChainRef> flights_{"chain"};  // by image, auth scope and trust
  FlightTable<ChainRef> merges_{"merge"};   // by name

  absl::Mutex repairs_mu_ ABSL_ACQUIRED_BEFORE(mu_);  // held while a file is compared or rewritten
  mutable absl::Mutex mu_;
  absl::flat_hash_map<Digest, Entry> chains_ ABSL_GUARDED_BY(mu_);
  absl::flat_hash_map<std::string, std::vector<LayerKey>> running_ ABSL_GUARDED_BY(mu_);
  // The chains given to images, by image and auth scope.
  absl::flat_hash_map<std::string, std::weak_ptr<const Chain>> recent_ ABSL_GUARDED_BY(mu_);
  int jobs_alive_ ABSL_GUARDED_BY(mu_) = 0;
  std::atomic<uint64_t> merged_{0}, reused_{0}, repaired_{0};

  std::unique_ptr<Executor> work_;
  std::unique_ptr<WriteWatch> watch_;  // last: it submits work
};

}  // namespace imagefs
