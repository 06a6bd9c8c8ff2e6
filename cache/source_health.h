// SPDX-License-Identifier: Apache-2.0
// How the sources of layers have answered recently, and when to retry one that failed
// (cache/fill_scheduler.h). There is one table for all layers, so that a failing registry gets one
// request at a time, regardless of the number of layers, readers and commands that want something
// from it.
//
// Trouble affects either a source (unreachable, silent, overloaded, or rejecting the credentials),
// and then all of its blobs wait, or one blob there. Each failure in a row doubles the pause, with
// jitter, up to a limit by priority: seconds for a reader, minutes for what nobody waits for. No
// request, however urgent, ends a pause. After the pause a single request probes the source: its
// first byte lets others follow, and the first right bytes end the trouble.
//
// A transient error (IsRetriable) is never certain. Any other error is certain once the source has
// kept giving the same kind of answer for `certain_after`.
//
// Thread-safe; a leaf in the lock order. Trouble is logged once after several failures, and so is
// its end.
#pragma once

#include <array>
#include <atomic>
#include <optional>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "base/digest.h"
#include "base/executor.h"
#include "base/monotonic.h"

namespace imagefs {

class SourceHealth {
 public:
  struct Limits {
    // The first and the longest pause, by Priority.
    std::array<absl::Duration, 4> first = {absl::Milliseconds(100), absl::Milliseconds(100),
                                           absl::Milliseconds(100), absl::Seconds(2)};
    std::array<absl::Duration, 4> most = {absl::Milliseconds(1500), absl::Seconds(15),
                                          absl::Minutes(1), absl::Minutes(5)};
    absl::Duration certain_after = absl::Minutes(1);
    absl::Duration most_certain = absl::Seconds(10);  // for a reader, once it is certain
    absl::Duration most_asked = absl::Seconds(10);    // for a reader, by the server's Retry-After
    // A request that a reader waits for is silent after kWaitFactor times the recent response time
    // of the source, within these bounds.
    absl::Duration least_silence = absl::Seconds(1), most_silence = absl::Seconds(10);
  };
  static constexpr int kWaitFactor = 4;
  explicit SourceHealth(const Limits& limits) : limits_(limits) {}

  // A blob at a source (a SourceKey, cache/fill_shares.h).
  struct Place {
    std::string source;
    Digest blob;
  };
  // Returns when a request of that priority may begin there. While a probe is running, that is once
  // it has been silent for as long as a pause.
  Moment MayBegin(const Place& place, Priority priority) const;
  // Begins a request, which must be ended by one of Answered..Ended below. Returns false if it may
  // not begin at `now`.
  bool Begin(const Place& place, Priority priority, Moment now);

  // The first byte, or the next one after a pause, took this long. Returns true if others may begin
  // now.
  bool Answered(const Place& place, absl::Duration took);
  // The request delivered right bytes.
  void Succeeded(const Place& place);
  // Returns the number of failures in a row. `began`: requests that were in flight together and
  // fail together count as one failure. A request that delivered something that is kept
  // (`progress`) does not lengthen pauses.
  int Failed(const Place& place, const absl::Status& why, Moment began, Moment now, bool progress);
  // The request was abandoned; this says nothing about the source.
  void Ended(const Place& place);

  // How long a request with waiters may be silent.
  absl::Duration Silence(const Place& place) const;
  // Returns why the blob is unavailable there if that is certain.
  std::optional<absl::Status> Certain(const Place& place) const;
  // Describes the trouble: the cause, how long and how often it has failed, and when it is retried;
  // "" = none.
  std::string Describe(const Place& place, Moment now) const;

 private:
  struct Trouble {
    absl::Status why;
    int failures = 0;  // in a row
    Moment first = Moment::InfinitePast(), last = Moment::InfinitePast();
    Moment kind_since = Moment::InfinitePast();  // of the current kind of non-transient error
    double jitter = 1;
    absl::Duration asked = absl::ZeroDuration();  // Retry-After
    bool finding_out = false;                     // a probe has been running since:
    Moment begun = Moment::InfinitePast();
    bool answers = false;  // a byte has been received
    bool certain = false;
  };
  static bool OfSource(const absl::Status& why);
  static std::string BlobKey(const Place& place);
  Moment MayBeginLocked(const std::string& key, Priority priority) const
      ABSL_SHARED_LOCKS_REQUIRED(mu_);

  const Limits limits_;
  // Lets healthy paths skip the lock.
  std::atomic<size_t> in_trouble_{0};
  mutable absl::Mutex mu_;
  absl::flat_hash_map<std::string, Trouble> troubles_ ABSL_GUARDED_BY(mu_);
  absl::flat_hash_map<std::string, absl::Duration> waits_ ABSL_GUARDED_BY(mu_);  // by source
};

}  // namespace imagefs
