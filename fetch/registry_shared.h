// SPDX-License-Identifier: Apache-2.0
// State shared by all requests to registries, and the endpoint that a request goes to. Only the
// HTTP client's thread may use the tables.
#pragma once

#include <atomic>
#include <chrono>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/functional/any_invocable.h"
#include "base/executor.h"
#include "fetch/auth.h"
#include "fetch/auth_challenge.h"
#include "fetch/http.h"
#include "fetch/link_table.h"
#include "fetch/source.h"
#include "fetch/url.h"

namespace imagefs {

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

  HttpClient& http;
  Executor& answers;  // runs continuations of documents, which may block on local disk
  const SourceFactory::Options options;
  TokenSource tokens;
  RefreshThreads refreshes;
  LinkTable links;  // by auth scope and path
  std::atomic<uint64_t> retries{0}, resumes{0}, redirects{0};

  absl::flat_hash_map<std::string, Host> hosts;
  absl::flat_hash_map<std::string, Authorization> authorizations;  // by auth scope
  absl::flat_hash_map<std::string, Root> roots;
  absl::flat_hash_set<std::string> logged_warnings;
};

// One repository with one identity.
struct RegistryEndpoint {
  std::string host;      // as written in the reference
  std::string api_host;  // host of the API
  std::string repository;
  std::shared_ptr<EndpointIdentity> identity;
  // Does not change when the credential is renewed, since it belongs to the same user. Also the key
  // of the table of authorizations, so it differs between reading and writing: a token for one is
  // never sent with the other.
  std::string auth_scope;
  std::string
      scope;  // requested from the token service regardless of the challenge; "" = the challenge's
  std::string
      credential_trouble;  // why there is no credential although one may be stored; "" = none
  bool push = false;
  bool loopback = false;
  bool plain_http = false;
  bool verify_tls = true;
};

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
