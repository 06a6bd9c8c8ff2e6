// Workers for what takes long (the pass over a layer, its proof), shared among the sources of
// images by SourceTurns. Thread-safe.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/functional/any_invocable.h"
#include "absl/synchronization/mutex.h"
#include "base/executor.h"
#include "cache/source_turns.h"

namespace imagefs {

class FairWorkers {
 public:
  // Starts SourceTurns::most_running() threads named `name`.
  FairWorkers(std::string name, const SourceTurns::Options& options);
  // Runs what was submitted, then joins. What it runs may submit more until it returns.
  ~FairWorkers();
  FairWorkers(const FairWorkers&) = delete;
  FairWorkers& operator=(const FairWorkers&) = delete;

  using Id = uint64_t;
  using Task = absl::AnyInvocable<void(Id)>;
  // Runs `task` on a worker when it is its turn; never on the caller's thread. A priority that is
  // raised later counts from the next time on that anything starts, ends or waits.
  Id Submit(SourceTurns::Claim claim, Task task);
  // See SourceTurns::SetWhole. An id whose task has ended is passed over.
  void SetWhole(Id id);

  // While it lives, the task waits for bytes, and does not count as busy.
  class Starved {
   public:
    Starved(FairWorkers& workers, Id id) : workers_(workers), id_(id) { workers_.Set(id_, true); }
    ~Starved() { workers_.Set(id_, false); }
    Starved(const Starved&) = delete;
    Starved& operator=(const Starved&) = delete;

   private:
    FairWorkers& workers_;
    const Id id_;
  };

 private:
  void Set(Id id, bool starved);
  void End(Id id);
  void StartLocked() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  absl::Mutex mu_;
  SourceTurns turns_ ABSL_GUARDED_BY(mu_);
  absl::flat_hash_map<Id, Task> tasks_ ABSL_GUARDED_BY(mu_);  // that wait for their turn
  Id next_id_ ABSL_GUARDED_BY(mu_) = 1;
  std::unique_ptr<Executor> threads_;  // last: they end before anything above
};

}  // namespace imagefs
