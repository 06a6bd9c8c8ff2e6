// A number of bytes that many share: who wants some waits, without a thread, until they are free.
//
// Fair among sources (an image's repository, for instance): each source has a queue, the queues
// take turns, and a source that holds something gets no more than its share. So a source with a
// thousand requests waits for itself and delays the first request of another by no more than what
// is held already. The queue whose turn it is keeps it until its first request fits, so that large
// requests are not passed over for ever.
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
  // `share`: what one source may hold when it asks for more; a single request may exceed it.
  // REQUIRES: 0 < share <= total.
  ByteBudget(uint64_t total, uint64_t share);
  ByteBudget(const ByteBudget&) = delete;
  ByteBudget& operator=(const ByteBudget&) = delete;

  uint64_t total() const;
  uint64_t held() const;  // by all leases

  // Gives its bytes back when it is destroyed.
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

  // Runs `done` once: at once, or on the thread that gives bytes back or cancels. kCancelled when
  // the token fires first; kResourceExhausted, at once, when `bytes` exceed the total.
  using Done = absl::AnyInvocable<void(absl::StatusOr<Lease>)>;
  void Take(const std::string& source, uint64_t bytes, const CancelToken& cancel, Done done);

 private:
  explicit ByteBudget(std::shared_ptr<ByteBudgetState> state) : state_(std::move(state)) {}
  void Grant();
  std::shared_ptr<ByteBudgetState> state_;
};

}  // namespace imagefs
