// SPDX-License-Identifier: Apache-2.0
#include "fetch/endpoint_identity.h"

#include <utility>

#include "base/log.h"
#include "base/thread_role.h"

namespace imagefs {
namespace {

// Two repositories whose credentials expire at the same time do not wait for each other's plugin.
constexpr int kThreads = 2;
// Otherwise, each rejected request of a reader would start a plugin.
constexpr std::chrono::seconds kPauseAfterFailure(5);

}  // namespace

void RefreshThreads::Ask(CredentialRefresh refresh, Credential refused,
                         GuardedDone<absl::StatusOr<Credential>> done) {
  absl::MutexLock lock(&mu_);
  if (closed_) return;  // `done` delivers kCancelled
  if (executor_ == nullptr)
    executor_ = std::make_unique<Executor>(ThreadRole::kCredentials, kThreads);
  executor_->Submit([this, refresh = std::move(refresh), refused = std::move(refused),
                     done = std::move(done)]() mutable {
    if (Closed()) return;
    http_.After({}, [answer = refresh(refused), done = std::move(done)]() mutable {
      done(std::move(answer));
    });
  });
}

bool RefreshThreads::Closed() {
  absl::MutexLock lock(&mu_);
  return closed_;
}

void RefreshThreads::Close() {
  // Destroyed without the lock, which its tasks acquire.
  std::unique_ptr<Executor> ending;
  absl::MutexLock lock(&mu_);
  closed_ = true;
  ending = std::move(executor_);
}

EndpointIdentity::EndpointIdentity(Credential credential, CredentialRefresh refresh)
    : refresh_(std::move(refresh)),
      credential_(std::move(credential)),
      fingerprint_(credential_.Fingerprint()) {}

void EndpointIdentity::Renew(int generation, RefreshThreads& threads,
                             absl::AnyInvocable<void(bool renewed)> done) {
  if (generation != generation_) return done(true);
  if (waiting_.empty() && (!refresh_ || std::chrono::steady_clock::now() < not_before_)) {
    return done(false);
  }
  waiting_.push_back(std::move(done));
  if (waiting_.size() > 1) return;
  threads.Ask(refresh_, credential_,
              GuardedDone<absl::StatusOr<Credential>>(
                  [self = shared_from_this()](absl::StatusOr<Credential> answer) {
                    self->OnAnswer(std::move(answer));
                  }));
}

void EndpointIdentity::OnAnswer(absl::StatusOr<Credential> answer) {
  bool renewed = false;
  if (absl::IsCancelled(answer.status())) {
    // The daemon is shutting down.
  } else if (!answer.ok()) {
    LogWarning("credential_refresh_failed cause=", answer.status().message());
  } else if (!answer->empty()) {
    std::string fingerprint = answer->Fingerprint();
    renewed = fingerprint != fingerprint_;
    if (renewed) {
      credential_ = *std::move(answer);
      fingerprint_ = std::move(fingerprint);
      ++generation_;
    }
  }
  if (!renewed) not_before_ = std::chrono::steady_clock::now() + kPauseAfterFailure;
  for (auto& done : std::exchange(waiting_, {})) done(renewed);
}

}  // namespace imagefs
