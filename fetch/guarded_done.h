// A completion callback that runs exactly once, come what may: when its owner is destroyed without
// having called it (a dropped task, a client that goes away), it delivers kCancelled.
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

  // Later calls do nothing.
  void operator()(R result) {
    absl::AnyInvocable<void(R)> done = std::exchange(done_, nullptr);
    if (done) done(std::move(result));
  }
  bool called() const { return !done_; }

 private:
  absl::AnyInvocable<void(R)> done_;
};

}  // namespace imagefs
