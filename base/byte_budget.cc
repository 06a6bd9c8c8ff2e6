// SPDX-License-Identifier: Apache-2.0
#include "base/byte_budget.h"

#include <algorithm>
#include <deque>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/synchronization/mutex.h"
#include "base/text.h"

namespace imagefs {

class ByteBudgetState {
 public:
  ByteBudgetState(uint64_t total, uint64_t share) : total_(total), share_(share) {}

  struct Waiter {
    uint64_t id = 0;
    uint64_t bytes = 0;
    ByteBudget::Done done;
    CancelToken::Registration on_cancel;
  };
  struct Granted {
    std::string source;
    uint64_t bytes = 0;
    ByteBudget::Done done;
    CancelToken::Registration on_cancel;  // destroyed without the lock
  };

  uint64_t total() const { return total_; }
  uint64_t held() const {
    absl::MutexLock lock(&mu_);
    return held_;
  }

  uint64_t Add(const std::string& source, uint64_t bytes, ByteBudget::Done done) {
    absl::MutexLock lock(&mu_);
    const auto [it, is_new] = sources_.try_emplace(source);
    if (it->second.waiting.empty()) turns_.push_back(source);
    it->second.waiting.push_back({++last_id_, bytes, std::move(done), {}});
    return last_id_;
  }

  // Returns false if the request has already been answered.
  bool Watch(const std::string& source, uint64_t id, CancelToken::Registration& registration) {
    absl::MutexLock lock(&mu_);
    const auto it = sources_.find(source);
    if (it == sources_.end()) return false;
    for (Waiter& waiter : it->second.waiting) {
      if (waiter.id != id) continue;
      waiter.on_cancel = std::move(registration);
      return true;
    }
    return false;
  }

  // Removes and returns the request, or null if it has already been answered.
  ByteBudget::Done Withdraw(const std::string& source, uint64_t id) {
    absl::MutexLock lock(&mu_);
    const auto it = sources_.find(source);
    if (it == sources_.end()) return nullptr;
    std::deque<Waiter>& waiting = it->second.waiting;
    const auto found = std::find_if(waiting.begin(), waiting.end(),
                                    [id](const Waiter& waiter) { return waiter.id == id; });
    if (found == waiting.end()) return nullptr;
    ByteBudget::Done done = std::move(found->done);
    waiting.erase(found);
    if (waiting.empty()) turns_.erase(std::find(turns_.begin(), turns_.end(), source));
    DropIfIdle(source);
    return done;
  }

  void GiveBack(const std::string& source, uint64_t bytes) {
    absl::MutexLock lock(&mu_);
    held_ -= bytes;
    sources_.at(source).held -= bytes;
    DropIfIdle(source);
  }

  // Returns the next requests that can be granted. Returns none while another thread is granting;
  // that thread checks again, so that a chain of grants never becomes recursion.
  std::vector<Granted> Next() {
    absl::MutexLock lock(&mu_);
    if (granting_) {
      again_ = true;
      return {};
    }
    std::vector<Granted> out = GrantLocked();
    granting_ = !out.empty();
    again_ = false;
    return out;
  }
  std::vector<Granted> AfterGrants() {
    absl::MutexLock lock(&mu_);
    std::vector<Granted> out;
    if (std::exchange(again_, false)) out = GrantLocked();
    granting_ = !out.empty();
    return out;
  }

 private:
  struct Source {
    uint64_t held = 0;
    std::deque<Waiter> waiting;
  };

  std::vector<Granted> GrantLocked() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    std::vector<Granted> out;
    size_t passed_over = 0;  // sources at their share
    while (passed_over < turns_.size()) {
      const std::string name = turns_.front();
      Source& source = sources_.at(name);
      Waiter& first = source.waiting.front();
      if (source.held > 0 && source.held + first.bytes > share_) {
        ++passed_over;
        turns_.pop_front();
        turns_.push_back(name);
        continue;
      }
      if (first.bytes > total_ - held_) break;  // keeps its turn
      passed_over = 0;
      held_ += first.bytes;
      source.held += first.bytes;
      out.push_back({name, first.bytes, std::move(first.done), std::move(first.on_cancel)});
      source.waiting.pop_front();
      turns_.pop_front();
      if (!source.waiting.empty()) turns_.push_back(name);
    }
    return out;
  }

  void DropIfIdle(const std::string& source) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    const auto it = sources_.find(source);
    if (it->second.held == 0 && it->second.waiting.empty()) sources_.erase(it);
  }

  const uint64_t total_, share_;
  mutable absl::Mutex mu_;
  uint64_t held_ ABSL_GUARDED_BY(mu_) = 0;
  uint64_t last_id_ ABSL_GUARDED_BY(mu_) = 0;
  bool granting_ ABSL_GUARDED_BY(mu_) = false;
  bool again_ ABSL_GUARDED_BY(mu_) = false;
  absl::flat_hash_map<std::string, Source> sources_ ABSL_GUARDED_BY(mu_);
  std::deque<std::string> turns_ ABSL_GUARDED_BY(mu_);  // sources with requests, in turn order
};

ByteBudget::ByteBudget(uint64_t total, uint64_t share)
    : state_(std::make_shared<ByteBudgetState>(total, share)) {}

uint64_t ByteBudget::total() const { return state_->total(); }
uint64_t ByteBudget::held() const { return state_->held(); }

ByteBudget::Lease::Lease(Lease&& other) noexcept
    : state_(std::move(other.state_)),
      source_(std::move(other.source_)),
      bytes_(std::exchange(other.bytes_, 0)) {}

ByteBudget::Lease& ByteBudget::Lease::operator=(Lease&& other) noexcept {
  if (this == &other) return *this;
  Return();
  state_ = std::move(other.state_);
  source_ = std::move(other.source_);
  bytes_ = std::exchange(other.bytes_, 0);
  return *this;
}

void ByteBudget::Lease::Return() {
  const std::shared_ptr<ByteBudgetState> state = std::exchange(state_, nullptr);
  if (state == nullptr) return;
  state->GiveBack(source_, std::exchange(bytes_, 0));
  ByteBudget(state).Grant();
}

void ByteBudget::Grant() {
  std::vector<ByteBudgetState::Granted> granted = state_->Next();
  while (!granted.empty()) {
    for (ByteBudgetState::Granted& one : granted) {
      Lease lease;
      lease.state_ = state_;
      lease.source_ = std::move(one.source);
      lease.bytes_ = one.bytes;
      one.done(std::move(lease));
    }
    granted.clear();  // destroy the callbacks before looking again
    granted = state_->AfterGrants();
  }
}

void ByteBudget::Take(const std::string& source, uint64_t bytes, const CancelToken& cancel,
                      Done done) {
  if (bytes > state_->total()) {
    return done(absl::ResourceExhaustedError(
        StrCat(bytes, " bytes exceed the ", state_->total(), " allowed in total")));
  }
  if (cancel.cancelled()) return done(absl::CancelledError("no longer wanted"));
  const uint64_t id = state_->Add(source, bytes, std::move(done));
  CancelToken::Registration registration =
      cancel.OnCancel([state = std::weak_ptr<ByteBudgetState>(state_), source, id] {
        const std::shared_ptr<ByteBudgetState> alive = state.lock();
        if (alive == nullptr) return;
        Done withdrawn = alive->Withdraw(source, id);
        if (!withdrawn) return;
        withdrawn(absl::CancelledError("no longer wanted"));
        ByteBudget(alive).Grant();  // the next request may be smaller
      });
  (void)state_->Watch(source, id, registration);
  Grant();
}

}  // namespace imagefs
