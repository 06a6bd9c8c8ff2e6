// SPDX-License-Identifier: Apache-2.0
// The layers on the local disk and the flights that make them. Owned by ImageStore; see
// cache/image_store.h for files, states and guarantees, and cache/identity.h for names.
//
// A layer is given to a request only under the rules of docs/security.md, "Identity" and
// "Possession"; all of them are enforced here and nowhere else. Thread-safe.
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
#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "base/flight.h"
#include "base/ticket_group.h"
#include "cache/chain.h"
#include "cache/downloads.h"
#include "cache/fair_workers.h"
#include "cache/fill_scheduler.h"
#include "cache/filling_layer.h"
#include "cache/image_types.h"
#include "cache/kept_blobs.h"
#include "cache/kv.h"
#include "cache/layer_entry.h"
#include "cache/layer_files.h"
#include "cache/layer_proof.h"
#include "cache/layer_request.h"
#include "cache/layer_syncer.h"
#include "cache/layer_use.h"
#include "cache/parallel_passes.h"
#include "cache/possession.h"
#include "cache/scrubber.h"
#include "cache/shared_store.h"
#include "cache/span_table_builder.h"
#include "cache/store_space.h"
#include "cache/write_watch.h"
#include "fetch/source.h"

namespace imagefs {

class LayerStore {
 public:
  struct Options {
    std::string root;
    int workers = 0;  // SourceTurns::Options; 0 = processors + 2
    // Give a local layer to every image that claims its DiffID, without any check of access.
    bool share_all = false;
    FillScheduler::Options fill;
    Scrubber::Options scrub;
    bool keep_blobs = false;                    // ImageStore::kept_blobs
    StoreSpace* space = nullptr;                // must outlive the store. Null: no limit
    const SharedStores* shared = nullptr;       // must outlive the store. Null: none
    uint64_t hash_behind = uint64_t{16} << 20;  // blobs of that size: layer_store_unhashed.h
    LateWindows::OpenRepository open;           // with this machine's credentials
    ParallelPasses::Options parallel;
  };
  // Loads the records and removes unfinished files left by a crash.
  static absl::StatusOr<std::unique_ptr<LayerStore>> Open(Options options, KeyValueStore& kv);
  // REQUIRES: every caller has left its flight. Waits for running work to end.
  ~LayerStore();

  using Done = absl::AnyInvocable<void(absl::StatusOr<LayerRef>)>;
  using Request = LayerRequest;
  // Returns the layer, pinned. A missing layer is made from `found` at once, and its bytes are
  // fetched on demand; without `found`, its whole blob is unpacked. A lazy layer gets the source.
  FlightTicket Ensure(Request request, Priority priority, Done done);
  // Whether Ensure needs no fetch: the layer is recorded, or proven to come from that blob.
  bool Has(const Request& request) const;
  // Returns the layer of that name, pinned, or kNotFound if it is not present.
  absl::StatusOr<LayerRef> Find(const Digest& id);
  // Copies a layer of a shared store into this one, unless it is local, and pins it. Blocks.
  absl::StatusOr<LayerRef> Import(const SharedLayer& shared, const CancelToken& cancel);
  // Describes a complete layer for a shared store.
  absl::StatusOr<SharedLayer> Describe(const Digest& id) const;
  // Runs `done` when all of these layers are complete, or with the reason why one cannot be.
  void WaitDurable(const std::vector<Digest>& ids, absl::AnyInvocable<void(absl::Status)> done);

  // Reads all that is present of a layer from the disk, at that pace. Returns kDataLoss if it was
  // damaged. What could be rebuilt locally was; a layer that can be fetched in parts is then
  // filling (StateOfName), and any other is gone.
  absl::Status Scrub(const Digest& id, Scrubber::Pace pace) ABSL_LOCKS_EXCLUDED(checks_mu_);
  static std::shared_ptr<FillingLayer> FillingOf(const LayerRef& layer);
  // What each layer occupies. Blocks on the disk, without any lock.
  std::vector<LayerUse> Uses() const;
  // Removes the data of a layer that nobody holds; its bytes are then fetched on demand. Returns
  // the bytes freed, or kFailedPrecondition if the layer is held or has no span table.
  absl::StatusOr<uint64_t> Evict(const Digest& id);
  uint64_t RemoveUnused(const Digest& id);  // even if records name it. Returns the bytes freed
  uint64_t EvictParts(uint64_t bytes);      // FillingLayer::Evict, those not read lately first
  Downloads& downloads() { return *downloads_; }
  // Returns whether a layer was released since the last call.
  bool TakeReleased() { return released_->exchange(false, std::memory_order_relaxed); }
  SpanTableBuilder& span_tables() { return *span_tables_; }
  const ParallelPasses& parallel_passes() const { return *parallel_; }
  FillScheduler& scheduler() { return *fill_; }
  KeptBlobs* kept_blobs() { return kept_.get(); }
  // Replaces the observer; {} removes it.
  void Observe(LayerObserver observer) ABSL_LOCKS_EXCLUDED(observer_mu_);
  // For the layer that an image claims: the one under its DiffID if it is proven to come from that
  // blob, else the one that is being made or used unproven.
  LayerState StateOf(const LayerKey& key) const;
  LayerState StateOfName(const Digest& id) const;
  std::string_view SourceOf(const LayerKey& key) const;
  std::optional<LayerProgress> Progress(const LayerKey& key) const;
  std::vector<LayerInfo> List() const;
  std::vector<FlightReport> Flights() const;
  void AppendCounters(std::vector<std::pair<std::string, uint64_t>>& out) const;
  void AppendHistograms(std::vector<HistogramReport>& out) const { fill_->AppendHistograms(out); }
  // Paths below the store that no record names, or that are left of an ended transfer.
  std::vector<std::string> Strays() ABSL_LOCKS_EXCLUDED(records_mu_);
  // Removes every layer whose name is neither in `keep` nor held. Returns the bytes freed.
  uint64_t Collect(const absl::flat_hash_set<Digest>& keep);
  // Like Collect, only for layers that also exist under their DiffID because they were proven.
  uint64_t CollectProvenTwice(const absl::flat_hash_set<Digest>& keep);
  // The name and DiffID of those that are not in use.
  std::vector<std::pair<Digest, Digest>> ProvenTwice() const;

 private:
  class Job;
  class Sharing;  // layer_store_shared.h
  class Hashing;  // layer_store_unhashed.h
  struct Call;
  static constexpr std::string_view kRecordPrefix = "layer/";
  using Origin = BlobOrigin;
  using Entry = LayerEntry;
  using Verdict = LayerVerdict;
  LayerStore(Options options, KeyValueStore& kv);
  absl::Status Load();
  void RemoveUnknown();
  std::string DirectoryOf(const Digest& id) const;
  absl::StatusOr<LayerRef> OpenLocked(const Digest& id, Entry& entry)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  Verdict Judge(const Request& request) const;
  std::string_view SourceLocked(const Digest& id, const Entry& entry) const;
  const Entry* EntryLocked(const LayerKey& key) const ABSL_SHARED_LOCKS_REQUIRED(mu_);
  Verdict JudgeLocked(const Request& request) const ABSL_SHARED_LOCKS_REQUIRED(mu_);
  Verdict JudgeUnprovenLocked(const Request& request) const ABSL_SHARED_LOCKS_REQUIRED(mu_);
  void Continue(const std::shared_ptr<Call>& call);
  void Deliver(const std::shared_ptr<Call>& call, const Digest& id);
  void Fetch(const std::shared_ptr<Call>& call);
  void OnFetched(const std::shared_ptr<Call>& call, absl::StatusOr<LayerRef> layer);
  void AwaitProof(const std::shared_ptr<Call>& call, const Digest& id);
  void EndProofs(const Digest& id, const absl::Status& status);
  // Moves the layer's files from `directory` into place, records it, pins it.
  absl::StatusOr<LayerRef> Publish(const Digest& diff_id, const std::string& directory,
                                   const LayerOutput& made, const Origin& origin);
  // Syncs a written layer and records it as complete; for the syncer.
  absl::Status SyncToDisk(const Digest& id, bool careful);
  bool IsUnverifiedLocked(const Digest& id, const Entry& entry) const
      ABSL_SHARED_LOCKS_REQUIRED(mu_);
  bool IsUnverified(const Digest& id) const;
  bool IsStillLocked(const Digest& id, const Entry& was) const ABSL_SHARED_LOCKS_REQUIRED(mu_);
  absl::Status CheckNow(const Digest& id, bool also_verified) ABSL_LOCKS_EXCLUDED(checks_mu_);
  absl::Status CheckWith(const Digest& id, bool also_verified)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(checks_mu_);
  std::optional<Digest> NextToScrub() const;
  absl::Status ScrubFilling(const Digest& id, const Entry& entry, Scrubber::Pace pace);
  void RecheckSpans(const Digest& id, const Entry& was, const std::vector<uint32_t>& bad);
  void OnWritten(const Digest& id);
  void OnIndexWritten(const Digest& id);
  absl::StatusOr<LayerSums> RestoreIndexOf(const Digest& id, const Entry& entry);
  bool HealIndexLocked(const Layer& layer, const Entry& entry) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void Watch(const Digest& id) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  std::shared_ptr<LayerGuard> MakeGuard(const Digest& id, Entry& entry)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  absl::Status Accept(const Digest& id, const std::string& stamp, const LayerSums& sums);
  absl::Status Restamp(const std::vector<Digest>& ids);
  std::vector<Digest> UnchangedLayersOf(const absl::flat_hash_set<Digest>& claims) const;
  std::string StampOfLayer(const Digest& id, const Entry& entry) const;
  void Repair(const Digest& id, const Entry& damaged, const absl::Status& why)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(checks_mu_);
  bool FillAgain(const Digest& id, const Entry& damaged, const absl::Status& why);
  void Lose(const Digest& diff_id, const std::shared_ptr<LayerGuard>& guard,
            const absl::Status& why, absl::StatusOr<Fd> file);
  void StampFilling();
  void NoteUnclaimed(const Digest& id);
  std::vector<std::shared_ptr<FillingLayer>> OpenFillings() const;
  uint64_t CollectIf(absl::FunctionRef<bool(const Digest& id, const Entry& entry)> goes);
  std::string RecordOf(const Digest& id, const Entry& entry) const;
  std::optional<LayerProgress> FillProgress(const LayerKey& key) const;
  absl::Status ReadRecord(std::string_view key, std::string_view value)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  absl::Status OpenFilling(const Digest& id, Layer& layer, const Entry& entry)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  absl::StatusOr<LayerRef> PublishFilling(const Request& request);
  absl::Status CheckFilled(const Digest& id, FillingLayer& filling);
  absl::Status Prove(const Digest& id, const Entry& entry, FillingLayer& filling);
  absl::Status Promote(const Digest& id, const FillingLayer& filling, const std::string& directory,
                       ProvenLayer proven);
  absl::Status MarkRefilled(const Digest& id, const LayerSums& sums);
  bool Trusts(const Digest& id) const;
  void DropDamaged(const Digest& id, uint64_t instance, const absl::Status& why);
  void DropLayer(const Digest& id, uint64_t instance, const absl::Status& why);
  const Options options_;
  KeyValueStore& kv_;
  std::string boot_id_;
  FlightTable<LayerRef> layer_flights_{"layer"};
  FlightTable<bool> blob_flights_{"blob"}, proof_flights_{"proof"};
  WindowMemory windows_;
  Possession possession_;
  std::unique_ptr<Downloads> downloads_;
  absl::Mutex checks_mu_ ABSL_ACQUIRED_BEFORE(records_mu_);  // held while a layer is read
  // Makes changes of a layer's files and record atomic; held over local disk writes.
  absl::Mutex records_mu_ ABSL_ACQUIRED_BEFORE(mu_);
  mutable absl::Mutex mu_;
  absl::flat_hash_map<Digest, Entry> layers_ ABSL_GUARDED_BY(mu_);  // by name
  absl::flat_hash_map<LayerKey, std::weak_ptr<Job>> jobs_ ABSL_GUARDED_BY(mu_);
  // Layers whose description was false: from now on unpacked as a whole.
  absl::flat_hash_set<Digest> distrusted_ ABSL_GUARDED_BY(mu_);
  absl::flat_hash_map<Digest, ProofWait> proofs_ ABSL_GUARDED_BY(mu_);
  // The names of layers that are or were unproven, by what images claim.
  absl::flat_hash_map<LayerKey, Digest> unproven_ ABSL_GUARDED_BY(mu_);
  int jobs_alive_ ABSL_GUARDED_BY(mu_) = 0;
  uint64_t instances_ ABSL_GUARDED_BY(mu_) = 0;
  bool closing_ ABSL_GUARDED_BY(mu_) = false;
  absl::Mutex observer_mu_;  // held while the observer is called
  LayerObserver observer_ ABSL_GUARDED_BY(observer_mu_);
  std::atomic<uint64_t> filling_made_{0}, filled_{0}, damaged_{0}, evicted_{0}, built_{0},
      reused_{0}, dropped_{0}, refetched_{0}, blob_bytes_{0}, tar_bytes_{0}, asked_{0},
      checked_bad_{0}, index_useless_{0};
  std::atomic<bool> no_room_{false};  // for the last layer to be made
  // Shared with the layers that were given out.
  const std::shared_ptr<std::atomic<bool>> released_ = std::make_shared<std::atomic<bool>>(true);
  // Last: their threads end before anything above is destroyed.
  std::unique_ptr<FillScheduler> fill_;
  std::unique_ptr<ParallelPasses> parallel_;
  std::shared_ptr<KeptBlobs> kept_;  // null: not configured
  std::unique_ptr<SpanTableBuilder> span_tables_;
  std::unique_ptr<Sharing> sharing_;
  std::unique_ptr<FairWorkers> passes_;
  std::unique_ptr<Hashing> hashing_;
  std::unique_ptr<Executor> work_;  // for short tasks
  std::unique_ptr<LayerSyncer> syncer_;
  std::unique_ptr<WriteWatch> watch_;
  std::unique_ptr<Scrubber> scrubber_;
};

}  // namespace imagefs
