// SPDX-License-Identifier: Apache-2.0
// A completion callback that is guaranteed to run exactly once: if its owner is destroyed without
// calling it (a dropped task, a destroyed client), it delivers kCancelled.
#pragma once

#include <utility>

#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"

namespace imagefs {

// R is absl::Status or an absl::StatusOr. Not thread-safe.
template <typename R>
class GuardedDone {
 public:
  GuardedDone() = default;
  explicit GuardedDone(absl::AnyInvocable<void(R)> done) : done_(std::move(done)) {}
  GuardedDone(GuardedDone&& other) noexcept : done_(std::exchange(other.done_, nullptr)) {}
  GuardedDone& operator=(GuardedDone&&) = delete;
  ~GuardedDone() { (*this)(absl::CancelledError("the work was dropped")); }

  // Further calls are ignored.
  void operator()(R result) {
    absl::AnyInvocable<void(R)> done = std::exchange(done_, nullptr);
    if (done) done(std::move(result));
  }
  bool called() const { return !done_; }

 private:
  absl::AnyInvocable<void(R)> done_;
};

}  // namespace imagefs
