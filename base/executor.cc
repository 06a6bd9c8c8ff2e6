// SPDX-License-Identifier: Apache-2.0
#include "base/executor.h"

#include <utility>

#include "base/log_context.h"

namespace imagefs {

struct Executor::Task {
  PriorityRef priority;
  uint64_t sequence = 0;
  absl::AnyInvocable<void()> run;
  LogContext context;
};

std::string_view PriorityName(Priority priority) {
  constexpr std::string_view kNames[] = {"on-demand", "foreground", "readahead", "background"};
  return kNames[static_cast<size_t>(priority)];
}

void LivePriority::RaiseTo(Priority p) {
  int current = value_.load(std::memory_order_relaxed);
  const int wanted = static_cast<int>(p);
  while (wanted < current &&
         !value_.compare_exchange_weak(current, wanted, std::memory_order_relaxed)) {
  }
}

Executor::Executor(ThreadRole role, int threads)
    : role_(role), most_(static_cast<size_t>(threads)) {
  absl::MutexLock lock(&mu_);
  StartThread();
}

Executor::~Executor() {
  std::vector<std::thread> threads;
  do {
    for (std::thread& thread : threads) thread.join();
    threads.clear();
    absl::MutexLock lock(&mu_);
    stopping_ = true;
    threads.swap(threads_);  // those that were joined may have started more
  } while (!threads.empty());
}

void Executor::StartThread() {
  threads_.emplace_back([this] {
    EnterThread(role_);
    Loop();
  });
  ++started_;
  ++idle_;
}

void Executor::Submit(PriorityRef priority, absl::AnyInvocable<void()> task) {
  LogContext context = LogContext::Current();
  absl::MutexLock lock(&mu_);
  queue_.push_back({std::move(priority), next_sequence_++, std::move(task), std::move(context)});
}

void Executor::Submit(absl::AnyInvocable<void()> task) { Submit(nullptr, std::move(task)); }

size_t Executor::queued() const {
  absl::MutexLock lock(&mu_);
  return queue_.size();
}

// The queue is short (tens of layers), so a linear scan finds the most urgent task. This is what
// allows a priority to be raised while its task waits.
void Executor::Loop() {
  auto urgency = [](const Task& task) {
    return task.priority == nullptr ? Priority::kForeground : task.priority->get();
  };
  while (true) {
    Task task;
    {
      absl::MutexLock lock(&mu_);
      auto ready = [this]()
                       ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) { return stopping_ || !queue_.empty(); };
      mu_.Await(absl::Condition(&ready));
      if (queue_.empty()) return;
      if (--idle_ == 0 && started_ < most_) StartThread();
      size_t best = 0;
      for (size_t i = 1; i < queue_.size(); ++i) {
        if (urgency(queue_[i]) < urgency(queue_[best])) best = i;
      }
      task = std::move(queue_[best]);
      queue_.erase(queue_.begin() + static_cast<ptrdiff_t>(best));
    }
    const LogContext::Scope scope(std::move(task.context));
    task.run();
    absl::MutexLock lock(&mu_);
    ++idle_;
  }
}

}  // namespace imagefs
