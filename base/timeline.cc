// SPDX-License-Identifier: Apache-2.0
#include "base/timeline.h"

#include <atomic>
#include <deque>
#include <utility>

#include "base/log_context.h"

namespace imagefs {
namespace {

constexpr size_t kFewTimelines = 64;

}  // namespace

std::string_view StepName(TimelineEvent::Step step) {
  switch (step) {
    case TimelineEvent::Step::kResolve:
      return "resolve";
    case TimelineEvent::Step::kRegistry:
      return "registry";
    case TimelineEvent::Step::kToken:
      return "token";
    case TimelineEvent::Step::kIndexes:
      return "indexes";
    case TimelineEvent::Step::kLayers:
      return "layers";
    case TimelineEvent::Step::kMerge:
      return "merge";
    case TimelineEvent::Step::kMount:
      return "mount";
    case TimelineEvent::Step::kRange:
      return "range";
    case TimelineEvent::Step::kWait:
      return "wait";
  }
  return "";
}

// Its lock is never held together with a timeline's.
struct Timeline::Pool {
  explicit Pool(size_t most) : most_events(most) {}
  void Trim();

  const size_t most_events;
  std::atomic<size_t> events{0};
  absl::Mutex mu;
  std::deque<std::weak_ptr<Timeline>> oldest_first ABSL_GUARDED_BY(mu);
  // With that many entries, those that are gone are removed.
  size_t look_at ABSL_GUARDED_BY(mu) = kFewTimelines;
};

void Timeline::Pool::Trim() {
  while (events.load(std::memory_order_relaxed) > most_events) {
    std::shared_ptr<Timeline> oldest;
    {
      absl::MutexLock lock(&mu);
      if (oldest_first.empty()) return;
      oldest = oldest_first.front().lock();
      oldest_first.pop_front();
    }
    if (oldest != nullptr) oldest->GiveBack();
  }
}

Timeline::~Timeline() { pool_->events.fetch_sub(events_.size(), std::memory_order_relaxed); }

void Timeline::Add(TimelineEvent event) {
  if (event.detail.size() > TimelineEvent::kMaxDetail) {
    event.detail.resize(TimelineEvent::kMaxDetail);
  }
  {
    absl::MutexLock lock(&mu_);
    if (closed_ || events_.size() >= most_) {
      ++dropped_;
      return;
    }
    events_.push_back(std::move(event));
    pool_->events.fetch_add(1, std::memory_order_relaxed);
  }
  pool_->Trim();
}

Timeline::Reading Timeline::Read() const {
  absl::MutexLock lock(&mu_);
  return {events_, dropped_};
}

void Timeline::GiveBack() {
  std::vector<TimelineEvent> given;
  absl::MutexLock lock(&mu_);
  closed_ = true;
  given.swap(events_);
  dropped_ += given.size();
  pool_->events.fetch_sub(given.size(), std::memory_order_relaxed);
}

Timelines::Timelines(size_t most_events) : pool_(std::make_shared<Timeline::Pool>(most_events)) {}

std::shared_ptr<Timeline> Timelines::New(size_t most) {
  std::shared_ptr<Timeline> made(new Timeline(most, pool_));
  absl::MutexLock lock(&pool_->mu);
  std::deque<std::weak_ptr<Timeline>>& all = pool_->oldest_first;
  if (all.size() >= pool_->look_at) {
    std::erase_if(all, [](const std::weak_ptr<Timeline>& one) { return one.expired(); });
    pool_->look_at = 2 * all.size() + kFewTimelines;
  }
  all.push_back(made);
  return made;
}

size_t Timelines::events() const { return pool_->events.load(std::memory_order_relaxed); }

TimedStep::TimedStep(TimelineEvent::Step step, std::string_view detail, absl::Duration shortest)
    : timeline_(LogContext::Current().timeline()), shortest_(shortest) {
  if (timeline_ == nullptr) return;
  event_.step = step;
  event_.began = Moment::Now();
  event_.detail = std::string(detail.substr(0, TimelineEvent::kMaxDetail));
}

TimedStep::~TimedStep() {
  if (timeline_ == nullptr) return;
  event_.ended = Moment::Now();
  if (event_.ended - event_.began >= shortest_) timeline_->Add(std::move(event_));
}

}  // namespace imagefs
