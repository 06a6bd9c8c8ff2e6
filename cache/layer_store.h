// The layers on this disk and the flights that bring them here. Owned by ImageStore; see
// cache/image_store.h for the files, the states and the promises.
//
// Thread-safe.
#pragma once

#include <atomic>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/functional/any_invocable.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "base/executor.h"
#include "base/flight.h"
#include "cache/access_builder.h"
#include "cache/chain.h"
#include "cache/fill_scheduler.h"
#include "cache/filling_layer.h"
#include "cache/image_store.h"
#include "cache/kv.h"
#include "cache/spool.h"
#include "fetch/source.h"

namespace imagefs {

class LayerStore {
 public:
  struct Options {
    std::string root;
    int workers = 0;  // layers unpacked at once; 0 = processors + 2
    FillScheduler::Options fill;
  };
  // Reads the records, removes what a crash left half-made.
  static absl::StatusOr<std::unique_ptr<LayerStore>> Open(Options options, KeyValueStore& kv);
  // REQUIRES: every caller has left its flight. Waits for the work to unwind.
  ~LayerStore();

  using Done = absl::AnyInvocable<void(absl::StatusOr<LayerRef>)>;
  // With `found`, a layer that is not here is made of it at once, and its bytes come when they are
  // asked for; else by a pass over the whole blob. A layer that fills learns of `source`.
  FlightTicket Ensure(const Digest& diff_id, const Descriptor& blob,
                      std::shared_ptr<ImageSource> source, FoundIndexRef found, Priority priority,
                      Done done);
  // The layer, pinned; kNotFound when it is not here.
  absl::StatusOr<LayerRef> Find(const Digest& diff_id);
  // Runs `done` when all of these layers are complete (or could not be synced).
  void WaitDurable(const std::vector<Digest>& diff_ids,
                   absl::AnyInvocable<void(absl::Status)> done);

  // The layer, when it fills.
  static std::shared_ptr<FillingLayer> FillingOf(const LayerRef& layer);
  // Takes the data of a complete layer away, whose bytes then come when they are asked for.
  // kFailedPrecondition when somebody holds it or it has no span table. Returns the bytes given
  // back.
  absl::StatusOr<uint64_t> Evict(const Digest& diff_id);
  AccessBuilder& access() { return *access_; }
  FillScheduler& scheduler() { return *fill_; }
  // Called, without locks, with every layer that turned out not to be what its index said.
  void OnDamaged(std::function<void(const Digest&)> callback) { on_damaged_ = std::move(callback); }

  LayerState StateOf(const Digest& diff_id) const;
  std::optional<LayerProgress> Progress(const Digest& diff_id) const;
  std::vector<ImageStore::LayerInfo> List() const;
  std::vector<FlightReport> Flights() const;
  void AppendCounters(std::vector<std::pair<std::string, uint64_t>>& out) const;
  // Removes every layer that is neither in `keep` nor held by anyone. Returns the bytes given back.
  uint64_t Collect(const absl::flat_hash_set<Digest>& keep);

 private:
  class Job;
  static constexpr std::string_view kRecordPrefix = "layer/";
  struct Entry {
    LayerState state = LayerState::kWritten;
    uint64_t data_bytes = 0;
    uint64_t index_bytes = 0;
    bool suspect = false;  // kFilling, and of another boot
    std::weak_ptr<const Layer> open;
  };
  struct DurableWait {
    absl::flat_hash_set<Digest> missing;
    absl::AnyInvocable<void(absl::Status)> done;
  };

  LayerStore(Options options, KeyValueStore& kv);
  absl::Status Load();
  absl::Status RemoveStrangers();
  std::string DirectoryOf(const Digest& diff_id) const;
  absl::StatusOr<LayerRef> OpenLocked(const Digest& diff_id, Entry& entry)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // The layer's files are in `directory`: moves them into place, records, pins.
  absl::StatusOr<LayerRef> Publish(const Digest& diff_id, const std::string& directory,
                                   uint64_t data_bytes, uint64_t index_bytes);
  // The sealer's thread: takes written layers to complete, one after the other.
  void SealLoop();
  bool MayRestLocked() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // Syncs a written layer to disk and records it as complete.
  void Seal(const Digest& diff_id);
  absl::Status SealFiles(const Digest& diff_id, const Entry& entry);
  void NotifyDurable(const Digest& diff_id, const absl::Status& status);
  std::string RecordOf(LayerState state, uint64_t data_bytes, uint64_t index_bytes) const;
  // layer_store_filling.cc.
  std::optional<LayerProgress> FillProgress(const Digest& diff_id) const;
  absl::Status ReadRecord(std::string_view key, std::string_view value)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  absl::Status OpenFilling(Layer& layer, const Entry& entry) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  absl::StatusOr<LayerRef> PublishFilling(const Digest& diff_id, const FoundIndex& found);
  absl::Status CheckFilled(const Digest& diff_id, FillingLayer& filling);
  absl::Status CheckForeignTar(const Digest& diff_id, const FillingLayer& filling);
  absl::Status CheckTar(const Digest& diff_id, const FillingLayer& filling);
  bool Trusts(const Digest& diff_id) const;
  void DropDamaged(const Digest& diff_id, const absl::Status& why);
  absl::StatusOr<std::shared_ptr<Spool>> OpenSpool(const Descriptor& blob);
  void DropSpool(const Digest& blob, bool keep_file);

  const Options options_;
  KeyValueStore& kv_;
  std::string boot_id_;
  FlightTable<LayerRef> layer_flights_{"layer"};
  FlightTable<bool> blob_flights_{"blob"};

  // Makes the files of a layer and its record change together; taken before mu_, held over local
  // disk writes, never by a reader.
  absl::Mutex records_mu_ ABSL_ACQUIRED_BEFORE(mu_);
  mutable absl::Mutex mu_;
  absl::flat_hash_map<Digest, Entry> layers_ ABSL_GUARDED_BY(mu_);
  absl::flat_hash_map<Digest, std::weak_ptr<Job>> jobs_ ABSL_GUARDED_BY(mu_);
  absl::flat_hash_map<Digest, std::weak_ptr<Spool>> spools_ ABSL_GUARDED_BY(mu_);
  // Layers whose index was not theirs: taken by a pass over the whole from now on.
  absl::flat_hash_set<Digest> distrusted_ ABSL_GUARDED_BY(mu_);
  std::vector<DurableWait> durable_waits_ ABSL_GUARDED_BY(mu_);
  int jobs_alive_ ABSL_GUARDED_BY(mu_) = 0;
  absl::Time last_job_end_ ABSL_GUARDED_BY(mu_) = absl::InfinitePast();
  std::deque<Digest> unsealed_ ABSL_GUARDED_BY(mu_);
  absl::Time unsealed_since_ ABSL_GUARDED_BY(mu_) = absl::InfinitePast();
  bool stopping_ ABSL_GUARDED_BY(mu_) = false;

  std::function<void(const Digest&)> on_damaged_;
  std::atomic<uint64_t> filling_made_{0}, filled_{0}, poisoned_{0}, evicted_{0};
  std::atomic<uint64_t> built_{0}, reused_{0}, dropped_{0}, refetched_{0}, blob_bytes_{0},
      tar_bytes_{0};

  // Last, so that their threads are gone before anything above.
  std::unique_ptr<FillScheduler> fill_;
  std::unique_ptr<AccessBuilder> access_;
  std::unique_ptr<Executor> work_;
  std::thread sealer_;
};

}  // namespace imagefs
