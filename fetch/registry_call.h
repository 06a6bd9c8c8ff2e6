// One question to a registry, asked until it is answered: authorisation, redirects, retries with
// back-off and Retry-After, http or https on loopback. Everything here runs on the HTTP client's
// thread, and so does what it shares.
#pragma once

#include <atomic>
#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "base/executor.h"
#include "fetch/auth.h"
#include "fetch/guarded_done.h"
#include "fetch/http.h"
#include "fetch/source.h"
#include "fetch/url.h"

namespace imagefs {

// What all sources of one factory share. The tables are touched by the client's thread only.
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
  // How an audience was told to authorise itself.
  struct Authorisation {
    enum class Kind { kNone, kBearer, kBasic };
    Kind kind = Kind::kNone;
    std::string realm, service, scope;
  };

  Host& HostState(const std::string& host);
  void RememberAuthorisation(const std::string& audience, Authorisation authorisation);
  void RememberRedirect(const std::string& key, const std::string& url);
  void LogWarnings(const std::string& host, const HttpResponse& response);

  HttpClient& http;
  Executor& answers;  // what follows a document: it may block on this disk, not the client's thread
  const SourceFactory::Options options;
  TokenSource tokens;
  RefreshThreads refreshes;
  std::atomic<uint64_t> retries{0}, resumes{0}, redirects{0};

  absl::flat_hash_map<std::string, Host> hosts;
  absl::flat_hash_map<std::string, Authorisation> authorisations;  // by audience
  absl::flat_hash_map<std::string, std::string> redirect_urls;     // by audience and path
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
  std::string audience;
  std::string
      scope;  // asked of the token service whatever the challenge says; "" = the challenge's
  bool push = false;
  bool loopback = false;
  bool plain_http = false;
  bool verify_tls = true;
};

class RegistryCall : public std::enable_shared_from_this<RegistryCall> {
 public:
  struct Spec {
    std::string method = "GET";
    std::string path;  // "/v2/..."
    // Asked instead of `path`: where a Location or a Link points. Credentials go along only when it
    // is of the API's origin.
    std::optional<Url> url;
    std::string what;  // names the thing in errors
    std::vector<std::pair<std::string, std::string>> headers;
    uint64_t max_body_bytes = 4 << 20;
    std::optional<uint64_t> sink_collects;  // as in HttpRequest
    PriorityRef priority;
    bool keep_redirect = false;  // remember where the answer came from
    // The Range header of the next attempt, "" = none; nullopt = there is nothing left to ask for.
    // May be empty.
    std::function<std::optional<std::string>()> range;
    // Asked for each 200 or 206 answer; may be empty: the body is collected.
    std::function<absl::StatusOr<HttpClient::Sink>(const HttpResponse&)> on_headers;
    // The request's body, asked for at each attempt. May be empty.
    std::function<absl::StatusOr<std::string>()> body;
    // Statuses beside 200 and 206 that are an answer to this question; bodies are collected up to
    // 16 KiB. May be empty.
    std::function<bool(int status)> answers;
    // False for what the registry may have taken in part: the failure is delivered when the
    // connection ends in the middle, and the caller finds out how far it got.
    bool resend_after_cut = true;
    // As in ImageSource::ReadOptions.
    bool once = false;
    bool hedge = false;
    // The whole begins anew after a cut: the server may not know ranges.
    bool restarts = false;
    std::chrono::milliseconds stall_timeout{20'000};
  };
  using Done = absl::AnyInvocable<void(absl::StatusOr<HttpResponse>)>;

  // `done` runs exactly once, with the answer or the final error.
  static void Run(std::shared_ptr<RegistryShared> shared,
                  std::shared_ptr<const RegistryEndpoint> endpoint, Spec spec, CancelToken cancel,
                  Done done);

 private:
  RegistryCall(std::shared_ptr<RegistryShared> shared,
               std::shared_ptr<const RegistryEndpoint> endpoint, Spec spec, CancelToken cancel,
               Done done);

  void Attempt();
  void Authorise(const Secret& refused_token);
  void Send(Url url);
  absl::StatusOr<HttpClient::Sink> OnHeaders(const HttpResponse& response);
  void OnAnswer(absl::StatusOr<HttpResponse> answer);
  void OnTransportFailure(absl::Status failure);
  void OnTooSlow(absl::Status failure);
  void OnStatus(HttpResponse response);
  void OnRefused(const HttpResponse& response);
  // The credential is of no use: tries once more if there is another one.
  void RenewOr(absl::Status failure);
  void OnStorageRefused(const HttpResponse& response);
  void FollowRedirect(const HttpResponse& response);
  void RetryOr(absl::Status failure, std::optional<std::chrono::seconds> asked);
  void Finish(absl::StatusOr<HttpResponse> result);

  bool IsAnswer(int status) const;
  std::string Scheme() const;
  std::string RedirectKey() const;
  absl::Status RefusedError(int status) const;
  absl::Status PushRefusedError(int status, const std::string& login,
                                const std::string& detail) const;
  absl::Status StatusError(const HttpResponse& response) const;

  const std::shared_ptr<RegistryShared> shared_;
  const std::shared_ptr<const RegistryEndpoint> endpoint_;
  const Spec spec_;
  const CancelToken cancel_;
  GuardedDone<absl::StatusOr<HttpResponse>> done_;
  CancelToken::Registration registration_;
  FlightTicket token_ticket_;

  Url api_;                     // of this attempt
  Url url_;                     // asked now
  bool at_storage_ = false;     // url_ is not of the API's origin
  int hops_ = 0;                // of this attempt
  bool trying_https_ = false;   // a loopback host whose http answer made no sense
  absl::Status http_failure_;   // that answer
  Secret authorization_;        // header of this attempt
  std::optional<Token> token_;  // that it was made of
  std::chrono::steady_clock::time_point asked_for_token_;
  bool token_renewed_ = false;    // a refused token has been replaced once
  bool credential_sent_ = false;  // itself, to the registry
  bool credential_renewed_ = false;
  int generation_ = 0;           // of the credential that is in use
  bool resolved_again_ = false;  // the storage refused a link once
  bool own_failure_ = false;     // the receiver failed, not the transport
  bool stalled_ = false;         // the last attempt: the next one has another connection
  int attempts_ = 0;             // failed in a row without progress
  int slow_attempts_ = 0;        // of them, too slow
  uint64_t received_ = 0;        // bytes of this attempt
  std::string error_body_;
};

}  // namespace imagefs
