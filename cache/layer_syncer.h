// SPDX-License-Identifier: Apache-2.0
// Syncs written layers to disk, one at a time, on its own thread, and notifies waiters. Owned by
// LayerStore.
//
// A failed sync fails the waiters of that layer with the cause. It is retried with backoff, and at
// once when somebody waits for the layer again. After a failure the kernel considers unwritten
// pages clean, so the layer's files must then be rewritten and read back before a sync counts:
// `careful`.
//
// Thread-safe. Callbacks run without any lock held.
#pragma once

#include <deque>
#include <functional>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_set.h"
#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "base/digest.h"
#include "base/monotonic.h"

namespace imagefs {

class LayerSyncer {
 public:
  struct Options {
    // Syncing a layer's data delays every other sync on the file system, including the small ones
    // of the records that acknowledge a mount. The sync is therefore delayed until no pass has run
    // for `quiet`, but at most for `at_most`, and not if somebody waits for a layer.
    absl::Duration quiet = absl::Seconds(1);
    absl::Duration at_most = absl::Seconds(10);
    // After a failure; doubled with each further one.
    absl::Duration first_pause = absl::Seconds(1);
    absl::Duration max_pause = absl::Minutes(5);
  };
  // Syncs a layer's files and records it as complete. kNotFound and kDataLoss mean that there is
  // nothing left to sync; the call is not retried.
  using SyncFunction = std::function<absl::Status(const Digest& id, bool careful)>;

  LayerSyncer(const Options& options, SyncFunction sync);
  // Calls Finish. Waiters that remain get kCancelled.
  ~LayerSyncer();
  // Tries every remaining layer once. Layers added later are not synced.
  void Finish();
  LayerSyncer(const LayerSyncer&) = delete;
  LayerSyncer& operator=(const LayerSyncer&) = delete;

  // `careful`: its files were written by an earlier process, whose syncs may have failed.
  void Add(const Digest& id, bool careful);
  // The layer's files are changing: it is not synced until it is added again; waiters keep waiting.
  void Suspend(const Digest& id);
  using Done = absl::AnyInvocable<void(absl::Status)>;
  // The layer no longer exists: it is not synced, and waiters get `why`.
  void Drop(const Digest& id, const absl::Status& why);
  // Like Drop, for callers that hold locks: the caller runs the returned callbacks without them.
  [[nodiscard]] std::vector<Done> Remove(const Digest& id);
  // Runs `done` when all of these have been synced, or with the first failure of one of them. Also
  // waits for layers that have not been added yet.
  void Wait(absl::flat_hash_set<Digest> ids, Done done);
  // Marks the begin and end of a pass that writes a layer.
  void PassBegins();
  void PassEnds();

 private:
  struct Item {
    Digest id;
    uint64_t serial = 0;  // of the Add
    bool careful = false;
    int failures = 0;
    Moment not_before = Moment::InfinitePast();
  };
  struct Waiter {
    absl::flat_hash_set<Digest> missing;
    Done done;
  };
  void Loop();
  // When the item is due; InfinitePast: now.
  Moment DueLocked(const Item& item) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void SyncOne(const Item& item) ABSL_LOCKS_EXCLUDED(mu_);
  std::vector<Done> TakeWaitersLocked(const Digest& id, const absl::Status& status)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  const Options options_;
  const SyncFunction sync_;
  absl::Mutex mu_;
  TimedCondition changed_;
  std::deque<Item> items_ ABSL_GUARDED_BY(mu_);  // in order of Add
  std::vector<Waiter> waiters_ ABSL_GUARDED_BY(mu_);
  uint64_t serials_ ABSL_GUARDED_BY(mu_) = 0;
  int passes_ ABSL_GUARDED_BY(mu_) = 0;
  Moment last_pass_ ABSL_GUARDED_BY(mu_) = Moment::InfinitePast();
  Moment added_ ABSL_GUARDED_BY(mu_) = Moment::InfinitePast();  // to an empty queue
  bool stopping_ ABSL_GUARDED_BY(mu_) = false;
  std::thread thread_;  // last
};

}  // namespace imagefs
