// SPDX-License-Identifier: Apache-2.0
#include "cache/source_turns.h"

#include <tuple>

namespace imagefs {
namespace {

// A fraction of a limit, so that one owner never has all of it.
int Part(int limit, int quarters) { return (limit * quarters + 3) / 4; }

}  // namespace

void SourceTurns::Add(uint64_t id, Claim claim) { waiting_[id] = {std::move(claim)}; }

void SourceTurns::Remove(uint64_t id) {
  waiting_.erase(id);
  const auto it = running_.find(id);
  if (it == running_.end()) return;
  Count(it->second, -1);
  running_.erase(it);
}

void SourceTurns::SetWhole(uint64_t id) {
  if (const auto it = waiting_.find(id); it != waiting_.end()) it->second.claim.whole = true;
  const auto it = running_.find(id);
  if (it == running_.end()) return;
  Count(it->second, -1);
  it->second.claim.whole = true;
  it->second.starved = false;
  Count(it->second, 1);
}

void SourceTurns::SetStarved(uint64_t id, bool starved) {
  const auto it = running_.find(id);
  if (it == running_.end() || it->second.claim.whole) return;
  Count(it->second, -1);
  it->second.starved = starved;
  Count(it->second, 1);
}

void SourceTurns::Count(const Entry& entry, int change) {
  const auto count = [&](Use& use) {
    if (!entry.starved) use.busy += change;
    if (!entry.claim.whole) use.streams += change;
  };
  const auto count_in = [&](auto& uses, const auto& key) {
    const auto it = uses.try_emplace(key).first;
    count(it->second);
    if (it->second == Use()) uses.erase(it);
  };
  count(all_);
  count_in(registries_, entry.claim.registry);
  count_in(sources_, SourceKey(entry.claim.registry, entry.claim.auth_scope));
}

template <typename Key>
SourceTurns::Use SourceTurns::UseOf(const std::map<Key, Use>& uses, const Key& key) {
  const auto it = uses.find(key);
  return it == uses.end() ? Use() : it->second;
}

SourceTurns::Use SourceTurns::SourceUse(const Claim& claim) const {
  return UseOf(sources_, SourceKey(claim.registry, claim.auth_scope));
}

bool SourceTurns::MayStart(const Entry& entry) const {
  const Use registry = UseOf(registries_, entry.claim.registry);
  const Use source = SourceUse(entry.claim);
  if (!entry.claim.whole &&
      (all_.streams >= options_.streams || registry.streams >= Part(options_.streams, 3) ||
       source.streams >= Part(options_.streams, 2))) {
    return false;
  }
  if (all_.busy < options_.workers) return true;
  return entry.wanted() && source.busy == 0 && registry.busy < Part(2 * options_.workers, 3) &&
         all_.busy < 2 * options_.workers;
}

auto SourceTurns::Rank(uint64_t id, const Entry& entry) const {
  return std::tuple(!entry.wanted(), UseOf(registries_, entry.claim.registry).busy,
                    SourceUse(entry.claim).busy, entry.priority(), id);
}

std::optional<uint64_t> SourceTurns::Next() {
  auto best = waiting_.end();
  for (auto it = waiting_.begin(); it != waiting_.end(); ++it) {
    if (!MayStart(it->second)) continue;
    if (best == waiting_.end() || Rank(it->first, it->second) < Rank(best->first, best->second)) {
      best = it;
    }
  }
  if (best == waiting_.end()) return std::nullopt;
  const uint64_t id = best->first;
  Count(best->second, 1);
  running_.insert(waiting_.extract(best));
  return id;
}

}  // namespace imagefs
