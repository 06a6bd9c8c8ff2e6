// SPDX-License-Identifier: Apache-2.0
// Flights (single-flight): one running task, identified by a content key and shared by any number
// of callers.
//
// This replaces a keyed mutex. With a keyed mutex, the second caller waits and then repeats the
// check; a flight instead delivers its one result to every caller, belongs to none of them, and
// ends when the last one leaves. Rules (the test of each in flight_test.cc carries its number):
//   1. a caller that leaves gets kCancelled immediately and does not affect the others; when the
//      last one leaves, the work's CancelToken fires;
//   2. the caller whose Start is running may leave or fail without failing the others;
//   3. the work retries transient errors; callers never retry on its behalf;
//   4. a credential failure (IsCredentialFailure) is delivered only to callers with the same
//      `auth_scope`; if others remain, the work is restarted with the Start of one of them
//      ("handover");
//   5. a waiting caller holds no thread, lock or slot: results arrive by callback; joining raises
//      the flight's priority to the caller's if that is more urgent;
//   6. (lookup and pinning are the cache's job; a flight's result is a pinned reference)
//   7. keys identify content, never URLs; the table is empty when nothing runs;
//   9. counters: leaders, joins, handovers, cancelled.
// A Join on a key whose last caller has left but whose work has not finished waits for the work to
// end, then starts it anew.
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
  uint64_t leaders = 0;    // flights started by a new caller
  uint64_t joins = 0;      // callers that joined a running flight
  uint64_t handovers = 0;  // restarts with another caller's Start
  uint64_t cancelled = 0;  // flights whose last caller left
  uint64_t failed = 0;     // flights that ended with an error
  uint64_t active = 0;     // currently running
  uint64_t waiting = 0;    // callers of those flights
};

// Statistics of one table, for display.
struct FlightReport {
  std::string name;  // "resolve", "layer", "chain", ...
  FlightCounters counters;
  std::vector<std::pair<std::string, size_t>> running;  // key, callers
};

// One caller's handle. Copyable. Destroying it does not leave; call Leave.
class FlightTicket {
 public:
  FlightTicket() = default;
  explicit FlightTicket(std::function<void()> leave) : leave_(std::move(leave)) {}
  // Delivers kCancelled to this caller's Done (on this thread, before returning), unless its result
  // has been delivered or is being delivered by another thread. Idempotent.
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
  // What the work knows about its flight. The work must call `finish` exactly once, from any
  // thread; inline and after cancellation are both allowed. Further calls are ignored.
  struct Context {
    std::string key;
    CancelToken cancel;
    PriorityRef priority;
    std::function<void(absl::StatusOr<T>)> finish;
  };
  // Starts the work and returns promptly; must not block.
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
  // Returns the keys of running flights and their numbers of callers.
  std::vector<std::pair<std::string, size_t>> Running() const;

 private:
  // Defined in flight_inl.h.
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
