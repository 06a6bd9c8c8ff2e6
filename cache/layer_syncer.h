// Takes layers that are written to the disk, one after the other, on a thread of its own, and tells
// whoever waits for that. Owned by LayerStore.
//
// A sync that fails fails those who wait for that layer, with the cause. It is tried again after
// pauses that grow, and at once when somebody asks for the layer anew. After a failure the kernel
// takes pages for written that are not, so from then on the layer's files have to be written and
// read again before a sync counts: `careful`.
//
// Thread-safe. Callbacks run without a lock held.
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
    // Syncing a layer's data makes every other sync of the file system wait for it, also the small
    // ones of the records that a mount is acknowledged by. So it waits until no pass has run for
    // `quiet`, but not longer than `at_most`, and not when somebody waits for a layer.
    absl::Duration quiet = absl::Seconds(1);
    absl::Duration at_most = absl::Seconds(10);
    // After a failure; doubled with each.
    absl::Duration first_pause = absl::Seconds(1);
    absl::Duration max_pause = absl::Minutes(5);
  };
  // Syncs a layer's files and records it as complete. kNotFound and kDataLoss: there is nothing to
  // sync any more, and it is not called again for what was added.
  using SyncFunction = std::function<absl::Status(const Digest& id, bool careful)>;

  LayerSyncer(const Options& options, SyncFunction seal);
  // Finish. Whoever waits after that is told kCancelled.
  ~LayerSyncer();
  // Tries every layer that is left once. What is added later is not synced.
  void Finish();
  LayerSyncer(const LayerSyncer&) = delete;
  LayerSyncer& operator=(const LayerSyncer&) = delete;

  // `careful`: its files were written by an earlier process, whose syncs may have failed.
  void Add(const Digest& id, bool careful);
  // Its files change: it is not synced before it is added again, and whoever waits goes on waiting.
  void Suspend(const Digest& id);
  using Done = absl::AnyInvocable<void(absl::Status)>;
  // There is no such layer any more: it is not synced, and whoever waits is told `why`.
  void Drop(const Digest& id, const absl::Status& why);
  // As Drop, for callers with locks: what is returned is called without them.
  [[nodiscard]] std::vector<Done> Remove(const Digest& id);
  // Runs `done` when all of these were synced, or with the first failure of one of them. A layer
  // that was not added yet is waited for.
  void Wait(absl::flat_hash_set<Digest> ids, Done done);
  // A pass that writes a layer begins, or ends.
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
  // When it is that item's turn; InfinitePast: now.
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
