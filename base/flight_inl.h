// SPDX-License-Identifier: Apache-2.0
// Implementation of FlightTable; included by base/flight.h only.
//
// A flight is in the table from its first Join until Finish has taken its callers. Its states:
//   working   the work runs and at least one caller waits
//   draining  the last caller has left and the work has been cancelled; new callers queue up in the
//             flight and restart it when the old work has ended
//   between   one run has ended and the next has not begun (from Finish to Launch, while results
//             are delivered without the lock); a caller that leaves is simply removed from the list
// `run` counts the starts and ends of the flight, so that a Finish of an earlier run is ignored.
#pragma once

#include "base/flight.h"  // IWYU pragma: keep
#include "base/log.h"
#include "base/log_context.h"

namespace imagefs {

template <typename T>
struct FlightTable<T>::Participant {
  uint64_t id = 0;
  Caller caller;
  LogContext context;  // of the caller, for its Start and Done
};

template <typename T>
struct FlightTable<T>::Flight {
  std::string key;
  // Guarded by the table's mu_ from here on.
  std::list<Participant> participants;
  uint64_t next_participant = 1;
  uint64_t run = 0;
  bool running = false;    // from Launch to Finish
  bool draining = false;   // running, but no caller waits for this run
  std::string auth_scope;  // of the running Start
  CancelSource cancel;
  PriorityRef priority;
};

template <typename T>
typename FlightTable<T>::JoinResult FlightTable<T>::Join(const std::string& key, Caller caller) {
  std::shared_ptr<Flight> flight;
  JoinResult result;
  uint64_t participant = 0;
  {
    absl::MutexLock lock(&mu_);
    std::shared_ptr<Flight>& slot = flights_[key];
    if (slot == nullptr) {
      slot = std::make_shared<Flight>();
      slot->key = key;
      slot->priority = std::make_shared<LivePriority>(caller.priority);
      result.led = true;
      ++counters_.leaders;
    } else {
      ++counters_.joins;
      slot->priority->RaiseTo(caller.priority);
    }
    flight = slot;
    participant = flight->next_participant++;
    flight->participants.push_back({participant, std::move(caller), LogContext::Current()});
  }
  LogDebug("flight.", result.led ? "began" : "joined", " flight=", name_, " key=", key);
  result.ticket = FlightTicket([this, weak = std::weak_ptr<Flight>(flight), participant] {
    if (std::shared_ptr<Flight> alive = weak.lock()) Leave(alive, participant);
  });
  if (result.led) Launch(flight);
  return result;
}

// Starts the work with the Start of the longest-waiting caller.
template <typename T>
void FlightTable<T>::Launch(const std::shared_ptr<Flight>& flight) {
  Context context;
  Start start;
  LogContext log;
  {
    absl::MutexLock lock(&mu_);
    if (flight->participants.empty()) {
      // Every caller left before the work began.
      EraseLocked(flight);
      return;
    }
    log = flight->participants.front().context;
    const Caller& lead = flight->participants.front().caller;
    start = lead.start;
    flight->auth_scope = lead.auth_scope;
    flight->running = true;
    flight->cancel = CancelSource();
    // Callers that have left must not keep the priority raised.
    flight->priority = std::make_shared<LivePriority>(lead.priority);
    for (const Participant& participant : flight->participants) {
      flight->priority->RaiseTo(participant.caller.priority);
    }
    const uint64_t run = ++flight->run;
    context.key = flight->key;
    context.cancel = flight->cancel.token();
    context.priority = flight->priority;
    // Weak: the table keeps the flight alive. Work that keeps its context after finishing must not
    // keep callers alive or reach a destroyed table.
    context.finish = [this, weak = std::weak_ptr<Flight>(flight), run](absl::StatusOr<T> value) {
      if (std::shared_ptr<Flight> alive = weak.lock()) Finish(alive, run, std::move(value));
    };
  }
  const LogContext::Scope scope(std::move(log));
  start(std::move(context));
}

template <typename T>
void FlightTable<T>::Finish(const std::shared_ptr<Flight>& flight, uint64_t run,
                            absl::StatusOr<T> result) {
  std::list<Participant> served;
  bool again = false;
  {
    absl::MutexLock lock(&mu_);
    if (run != flight->run) return;  // already finished
    ++flight->run;                   // this run is over; ignore a second Finish
    flight->running = false;
    if (std::exchange(flight->draining, false)) {
      // The old result was for callers that have left; those now waiting joined later.
      again = !flight->participants.empty();
      if (again) ++counters_.leaders;
    } else if (IsCredentialFailure(result.status())) {
      for (auto it = flight->participants.begin(); it != flight->participants.end();) {
        auto next = std::next(it);
        if (it->caller.auth_scope == flight->auth_scope) {
          served.splice(served.end(), flight->participants, it);
        }
        it = next;
      }
      again = !flight->participants.empty();
      if (again) ++counters_.handovers;
    } else {
      served.swap(flight->participants);
    }
    if (!again) {
      if (!result.ok() && !served.empty()) ++counters_.failed;
      EraseLocked(flight);
    }
  }
  for (Participant& participant : served) {
    const LogContext::Scope scope(participant.context);
    participant.caller.done(result);
  }
  if (again) Launch(flight);
}

template <typename T>
void FlightTable<T>::Leave(const std::shared_ptr<Flight>& flight, uint64_t participant) {
  std::list<Participant> gone;
  CancelSource cancel;
  bool last = false;
  {
    absl::MutexLock lock(&mu_);
    for (auto it = flight->participants.begin(); it != flight->participants.end(); ++it) {
      if (it->id != participant) continue;
      gone.splice(gone.end(), flight->participants, it);
      break;
    }
    if (gone.empty()) return;  // already has its result
    if (flight->participants.empty() && flight->running && !flight->draining) {
      last = true;
      flight->draining = true;
      cancel = flight->cancel;
      ++counters_.cancelled;
    }
  }
  if (last) cancel.Cancel();
  for (Participant& one : gone) {
    const LogContext::Scope scope(one.context);
    one.caller.done(absl::CancelledError(name_ + ": the caller left"));
  }
}

template <typename T>
void FlightTable<T>::EraseLocked(const std::shared_ptr<Flight>& flight) {
  const auto it = flights_.find(flight->key);
  if (it != flights_.end() && it->second == flight) flights_.erase(it);
}

template <typename T>
FlightCounters FlightTable<T>::counters() const {
  absl::MutexLock lock(&mu_);
  FlightCounters counters = counters_;
  counters.active = flights_.size();
  for (const auto& [key, flight] : flights_) counters.waiting += flight->participants.size();
  return counters;
}

template <typename T>
std::vector<std::pair<std::string, size_t>> FlightTable<T>::Running() const {
  absl::MutexLock lock(&mu_);
  std::vector<std::pair<std::string, size_t>> running;
  for (const auto& [key, flight] : flights_) running.emplace_back(key, flight->participants.size());
  return running;
}

}  // namespace imagefs
