// SPDX-License-Identifier: Apache-2.0
// One request to a registry, until it is answered: authorization, redirects, retries with backoff
// and Retry-After, http or https on loopback. Everything here, including the state it shares, runs
// on the HTTP client's thread.
//
// Credentials are sent only to the registry's own origin. Redirects lead to storage or to another
// registry, which is contacted anonymously, as are the URLs that an image gives for a blob.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/timeline.h"
#include "fetch/guarded_done.h"
#include "fetch/http.h"
#include "fetch/registry_errors.h"
#include "fetch/registry_shared.h"
#include "fetch/source.h"
#include "fetch/url.h"

namespace imagefs {

class RegistryCall : public std::enable_shared_from_this<RegistryCall> {
 public:
  // An attempt that transferred this much resets the count of consecutive failures.
  static constexpr uint64_t kProgressBytes = 64 << 10;
  // For refused connections to a host that has never responded: it will hardly come up now.
  static constexpr int kMaxRefusals = 3;

  struct Spec {
    std::string method = "GET";
    std::string path;  // within the repository: "blobs/sha256:..."; "" for `probe` and `root`
    // Requested instead of `path`: the target of a Location or Link. Credentials are sent only if
    // it has the API's origin.
    std::optional<Url> url;
    std::string what;  // names the object in errors
    std::vector<std::pair<std::string, std::string>> headers;
    uint64_t max_body_bytes = 4 << 20;
    std::optional<uint64_t> sink_collects;  // like HttpRequest::sink_collects
    PriorityRef priority;
    bool keep_redirect = false;  // remember the link of the response
    // A redirect to storage also counts as an answer, since storage may not accept HEAD.
    bool redirect_answers = false;
    // Tried in order if the registry does not have it (404).
    std::vector<std::string> image_urls;
    // Only asks how the registry wants to be authenticated: sent anonymously, and any status is an
    // answer.
    bool probe = false;
    // Asks for the root of the API, "/v2/", with the credentials that it demands.
    bool root = false;
    // Returns the Range header of the next attempt: "" = none; nullopt = there is nothing left to
    // request. May be null.
    std::function<std::optional<std::string>()> range;
    // Called for each 200 or 206 response. May be null: the body is buffered.
    std::function<absl::StatusOr<HttpClient::Sink>(const RegistryEndpoint&, const HttpResponse&)>
        on_headers;
    // Returns the request's body; called for each attempt. May be null.
    std::function<absl::StatusOr<std::string>()> body;
    // Statuses other than 200 and 206 that count as an answer; their bodies are buffered up to 16
    // KiB. May be null.
    std::function<bool(int status)> answers;
    // False if the registry may have accepted a part: a failure in mid-connection is then
    // delivered, and the caller finds out how far it got.
    bool resend_after_cut = true;
    // As in ImageSource::ReadOptions.
    bool once = false;
    // With `once`: a failure is final even after much has been received, because the caller asks
    // another endpoint for the rest.
    bool never_resumes = false;
    bool hedge = false;
    bool anew = false;
    // The whole transfer restarts if interrupted: the server may not support ranges.
    bool restarts = false;
    std::chrono::milliseconds stall_timeout{20'000};
  };
  using Done = absl::AnyInvocable<void(absl::StatusOr<HttpResponse>)>;

  // `done` runs exactly once, with the answer or the final error. Run may be called on any thread,
  // Start on the HTTP client's.
  static void Run(std::shared_ptr<RegistryShared> shared,
                  std::shared_ptr<const RegistryEndpoint> endpoint, Spec spec, CancelToken cancel,
                  Done done);
  static void Start(std::shared_ptr<RegistryShared> shared,
                    std::shared_ptr<const RegistryEndpoint> endpoint, Spec spec, CancelToken cancel,
                    Done done);

 private:
  RegistryCall(std::shared_ptr<RegistryShared> shared,
               std::shared_ptr<const RegistryEndpoint> endpoint, Spec spec, CancelToken cancel,
               Done done);

  void Attempt();
  void Go(Url url, std::string referer, Place place);
  void Authorize(Secret refused_token);  // by value: it may be that of token_, which ends
  void AuthorizeByToken(const RegistryShared::Authorization& asked, const Credential& credential,
                        const Secret& refused_token);
  void Send();
  absl::StatusOr<HttpClient::Sink> OnHeaders(const HttpResponse& response);
  absl::StatusOr<HttpClient::Sink> OnGoodHeaders(const HttpResponse& response);
  void OnAnswer(absl::StatusOr<HttpResponse> answer);
  void OnTransportFailure(absl::Status failure);
  void OnTooSlow(absl::Status failure);
  void OnStatus(HttpResponse response);
  void OnError(const HttpResponse& response);
  // The registry refused without a challenge: finds it at /v2/. Returns false if that cannot help.
  bool SeekChallenge(HttpResponse& response);
  void OnRoot(HttpResponse refused);
  void OnRefused(const HttpResponse& response);
  void OnOtherRefused(const HttpResponse& response);
  // The credential is useless: retries if there is another one, else fails.
  void RenewOr(absl::Status failure);
  // The remembered link is no longer valid: forgets it and asks the registry immediately. Returns
  // false if the registry itself has just given it.
  bool LeaveLink();
  void ForgetLink();
  void OnLinkRefused(absl::Status failure);
  void FollowRedirect(HttpResponse response);
  absl::StatusOr<Url> RedirectTarget(const HttpResponse& response);
  void NextImageUrl(absl::Status failure);
  // The registry cannot help any further; the image's URLs remain.
  void Fail(absl::Status failure);
  void RetryOr(absl::Status failure, std::optional<std::chrono::seconds> asked);
  void Finish(absl::StatusOr<HttpResponse> result);

  bool IsAnswer(int status) const;
  bool MaySpeakOther() const;  // whether the other scheme may be the right one
  // Tries the other scheme after this one has failed. Returns false if there is none.
  bool TryOtherScheme(absl::Status failure);
  std::string ApiUrl() const;
  Place PlaceOf(const Url& url) const;
  std::string Scheme() const;
  std::string LinkKey() const;
  std::string AuthScope() const;  // for `place_`
  ErrorAnswer Error(const HttpResponse& response) const;

  const std::shared_ptr<RegistryShared> shared_;
  const std::shared_ptr<const RegistryEndpoint> endpoint_;
  const Spec spec_;
  const CancelToken cancel_;
  GuardedDone<absl::StatusOr<HttpResponse>> done_;
  std::optional<TimedStep> step_;  // until it is finished
  CancelToken::Registration registration_;
  FlightTicket token_ticket_;

  Url api_;  // of this attempt
  Url url_;  // current request
  Place place_ = Place::kRegistry;
  std::string referer_;                  // the URL that led to url_
  std::optional<LinkTable::Link> link_;  // the link that this attempt started with
  bool ask_registry_ = false;            // the next attempt must not use a link
  int refused_links_ = 0;                // consecutive, fresh from the registry
  size_t next_image_url_ = 0;
  int hops_ = 0;                // redirects in this attempt
  bool trying_other_ = false;   // the other scheme, after the first one's answer made no sense
  absl::Status first_failure_;  // that answer
  Secret authorization_;        // Authorization header of this attempt
  std::optional<Token> token_;  // the token in it
  std::chrono::steady_clock::time_point asked_for_token_;
  bool token_renewed_ = false;    // a rejected token has already been replaced
  bool credential_sent_ = false;  // the credential itself, to the registry
  bool credential_renewed_ = false;
  bool sought_challenge_ = false;
  bool hides_ = false;            // not found, but a login might show more
  int generation_ = 0;            // of the credential in use
  bool own_failure_ = false;      // the receiver failed, not the transport
  bool headers_refused_ = false;  // by the receiver
  bool stalled_ = false;          // in the last attempt: the next one uses another connection
  int attempts_ = 0;              // consecutive failures without progress
  int slow_attempts_ = 0;         // how many of them were too slow
  uint64_t received_ = 0;         // bytes of this attempt
  std::string error_body_;
};

// Returns a request for a manifest; `repository` names the repository for messages, "HOST/NAME".
RegistryCall::Spec ManifestSpec(std::string method, std::string_view repository,
                                std::string_view tag_or_digest);

}  // namespace imagefs
