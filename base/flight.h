// Flights: one running piece of work, keyed by content, that any number of callers share.
//
// This is the key-mutex of the project. Where a keyed mutex makes the second caller wait and then
// repeat the check, a flight hands the one result to every caller, belongs to none of them, and
// ends when the last of them leaves. Rules (each has a test of that number in flight_test.cc):
//   1. a caller that leaves gets kCancelled at once and disturbs nobody; when the last one leaves,
//      the work's CancelToken fires;
//   2. the caller whose Start is running may leave or fail without failing the others;
//   3. the work retries what may pass by itself; callers never retry for it;
//   4. a credential failure (IsCredentialFailure) is delivered only to callers of the same
//      `auth scope`; if others remain, the work is started again with the Start of one of them
//      ("handover");
//   5. a waiting caller holds no thread, lock or slot: results arrive by callback; a join raises
//      the flight's priority to its own if that is more urgent;
//   6. (finding and pinning: the cache's business; a flight's result is a pinned reference)
//   7. keys are content, never URLs; the table is empty when nothing runs;
//   9. counters: leaders, joins, handovers, cancelled.
// A Join on a key whose last caller has left but whose work has not finished yet waits for that
// end and then starts afresh.
//
// Thread-safe. Callbacks (Start, Done, cancellation) run without any lock of the table held.
#pragma once

#include <cstdint>
#include <functional>
#include <list>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "base/cancel.h"
#include "base/executor.h"
#include "base/status.h"

namespace imagefs {

struct FlightCounters {
  uint64_t leaders = 0;    // pieces of work started afresh
  uint64_t joins = 0;      // callers that found one running
  uint64_t handovers = 0;  // restarts with another caller's Start
  uint64_t cancelled = 0;  // flights whose last caller left
  uint64_t failed = 0;     // flights that ended with an error
  uint64_t active = 0;     // running now
  uint64_t waiting = 0;    // callers of those
};

// Of one table, for people.
struct FlightReport {
  std::string name;  // "resolve", "layer", "chain", ...
  FlightCounters counters;
  std::vector<std::pair<std::string, size_t>> running;  // key, callers
};

// Handle of one caller. Destroying it does not leave; call Leave. Copyable.
class FlightTicket {
 public:
  FlightTicket() = default;
  explicit FlightTicket(std::function<void()> leave) : leave_(std::move(leave)) {}
  // Delivers kCancelled to this caller's Done (on this thread, before returning), unless its result
  // has been delivered or is just being delivered by another thread. Idempotent.
  void Leave() const {
    if (leave_) leave_();
  }

 private:
  std::function<void()> leave_;
};

// T must be copyable: every caller receives a copy of the result (usually a shared_ptr).
template <typename T>
class FlightTable {
 public:
  using Done = absl::AnyInvocable<void(absl::StatusOr<T>)>;
  // What the work knows of its flight. The work calls `finish` exactly once, from any thread,
  // inline allowed, also after cancellation; a second call does nothing.
  struct Context {
    std::string key;
    CancelToken cancel;
    PriorityRef priority;
    std::function<void(absl::StatusOr<T>)> finish;
  };
  // Begins the work and returns soon; must not block.
  using Start = std::function<void(Context)>;

  struct Caller {
    Priority priority = Priority::kForeground;
    std::string auth_scope;  // identifies the credentials that Start will use; "" = none
    Start start;
    Done done;
  };

  struct JoinResult {
    FlightTicket ticket;
    bool led = false;  // true when this call started the flight
  };

  explicit FlightTable(std::string name) : name_(std::move(name)) {}
  FlightTable(const FlightTable&) = delete;
  FlightTable& operator=(const FlightTable&) = delete;
  // REQUIRES: no flight is running.
  ~FlightTable() = default;

  JoinResult Join(const std::string& key, Caller caller);

  const std::string& name() const { return name_; }
  FlightCounters counters() const;
  // Keys of running flights with the number of their callers.
  std::vector<std::pair<std::string, size_t>> Running() const;

 private:
  // Filled in by flight_inl.h.
  struct Participant;
  struct Flight;
  void Launch(const std::shared_ptr<Flight>& flight) ABSL_LOCKS_EXCLUDED(mu_);
  void Finish(const std::shared_ptr<Flight>& flight, uint64_t run, absl::StatusOr<T> result)
      ABSL_LOCKS_EXCLUDED(mu_);
  void Leave(const std::shared_ptr<Flight>& flight, uint64_t participant) ABSL_LOCKS_EXCLUDED(mu_);
  void EraseLocked(const std::shared_ptr<Flight>& flight) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  const std::string name_;
  mutable absl::Mutex mu_;
  absl::flat_hash_map<std::string, std::shared_ptr<Flight>> flights_ ABSL_GUARDED_BY(mu_);
  FlightCounters counters_ ABSL_GUARDED_BY(mu_);
};

}  // namespace imagefs

#include "base/flight_inl.h"  // IWYU pragma: export
