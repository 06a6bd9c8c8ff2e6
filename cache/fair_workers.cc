// SPDX-License-Identifier: Apache-2.0
#include "cache/fair_workers.h"

#include <utility>

#include "base/log_context.h"
#include "base/thread_role.h"

namespace imagefs {

FairWorkers::FairWorkers(ThreadRole role, const SourceTurns::Options& options) : turns_(options) {
  absl::MutexLock lock(&mu_);
  threads_ = std::make_unique<Executor>(role, turns_.most_running());
}

FairWorkers::~FairWorkers() {
  {
    absl::MutexLock lock(&mu_);
    auto none = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
      return turns_.waiting() == 0 && turns_.running() == 0;
    };
    mu_.Await(absl::Condition(&none));
  }
  threads_.reset();
}

FairWorkers::Id FairWorkers::Submit(SourceTurns::Claim claim, Task task) {
  if (LogContext context = LogContext::Current(); !context.empty()) {
    task = [context = std::move(context), task = std::move(task)](Id id) mutable {
      const LogContext::Scope scope(context);
      task(id);
    };
  }
  absl::MutexLock lock(&mu_);
  const Id id = next_id_++;
  turns_.Add(id, std::move(claim));
  tasks_.emplace(id, std::move(task));
  StartLocked();
  return id;
}

void FairWorkers::SetWhole(Id id) {
  absl::MutexLock lock(&mu_);
  turns_.SetWhole(id);
  StartLocked();
}

void FairWorkers::Set(Id id, bool starved) {
  absl::MutexLock lock(&mu_);
  turns_.SetStarved(id, starved);
  if (starved) StartLocked();
}

void FairWorkers::End(Id id) {
  absl::MutexLock lock(&mu_);
  turns_.Remove(id);
  StartLocked();
}

// There is a thread for every task that may run, so no task waits in the executor's queue.
void FairWorkers::StartLocked() {
  while (const std::optional<Id> id = turns_.Next()) {
    auto node = tasks_.extract(*id);
    threads_->Submit([this, id = *id, task = std::move(node.mapped())]() mutable {
      task(id);
      task = nullptr;  // destroy what it holds before its turn ends
      End(id);
    });
  }
}

}  // namespace imagefs
