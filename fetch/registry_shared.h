// What all questions to registries share, and to whom one goes. The tables are touched by the HTTP
// client's thread only.
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

// What all sources of one factory share.
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
    bool reached = false;                       // has answered before
  };
  // How an auth scope was told to authorise itself; kNone: it was answered without.
  struct Authorisation {
    enum class Kind { kNone, kBearer, kBasic };
    Kind kind = Kind::kNone;
    std::string realm, service, scope;
  };
  // What a host asks for at /v2/, where it does not say so elsewhere.
  struct Root {
    std::chrono::steady_clock::time_point until;      // when it is to be asked again
    std::optional<Authorisation> challenge;           // the scope is the host's own, mostly ""
    std::vector<absl::AnyInvocable<void()>> waiting;  // not empty: it is being asked
  };

  Host& HostState(const std::string& host);
  Root& RootOf(const std::string& host);
  void RememberAuthorisation(const std::string& auth_scope, Authorisation authorisation);
  void LogWarnings(const std::string& host, const HttpResponse& response);

  HttpClient& http;
  Executor& answers;  // what follows a document: it may block on this disk, not the client's thread
  const SourceFactory::Options options;
  TokenSource tokens;
  RefreshThreads refreshes;
  LinkTable links;  // by auth scope and path
  std::atomic<uint64_t> retries{0}, resumes{0}, redirects{0};

  absl::flat_hash_map<std::string, Host> hosts;
  absl::flat_hash_map<std::string, Authorisation> authorisations;  // by auth scope
  absl::flat_hash_map<std::string, Root> roots;
  absl::flat_hash_set<std::string> logged_warnings;
};

// One repository with one identity.
struct RegistryEndpoint {
  std::string host;      // as the reference names it
  std::string api_host;  // where the API is
  std::string repository;
  std::shared_ptr<EndpointIdentity> identity;
  // Stays what it was when the identity's credential is renewed: it is for the same user. Also what
  // the table of authorisations goes by, so it differs between reading and writing: a token for the
  // one is never sent with the other.
  std::string auth_scope;
  std::string
      scope;  // asked of the token service whatever the challenge says; "" = the challenge's
  std::string credential_trouble;  // why there is no credential where one is kept; "" = none
  bool push = false;
  bool loopback = false;
  bool plain_http = false;
  bool verify_tls = true;
};

// The authorisation that a challenge asks for: Bearer before Basic; nullopt when there is none that
// can be met.
std::optional<RegistryShared::Authorisation> AuthorisationOf(const HttpResponse& refusal);

// The scope to ask for: `least`, what an operation needs, and what a challenge asks for beyond
// repositories. `least` "" = the challenge's alone, or the right to pull from `repository`.
std::string ScopeToAsk(const std::string& challenged, const std::string& least,
                       const std::string& repository);

// Whether a URL is one of a registry's API ("/v2/<name>/blobs/..."), and not of its storage; the
// name in it, else "".
std::string RepositoryOfApi(const Url& url);

}  // namespace imagefs
