// SPDX-License-Identifier: Apache-2.0
#include "cache/layer_syncer.h"

#include <algorithm>
#include <utility>

#include "base/log.h"
#include "base/thread_role.h"

namespace imagefs {

LayerSyncer::LayerSyncer(const Options& options, SyncFunction sync)
    : options_(options), sync_(std::move(sync)), thread_([this] { Loop(); }) {}

void LayerSyncer::Finish() {
  {
    absl::MutexLock lock(&mu_);
    stopping_ = true;
  }
  changed_.SignalAll();
  if (thread_.joinable()) thread_.join();
}

LayerSyncer::~LayerSyncer() {
  Finish();
  std::vector<Waiter> left;
  {
    absl::MutexLock lock(&mu_);
    left.swap(waiters_);
  }
  for (Waiter& waiter : left) waiter.done(absl::CancelledError("the store closes"));
}

void LayerSyncer::Add(const Digest& id, bool careful) {
  {
    absl::MutexLock lock(&mu_);
    std::erase_if(items_, [&](const Item& item) { return item.id == id; });
    if (items_.empty()) added_ = Moment::Now();
    items_.push_back({id, ++serials_, careful, 0, Moment::InfinitePast()});
  }
  changed_.SignalAll();
}

void LayerSyncer::Suspend(const Digest& id) {
  absl::MutexLock lock(&mu_);
  std::erase_if(items_, [&](const Item& item) { return item.id == id; });
}

std::vector<LayerSyncer::Done> LayerSyncer::Remove(const Digest& id) {
  absl::MutexLock lock(&mu_);
  std::erase_if(items_, [&](const Item& item) { return item.id == id; });
  return TakeWaitersLocked(id, absl::AbortedError("removed"));
}

void LayerSyncer::Drop(const Digest& id, const absl::Status& why) {
  for (Done& done : Remove(id)) done(why);
}

void LayerSyncer::Wait(absl::flat_hash_set<Digest> ids, Done done) {
  if (ids.empty()) return done(absl::OkStatus());
  {
    absl::MutexLock lock(&mu_);
    for (Item& item : items_) {
      if (ids.contains(item.id)) item.not_before = Moment::InfinitePast();
    }
    waiters_.push_back({std::move(ids), std::move(done)});
  }
  changed_.SignalAll();
}

void LayerSyncer::PassBegins() {
  absl::MutexLock lock(&mu_);
  ++passes_;
}

void LayerSyncer::PassEnds() {
  {
    absl::MutexLock lock(&mu_);
    --passes_;
    last_pass_ = Moment::Now();
  }
  changed_.SignalAll();
}

Moment LayerSyncer::DueLocked(const Item& item) const {
  if (stopping_) return Moment::InfinitePast();
  // A layer with waiters may have another name, whose files are synced as well.
  if (item.failures > 0 || !waiters_.empty()) return item.not_before;
  const Moment at_last = added_ + options_.at_most;
  return passes_ > 0 ? at_last : std::min(at_last, last_pass_ + options_.quiet);
}

void LayerSyncer::Loop() {
  EnterThread(ThreadRole::kSync);
  while (true) {
    Item next;
    {
      absl::MutexLock lock(&mu_);
      while (true) {
        auto first = items_.end();
        Moment due = Moment::InfiniteFuture();
        for (auto it = items_.begin(); it != items_.end(); ++it) {
          if (const Moment one = DueLocked(*it); first == items_.end() || one < due) {
            first = it;
            due = one;
          }
        }
        if (first != items_.end() && due <= Moment::Now()) {
          next = *first;
          break;
        }
        if (stopping_) return;
        changed_.WaitUntil(&mu_, due);
      }
    }
    SyncOne(next);
  }
}

void LayerSyncer::SyncOne(const Item& item) {
  const absl::Status status = sync_(item.id, item.careful);
  const bool again = !status.ok() && !absl::IsNotFound(status) && !absl::IsDataLoss(status);
  std::vector<Done> told;
  absl::Duration pause;
  {
    absl::MutexLock lock(&mu_);
    // Dropped or made again meanwhile: the result does not apply to the current files.
    const auto it = std::find_if(items_.begin(), items_.end(),
                                 [&](const Item& other) { return other.serial == item.serial; });
    if (it == items_.end()) return;
    if (again && !stopping_) {
      it->careful = true;
      pause =
          std::min(options_.max_pause, options_.first_pause * (1 << std::min(it->failures, 20)));
      ++it->failures;
      it->not_before = Moment::Now() + pause;
    } else {
      items_.erase(it);
    }
    told = TakeWaitersLocked(item.id, status);
  }
  if (again) {
    LogError("layer.sync_failed layer=", item.id.Short(), " error=", status.message(),
             " next_try=", absl::FormatDuration(pause));
  }
  for (Done& done : told) done(status);
}

// Removes and returns the waiters whose result is known: all of their layers are synced, or one
// failed.
std::vector<LayerSyncer::Done> LayerSyncer::TakeWaitersLocked(const Digest& id,
                                                              const absl::Status& status) {
  std::vector<Done> told;
  for (auto it = waiters_.begin(); it != waiters_.end();) {
    const bool waits = it->missing.erase(id) > 0;
    if (!waits || (status.ok() && !it->missing.empty())) {
      ++it;
      continue;
    }
    told.push_back(std::move(it->done));
    it = waiters_.erase(it);
  }
  return told;
}

}  // namespace imagefs
