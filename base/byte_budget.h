// SPDX-License-Identifier: Apache-2.0
// A budget of bytes shared by many callers. A caller waits for its bytes without holding a thread.
//
// Fair among sources (for example, an image's repository): each source has a queue, the queues are
// served round-robin, and a source that already holds bytes gets no more than its share. A source
// with a thousand requests therefore waits for itself, and delays the first request of another
// source by no more than what is already held. The queue whose turn it is keeps its turn until its
// first request fits, so that large requests do not starve.
//
// Thread-safe. Leases may outlive the budget.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>

#include "absl/functional/any_invocable.h"
#include "absl/status/statusor.h"
#include "base/cancel.h"

namespace imagefs {

class ByteBudgetState;

class ByteBudget {
 public:
  // `share`: the limit for a source that already holds bytes; a single request may exceed it.
  // REQUIRES: 0 < share <= total.
  ByteBudget(uint64_t total, uint64_t share);
  ByteBudget(const ByteBudget&) = delete;
  ByteBudget& operator=(const ByteBudget&) = delete;

  uint64_t total() const;
  uint64_t held() const;  // by all leases

  // Returns its bytes on destruction.
  class Lease {
   public:
    Lease() = default;
    Lease(Lease&& other) noexcept;
    Lease& operator=(Lease&& other) noexcept;
    ~Lease() { Return(); }
    uint64_t bytes() const { return bytes_; }
    void Return();

   private:
    friend class ByteBudget;
    std::shared_ptr<ByteBudgetState> state_;
    std::string source_;
    uint64_t bytes_ = 0;
  };

  // Runs `done` exactly once: inline, or on the thread that returns bytes or cancels. The result is
  // kCancelled if the token fires first, and kResourceExhausted (inline) if `bytes` exceeds the
  // total.
  using Done = absl::AnyInvocable<void(absl::StatusOr<Lease>)>;
  void Take(const std::string& source, uint64_t bytes, const CancelToken& cancel, Done done);

 private:
  explicit ByteBudget(std::shared_ptr<ByteBudgetState> state) : state_(std::move(state)) {}
  void Grant();
  std::shared_ptr<ByteBudgetState> state_;
};

}  // namespace imagefs
