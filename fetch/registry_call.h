// One question to a registry, asked until it is answered: authorisation, redirects, retries with
// back-off and Retry-After, http or https on loopback. Everything here runs on the HTTP client's
// thread, and so does what it shares.
//
// Credentials go to the registry's own origin. Where it redirects to is storage, or another
// registry, which is asked as nobody; where an image says that a blob is, is asked as nobody, too.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "fetch/guarded_done.h"
#include "fetch/http.h"
#include "fetch/registry_errors.h"
#include "fetch/registry_shared.h"
#include "fetch/source.h"
#include "fetch/url.h"

namespace imagefs {

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
    // A redirect to storage is an answer, too: to one that may not take HEAD.
    bool redirect_answers = false;
    // Asked one after the other when the registry has not got it (404).
    std::vector<std::string> image_urls;
    // Asks for nothing but how the registry wants to be asked: as nobody, and any status is the
    // answer.
    bool probe = false;
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
    bool anew = false;
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
  void Go(Url url, std::string referer, Place place);
  void Authorise(const Secret& refused_token);
  void AuthoriseByToken(const RegistryShared::Authorisation& asked, const Credential& credential,
                        const Secret& refused_token);
  void Send();
  absl::StatusOr<HttpClient::Sink> OnHeaders(const HttpResponse& response);
  absl::StatusOr<HttpClient::Sink> OnGoodHeaders(const HttpResponse& response);
  void OnAnswer(absl::StatusOr<HttpResponse> answer);
  void OnTransportFailure(absl::Status failure);
  void OnTooSlow(absl::Status failure);
  void OnStatus(HttpResponse response);
  void OnError(const HttpResponse& response);
  // The registry refused, and did not say how it wants to be asked: finds out at /v2/. False where
  // that cannot help.
  bool SeekChallenge(HttpResponse& response);
  void OnRoot(HttpResponse refused);
  void OnRefused(const HttpResponse& response);
  void OnOtherRefused(const HttpResponse& response);
  // The credential is of no use: tries once more if there is another one.
  void RenewOr(absl::Status failure);
  // What was remembered of the blob's place is no longer good: forgets it, and asks the registry at
  // once. False where the registry itself has just led there.
  bool LeaveLink();
  void ForgetLink();
  void OnLinkRefused(absl::Status failure);
  void FollowRedirect(HttpResponse response);
  absl::StatusOr<Url> RedirectTarget(const HttpResponse& response);
  void NextImageUrl(absl::Status failure);
  // The end of what the registry can do; the image's URLs are left.
  void Fail(absl::Status failure);
  void RetryOr(absl::Status failure, std::optional<std::chrono::seconds> asked);
  void Finish(absl::StatusOr<HttpResponse> result);

  bool IsAnswer(int status) const;
  bool MaySpeakTls() const;  // a loopback host of which that is not known yet
  Place PlaceOf(const Url& url) const;
  std::string Scheme() const;
  std::string LinkKey() const;
  std::string AuthScope() const;  // of `place_`
  ErrorAnswer Error(const HttpResponse& response) const;

  const std::shared_ptr<RegistryShared> shared_;
  const std::shared_ptr<const RegistryEndpoint> endpoint_;
  const Spec spec_;
  const CancelToken cancel_;
  GuardedDone<absl::StatusOr<HttpResponse>> done_;
  CancelToken::Registration registration_;
  FlightTicket token_ticket_;

  Url api_;  // of this attempt
  Url url_;  // asked now
  Place place_ = Place::kRegistry;
  std::string referer_;                  // that led to url_
  std::optional<LinkTable::Link> link_;  // that this attempt began with
  bool ask_registry_ = false;            // the next attempt begins with no link
  int refused_links_ = 0;                // fresh ones, in a row
  size_t next_image_url_ = 0;
  int hops_ = 0;                // of this attempt
  bool trying_https_ = false;   // a loopback host whose http answer made no sense
  absl::Status http_failure_;   // that answer
  Secret authorization_;        // header of this attempt
  std::optional<Token> token_;  // that it was made of
  std::chrono::steady_clock::time_point asked_for_token_;
  bool token_renewed_ = false;    // a refused token has been replaced once
  bool credential_sent_ = false;  // itself, to the registry
  bool credential_renewed_ = false;
  bool sought_challenge_ = false;
  bool hides_ = false;        // asks for what there is not, and may show more to those who have it
  int generation_ = 0;        // of the credential that is in use
  bool own_failure_ = false;  // the receiver failed, not the transport
  bool headers_refused_ = false;  // by the receiver
  bool stalled_ = false;          // the last attempt: the next one has another connection
  int attempts_ = 0;              // failed in a row without progress
  int slow_attempts_ = 0;         // of them, too slow
  uint64_t received_ = 0;         // bytes of this attempt
  std::string error_body_;
};

}  // namespace imagefs
