// SPDX-License-Identifier: Apache-2.0
// Cancellation: the party that may cancel owns a CancelSource and hands tokens to those that do the
// work. Thread-safe. A callback runs at most once, without any lock of this module held, on the
// thread that cancels, or inline on the registering thread if already cancelled.
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

  // Unregisters on destruction. The destructor does not wait for a running callback.
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
