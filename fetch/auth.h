// How a registry is told who asks: Basic, and the token flow of docker's registries (GET, and
// OAuth2's POST for identity tokens).
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
#include "fetch/url.h"

namespace imagefs {

// "Basic <base64>" of a user and a password.
Secret BasicAuthorization(const Credential& credential);

struct Token {
  Secret value;  // characters of a token68 (RFC 9110, 11.2)
  std::chrono::steady_clock::time_point fetched;
  std::chrono::steady_clock::time_point expires;  // when to fetch a new one, a little early
};

struct TokenRequest {
  std::string registry;     // URL of the registry's API: "https://registry-1.docker.io"
  std::string account;      // who led there, as HttpRequest::registry; "" = the registry itself
  std::string realm;        // as in the challenge
  std::string service;      // as in the challenge, may be empty
  std::string scope;        // blank-separated scopes
  Credential credential;    // empty = anonymous
  std::string fingerprint;  // of the credential
  bool verify_tls = true;
  bool loopback = false;  // the registry is on this machine
};

// Where to ask for a token, if the service that a registry names may be asked. The name is a claim:
// it must not lead to what only this machine can reach, nor a credential to whom it is not meant
// for.
//   - The realm is https, or it is of the very origin that the registry itself is spoken to in the
//     clear: kFailedPrecondition. A registry behind a proxy that does not know that it is spoken to
//     by https names itself in the clear: it is asked by https.
//   - A credential goes to another host than the registry's only when the registry's name for it
//     could not be forged on the way, so when the registry is spoken to by TLS that is verified, or
//     is on this machine: kUnauthenticated.
absl::StatusOr<Url> RealmToAsk(const TokenRequest& request);

// The wait that an answer asks for by Retry-After (seconds or a date), or nullopt. `now` in seconds
// since 1970.
std::optional<std::chrono::seconds> RetryAfter(std::string_view header, int64_t now);

// Fetches and caches tokens by registry host, realm, service, scope and credential; one fetch in
// flight for each, however many wait. Redirects are followed as far as the realm itself might have
// been there; a credential goes along on the realm's own host only. Thread-safe. `done` runs
// exactly once, inline when a token is at hand, else on the HTTP client's thread.
class TokenSource {
 public:
  struct Options {
    int max_attempts = 5;
    std::chrono::milliseconds first_backoff{200};
    std::function<std::chrono::steady_clock::time_point()> now;  // null = the real clock
  };
  TokenSource(HttpClient& http, Options options);

  using Done = absl::AnyInvocable<void(absl::StatusOr<Token>)>;
  // `refused` is a token that the registry did not take: a cached token equal to it is dropped.
  // Errors: kUnauthenticated when the credentials (or anonymity) were refused.
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
