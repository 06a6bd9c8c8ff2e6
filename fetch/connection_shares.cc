// SPDX-License-Identifier: Apache-2.0
#include "fetch/connection_shares.h"

#include <algorithm>
#include <set>
#include <tuple>
#include <utility>

namespace imagefs {

// Order in which waiting claims are served; lower first.
struct ConnectionShares::Rank {
  bool registry_has_share = false;
  bool source_has_share = false;
  Priority priority = Priority::kBackground;
  int registry_running = 0;
  int source_running = 0;
  uint64_t id = 0;
  auto Key() const {
    return std::make_tuple(registry_has_share, source_has_share, priority, registry_running,
                           source_running, id);
  }
  bool operator<(const Rank& other) const { return Key() < other.Key(); }
};

void ConnectionShares::Use::Count(const Claim& claim, int running_change, int all_change) {
  running += running_change;
  Registry& registry = registries[claim.registry];
  registry.running += running_change;
  auto& [source_running, source_all] = registry.repositories[claim.repository];
  source_running += running_change;
  source_all += all_change;
  if (source_all == 0) registry.repositories.erase(claim.repository);
  if (registry.repositories.empty()) registries.erase(claim.registry);
}

int ConnectionShares::Use::Running(const Claim& claim) const {
  return registries.at(claim.registry).repositories.at(claim.repository).first;
}

int ConnectionShares::Use::RegistryShare(int limit) const {
  return std::max(1, limit / static_cast<int>(registries.size()));
}

int ConnectionShares::Use::Share(const Claim& claim, int limit) const {
  const auto sources = static_cast<int>(RegistryOf(claim).repositories.size());
  return std::max(1, RegistryShare(limit) / sources);
}

void ConnectionShares::Add(uint64_t id, Claim claim) {
  all_.Count(claim, 0, 1);
  hosts_[claim.host].Count(claim, 0, 1);
  waiting_[id] = Entry{std::move(claim), {}, false, false};
}

void ConnectionShares::Remove(uint64_t id) {
  auto it = waiting_.find(id);
  const bool waits = it != waiting_.end();
  if (!waits) it = running_.find(id);
  if (!waits && it == running_.end()) return;
  const Claim& claim = it->second.claim;
  all_.Count(claim, waits ? 0 : -1, -1);
  const auto host = hosts_.find(claim.host);
  host->second.Count(claim, waits ? 0 : -1, -1);
  if (host->second.registries.empty()) hosts_.erase(host);
  (waits ? waiting_ : running_).erase(it);
}

void ConnectionShares::SetSlow(uint64_t id, bool slow) {
  const auto it = running_.find(id);
  if (it != running_.end()) it->second.slow = slow;
}

void ConnectionShares::SetSilent(uint64_t id, bool silent) {
  const auto it = running_.find(id);
  if (it != running_.end()) it->second.silent = silent;
}

bool ConnectionShares::TotalIsFull(Priority priority) const {
  int kept = 0;
  if (priority > Priority::kOnDemand) kept = options_.kept_on_demand;
  if (priority > Priority::kForeground) kept = options_.kept_foreground;
  // Do not reserve more than half of a small total.
  return all_.running >= std::max(options_.total - kept, (options_.total + 1) / 2);
}

bool ConnectionShares::MayStart(const Entry& entry) const {
  return !TotalIsFull(entry.priority()) && UseOfHost(entry.claim).running < options_.per_host &&
         all_.registries.at(entry.claim.registry).running < options_.per_registry;
}

// Whether `entry` has less than its share and `preempted` more than its own. Registries have equal
// shares, and so have the sources within a registry.
bool ConnectionShares::IsDueMore(const Use& use, const Entry& entry, const Entry& preempted,
                                 int limit) {
  if (entry.priority() > Priority::kForeground && use.Running(entry.claim) > 0) return false;
  const Use::Registry& mine = use.RegistryOf(entry.claim);
  const Use::Registry& other = use.RegistryOf(preempted.claim);
  if (&mine != &other) {
    const int share = use.RegistryShare(limit);
    return mine.running < share && other.running > share;
  }
  const int share = use.Share(entry.claim, limit);
  return use.Running(entry.claim) < share && use.Running(preempted.claim) > share;
}

ConnectionShares::Rank ConnectionShares::RankOf(uint64_t id, const Entry& entry) const {
  Rank rank;
  rank.priority = entry.priority();
  rank.registry_running = all_.RegistryOf(entry.claim).running;
  rank.source_running = all_.Running(entry.claim);
  rank.registry_has_share = rank.registry_running >= all_.RegistryShare(options_.total);
  rank.source_has_share = rank.source_running >= all_.Share(entry.claim, options_.total);
  if (rank.priority > Priority::kForeground && rank.source_running > 0) {
    // Background work is entitled to one connection.
    rank.registry_has_share = rank.source_has_share = true;
  }
  rank.id = id;
  return rank;
}

bool ConnectionShares::MayCut(const Entry& preempted, const Entry& entry, const Use& use, int limit,
                              Clock::time_point now, Clock::time_point& look_again) const {
  if (preempted.claim.cut == Cut::kNever) return false;
  const bool same_source = preempted.claim.registry == entry.claim.registry &&
                           preempted.claim.repository == entry.claim.repository;
  if (preempted.slow && !same_source) return true;
  if (entry.claim.hedge && preempted.silent && same_source) return true;
  const bool urgent = entry.priority() <= Priority::kForeground;
  const bool awaited = entry.priority() == Priority::kOnDemand;
  const bool due_more = !same_source && IsDueMore(use, entry, preempted, limit);
  if (preempted.claim.cut == Cut::kRestarts && !due_more) return false;
  // Time that the preempted must have run.
  std::optional<std::chrono::milliseconds> after;
  const bool last_of_source = use.Running(preempted.claim) == 1;
  if (urgent && due_more) {
    after = awaited ? std::chrono::milliseconds(0) : options_.patience;
  } else if (urgent && preempted.priority() > entry.priority() &&
             (awaited || !last_of_source || use.Running(entry.claim) == 0)) {
    after = options_.patience;
  } else if (!same_source && use.Running(entry.claim) == 0 &&
             (urgent || due_more || preempted.priority() > Priority::kForeground)) {
    after = options_.turn;
  }
  if (!after) return false;
  if (now - preempted.started >= *after) return true;
  look_again = std::min(look_again, preempted.started + *after);
  return false;
}

// Returns the request to cut for a claim that cannot start: the least urgent one of the source with
// the most connections. It uses the exhausted limit, so that one cut suffices.
std::optional<uint64_t> ConnectionShares::FindPreempted(const Entry& entry, Clock::time_point now,
                                                        Clock::time_point& look_again) const {
  const Use& host = UseOfHost(entry.claim);
  const bool host_full = host.running >= options_.per_host;
  const bool registry_full =
      all_.registries.at(entry.claim.registry).running >= options_.per_registry;
  const Use& use = host_full ? host : all_;
  const int limit = host_full       ? options_.per_host
                    : registry_full ? options_.per_registry
                                    : options_.total;
  std::optional<uint64_t> best;
  std::tuple<Priority, bool, int, int, bool, Clock::duration> best_key;
  for (const auto& [id, preempted] : running_) {
    if (host_full && preempted.claim.host != entry.claim.host) continue;
    if (registry_full && preempted.claim.registry != entry.claim.registry) continue;
    if (!MayCut(preempted, entry, use, limit, now, look_again)) continue;
    const auto key =
        std::make_tuple(preempted.priority(), preempted.slow,
                        use.RegistryOf(preempted.claim).running, use.Running(preempted.claim),
                        preempted.claim.cut == Cut::kResumes, now - preempted.started);
    if (best && key <= best_key) continue;
    best = id;
    best_key = key;
  }
  return best;
}

void ConnectionShares::Start(uint64_t id, Clock::time_point now) {
  auto node = waiting_.extract(id);
  node.mapped().started = now;
  all_.Count(node.mapped().claim, 1, 0);
  hosts_.at(node.mapped().claim.host).Count(node.mapped().claim, 1, 0);
  running_.insert(std::move(node));
}

// Cut requests made room for one claim. It may need more, and nothing else may take the room
// meanwhile.
bool ConnectionShares::KeepPromise(Step& step, Clock::time_point now) {
  const auto it = promised_ ? waiting_.find(*promised_) : waiting_.end();
  if (it == waiting_.end()) {
    promised_.reset();
    return false;
  }
  if (MayStart(it->second)) {
    step.kind = Step::Kind::kStart;
    step.id = *std::exchange(promised_, std::nullopt);
    Start(step.id, now);
    return true;
  }
  const std::optional<uint64_t> preempted = FindPreempted(it->second, now, step.look_again);
  if (!preempted) {
    promised_.reset();
    return false;
  }
  step.kind = Step::Kind::kCut;
  step.id = *preempted;
  return true;
}

ConnectionShares::Step ConnectionShares::Next(Clock::time_point now) {
  Step step;
  step.look_again = Clock::time_point::max();
  if (KeepPromise(step, now)) return step;
  // Equal claims are served in order of arrival, so consider only the first of each kind.
  std::set<std::tuple<std::string_view, std::string_view, std::string_view, Priority, bool>> kinds;
  std::map<Rank, const Entry*> blocked;
  std::optional<Rank> first;
  for (const auto& [id, entry] : waiting_) {
    const Claim& claim = entry.claim;
    if (!kinds.emplace(claim.host, claim.registry, claim.repository, entry.priority(), claim.hedge)
             .second) {
      continue;
    }
    const Rank rank = RankOf(id, entry);
    if (MayStart(entry)) {
      if (!first || rank < *first) first = rank;
    } else {
      blocked[rank] = &entry;
    }
  }
  for (const auto& [rank, entry] : blocked) {
    if (first && *first < rank) break;
    if (const auto preempted = FindPreempted(*entry, now, step.look_again)) {
      promised_ = rank.id;
      step.kind = Step::Kind::kCut;
      step.id = *preempted;
      return step;
    }
  }
  if (first) {
    Start(first->id, now);
    step.kind = Step::Kind::kStart;
    step.id = first->id;
  }
  return step;
}

}  // namespace imagefs
