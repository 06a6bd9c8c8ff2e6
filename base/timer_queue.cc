// SPDX-License-Identifier: Apache-2.0
#include "base/timer_queue.h"

#include <pthread.h>

#include <map>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "base/thread_role.h"

namespace imagefs {

struct Timer::Shared {
  using Key = std::pair<Moment, uint64_t>;  // time, then an ascending number

  absl::Mutex mu;
  TimedCondition changed;
  std::map<Key, absl::AnyInvocable<void()>> calls ABSL_GUARDED_BY(mu);
  uint64_t next_id ABSL_GUARDED_BY(mu) = 1;
  uint64_t running ABSL_GUARDED_BY(mu) = 0;  // the running call, 0 = none
  bool stopping ABSL_GUARDED_BY(mu) = false;
};

Timer& Timer::operator=(Timer&& other) noexcept {
  if (this == &other) return *this;
  Cancel();
  shared_ = std::exchange(other.shared_, nullptr);
  when_ = other.when_;
  id_ = other.id_;
  return *this;
}

void Timer::Cancel() {
  const std::shared_ptr<Shared> shared = std::exchange(shared_, nullptr);
  if (shared == nullptr) return;
  absl::AnyInvocable<void()> dropped;  // destroyed after the lock is released
  absl::MutexLock lock(&shared->mu);
  const auto found = shared->calls.find({when_, id_});
  if (found == shared->calls.end()) return;
  dropped = std::move(found->second);
  shared->calls.erase(found);
}

void Timer::Stop() {
  const std::shared_ptr<Shared> shared = shared_;
  if (shared == nullptr) return;
  Cancel();
  absl::MutexLock lock(&shared->mu);
  auto over = [&shared, id = id_]()
                  ABSL_EXCLUSIVE_LOCKS_REQUIRED(shared->mu) { return shared->running != id; };
  shared->mu.Await(absl::Condition(&over));
}

TimerQueue::TimerQueue(ThreadRole role) : shared_(std::make_shared<Timer::Shared>()) {
  thread_ = std::thread([this, role] {
    EnterThread(role);
    Loop();
  });
}

void TimerQueue::Close() {
  std::map<Timer::Shared::Key, absl::AnyInvocable<void()>> dropped;
  {
    absl::MutexLock lock(&shared_->mu);
    shared_->stopping = true;
    dropped.swap(shared_->calls);
  }
  shared_->changed.SignalAll();
  if (thread_.joinable()) thread_.join();
}

Timer TimerQueue::At(Moment when, absl::AnyInvocable<void()> call) {
  uint64_t id;
  bool first;
  {
    absl::MutexLock lock(&shared_->mu);
    if (shared_->stopping) return Timer();
    id = shared_->next_id++;
    const auto at = shared_->calls.emplace(Timer::Shared::Key(when, id), std::move(call)).first;
    first = at == shared_->calls.begin();
  }
  if (first) shared_->changed.SignalAll();
  return Timer(shared_, when, id);
}

size_t TimerQueue::pending() const {
  absl::MutexLock lock(&shared_->mu);
  return shared_->calls.size();
}

void TimerQueue::Loop() {
  Timer::Shared& shared = *shared_;
  absl::MutexLock lock(&shared.mu);
  while (!shared.stopping) {
    const auto first = shared.calls.begin();
    if (first == shared.calls.end()) {
      shared.changed.WaitUntil(&shared.mu, Moment::InfiniteFuture());
      continue;
    }
    if (first->first.first > Moment::Now()) {
      shared.changed.WaitUntil(&shared.mu, Moment(first->first.first));
      continue;
    }
    absl::AnyInvocable<void()> call = std::move(first->second);
    shared.running = first->first.second;
    shared.calls.erase(first);
    shared.mu.Unlock();
    call();
    call = nullptr;  // destroy the closure while Stop still waits
    shared.mu.Lock();
    shared.running = 0;
  }
}

}  // namespace imagefs
