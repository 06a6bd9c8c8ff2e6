// SPDX-License-Identifier: Apache-2.0
#include "base/cancel.h"

#include <map>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"

namespace imagefs {
namespace internal {

class CancelState {
 public:
  bool cancelled() const {
    absl::MutexLock lock(&mu_);
    return cancelled_;
  }

  // Returns 0 if already cancelled; the caller must then run the callback itself.
  uint64_t Add(absl::AnyInvocable<void()>& callback) {
    absl::MutexLock lock(&mu_);
    if (cancelled_) return 0;
    callbacks_.emplace(++last_id_, std::move(callback));
    return last_id_;
  }

  void Remove(uint64_t id) {
    absl::AnyInvocable<void()> dead;  // destroyed without the lock
    absl::MutexLock lock(&mu_);
    const auto it = callbacks_.find(id);
    if (it == callbacks_.end()) return;
    dead = std::move(it->second);
    callbacks_.erase(it);
  }

  void Cancel() {
    std::map<uint64_t, absl::AnyInvocable<void()>> callbacks;
    {
      absl::MutexLock lock(&mu_);
      if (cancelled_) return;
      cancelled_ = true;
      callbacks.swap(callbacks_);
    }
    for (auto& [id, callback] : callbacks) callback();
  }

 private:
  mutable absl::Mutex mu_;
  bool cancelled_ ABSL_GUARDED_BY(mu_) = false;
  uint64_t last_id_ ABSL_GUARDED_BY(mu_) = 0;
  std::map<uint64_t, absl::AnyInvocable<void()>> callbacks_ ABSL_GUARDED_BY(mu_);
};

}  // namespace internal

bool CancelToken::cancelled() const { return state_ != nullptr && state_->cancelled(); }

CancelToken::Registration& CancelToken::Registration::operator=(Registration&& other) noexcept {
  if (this != &other) {
    Reset();
    state_ = std::exchange(other.state_, {});
    id_ = std::exchange(other.id_, 0);
  }
  return *this;
}

void CancelToken::Registration::Reset() {
  if (id_ == 0) return;
  if (std::shared_ptr<internal::CancelState> state = state_.lock()) state->Remove(id_);
  state_.reset();
  id_ = 0;
}

CancelToken::Registration CancelToken::OnCancel(absl::AnyInvocable<void()> callback) const {
  Registration registration;
  if (state_ == nullptr) return registration;
  registration.id_ = state_->Add(callback);
  if (registration.id_ == 0) {
    callback();
  } else {
    registration.state_ = state_;
  }
  return registration;
}

CancelSource::CancelSource() : state_(std::make_shared<internal::CancelState>()) {}

CancelToken CancelSource::token() const {
  CancelToken token;
  token.state_ = state_;
  return token;
}

void CancelSource::Cancel() { state_->Cancel(); }

}  // namespace imagefs
