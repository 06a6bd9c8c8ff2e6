// Cancellation: one CancelSource owned by whoever may cancel, tokens for whoever does the work.
// Thread-safe. A callback runs at most once, on the thread that cancels (or at once, on the
// registering thread, when already cancelled), without any lock of this module held.
#pragma once

#include <cstdint>
#include <memory>

#include "absl/functional/any_invocable.h"

namespace imagefs {

namespace internal {
class CancelState;
}

class CancelToken {
 public:
  CancelToken() = default;  // never cancelled
  bool cancelled() const;

  // Unregisters on destruction. The destructor does not wait for a callback that is running.
  class Registration {
   public:
    Registration() = default;
    Registration(Registration&&) noexcept = default;
    Registration& operator=(Registration&& other) noexcept;
    ~Registration() { Reset(); }
    void Reset();

   private:
    friend class CancelToken;
    std::weak_ptr<internal::CancelState> state_;
    uint64_t id_ = 0;
  };
  [[nodiscard]] Registration OnCancel(absl::AnyInvocable<void()> callback) const;

 private:
  friend class CancelSource;
  std::shared_ptr<internal::CancelState> state_;
};

class CancelSource {
 public:
  CancelSource();
  CancelToken token() const;
  void Cancel();  // idempotent
 private:
  std::shared_ptr<internal::CancelState> state_;
};

}  // namespace imagefs
