// SPDX-License-Identifier: Apache-2.0
#include "cache/fill_scheduler.h"

#include <algorithm>
#include <array>
#include <set>
#include <string_view>
#include <utility>

#include "base/thread_role.h"

namespace imagefs {

namespace {

constexpr absl::Duration kShortestWait = absl::Milliseconds(1);

}  // namespace

FillScheduler::FillScheduler(Options options)
    : options_(std::move(options)),
      reads_memory_(options_.reads_memory, options_.reads_memory / 2),
      rest_memory_(options_.rest_memory, options_.rest_memory / 2),
      decoders_memory_(options_.decoders_memory, options_.decoders_memory / 4),
      health_(options_.health),
      shares_(options_.slots) {
  const int threads = options_.threads > 0 ? options_.threads
                                           : static_cast<int>(std::thread::hardware_concurrency());
  slow_work_ = std::make_unique<FairWorkers>(ThreadRole::kProve, SourceTurns::Options{threads, 0});
  work_ = std::make_unique<Executor>(ThreadRole::kFill, threads);
  thread_ = std::thread([this] { Loop(); });
}

FillScheduler::~FillScheduler() {
  std::vector<std::weak_ptr<FillClient>> clients;
  timers_.Close();
  {
    absl::MutexLock lock(&mu_);
    stopping_ = true;
    clients = clients_;
  }
  changed_.SignalAll();
  for (const auto& weak : clients) {
    if (const auto client = weak.lock()) client->Cancel();
  }
  {
    absl::MutexLock lock(&mu_);
    auto none = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) { return running_ == 0; };
    mu_.Await(absl::Condition(&none));
  }
  thread_.join();
  // While work_ is destroyed, its queued tasks run and may still queue more.
}

void FillScheduler::Add(std::weak_ptr<FillClient> client) {
  absl::MutexLock lock(&mu_);
  std::erase_if(clients_, [](const auto& weak) { return weak.expired(); });
  clients_.push_back(std::move(client));
  NoteDemand();
}

void FillScheduler::Wake() {
  {
    absl::MutexLock lock(&mu_);
    if (std::exchange(woken_, true)) return;
  }
  changed_.SignalAll();
}

void FillScheduler::NoteDemand() {
  last_demand_ns_.store(Moment::Now().ToNanos(), std::memory_order_relaxed);
}

FillSlot FillScheduler::Occupy(std::string source, Priority priority) {
  absl::MutexLock lock(&mu_);
  shares_.Take(source, priority);
  ++running_;
  return FillSlot(*this, std::move(source), priority);
}

void FillScheduler::Release(const std::string& source, Priority priority, bool yielded) {
  // Signal under the lock: the scheduler may be destroyed once the last slot is released.
  absl::MutexLock lock(&mu_);
  if (!yielded) shares_.Release(source, priority);
  --running_;
  if (!std::exchange(woken_, true)) changed_.SignalAll();
}

void FillSlot::GiveBack() {
  if (FillScheduler* scheduler = std::exchange(scheduler_, nullptr)) {
    scheduler->Release(source_, priority_, yielded_);
  }
}

void FillSlot::YieldSlot() {
  if (scheduler_ != nullptr && !std::exchange(yielded_, true)) {
    scheduler_->OnSlotYielded(source_, priority_);
  }
}

void FillScheduler::OnSlotYielded(const std::string& source, Priority priority) {
  absl::MutexLock lock(&mu_);
  shares_.Release(source, priority);
}

// Asks the clients what they want, starting with another one each time.
std::vector<FillScheduler::Wanting> FillScheduler::PollClients() {
  std::vector<std::shared_ptr<FillClient>> clients;
  size_t turn;
  {
    absl::MutexLock lock(&mu_);
    for (const auto& weak : clients_) {
      if (auto client = weak.lock()) clients.push_back(std::move(client));
    }
    turn = turn_++;
  }
  const Moment now = Moment::Now();
  const bool quiet =
      spare() &&
      now - Moment::FromNanos(last_demand_ns_.load(std::memory_order_relaxed)) >= options_.quiet;
  look_again_ = Moment::InfiniteFuture();
  std::vector<Wanting> wanting;
  for (size_t i = 0; i < clients.size(); ++i) {
    auto& client = clients[(turn + i) % clients.size()];
    std::optional<FillClient::Want> want = client->MostUrgent(now, look_again_);
    if (!want.has_value() || (want->priority == Priority::kBackground && !quiet)) continue;
    wanting.push_back({std::move(client), *std::move(want)});
  }
  return wanting;
}

// Returns the most urgent client that gets a slot; among equals, one whose source has the fewest.
std::optional<FillScheduler::Pick> FillScheduler::Choose() {
  std::vector<Wanting> wanting = PollClients();
  std::array<std::set<std::string_view>, 4> sources;  // by priority and more urgent ones
  for (const Wanting& one : wanting) {
    for (auto p = static_cast<size_t>(one.want.priority); p < sources.size(); ++p) {
      sources[p].insert(one.want.source);
    }
  }
  absl::MutexLock lock(&mu_);
  if (stopping_) return std::nullopt;
  Wanting* best = nullptr;
  for (Wanting& one : wanting) {
    const FillClient::Want& want = one.want;
    const auto count = static_cast<int>(sources[static_cast<size_t>(want.priority)].size());
    if (!shares_.MayTake(want.source, want.priority, count)) continue;
    if (best == nullptr || std::pair(want.priority, shares_.Of(want.source)) <
                               std::pair(best->want.priority, shares_.Of(best->want.source))) {
      best = &one;
    }
  }
  if (best == nullptr) return std::nullopt;
  shares_.Take(best->want.source, best->want.priority);
  ++running_;
  return Pick{std::move(best->client), best->want.priority,
              FillSlot(*this, std::move(best->want.source), best->want.priority)};
}

void FillScheduler::Loop() {
  EnterThread(ThreadRole::kScheduler);
  while (true) {
    {
      absl::MutexLock lock(&mu_);
      // The quiet period ends without any call.
      const Moment now = Moment::Now();
      const Moment until =
          std::min(now + options_.quiet, std::max(look_again_, now + kShortestWait));
      while (!woken_ && !stopping_ && changed_.WaitUntil(&mu_, until)) {
      }
      if (stopping_) return;
      woken_ = false;
    }
    while (std::optional<Pick> pick = Choose()) {
      pick->client->Launch(pick->priority, std::move(pick->slot));
    }
  }
}

void FillScheduler::AppendCounters(std::vector<std::pair<std::string, uint64_t>>& out) const {
  out.emplace_back("fill_requests", counters_.requests.load());
  out.emplace_back("fill_hedges", counters_.hedges.load());
  out.emplace_back("fill_bytes_fetched", counters_.bytes.load());
  out.emplace_back("fill_spans", counters_.spans.load());
  out.emplace_back("fill_spans_prefetched", counters_.prefetched_spans.load());
  out.emplace_back("fill_spans_wrong", counters_.wrong_spans.load());
  out.emplace_back("fill_waits", counters_.waits.load());
  out.emplace_back("fill_joins", counters_.joins.load());
  out.emplace_back("fill_reads_expired", counters_.expired.load());
  out.emplace_back("fill_reads_failed", counters_.failed.load());
  out.emplace_back("fill_evicted_bytes", counters_.evicted_bytes.load());
  out.emplace_back("fill_window_requests", counters_.window_requests.load());
  out.emplace_back("fill_window_bytes", counters_.window_bytes.load());
  out.emplace_back("fill_memory_bytes", counters_.memory_bytes->load());
  out.emplace_back("fill_memory_spans", counters_.memory_spans.load());
  out.emplace_back("hot_pack_bytes", counters_.hot_bytes.load());
  out.emplace_back("hot_pack_reads", counters_.hot_reads.load());
  out.emplace_back("hot_pack_reads_late", counters_.hot_late.load());
  out.emplace_back("hot_pack_wrong_spans", counters_.hot_wrong.load());
  out.emplace_back("fill_tasks_queued", work_->queued());
}

void FillScheduler::AppendHistograms(std::vector<HistogramReport>& out) const {
  constexpr std::array<std::string_view, kWaitCauses> kCauses = {"recheck", "in_flight", "fetch"};
  for (size_t i = 0; i < kWaitCauses; ++i) {
    out.push_back({"read_wait", {{"cause", std::string(kCauses[i])}}, counters_.waited[i].Read()});
  }
  out.push_back({"decode", {}, counters_.decode.Read()});
}

}  // namespace imagefs
