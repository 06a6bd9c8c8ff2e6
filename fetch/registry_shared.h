// SPDX-License-Identifier: Apache-2.0
// State shared by all requests to registries, and the endpoint that a request goes to. Only the
// HTTP client's thread may use the tables.
#pragma once

#include <atomic>
#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/functional/any_invocable.h"
#include "absl/synchronization/mutex.h"
#include "base/cancel.h"
#include "base/executor.h"
#include "base/text.h"
#include "fetch/auth.h"
#include "fetch/auth_challenge.h"
#include "fetch/endpoint_health.h"
#include "fetch/hosts.h"
#include "fetch/http.h"
#include "fetch/link_table.h"
#include "fetch/source.h"
#include "fetch/url.h"

namespace imagefs {

class FailoverCall;

// Shared by all sources of one factory.
struct RegistryShared {
  RegistryShared(HttpClient& http_client, Executor& answer_executor,
                 const SourceFactory::Options& source_options);

  struct Host {
    enum class Scheme { kUnknown, kHttp, kHttps };
    enum class Ranges { kUnknown, kSupported, kIgnored };
    enum class Referrers { kUnknown, kSupported, kMissing };
    Scheme scheme = Scheme::kUnknown;  // loopback hosts only
    Ranges ranges = Ranges::kUnknown;
    Referrers referrers = Referrers::kUnknown;  // the API that lists them
    bool reached = false;                       // has responded before
  };
  // How requests of an auth scope must be authorized; kNone: no authorization was needed.
  struct Authorization {
    enum class Kind { kNone, kBearer, kBasic };
    Kind kind = Kind::kNone;
    std::string realm, service, scope;
  };
  // What a host demands at /v2/, if it does not say so elsewhere.
  struct Root {
    std::chrono::steady_clock::time_point until;      // when to ask again
    std::optional<Authorization> challenge;           // its scope is the host's own, usually ""
    std::vector<absl::AnyInvocable<void()>> waiting;  // not empty: a request is in flight
  };

  Host& HostState(const std::string& host);
  Root& RootOf(const std::string& host);
  void RememberAuthorization(const std::string& auth_scope, Authorization authorization);
  void LogWarnings(const std::string& host, const HttpResponse& response);
  // A request on behalf of `registry` will be sent again; it got an answer. May be called on any
  // thread, as may TroubleOf (SourceFactory).
  void RecordRetry(const std::string& registry, const absl::Status& why, int attempt, int most);
  void RecordAnswer(const std::string& registry);
  std::string TroubleOf(const std::string& registry) const;
  // Runs `task` on the HTTP client's thread, from a thread that the client may not outlive. Returns
  // false if the client is going.
  bool Post(absl::AnyInvocable<void()> task);
  // Call before the client is destroyed.
  void Close();
  // The identity used at a mirror, which is this machine's own: a user's credential for a registry
  // is never sent to its mirrors. May be called on any thread.
  std::shared_ptr<EndpointIdentity> MirrorIdentity(const HostEndpoint& mirror);

  HttpClient& http;
  Executor& answers;  // runs continuations of documents, which may block on local disk
  const SourceFactory::Options options;
  HostResolver resolver;
  EndpointHealth health{{}};
  TokenSource tokens;
  RefreshThreads refreshes;
  LinkTable links;  // by auth scope and path
  std::atomic<uint64_t> retries{0}, resumes{0}, redirects{0}, failovers{0};

  absl::flat_hash_map<std::string, Host> hosts;
  absl::flat_hash_map<std::string, Authorization> authorizations;  // by auth scope
  absl::flat_hash_map<std::string, Root> roots;
  absl::flat_hash_set<std::string> logged_warnings;
  // By the name of the endpoint that is being asked.
  absl::flat_hash_map<std::string, absl::flat_hash_set<FailoverCall*>> asking;

 private:
  std::atomic<size_t> in_trouble_{0};  // entries of troubles_: answers without any take no lock
  mutable absl::Mutex mu_;
  absl::flat_hash_map<std::string, std::string> troubles_ ABSL_GUARDED_BY(mu_);  // by registry
  bool closed_ ABSL_GUARDED_BY(mu_) = false;
  // By host and repository.
  absl::flat_hash_map<std::string, std::shared_ptr<EndpointIdentity>> mirror_identities_
      ABSL_GUARDED_BY(mu_);
};

// One repository at one endpoint, with one identity.
struct RegistryEndpoint {
  std::string host;      // for messages: as written in the reference; a mirror's own
  std::string name;      // HostEndpoint::Name
  std::string registry;  // as written in the reference
  HostEndpoint at;
  std::shared_ptr<const ProxySettings> proxies;  // like HttpRequest::proxies
  // For hosts that the endpoint leads to: without its client certificates.
  std::shared_ptr<const TlsSettings> tls_elsewhere;
  std::shared_ptr<EndpointIdentity> identity;
  // Does not change when the credential is renewed, since it belongs to the same user. Also the key
  // of the table of authorizations, so it differs between reading and writing: a token for one is
  // never sent with the other.
  std::string auth_scope;
  // Requested from the token service regardless of the challenge; "" = the challenge's.
  std::string scope;
  // Why there is no credential although one may be stored; "" = none.
  std::string credential_trouble;
  bool push = false;
  bool loopback = false;
  // "HOST/REPOSITORY", for messages.
  std::string RepositoryName() const { return StrCat(host, "/", at.repository); }
};

// Runs `task` on the HTTP client's thread if the token fires before the registration ends. `task`
// must not keep alive what the registration is part of.
[[nodiscard]] CancelToken::Registration OnCancelAt(HttpClient& http, const CancelToken& cancel,
                                                   std::function<void()> task);

// Returns the authorization that a challenge demands, preferring Bearer to Basic; nullopt if none
// can be met.
std::optional<RegistryShared::Authorization> AuthorizationOf(const HttpResponse& refusal);

// Returns the scope to request: `least`, which an operation needs, plus whatever a challenge
// demands other than repositories. If `least` is "", the challenge's scope, or pull access to
// `repository`.
std::string ScopeToAsk(const std::string& challenged, const std::string& least,
                       const std::string& repository);

// If a URL belongs to a registry's API ("/v2/<name>/blobs/...") rather than its storage, returns
// the repository name in it, else "".
std::string RepositoryOfApi(const Url& url);

}  // namespace imagefs
