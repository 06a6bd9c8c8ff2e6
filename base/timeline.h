// SPDX-License-Identifier: Apache-2.0
// What was done when: the steps of an image's start, the requests for parts of a layer and the
// reads that waited for them. Recorded for display only (docs/status-page.md).
//
// Recording is cheap and bounded: an event is kept when it has ended, a timeline that is full
// counts further ones only, and all timelines of one Timelines share a limit: beyond it, the oldest
// timelines give back what they have. Nothing is recorded of reads that find their bytes.
//
// Steps of an image's start find their timeline in the thread's LogContext, which follows the work:
//
//   TimedStep step(TimelineEvent::Step::kToken, host);  // recorded when it is destroyed
//   Begin(EndingStep(std::move(step), [](auto result) {...}));  // or when the result is there
//
// Thread-safe, except TimedStep.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "base/byte_range.h"
#include "base/executor.h"
#include "base/monotonic.h"

namespace imagefs {

// A value type.
struct TimelineEvent {
  enum class Step : uint8_t {
    kResolve,   // from the reference to the manifest and the configuration
    kRegistry,  // a call to a registry, with its redirects and retries; `detail`: for what
    kToken,     // a call waited for a token; `detail`: the registry
    kIndexes,   // finding the indexes of the layers
    kLayers,    // making the layers readable
    kMerge,     // merging their trees
    kMount,     // mount(2) or a FUSE session
    kRange,     // a request for a range of a layer's blob; `detail`: the registry
    kWait,      // a reader waited for a range of a layer's data
  };
  static constexpr size_t kMaxDetail = 80;  // bytes; the rest is cut

  Step step = Step::kResolve;
  bool failed = false;
  bool hedge = false;                        // kRange: the second request for a silent one
  Priority priority = Priority::kOnDemand;   // kRange
  Moment began, ended;                       // ended = InfiniteFuture: it has not
  Moment answered = Moment::InfinitePast();  // kRange: the first byte; InfinitePast: none
  ByteRange bytes;                           // kRange, kWait
  std::string detail;
};

// The name of a step, as in "resolve", "registry", ...
std::string_view StepName(TimelineEvent::Step step);

class Timeline {
 public:
  ~Timeline();
  Timeline(const Timeline&) = delete;
  Timeline& operator=(const Timeline&) = delete;

  void Add(TimelineEvent event) ABSL_LOCKS_EXCLUDED(mu_);
  struct Reading {
    std::vector<TimelineEvent> events;  // in the order in which they ended
    uint64_t dropped = 0;               // further ones, or all if it had to give them back
  };
  Reading Read() const ABSL_LOCKS_EXCLUDED(mu_);

 private:
  friend class Timelines;
  struct Pool;
  Timeline(size_t most, std::shared_ptr<Pool> pool) : most_(most), pool_(std::move(pool)) {}
  void GiveBack() ABSL_LOCKS_EXCLUDED(mu_);

  const size_t most_;
  const std::shared_ptr<Pool> pool_;
  mutable absl::Mutex mu_;
  bool closed_ ABSL_GUARDED_BY(mu_) = false;  // it has given back its events
  std::vector<TimelineEvent> events_ ABSL_GUARDED_BY(mu_);
  uint64_t dropped_ ABSL_GUARDED_BY(mu_) = 0;
};

// Makes timelines and limits what they keep together. Timelines may outlive it.
class Timelines {
 public:
  // About 6 MB at most: an event is about 130 bytes with its detail.
  static constexpr size_t kMostEvents = 48 << 10;
  explicit Timelines(size_t most_events = kMostEvents);

  // A timeline that keeps its first `most` events.
  std::shared_ptr<Timeline> New(size_t most);
  size_t events() const;  // kept, over all timelines

 private:
  const std::shared_ptr<Timeline::Pool> pool_;
};

// Records one step in the timeline of the thread that creates it, if there is one.
class TimedStep {
 public:
  // A step that took less than `shortest` is not recorded: the answer was at hand.
  explicit TimedStep(TimelineEvent::Step step, std::string_view detail = "",
                     absl::Duration shortest = absl::ZeroDuration());
  ~TimedStep();
  TimedStep(TimedStep&& other) noexcept = default;
  TimedStep& operator=(TimedStep&&) = delete;
  void Failed() {
    if (timeline_ != nullptr) event_.failed = true;
  }

 private:
  std::shared_ptr<Timeline> timeline_;
  TimelineEvent event_;
  absl::Duration shortest_;
};

// Returns a callback that ends the step and then calls `next`.
template <typename Next>
auto EndingStep(TimedStep step, Next next) {
  return
      [step = std::optional(std::move(step)), next = std::move(next)](auto&&... arguments) mutable {
        step.reset();
        return next(std::forward<decltype(arguments)>(arguments)...);
      };
}

}  // namespace imagefs
