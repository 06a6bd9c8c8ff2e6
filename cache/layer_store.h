// The layers on this disk and the flights that bring them here. Owned by ImageStore; see
// cache/image_store.h for the files, the states and the promises.
//
// Thread-safe.
#pragma once

#include <atomic>
#include <cstdint>
#include <deque>
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
#include "cache/chain.h"
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
  };
  // Reads the records, removes what a crash left half-made.
  static absl::StatusOr<std::unique_ptr<LayerStore>> Open(Options options, KeyValueStore& kv);
  // REQUIRES: every caller has left its flight. Waits for the work to unwind.
  ~LayerStore();

  using Done = absl::AnyInvocable<void(absl::StatusOr<LayerRef>)>;
  FlightTicket Ensure(const Digest& diff_id, const Descriptor& blob,
                      std::shared_ptr<ImageSource> source, Priority priority, Done done);
  // The layer, pinned; kNotFound when it is not here.
  absl::StatusOr<LayerRef> Find(const Digest& diff_id);
  // Runs `done` when all of these layers are complete (or could not be synced).
  void WaitDurable(const std::vector<Digest>& diff_ids,
                   absl::AnyInvocable<void(absl::Status)> done);

  LayerState StateOf(const Digest& diff_id) const;
  std::optional<LayerProgress> Progress(const Digest& diff_id) const;
  std::vector<ImageStore::LayerInfo> List() const;
  std::vector<FlightReport> Flights() const;
  void AppendCounters(std::vector<std::pair<std::string, uint64_t>>& out) const;
  // Removes every layer that is neither in `keep` nor held by anyone. Returns the bytes given back.
  uint64_t Collect(const absl::flat_hash_set<Digest>& keep);

 private:
  class Job;
  struct Entry {
    LayerState state = LayerState::kWritten;
    uint64_t data_bytes = 0;
    uint64_t index_bytes = 0;
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
  std::vector<DurableWait> durable_waits_ ABSL_GUARDED_BY(mu_);
  int jobs_alive_ ABSL_GUARDED_BY(mu_) = 0;
  absl::Time last_job_end_ ABSL_GUARDED_BY(mu_) = absl::InfinitePast();
  std::deque<Digest> unsealed_ ABSL_GUARDED_BY(mu_);
  absl::Time unsealed_since_ ABSL_GUARDED_BY(mu_) = absl::InfinitePast();
  bool stopping_ ABSL_GUARDED_BY(mu_) = false;

  std::atomic<uint64_t> built_{0}, reused_{0}, dropped_{0}, refetched_{0}, blob_bytes_{0},
      tar_bytes_{0};

  // Last, so that their threads are gone before anything above.
  std::unique_ptr<Executor> work_;
  std::thread sealer_;
};

}  // namespace imagefs
