// SPDX-License-Identifier: Apache-2.0
// The timelines of how images were last started cold: from the reference to a tree that can be
// read, when layers of the image were missing. For display (docs/status-page.md).
//
// A start's timeline travels in the LogContext from Resolve through the callbacks to the mount of
// the image, so that each part records its own steps. Thread-safe.
#pragma once

#include <deque>
#include <memory>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "base/digest.h"
#include "base/log_context.h"
#include "base/timeline.h"

namespace imagefs {

class ColdStarts {
 public:
  // Starts whose timelines are kept; the oldest goes first.
  static constexpr size_t kMost = 1024;
  // `timelines` must outlive this.
  explicit ColdStarts(Timelines& timelines) : timelines_(timelines) {}

  // This thread's context, with the timeline of a start that begins now.
  LogContext Begin() { return LogContext::Current().With(timelines_.New(kMostEvents)); }
  // This thread's context if it is within a start, else Begin().
  LogContext Continue();
  // The start that `context` belongs to is a cold start of that image.
  void Keep(const Digest& manifest, const LogContext& context);
  // What is kept of the image's last cold start.
  Timeline::Reading Read(const Digest& manifest) const;

 private:
  static constexpr size_t kMostEvents = 1000;  // an image of 127 layers makes about 300
  using Entry = std::pair<Digest, std::shared_ptr<const Timeline>>;

  Timelines& timelines_;
  mutable absl::Mutex mu_;
  std::deque<Entry> kept_ ABSL_GUARDED_BY(mu_);  // one per manifest, oldest first
};

}  // namespace imagefs
