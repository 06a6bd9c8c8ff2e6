// SPDX-License-Identifier: Apache-2.0
// The credential used for one repository, and its renewal when the registry rejects it.
//
// Used on the HTTP client's thread only, except for RefreshThreads. A renewal (helpers, plugins,
// files) blocks, so it runs on separate threads; requests rejected meanwhile wait for the same
// result.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/functional/any_invocable.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "base/executor.h"
#include "fetch/credentials.h"
#include "fetch/guarded_done.h"
#include "fetch/http.h"

namespace imagefs {

// Returns a replacement for a rejected credential; may block. The same or an empty credential means
// that there is none.
using CredentialRefresh = std::function<absl::StatusOr<Credential>(const Credential& refused)>;

// Threads for renewals, started on first use. Thread-safe.
class RefreshThreads {
 public:
  explicit RefreshThreads(HttpClient& http) : http_(http) {}
  // REQUIRES: Close() has been called.
  ~RefreshThreads() = default;
  // `done` runs on the HTTP client's thread. It is dropped after Close().
  void Ask(CredentialRefresh refresh, Credential refused,
           GuardedDone<absl::StatusOr<Credential>> done);
  // Waits for running renewals. REQUIRES: the HTTP client still exists.
  void Close();

 private:
  bool Closed();

  HttpClient& http_;
  absl::Mutex mu_;
  bool closed_ ABSL_GUARDED_BY(mu_) = false;
  std::unique_ptr<Executor> executor_ ABSL_GUARDED_BY(mu_);
};

class EndpointIdentity : public std::enable_shared_from_this<EndpointIdentity> {
 public:
  // If `refresh` is empty, the credential is never renewed.
  EndpointIdentity(Credential credential, CredentialRefresh refresh);

  const Credential& credential() const { return credential_; }
  const std::string& fingerprint() const { return fingerprint_; }
  // Incremented whenever the credential is replaced.
  int generation() const { return generation_; }

  // Call after the registry has rejected the credential of `generation`. Tells `done` whether there
  // is another one to try; inline if that is already known. After an unsuccessful renewal, the next
  // one is not attempted for some seconds.
  void Renew(int generation, RefreshThreads& threads, absl::AnyInvocable<void(bool renewed)> done);

 private:
  void OnAnswer(absl::StatusOr<Credential> answer);

  const CredentialRefresh refresh_;
  Credential credential_;
  std::string fingerprint_;
  int generation_ = 0;
  std::vector<absl::AnyInvocable<void(bool)>> waiting_;  // not empty: a renewal is in progress
  std::chrono::steady_clock::time_point not_before_;
};

}  // namespace imagefs
