// SPDX-License-Identifier: Apache-2.0
// Workers for long-running tasks (unpacking a layer, proving one), shared among image sources by
// SourceTurns. Thread-safe.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/functional/any_invocable.h"
#include "absl/synchronization/mutex.h"
#include "base/executor.h"
#include "base/thread_role.h"
#include "cache/source_turns.h"

namespace imagefs {

class FairWorkers {
 public:
  // Starts SourceTurns::most_running() threads of that role.
  FairWorkers(ThreadRole role, const SourceTurns::Options& options);
  // Runs the submitted tasks, then joins the threads. Running tasks may submit more until it
  // returns.
  ~FairWorkers();
  FairWorkers(const FairWorkers&) = delete;
  FairWorkers& operator=(const FairWorkers&) = delete;

  using Id = uint64_t;
  using Task = absl::AnyInvocable<void(Id)>;
  // Runs `task` on a worker when its turn comes; never on the caller's thread. A priority raised
  // later takes effect the next time any task starts, ends, or begins or stops waiting.
  Id Submit(SourceTurns::Claim claim, Task task);
  // See SourceTurns::SetWhole. Ignored if the task has ended.
  void SetWhole(Id id);

  // While it exists, the task is waiting for bytes and does not count as busy.
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
  absl::flat_hash_map<Id, Task> tasks_ ABSL_GUARDED_BY(mu_);  // waiting for their turn
  Id next_id_ ABSL_GUARDED_BY(mu_) = 1;
  std::unique_ptr<Executor> threads_;  // last: its threads end before anything above
};

}  // namespace imagefs
