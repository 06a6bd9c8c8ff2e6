// The credential that the questions to one repository go with, and its renewal when the registry
// no longer takes it.
//
// Used on the HTTP client's thread only, except for RefreshThreads. What a renewal asks (helpers,
// plugins, files) blocks, so it runs on threads of its own; whoever is refused meanwhile waits for
// the same answer.
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

// Gets a credential in place of one that was refused; may block. Equal to it, or empty: there is no
// other.
using CredentialRefresh = std::function<absl::StatusOr<Credential>(const Credential& refused)>;

// The threads that renewals block; started at the first one. Thread-safe.
class RefreshThreads {
 public:
  explicit RefreshThreads(HttpClient& http) : http_(http) {}
  // REQUIRES: closed.
  ~RefreshThreads() = default;
  // `done` runs on the HTTP client's thread, or is dropped once this is closed.
  void Ask(CredentialRefresh refresh, Credential refused,
           GuardedDone<absl::StatusOr<Credential>> done);
  // Waits for what runs. REQUIRES: the client is there still.
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
  // `refresh` may be empty: the credential is all there is.
  EndpointIdentity(Credential credential, CredentialRefresh refresh);

  const Credential& credential() const { return credential_; }
  const std::string& fingerprint() const { return fingerprint_; }
  // Grows whenever the credential is replaced.
  int generation() const { return generation_; }

  // The registry refused the credential of `generation`. `done` is told whether there is another
  // one to try; inline when that is known already. After a renewal that gave none, the next is not
  // tried for some seconds.
  void Renew(int generation, RefreshThreads& threads, absl::AnyInvocable<void(bool renewed)> done);

 private:
  void OnAnswer(absl::StatusOr<Credential> answer);

  const CredentialRefresh refresh_;
  Credential credential_;
  std::string fingerprint_;
  int generation_ = 0;
  std::vector<absl::AnyInvocable<void(bool)>> waiting_;  // not empty: a renewal is under way
  std::chrono::steady_clock::time_point not_before_;
};

}  // namespace imagefs
