#include "cache/fill_scheduler.h"

#include <algorithm>

#include "absl/time/clock.h"

namespace imagefs {

FillScheduler::FillScheduler(Options options) : options_(std::move(options)) {
  const int threads = options_.threads > 0 ? options_.threads
                                           : static_cast<int>(std::thread::hardware_concurrency());
  slow_work_ = std::make_unique<Executor>("prove", threads);
  work_ = std::make_unique<Executor>("fill", threads);
  thread_ = std::thread([this] { Loop(); });
}

FillScheduler::~FillScheduler() {
  std::vector<std::weak_ptr<FillClient>> clients;
  {
    absl::MutexLock lock(&mu_);
    stopping_ = true;
    clients = clients_;
  }
  for (const auto& weak : clients) {
    if (const auto client = weak.lock()) client->Cancel();
  }
  {
    absl::MutexLock lock(&mu_);
    auto none = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) { return in_flight_ == 0; };
    mu_.Await(absl::Condition(&none));
  }
  thread_.join();
  // What is queued for the workers runs, and may still queue more, while work_ ends.
}

void FillScheduler::Add(std::weak_ptr<FillClient> client) {
  absl::MutexLock lock(&mu_);
  std::erase_if(clients_, [](const auto& weak) { return weak.expired(); });
  clients_.push_back(std::move(client));
  NoteDemand();
}

void FillScheduler::Wake() {
  absl::MutexLock lock(&mu_);
  woken_ = true;
}

void FillScheduler::NoteDemand() {
  last_demand_ns_.store(absl::GetCurrentTimeNanos(), std::memory_order_relaxed);
}

void FillScheduler::Occupy() {
  absl::MutexLock lock(&mu_);
  ++in_flight_;
}

void FillScheduler::Release() {
  absl::MutexLock lock(&mu_);
  --in_flight_;
  woken_ = true;
}

void FillScheduler::At(absl::Time time, absl::AnyInvocable<void()> task) {
  absl::MutexLock lock(&mu_);
  timers_.emplace(time, std::move(task));
  woken_ = true;
}

bool FillScheduler::RunTimers() {
  absl::AnyInvocable<void()> task;
  {
    absl::MutexLock lock(&mu_);
    if (timers_.empty() || timers_.begin()->first > absl::Now()) return false;
    task = std::move(timers_.begin()->second);
    timers_.erase(timers_.begin());
  }
  task();
  return true;
}

// The most urgent client that finds a slot.
std::optional<FillScheduler::Pick> FillScheduler::Choose() {
  std::vector<std::shared_ptr<FillClient>> clients;
  int in_flight;
  size_t turn;
  {
    absl::MutexLock lock(&mu_);
    if (stopping_) return std::nullopt;
    for (const auto& weak : clients_) {
      if (auto client = weak.lock()) clients.push_back(std::move(client));
    }
    in_flight = in_flight_;
    turn = turn_++;
  }
  const absl::Time now = absl::Now();
  const bool quiet =
      now - absl::FromUnixNanos(last_demand_ns_.load(std::memory_order_relaxed)) >= options_.quiet;
  std::optional<Pick> best;
  for (size_t i = 0; i < clients.size(); ++i) {
    auto& client = clients[(turn + i) % clients.size()];
    const std::optional<Priority> urgent = client->MostUrgent(now);
    if (!urgent.has_value() || (best.has_value() && best->priority <= *urgent)) continue;
    if (in_flight >= options_.slots[static_cast<size_t>(*urgent)]) continue;
    if (*urgent == Priority::kBackground && !quiet) continue;
    best = Pick{client, *urgent};
  }
  if (best.has_value()) {
    absl::MutexLock lock(&mu_);
    ++in_flight_;
  }
  return best;
}

void FillScheduler::Loop() {
  while (true) {
    {
      absl::MutexLock lock(&mu_);
      auto ready = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) { return woken_ || stopping_; };
      // The quiet moment comes without anybody's call.
      absl::Time until = absl::Now() + options_.quiet;
      if (!timers_.empty()) until = std::min(until, timers_.begin()->first);
      mu_.AwaitWithDeadline(absl::Condition(&ready), until);
      if (stopping_) return;
      woken_ = false;
    }
    while (RunTimers()) {
    }
    while (std::optional<Pick> pick = Choose()) {
      if (!pick->client->Launch(pick->priority)) Release();
    }
  }
}

void FillScheduler::AppendCounters(std::vector<std::pair<std::string, uint64_t>>& out) const {
  out.emplace_back("fill_requests", counters_.requests.load());
  out.emplace_back("fill_bytes_fetched", counters_.bytes.load());
  out.emplace_back("fill_spans", counters_.spans.load());
  out.emplace_back("fill_spans_prefetched", counters_.prefetched_spans.load());
  out.emplace_back("fill_spans_wrong", counters_.wrong_spans.load());
  out.emplace_back("fill_waits", counters_.waits.load());
  out.emplace_back("fill_joins", counters_.joins.load());
  out.emplace_back("fill_reads_expired", counters_.expired.load());
  out.emplace_back("fill_reads_failed", counters_.failed.load());
  out.emplace_back("fill_evicted_bytes", counters_.evicted_bytes.load());
}

}  // namespace imagefs
