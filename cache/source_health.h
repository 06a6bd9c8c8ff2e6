// How the sources of layers have answered lately, and when one that did not may be asked again
// (cache/fill_scheduler.h). One table for all layers, so that a registry in trouble is asked by one
// request at a time, however many layers, readers and commands want something of it.
//
// Trouble is of a source (it cannot be reached, is silent or overloaded, refuses the credentials),
// and then all of its blobs wait, or of one blob there. Each failure in a row doubles the pause,
// with jitter, up to a limit by urgency: a reader's is seconds, that of what nobody waits for
// minutes. No wish, however urgent, ends a pause. Once it is over one request goes to find out: its
// first byte lets others follow, the first right bytes end the trouble.
//
// What may pass by itself (IsRetriable) is never certain. What an answer says is, when it has been
// the same kind of answer for `certain_after`.
//
// Thread-safe; a leaf in the order of locks. Trouble of some failures is logged once, and so is its
// end.
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
    absl::Duration first = absl::Milliseconds(100);
    // The longest pause, by Priority.
    std::array<absl::Duration, 4> most = {absl::Milliseconds(1500), absl::Seconds(15),
                                          absl::Minutes(1), absl::Minutes(5)};
    absl::Duration certain_after = absl::Minutes(1);
    absl::Duration most_certain = absl::Seconds(10);  // of a reader, once it is certain
    absl::Duration most_asked = absl::Seconds(10);    // of a reader, by the server's Retry-After
    // A request that a reader waits for is silent after kWaitFactor times what the source's answers
    // took lately, within these bounds.
    absl::Duration least_silence = absl::Seconds(1), most_silence = absl::Seconds(10);
  };
  static constexpr int kWaitFactor = 4;
  explicit SourceHealth(const Limits& limits) : limits_(limits) {}

  // A blob at a source: SourceKey (cache/fill_shares.h).
  struct Place {
    std::string source;
    Digest blob;
  };
  // From when on a request of that urgency may begin there. Behind the one that finds out that is
  // when it has been silent for as long as a pause.
  Moment MayBegin(const Place& place, Priority priority) const;
  // A request begins, and is ended by one of Answered..Ended below; false: not at `now`.
  bool Begin(const Place& place, Priority priority, Moment now);

  // Its first byte, or the next after a pause, took that long. True: others may begin now.
  bool Answered(const Place& place, absl::Duration took);
  // It brought right bytes.
  void Succeeded(const Place& place);
  // `began`: requests that were under way together fail together, which is one failure. One that
  // brought something which is kept (`progress`) does not make pauses longer. Returns the failures
  // in a row.
  int Failed(const Place& place, const absl::Status& why, Moment began, Moment now, bool progress);
  // It was given up, and says nothing of the source.
  void Ended(const Place& place);

  // How long a request that is waited for may be silent.
  absl::Duration Silence(const Place& place) const;
  // Why the blob cannot be had there, when that is certain.
  std::optional<absl::Status> Certain(const Place& place) const;
  // The trouble: "failing for 12 s, 5 times; asked again in 2 s at the latest"; "" = none.
  std::string Describe(const Place& place, Moment now) const;

 private:
  struct Trouble {
    absl::Status why;
    int failures = 0;  // in a row
    Moment first = Moment::InfinitePast(), last = Moment::InfinitePast();
    Moment kind_since = Moment::InfinitePast();  // of answers that do not pass by themselves
    double jitter = 1;
    absl::Duration asked = absl::ZeroDuration();  // Retry-After
    bool finding_out = false;                     // a request is under way, since:
    Moment begun = Moment::InfinitePast();
    bool answers = false;  // it has had a byte
    bool certain = false;
  };
  static bool OfSource(const absl::Status& why);
  static std::string BlobKey(const Place& place);
  Moment MayBeginLocked(const std::string& key, Priority priority) const
      ABSL_SHARED_LOCKS_REQUIRED(mu_);

  const Limits limits_;
  // So that where all is well nobody takes the lock.
  std::atomic<size_t> in_trouble_{0};
  mutable absl::Mutex mu_;
  absl::flat_hash_map<std::string, Trouble> troubles_ ABSL_GUARDED_BY(mu_);
  absl::flat_hash_map<std::string, absl::Duration> waits_ ABSL_GUARDED_BY(mu_);  // by source
};

}  // namespace imagefs
