// SPDX-License-Identifier: Apache-2.0
#include "fetch/link_table.h"

#include "fetch/bounded_table.h"

namespace imagefs {

std::optional<LinkTable::Link> LinkTable::Find(const std::string& key, Clock::time_point now) {
  const auto it = links_.find(key);
  if (it == links_.end()) return std::nullopt;
  if (now - it->second.since >= kMaxAge) {
    links_.erase(it);
    return std::nullopt;
  }
  return it->second.link;
}

void LinkTable::Worked(const std::string& registry, const std::string& key, const Link& link,
                       Clock::time_point now) {
  const auto habit = habits_.find(registry);
  if (const auto it = links_.find(key); it != links_.end() && it->second.link.url == link.url) {
    it->second.used_again = true;
    if (habit != habits_.end()) habit->second.single_uses = 0;
    return;
  }
  if (habit != habits_.end() && now < habit->second.hold_until) return;
  BoundTable(links_);
  links_[key] = {link, now, false};
}

void LinkTable::Failed(const std::string& registry, const std::string& key, const std::string& url,
                       Clock::time_point now) {
  const auto it = links_.find(key);
  if (it == links_.end() || it->second.link.url != url) return;
  const bool single_use = !it->second.used_again;
  links_.erase(it);
  if (!single_use) return;
  BoundTable(habits_);
  Habit& habit = habits_[registry];
  if (++habit.single_uses < kSingleUses) return;
  habit.single_uses = 0;
  habit.hold_until = now + kSingleUseHold;
}

}  // namespace imagefs
