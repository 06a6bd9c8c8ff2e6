// SPDX-License-Identifier: Apache-2.0
// A thread pool for work that may block on local disk or burn CPU, but never on another pool's
// queue. Thread-safe. Tasks run in order of priority, then of submission. The priority is read when
// a thread becomes free, so raising it while a task is queued takes effect.
//
// It starts with one thread. The thread that was the last idle one starts another before it runs
// its task, up to the limit; none ends before the pool. So a task never waits for a thread to be
// made, and threads inherit nothing from who submits: not its mount namespace, signals or priority.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/functional/any_invocable.h"
#include "absl/synchronization/mutex.h"
#include "base/thread_role.h"

namespace imagefs {

// Lower runs first.
enum class Priority : int { kOnDemand = 0, kForeground = 1, kReadahead = 2, kBackground = 3 };

// As a word: "on-demand", "foreground", "readahead", "background".
std::string_view PriorityName(Priority priority);

// A priority that can be raised while the work is queued or running. Shared by a flight and the
// work it started.
class LivePriority {
 public:
  explicit LivePriority(Priority p) : value_(static_cast<int>(p)) {}
  Priority get() const { return static_cast<Priority>(value_.load(std::memory_order_relaxed)); }
  void RaiseTo(Priority p);  // never lowers
 private:
  std::atomic<int> value_;
};
using PriorityRef = std::shared_ptr<LivePriority>;

class Executor {
 public:
  // Of at most `threads` threads of that role.
  Executor(ThreadRole role, int threads);
  // Runs the queued tasks, then joins the threads.
  ~Executor();
  void Submit(PriorityRef priority, absl::AnyInvocable<void()> task);
  void Submit(absl::AnyInvocable<void()> task);  // kForeground
  size_t queued() const;

 private:
  struct Task;
  void Loop();
  void StartThread() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  const ThreadRole role_;
  const size_t most_;
  mutable absl::Mutex mu_;
  std::vector<Task> queue_ ABSL_GUARDED_BY(mu_);
  uint64_t next_sequence_ ABSL_GUARDED_BY(mu_) = 0;
  bool stopping_ ABSL_GUARDED_BY(mu_) = false;
  size_t idle_ ABSL_GUARDED_BY(mu_) = 0;     // threads without a task, or about to wait for one
  size_t started_ ABSL_GUARDED_BY(mu_) = 0;  // threads, at most most_
  std::vector<std::thread> threads_ ABSL_GUARDED_BY(mu_);  // not yet joined
};

}  // namespace imagefs
