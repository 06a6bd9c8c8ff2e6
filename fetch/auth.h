// SPDX-License-Identifier: Apache-2.0
// Authentication to registries: Basic, and the token flow of docker's registries (GET, and OAuth2
// POST for identity tokens).
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/functional/any_invocable.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "base/flight.h"
#include "base/secret.h"
#include "fetch/credentials.h"
#include "fetch/http.h"
#include "fetch/tls_settings.h"
#include "fetch/url.h"

namespace imagefs {

// Returns "Basic <base64>" for a user name and password.
Secret BasicAuthorization(const Credential& credential);

struct Token {
  Secret value;  // token68 characters (RFC 9110, 11.2)
  std::chrono::steady_clock::time_point fetched;
  std::chrono::steady_clock::time_point expires;  // when to fetch a new one, slightly early
};

struct TokenRequest {
  std::string registry;     // URL of the registry's API: "https://registry-1.docker.io"
  std::string account;      // like HttpRequest::registry; "" = the registry itself
  std::string realm;        // from the challenge
  std::string service;      // from the challenge, may be empty
  std::string scope;        // space-separated
  Credential credential;    // empty = anonymous
  std::string fingerprint;  // of the credential
  std::shared_ptr<const TlsSettings> tls;        // like HttpRequest::tls
  std::shared_ptr<const ProxySettings> proxies;  // like HttpRequest::proxies
  bool loopback = false;                         // the registry is on this machine
};

// Returns the URL to request a token from, if the service that a registry names may be used. The
// name is untrusted: it must not lead to anything that only this machine can reach, nor disclose a
// credential to a third party.
// - The realm must be https, or have the exact origin at which the registry itself is reached in
//   plain text; else kFailedPrecondition. A registry behind a TLS-terminating proxy that names
//   itself by http is contacted by https.
// - A credential is sent to a host other than the registry's only if the realm cannot have been
//   forged in transit, that is, if the registry is reached through verified TLS or is on this
//   machine; else kUnauthenticated.
absl::StatusOr<Url> RealmToAsk(const TokenRequest& request);

// The longest delay that a request waits for; a longer one is a failure.
inline constexpr std::chrono::seconds kMaxRetryAfter(60);

// Returns the delay requested by a Retry-After header (seconds or a date), or nullopt. `now` is in
// seconds since 1970.
std::optional<std::chrono::seconds> RetryAfter(std::string_view header, int64_t now);

// Fetches and caches tokens by registry host, realm, service, scope and credential. Concurrent
// requests for the same token share one fetch. Follows redirects to any place that the realm itself
// could have named; sends a credential only to the realm's own host. Thread-safe. `done` runs
// exactly once, inline if a token is cached, else on the HTTP client's thread.
class TokenSource {
 public:
  struct Options {
    int max_attempts = 5;
    std::chrono::milliseconds first_backoff{200};
    std::function<std::chrono::steady_clock::time_point()> now;  // null = real clock
  };
  TokenSource(HttpClient& http, Options options);

  using Done = absl::AnyInvocable<void(absl::StatusOr<Token>)>;
  // `refused` is a token that the registry rejected: an equal cached token is dropped. Returns
  // kUnauthenticated if the credentials (or anonymous access) were rejected.
  FlightTicket Get(const TokenRequest& request, const Secret& refused, Done done);
  FlightCounters counters() const { return flights_.counters(); }

 private:
  class Fetch;
  void Store(const std::string& key, const Token& token);

  HttpClient& http_;
  const Options options_;
  FlightTable<Token> flights_{"token"};
  absl::Mutex mu_;
  absl::flat_hash_map<std::string, Token> tokens_ ABSL_GUARDED_BY(mu_);
};

}  // namespace imagefs
