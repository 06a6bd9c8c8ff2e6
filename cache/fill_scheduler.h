// SPDX-License-Identifier: Apache-2.0
// Decides which request for parts of layers is sent next. One per store.
//
// Every layer that is being filled is a client: it keeps its own queues and reports the priority of
// its most urgent request. The scheduler's thread picks the most urgent client (round-robin among
// equals) that FillShares grants a slot. Fewer slots are open to less urgent requests, so that a
// reader always finds one, and no image source can take all of them. Requests that complete layers
// in the background wait until no reader has waited for a while, and until there is space to spare.
//
// Thread-safe. Clients are called on the scheduler's thread, without any of its locks held. The
// timers of all lazy layers run on another thread, which the scheduler also owns.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
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
#include "base/byte_budget.h"
#include "base/executor.h"
#include "base/histogram.h"
#include "base/monotonic.h"
#include "base/thread_role.h"
#include "base/timeline.h"
#include "base/timer_queue.h"
#include "cache/fair_workers.h"
#include "cache/fill_shares.h"
#include "cache/source_health.h"
#include "cache/store_space.h"

namespace imagefs {

class FillScheduler;

// The right to have one request in flight. Released exactly once, when the request ends.
class FillSlot {
 public:
  FillSlot() = default;
  FillSlot(FillScheduler& scheduler, std::string source, Priority priority)
      : scheduler_(&scheduler), source_(std::move(source)), priority_(priority) {}
  FillSlot(FillSlot&& other) noexcept { *this = std::move(other); }
  FillSlot& operator=(FillSlot&& other) noexcept {
    std::swap(scheduler_, other.scheduler_);
    std::swap(source_, other.source_);
    std::swap(priority_, other.priority_);
    std::swap(yielded_, other.yielded_);
    return *this;
  }
  ~FillSlot() { GiveBack(); }
  // Must be the caller's last use of the scheduler, which may be destroyed afterwards.
  void GiveBack();
  // The request is silent: its slot becomes available to others while it continues.
  void YieldSlot();

 private:
  FillScheduler* scheduler_ = nullptr;
  std::string source_;
  Priority priority_ = Priority::kOnDemand;
  bool yielded_ = false;
};

class FillClient {
 public:
  virtual ~FillClient() = default;
  struct Want {
    Priority priority;
    std::string source;  // the source to ask; slots are shared among sources
  };
  // Returns the most urgent request that could be sent at `now`, or nullopt if there is none.
  // Lowers `look_again` to the time at which the answer changes by itself.
  virtual std::optional<Want> MostUrgent(Moment now, Moment& look_again) = 0;
  // Starts one request of that priority or a more urgent one, which holds the slot until it ends.
  // Does nothing if there is nothing to request after all.
  virtual void Launch(Priority priority, FillSlot slot) = 0;
  // Cancels running requests and fails all waiters.
  virtual void Cancel() = 0;
};

class FillScheduler {
 public:
  struct Options {
    // Beyond the few slots that each source always has (FillShares), a request starts only while
    // fewer than this many are in flight, by its priority.
    FillShares::Slots slots = {8, 4, 3, 2};
    bool background = true;                       // complete layers without being asked
    bool guess = true;                            // fetch what readers may need next
    absl::Duration quiet = absl::Seconds(5);      // after the last read that missed
    absl::Duration deadline = absl::Seconds(60);  // for a read, unless its mount sets another
    int threads = 0;                              // for decoding; 0 = processors
    // Memory for large requests (those that readers wait for, and all others), shared among
    // sources. REQUIRES: each has room for the largest span, compressed and decoded.
    uint64_t reads_memory = 192 << 20, rest_memory = 128 << 20;
    uint64_t decoders_memory = 256 << 20;  // of frames that are decoded in parts; shared likewise
    SourceHealth::Limits health;
    // A caller that waits for a whole layer gets an error after this long without a byte.
    absl::Duration give_up = absl::Minutes(2);
    StoreSpace* space = nullptr;  // must outlive the layers. Null: no limit
  };
  explicit FillScheduler(Options options);
  // Cancels running requests and waits for them.
  ~FillScheduler();
  FillScheduler(const FillScheduler&) = delete;
  FillScheduler& operator=(const FillScheduler&) = delete;

  void Add(std::weak_ptr<FillClient> client);
  // To be called when something was queued.
  void Wake();
  // A reader waits: postpones background requests.
  void NoteDemand();
  // Takes a slot, regardless of what is in flight, for a request that no client launches.
  FillSlot Occupy(std::string source, Priority priority);
  // Runs `task` on the timer thread at that time, unless the timer or the scheduler is destroyed
  // first.
  [[nodiscard]] Timer At(Moment when, absl::AnyInvocable<void()> task) {
    return timers_.At(when, std::move(task));
  }
  // Polls the clients again at that time.
  [[nodiscard]] Timer WakeAt(Moment when) {
    return At(when, [this] { Wake(); });
  }
  // Number of timers of At and WakeAt that have neither run nor been cancelled.
  size_t timers() const { return timers_.pending(); }
  // Strictly increasing; orders the requests of readers across layers.
  uint64_t NextOrder() { return order_.fetch_add(1, std::memory_order_relaxed); }
  ByteBudget& memory(Priority priority) {
    return priority == Priority::kOnDemand ? reads_memory_ : rest_memory_;
  }
  ByteBudget& decoders_memory() { return decoders_memory_; }
  SourceHealth& health() { return health_; }
  Executor& work() { return *work_; }
  // For long tasks: the check of whole layers. Readers never wait behind it, and the layers of one
  // source do not block those of another.
  FairWorkers& slow_work() { return *slow_work_; }
  const Options& options() const { return options_; }
  Timelines& timelines() { return timelines_; }  // of layers, and of the starts of images
  // Asked before bytes of a lazy layer are written.
  absl::Status Admit(uint64_t bytes) {
    if (options_.space == nullptr) return absl::OkStatus();
    return options_.space->Admit(bytes, StoreSpace::Writer::kPart);
  }
  // True if there is space for bytes that nobody asked for.
  bool spare() const { return options_.space == nullptr || options_.space->spare(); }

  // Why a reader waits. kFetch: some bytes had not been requested. kInFlight: all that it lacked
  // was on its way or being decoded for others. kRecheck: an earlier process left the bytes, and
  // they were verified again.
  enum class WaitCause : uint8_t { kRecheck, kInFlight, kFetch };
  static constexpr size_t kWaitCauses = 3;
  // Totals over all layers, which update them.
  struct Counters {
    std::atomic<uint64_t> requests{0}, hedges{0}, bytes{0}, spans{0}, wrong_spans{0}, waits{0},
        joins{0}, prefetched_spans{0}, evicted_bytes{0}, expired{0}, failed{0};
    // Hot packs: bytes of pages that came, reads that they served without a span, reads that asked
    // for spans because they came too late, spans that were not as they said.
    std::atomic<uint64_t> hot_bytes{0}, hot_reads{0}, hot_late{0}, hot_wrong{0};
    // Of span tables whose windows come late: requests, and bytes that came.
    std::atomic<uint64_t> window_requests{0}, window_bytes{0};
    std::atomic<uint64_t> memory_spans{0};  // that readers got although the disk took no bytes
    // Seconds of readers whose bytes were missing, by WaitCause; of decoding a span.
    std::array<Histogram, kWaitCauses> waited{Histogram(kShortTimes), Histogram(kShortTimes),
                                              Histogram(kShortTimes)};
    Histogram decode{kShortTimes};
    // Of spans that do not fit on the disk, currently. May outlive the scheduler.
    const std::shared_ptr<std::atomic<uint64_t>> memory_bytes =
        std::make_shared<std::atomic<uint64_t>>(0);
  };
  Counters& counters() { return counters_; }
  void AppendCounters(std::vector<std::pair<std::string, uint64_t>>& out) const;
  void AppendHistograms(std::vector<HistogramReport>& out) const;

 private:
  friend class FillSlot;
  struct Pick {
    std::shared_ptr<FillClient> client;
    Priority priority;
    FillSlot slot;
  };
  struct Wanting {
    std::shared_ptr<FillClient> client;
    FillClient::Want want;
  };
  void Loop();
  std::vector<Wanting> PollClients();
  Moment look_again_ = Moment::InfiniteFuture();  // used by the scheduler's thread only
  std::optional<Pick> Choose();
  void Release(const std::string& source, Priority priority, bool yielded);
  void OnSlotYielded(const std::string& source, Priority priority);

  const Options options_;
  Counters counters_;
  Timelines timelines_;
  ByteBudget reads_memory_, rest_memory_, decoders_memory_;
  SourceHealth health_;
  absl::Mutex mu_;
  std::vector<std::weak_ptr<FillClient>> clients_ ABSL_GUARDED_BY(mu_);
  size_t turn_ ABSL_GUARDED_BY(mu_) = 0;
  FillShares shares_ ABSL_GUARDED_BY(mu_);
  int running_ ABSL_GUARDED_BY(mu_) = 0;  // requests, including those that yielded their slot
  bool woken_ ABSL_GUARDED_BY(mu_) = false;
  bool stopping_ ABSL_GUARDED_BY(mu_) = false;
  TimedCondition changed_;  // woken_ or stopping_
  std::atomic<int64_t> last_demand_ns_{0};
  std::atomic<uint64_t> order_{1};
  TimerQueue timers_{ThreadRole::kTimers};
  std::thread thread_;
  // Last: they end before anything above, and tasks of work_ may queue slow work.
  std::unique_ptr<FairWorkers> slow_work_;
  std::unique_ptr<Executor> work_;
};

}  // namespace imagefs
