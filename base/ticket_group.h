// SPDX-License-Identifier: Apache-2.0
// Combines the tickets of a call that consists of several flights into one. Thread-safe.
#pragma once

#include <memory>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "base/flight.h"

namespace imagefs {

class TicketGroup {
 public:
  // Leaves every flight that has been or will be added.
  static FlightTicket TicketOf(const std::shared_ptr<TicketGroup>& group) {
    return FlightTicket([self = group] {
      std::vector<FlightTicket> tickets;
      {
        absl::MutexLock lock(&self->mu_);
        self->left_ = true;
        tickets = self->tickets_;
      }
      for (const FlightTicket& ticket : tickets) ticket.Leave();
    });
  }
  void Add(const FlightTicket& ticket) {
    {
      absl::MutexLock lock(&mu_);
      tickets_.push_back(ticket);
      if (!left_) return;
    }
    ticket.Leave();
  }
  bool left() const {
    absl::MutexLock lock(&mu_);
    return left_;
  }

 private:
  mutable absl::Mutex mu_;
  std::vector<FlightTicket> tickets_ ABSL_GUARDED_BY(mu_);
  bool left_ ABSL_GUARDED_BY(mu_) = false;
};

}  // namespace imagefs
