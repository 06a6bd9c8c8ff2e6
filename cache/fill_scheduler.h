// Decides which request for parts of layers goes to the network next. One per store.
//
// Every layer that is being filled is a client: it keeps its own queues, and says how urgent its
// most urgent one is. The scheduler's thread picks the most urgent client (in turn among equals)
// whenever a slot is free. A less urgent request finds fewer slots, so that there is always one for
// a reader; what completes layers in the background waits until no reader has waited for a while.
//
// Thread-safe. Clients are called without any lock of the scheduler held, on its thread.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/functional/any_invocable.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "base/executor.h"

namespace imagefs {

class FillClient {
 public:
  virtual ~FillClient() = default;
  // How urgent the most urgent thing is that could be asked for at `now`; nullopt: nothing is.
  virtual std::optional<Priority> MostUrgent(absl::Time now) = 0;
  // Starts one request of that priority or a more urgent one; the client calls Release when it has
  // ended. False when there was nothing to ask for after all.
  virtual bool Launch(Priority priority) = 0;
  // Gives up what is under way and fails whoever waits.
  virtual void Cancel() = 0;
};

class FillScheduler {
 public:
  struct Options {
    // A request starts only while fewer than this many are in flight, by its priority.
    std::array<int, 4> slots = {8, 4, 3, 2};
    bool background = true;                       // complete layers without being asked
    absl::Duration quiet = absl::Seconds(5);      // after the last read that missed
    absl::Duration deadline = absl::Seconds(60);  // of a read, unless the mount has its own
    int threads = 0;                              // that decode; 0 = processors
  };
  explicit FillScheduler(Options options);
  // Cancels and waits for what runs.
  ~FillScheduler();
  FillScheduler(const FillScheduler&) = delete;
  FillScheduler& operator=(const FillScheduler&) = delete;

  void Add(std::weak_ptr<FillClient> client);
  // Something was queued.
  void Wake();
  // A reader waits: puts the background off.
  void NoteDemand();
  void Release();
  // Takes a slot, whatever is in flight, for a request that no client launches; Release gives it
  // back.
  void Occupy();
  // Runs `task` on the scheduler's thread at that time; dropped when the scheduler ends first.
  void At(absl::Time time, absl::AnyInvocable<void()> task);
  // Ascends; orders what readers of different layers asked for.
  uint64_t NextOrder() { return order_.fetch_add(1, std::memory_order_relaxed); }
  Executor& work() { return *work_; }
  // For what takes long: the check of whole layers. Readers never wait behind it.
  Executor& slow_work() { return *slow_work_; }
  const Options& options() const { return options_; }

  // Of all layers; written by them.
  struct Counters {
    std::atomic<uint64_t> requests{0}, bytes{0}, spans{0}, wrong_spans{0}, waits{0}, joins{0},
        prefetched_spans{0}, evicted_bytes{0}, expired{0}, failed{0};
  };
  Counters& counters() { return counters_; }
  void AppendCounters(std::vector<std::pair<std::string, uint64_t>>& out) const;

 private:
  struct Pick {
    std::shared_ptr<FillClient> client;
    Priority priority;
  };
  void Loop();
  bool RunTimers();
  std::optional<Pick> Choose();

  const Options options_;
  Counters counters_;
  absl::Mutex mu_;
  std::vector<std::weak_ptr<FillClient>> clients_ ABSL_GUARDED_BY(mu_);
  size_t turn_ ABSL_GUARDED_BY(mu_) = 0;
  int in_flight_ ABSL_GUARDED_BY(mu_) = 0;
  bool woken_ ABSL_GUARDED_BY(mu_) = false;
  bool stopping_ ABSL_GUARDED_BY(mu_) = false;
  std::multimap<absl::Time, absl::AnyInvocable<void()>> timers_ ABSL_GUARDED_BY(mu_);
  std::atomic<int64_t> last_demand_ns_{0};
  std::atomic<uint64_t> order_{1};
  std::thread thread_;
  // Last: they end before anything above, and what work_ runs may queue slow work.
  std::unique_ptr<Executor> slow_work_, work_;
};

}  // namespace imagefs
