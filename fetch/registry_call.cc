// SPDX-License-Identifier: Apache-2.0
#include "fetch/registry_call.h"

#include <algorithm>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "base/log.h"
#include "base/status.h"
#include "base/text.h"
#include "fetch/backoff.h"

namespace imagefs {
namespace {

constexpr int kMaxRedirects = 10;
// For consecutive links from the registry that storage rejects.
constexpr int kMaxRefusedLinks = 3;
// A server that is too slow will probably stay so.
constexpr int kMaxSlowAttempts = 2;
// A plain HTTP server on loopback may wait for the rest of what it takes for a request.
constexpr std::chrono::milliseconds kProbeTimeout(2'000);
constexpr size_t kMaxErrorBodyBytes = 16 << 10;
// A token that is there sooner was cached.
constexpr absl::Duration kShortTokenWait = absl::Milliseconds(1);
// How long the challenge at /v2/ is remembered, and the lack of a usable one.
constexpr std::chrono::minutes kRootHold(5);
constexpr std::chrono::seconds kRootRetry(10);

using Authorization = RegistryShared::Authorization;

bool IsLinkRefusal(int status) {
  return status == 400 || status == 401 || status == 403 || status == 404 || status == 410 ||
         status == 416;
}

// The kind of a request for that path within a repository.
RequestKind KindOf(std::string_view path) {
  if (path.starts_with("manifests/")) return RequestKind::kManifest;
  if (path.starts_with("blobs/sha")) return RequestKind::kBlob;
  return path.starts_with("referrers/") ? RequestKind::kReferrers : RequestKind::kOther;
}

LinkTable::Clock::time_point Now() { return LinkTable::Clock::now(); }

}  // namespace

void RegistryCall::Run(std::shared_ptr<RegistryShared> shared,
                       std::shared_ptr<const RegistryEndpoint> endpoint, Spec spec,
                       CancelToken cancel, Done done) {
  HttpClient& http = shared->http;
  http.After({}, [shared = std::move(shared), endpoint = std::move(endpoint),
                  spec = std::move(spec), cancel = std::move(cancel),
                  done = GuardedDone<absl::StatusOr<HttpResponse>>(std::move(done))]() mutable {
    Start(std::move(shared), std::move(endpoint), std::move(spec), std::move(cancel),
          [done = std::move(done)](absl::StatusOr<HttpResponse> answer) mutable {
            done(std::move(answer));
          });
  });
}

void RegistryCall::Start(std::shared_ptr<RegistryShared> shared,
                         std::shared_ptr<const RegistryEndpoint> endpoint, Spec spec,
                         CancelToken cancel, Done done) {
  std::shared_ptr<RegistryCall> call(new RegistryCall(
      std::move(shared), std::move(endpoint), std::move(spec), std::move(cancel), std::move(done)));
  // Ends waits for a token or the next attempt; the client cancels requests.
  call->registration_ =
      OnCancelAt(call->shared_->http, call->cancel_, [weak = std::weak_ptr(call)] {
        if (const auto self = weak.lock()) self->Finish(absl::CancelledError("request cancelled"));
      });
  call->Attempt();
}

RegistryCall::RegistryCall(std::shared_ptr<RegistryShared> shared,
                           std::shared_ptr<const RegistryEndpoint> endpoint, Spec spec,
                           CancelToken cancel, Done done)
    : shared_(std::move(shared)),
      endpoint_(std::move(endpoint)),
      spec_(std::move(spec)),
      cancel_(std::move(cancel)),
      done_(std::move(done)),
      step_(TimedStep(TimelineEvent::Step::kRegistry, spec_.what)),
      ask_registry_(spec_.anew) {}

bool RegistryCall::IsAnswer(int status) const {
  if (spec_.probe) return !IsRedirect(status);
  return status == 200 || status == 206 || (spec_.answers && spec_.answers(status));
}

std::string RegistryCall::Scheme() const {
  using Scheme = HostEndpoint::Scheme;
  if (endpoint_->at.scheme == Scheme::kHttps) return "https";
  if (endpoint_->at.scheme == Scheme::kHttp) return "http";
  const bool http_first = endpoint_->at.scheme == Scheme::kEither;
  if (trying_other_) return http_first ? "https" : "http";
  const auto it = shared_->hosts.find(endpoint_->at.host);
  const RegistryShared::Host::Scheme known =
      it == shared_->hosts.end() ? RegistryShared::Host::Scheme::kUnknown : it->second.scheme;
  if (known == RegistryShared::Host::Scheme::kUnknown) return http_first ? "http" : "https";
  return known == RegistryShared::Host::Scheme::kHttps ? "https" : "http";
}

bool RegistryCall::MaySpeakOther() const {
  using Scheme = HostEndpoint::Scheme;
  const bool either =
      endpoint_->at.scheme == Scheme::kEither || endpoint_->at.scheme == Scheme::kHttpsOrHttp;
  return either && !trying_other_ && place_ == Place::kRegistry &&
         shared_->HostState(endpoint_->at.host).scheme == RegistryShared::Host::Scheme::kUnknown;
}

bool RegistryCall::TryOtherScheme(absl::Status failure) {
  if (!MaySpeakOther()) return false;
  first_failure_ = std::move(failure);
  trying_other_ = true;
  Attempt();
  return true;
}

std::string RegistryCall::ApiUrl() const {
  const HostEndpoint& at = endpoint_->at;
  std::string url = StrCat(Scheme(), "://", at.host, at.root, "/");
  if (!spec_.probe && !spec_.root) StrAppend(&url, at.repository, "/", spec_.path);
  if (!at.ns.empty()) {
    StrAppend(&url, spec_.path.find('?') == std::string::npos ? "?" : "&", "ns=", UrlEncode(at.ns));
  }
  return url;
}

std::string RegistryCall::LinkKey() const { return StrCat(endpoint_->auth_scope, " ", spec_.path); }

std::string RegistryCall::AuthScope() const {
  if (place_ == Place::kRegistry) return endpoint_->auth_scope;
  return StrCat(endpoint_->auth_scope, " at ", url_.scheme, "://", url_.HostPort(), "/",
                RepositoryOfApi(url_));
}

// Pushes go only to the registry that was named.
Place RegistryCall::PlaceOf(const Url& url) const {
  if (url.SameOrigin(api_)) return Place::kRegistry;
  return endpoint_->push || RepositoryOfApi(url).empty() ? Place::kStorage : Place::kOtherRegistry;
}

ErrorAnswer RegistryCall::Error(const HttpResponse& response) const {
  return {place_,         response.status,    spec_.what,       url_.HostPort(), error_body_,
          response.proxy, token_.has_value(), credential_sent_, hides_};
}

void RegistryCall::Attempt() {
  if (done_.called()) return;
  if (cancel_.cancelled()) return Finish(absl::CancelledError("request cancelled"));
  absl::StatusOr<Url> api = Url::Parse(ApiUrl());
  if (!api.ok()) return Finish(api.status());
  api_ = *std::move(api);
  hops_ = 0;
  next_image_url_ = 0;
  link_.reset();
  if (spec_.url) {
    if (api_.scheme == "https" && spec_.url->scheme != "https") {
      return Finish(absl::FailedPreconditionError(StrCat(
          spec_.what, ": ", endpoint_->host, " redirects to unencrypted http at ",
          spec_.url->HostPort(),
          ", which is not followed; configure the registry with its own address (behind a proxy, "
          "X-Forwarded-Proto)")));
    }
    if (!spec_.url->SameOrigin(api_)) return Go(*spec_.url, "", PlaceOf(*spec_.url));
    api_ = *spec_.url;
  }
  if (!std::exchange(ask_registry_, false) && spec_.keep_redirect) {
    link_ = shared_->links.Find(LinkKey(), Now());
    absl::StatusOr<Url> url = Url::Parse(link_ ? link_->url : "");
    if (url.ok()) {
      const Place place = link_->of_image ? Place::kImageUrl : PlaceOf(*url);
      return Go(*std::move(url), link_->referer, place);
    }
  }
  Go(api_, "", Place::kRegistry);
}

void RegistryCall::Go(Url url, std::string referer, Place place) {
  url_ = std::move(url);
  referer_ = std::move(referer);
  place_ = place;
  Authorize("");
}

// Determines the Authorization header from what this place last demanded, then sends.
void RegistryCall::Authorize(Secret refused_token) {
  authorization_ = Secret();
  token_.reset();
  const bool ours = place_ == Place::kRegistry;
  if (spec_.probe || (!ours && place_ != Place::kOtherRegistry)) return Send();
  generation_ = endpoint_->identity->generation();
  const auto it = shared_->authorizations.find(AuthScope());
  if (it == shared_->authorizations.end() || it->second.kind == Authorization::Kind::kNone) {
    return Send();
  }
  // Other registries are accessed anonymously.
  const Credential credential = ours ? endpoint_->identity->credential() : Credential();
  if (!credential.registry_token.empty()) {
    credential_sent_ = true;
    authorization_ = Secret::Concat({"Bearer ", credential.registry_token.view()});
    return Send();
  }
  if (it->second.kind == Authorization::Kind::kBasic) {
    if (!credential.username.empty()) {
      credential_sent_ = true;
      authorization_ = BasicAuthorization(credential);
    }
    return Send();
  }
  AuthorizeByToken(it->second, credential, refused_token);
}

void RegistryCall::AuthorizeByToken(const Authorization& asked, const Credential& credential,
                                    const Secret& refused_token) {
  const bool ours = place_ == Place::kRegistry;
  TokenRequest request;
  request.registry = StrCat(url_.scheme, "://", ours ? endpoint_->at.host : url_.HostPort());
  if (!ours) request.account = endpoint_->at.host;
  request.realm = asked.realm;
  request.service = asked.service;
  request.scope = asked.scope;
  request.credential = credential;
  request.fingerprint = ours ? endpoint_->identity->fingerprint() : credential.Fingerprint();
  const absl::StatusOr<Url> realm = Url::Parse(asked.realm);
  request.tls =
      realm.ok() && realm->SameOrigin(api_) ? endpoint_->at.tls : endpoint_->tls_elsewhere;
  request.proxies = endpoint_->proxies;
  request.loopback = ours && endpoint_->loopback;
  asked_for_token_ = std::chrono::steady_clock::now();
  token_ticket_ = shared_->tokens.Get(
      request, refused_token,
      [self = shared_from_this(), ours,
       step = TimedStep(TimelineEvent::Step::kToken, request.registry, kShortTokenWait)](
          absl::StatusOr<Token> token) mutable {
        if (!token.ok()) {
          step.Failed();
          const std::string& what = self->spec_.what;
          if (!ours && IsCredentialFailure(token.status())) {
            return self->Finish(RefusedError(*self->endpoint_, self->Error({.status = 401})));
          }
          if (IsCredentialFailure(token.status())) {
            return self->RenewOr(TokenRefusedError(*self->endpoint_, what, token.status()));
          }
          return self->Finish(Annotate(token.status(), what));
        }
        self->token_ = *token;
        self->authorization_ = Secret::Concat({"Bearer ", token->value.view()});
        self->Send();
      });
}

void RegistryCall::Send() {
  if (done_.called()) return;
  HttpRequest request;
  request.method = spec_.method;
  if (spec_.body) {
    absl::StatusOr<std::string> body = spec_.body();
    if (!body.ok()) return Finish(Annotate(body.status(), spec_.what));
    request.body = *std::move(body);
  }
  if (spec_.range) {
    const std::optional<std::string> range = spec_.range();
    if (!range) return Finish(HttpResponse{.status = 206});
    if (!range->empty()) request.headers.emplace_back("Range", *range);
  }
  own_failure_ = headers_refused_ = false;
  received_ = 0;
  error_body_.clear();
  request.url = url_.text;
  const bool ours = place_ == Place::kRegistry;
  request.tls = ours ? endpoint_->at.tls : endpoint_->tls_elsewhere;
  request.proxies = endpoint_->proxies;
  request.registry = endpoint_->at.host;
  request.repository = endpoint_->at.repository;
  request.kind = KindOf(spec_.path);
  request.priority = spec_.priority;
  request.cut = spec_.restarts ? ConnectionShares::Cut::kRestarts : ConnectionShares::Cut::kResumes;
  request.max_body_bytes = spec_.max_body_bytes;
  request.sink_collects = spec_.sink_collects;
  request.stall_timeout = spec_.stall_timeout;
  request.own_connection = spec_.hedge || stalled_;
  request.hedge = spec_.hedge;
  if (ours && endpoint_->at.dial_timeout) request.connect_timeout = *endpoint_->at.dial_timeout;
  if (trying_other_) request.connect_timeout = kProbeTimeout;
  for (const auto& header : spec_.headers) request.headers.push_back(header);
  if (ours) {
    for (const auto& header : endpoint_->at.headers) request.headers.push_back(header);
  }
  if (!referer_.empty()) request.headers.emplace_back("Referer", referer_);
  // Only ever for this place: storage rejects two kinds of authorization, and must not see the
  // registry's.
  request.authorization = authorization_;
  shared_->http.Start(
      std::move(request), cancel_,
      [self = shared_from_this()](const HttpResponse& response) {
        return self->OnHeaders(response);
      },
      [self = shared_from_this()](absl::StatusOr<HttpResponse> answer) {
        self->OnAnswer(std::move(answer));
      });
}

absl::StatusOr<HttpClient::Sink> RegistryCall::OnHeaders(const HttpResponse& response) {
  if (place_ == Place::kRegistry) {
    RegistryShared::Host& host = shared_->HostState(endpoint_->at.host);
    host.reached = true;
    // TLS servers respond with 400 to plain HTTP.
    if (api_.scheme == "https") {
      host.scheme = RegistryShared::Host::Scheme::kHttps;
    } else if (response.status != 400) {
      host.scheme = RegistryShared::Host::Scheme::kHttp;
    }
  }
  if (!PassesByItself(response.status)) shared_->RecordAnswer(endpoint_->registry);
  if (response.status == 200 || response.status == 206) return OnGoodHeaders(response);
  // Keep only as much of the error text as is useful.
  return HttpClient::Sink([self = shared_from_this()](std::string_view data) {
    const size_t room = kMaxErrorBodyBytes - std::min(kMaxErrorBodyBytes, self->error_body_.size());
    self->error_body_.append(data.substr(0, room));
    return absl::OkStatus();
  });
}

absl::StatusOr<HttpClient::Sink> RegistryCall::OnGoodHeaders(const HttpResponse& response) {
  if (place_ == Place::kRegistry && authorization_.empty() && !spec_.probe &&
      !shared_->authorizations.contains(endpoint_->auth_scope)) {
    shared_->RememberAuthorization(endpoint_->auth_scope, {});
  }
  absl::StatusOr<HttpClient::Sink> sink = HttpClient::Sink();
  if (spec_.on_headers) sink = spec_.on_headers(*endpoint_, response);
  if (!sink.ok()) {
    own_failure_ = headers_refused_ = true;
    return sink;
  }
  refused_links_ = 0;
  // Immediately, so that the receiver's next request goes there directly.
  if (spec_.keep_redirect && place_ != Place::kRegistry) {
    shared_->links.Worked(endpoint_->at.host, LinkKey(),
                          {url_.text, referer_, place_ == Place::kImageUrl}, Now());
  }
  if (!*sink) return sink;
  return HttpClient::Sink(
      [self = shared_from_this(), inner = *std::move(sink)](std::string_view data) mutable {
        self->received_ += data.size();
        absl::Status status = inner(data);
        if (!status.ok()) self->own_failure_ = true;
        return status;
      });
}

void RegistryCall::OnAnswer(absl::StatusOr<HttpResponse> answer) {
  if (done_.called()) return;
  if (answer.ok()) return OnStatus(*std::move(answer));
  if (absl::IsCancelled(answer.status())) return Finish(answer.status());
  if (!own_failure_) return OnTransportFailure(answer.status());
  // A response, but not the blob.
  if (headers_refused_ && LeaveLink()) return;
  if (headers_refused_ && place_ == Place::kImageUrl) return NextImageUrl(answer.status());
  Finish(answer.status());
}

void RegistryCall::OnTransportFailure(absl::Status failure) {
  const TransportFailure kind = TransportFailureOf(failure);
  if (kind == TransportFailure::kGaveWay) return Attempt();
  stalled_ = kind == TransportFailure::kStalled;
  RegistryShared::Host& host = shared_->HostState(endpoint_->at.host);
  if (trying_other_ && place_ == Place::kRegistry && kind != TransportFailure::kUntrusted) {
    // Not that either, so report the first failure, which is more specific.
    trying_other_ = false;
    if (kind == TransportFailure::kNotTls) host.scheme = RegistryShared::Host::Scheme::kHttp;
    if (!IsRetriable(first_failure_)) return Finish(first_failure_);
    return RetryOr(first_failure_, std::nullopt);
  }
  if (received_ == 0) {
    if (LeaveLink()) return;
    if (place_ == Place::kImageUrl) return NextImageUrl(Annotate(failure, spec_.what));
  }
  switch (kind) {
    case TransportFailure::kUnknownHost:
    case TransportFailure::kUntrusted:
    case TransportFailure::kNotTls:
      if (kind == TransportFailure::kNotTls && TryOtherScheme(failure)) return;
      // The next link may lead to another node.
      if (place_ == Place::kStorage) return OnLinkRefused(Annotate(failure, spec_.what));
      [[fallthrough]];
    case TransportFailure::kNone:
    case TransportFailure::kOutOfReach:
    case TransportFailure::kProxyRefuses:
      return Finish(Annotate(failure, spec_.what));
    case TransportFailure::kTooSlow:
      return OnTooSlow(std::move(failure));
    case TransportFailure::kRefused:
      // The ports differ if none is given.
      if (endpoint_->at.scheme == HostEndpoint::Scheme::kHttpsOrHttp && TryOtherScheme(failure)) {
        return;
      }
      if (place_ == Place::kRegistry && !host.reached && attempts_ + 1 >= kMaxRefusals) {
        return Finish(Annotate(failure, spec_.what));
      }
      break;
    case TransportFailure::kCut:
      if (TryOtherScheme(failure)) return;
      break;
    default:
      break;
  }
  if (!spec_.resend_after_cut &&
      (kind == TransportFailure::kCut || kind == TransportFailure::kStalled)) {
    return Finish(std::move(failure));  // the caller acts on its kind
  }
  ForgetLink();
  RetryOr(std::move(failure), std::nullopt);
}

void RegistryCall::OnTooSlow(absl::Status failure) {
  if (received_ >= kProgressBytes) slow_attempts_ = 0;
  if (++slow_attempts_ >= kMaxSlowAttempts || spec_.once || !spec_.resend_after_cut) {
    return Finish(Annotate(failure, spec_.what));
  }
  ForgetLink();
  RetryOr(std::move(failure), std::nullopt);
}

void RegistryCall::OnStatus(HttpResponse response) {
  const int status = response.status;
  if (place_ == Place::kRegistry) {
    if (status == 400 && api_.scheme == "http" &&
        TryOtherScheme(StatusError(*endpoint_, Error(response)))) {
      return;
    }
    shared_->LogWarnings(endpoint_->host, response);
    if ((status == 401 || status == 403 || status == 404) && SeekChallenge(response)) return;
  }
  const bool good = status == 200 || status == 206;
  if (!good && !IsRedirect(status) && LeaveLink()) return;
  if (IsRedirect(status) && !IsAnswer(status)) return FollowRedirect(std::move(response));
  if (!IsAnswer(status)) return OnError(response);
  if (!good) response.body = std::move(error_body_);
  Finish(std::move(response));
}

void RegistryCall::OnError(const HttpResponse& response) {
  const int status = response.status;
  const bool refused = status == 401 || status == 403;
  if (refused && place_ == Place::kRegistry) return OnRefused(response);
  if (refused && place_ == Place::kOtherRegistry) return OnOtherRefused(response);
  absl::Status failure = StatusError(*endpoint_, Error(response));
  if (place_ == Place::kImageUrl) return NextImageUrl(std::move(failure));
  if (place_ == Place::kStorage && IsLinkRefusal(status)) return OnLinkRefused(std::move(failure));
  if (!PassesByItself(status)) return Fail(std::move(failure));
  RetryOr(std::move(failure),
          RetryAfter(response.Header("retry-after"), absl::ToUnixSeconds(absl::Now())));
}

bool RegistryCall::SeekChallenge(HttpResponse& response) {
  if (spec_.probe || spec_.root || sought_challenge_ || !authorization_.empty()) return false;
  // A push first checks for existence, and a 404 is the usual answer.
  if (endpoint_->push && IsAnswer(response.status)) return false;
  if (AuthorizationOf(response)) {
    if (response.status != 404) return false;  // handled as usual
    sought_challenge_ = true;
    OnRefused(response);
    return true;
  }
  const auto known = shared_->authorizations.find(endpoint_->auth_scope);
  if (known != shared_->authorizations.end()) {
    // An anonymous failure is retried if there is a credential that may get more.
    const bool nobody = known->second.kind == Authorization::Kind::kNone;
    if (!nobody || endpoint_->identity->credential().empty() || IsAnswer(response.status)) {
      return false;
    }
  }
  sought_challenge_ = true;
  RegistryShared::Root& root = shared_->RootOf(endpoint_->at.host);
  if (root.waiting.empty() && Now() < root.until) {
    OnRoot(std::move(response));
    return true;
  }
  root.waiting.emplace_back([self = shared_from_this(), refused = std::move(response)]() mutable {
    if (!self->done_.called()) self->OnRoot(std::move(refused));
  });
  if (root.waiting.size() > 1) return true;
  Spec spec;
  spec.what = StrCat(endpoint_->host, "/v2/");
  spec.priority = spec_.priority;
  spec.probe = true;
  // Not cancellable: several calls wait for it.
  Run(shared_, endpoint_, std::move(spec), CancelToken(),
      [shared = shared_, host = endpoint_->at.host,
       api = api_](absl::StatusOr<HttpResponse> answer) {
        RegistryShared::Root& found = shared->RootOf(host);
        const bool passes = !answer.ok() || PassesByItself(answer->status);
        found.until = Now() + (passes ? std::chrono::seconds(kRootRetry) : kRootHold);
        found.challenge.reset();
        // Another host's challenge is its own.
        const absl::StatusOr<Url> answered = Url::Parse(answer.ok() ? answer->url : "");
        if (answered.ok() && answered->host == api.host && answered->port == api.port) {
          found.challenge = AuthorizationOf(*answer);
        }
        for (auto& waiting : std::exchange(found.waiting, {})) waiting();
      });
  return true;
}

// Continues once the challenge at /v2/ is known.
void RegistryCall::OnRoot(HttpResponse refused) {
  const std::optional<Authorization> asked = shared_->RootOf(endpoint_->at.host).challenge;
  hides_ = asked.has_value();
  const bool basic = asked && asked->kind == Authorization::Kind::kBasic;
  const Credential& credential = endpoint_->identity->credential();
  if (!asked || (basic && credential.username.empty() && credential.registry_token.empty())) {
    return OnStatus(std::move(refused));
  }
  Authorization authorization = *asked;
  const std::string least = StrCat("repository:", endpoint_->at.repository, ":pull");
  authorization.scope = ScopeToAsk(
      asked->scope, endpoint_->scope.empty() ? least : endpoint_->scope, endpoint_->at.repository);
  shared_->RememberAuthorization(endpoint_->auth_scope, std::move(authorization));
  Authorize("");
}

void RegistryCall::OnRefused(const HttpResponse& response) {
  std::optional<Authorization> asked = AuthorizationOf(response);
  const Credential& credential = endpoint_->identity->credential();
  if (credential_sent_ && !credential.registry_token.empty()) {
    return RenewOr(RefusedError(*endpoint_, Error(response)));
  }
  const bool bearer = asked && asked->kind == Authorization::Kind::kBearer;
  if (bearer) {
    if (!spec_.root) {
      asked->scope = ScopeToAsk(asked->scope, endpoint_->scope, endpoint_->at.repository);
    }
    shared_->RememberAuthorization(endpoint_->auth_scope, *std::move(asked));
  } else if (asked && !credential.username.empty() && !credential_sent_) {
    shared_->RememberAuthorization(endpoint_->auth_scope, *std::move(asked));
    return Authorize("");
  } else if (!token_) {
    return RenewOr(RefusedError(*endpoint_, Error(response)));
  }
  if (!token_) return Authorize("");
  // A token fetched for this very request need not be retried.
  if (token_renewed_ || token_->fetched >= asked_for_token_) {
    return RenewOr(RefusedError(*endpoint_, Error(response)));
  }
  token_renewed_ = true;
  Authorize(token_->value);
}

// Another registry, by redirect, has its own token service and users.
void RegistryCall::OnOtherRefused(const HttpResponse& response) {
  std::optional<Authorization> asked = AuthorizationOf(response);
  if (!asked || asked->kind != Authorization::Kind::kBearer ||
      (token_ && (token_renewed_ || token_->fetched >= asked_for_token_))) {
    return Finish(RefusedError(*endpoint_, Error(response)));
  }
  asked->scope = ScopeToAsk(asked->scope, "", RepositoryOfApi(url_));
  shared_->RememberAuthorization(AuthScope(), *std::move(asked));
  if (!token_) return Authorize("");
  token_renewed_ = true;
  Authorize(token_->value);
}

void RegistryCall::RenewOr(absl::Status failure) {
  if (credential_renewed_) return Finish(std::move(failure));
  credential_renewed_ = true;
  endpoint_->identity->Renew(
      generation_, shared_->refreshes,
      [self = shared_from_this(), failure = std::move(failure)](bool renewed) {
        if (!renewed) return self->Finish(failure);
        self->token_renewed_ = false;
        self->credential_sent_ = false;
        self->sought_challenge_ = false;
        self->Attempt();
      });
}

bool RegistryCall::LeaveLink() {
  if (!link_) return false;
  shared_->links.Failed(endpoint_->at.host, LinkKey(), link_->url, Now());
  LogDebug("registry_link_left host=", url_.HostPort(), " registry=", endpoint_->host);
  ask_registry_ = true;
  Attempt();
  return true;
}

void RegistryCall::ForgetLink() {
  if (!spec_.keep_redirect || place_ == Place::kRegistry) return;
  shared_->links.Failed(endpoint_->at.host, LinkKey(), url_.text, Now());
}

// Signed links expire, and storage nodes disappear: ask the registry for another link.
void RegistryCall::OnLinkRefused(absl::Status failure) {
  ForgetLink();
  const bool reads = spec_.method == "GET" || spec_.method == "HEAD";
  const int most = spec_.once ? 2 : kMaxRefusedLinks;
  if (++refused_links_ >= most || !reads || spec_.url) return Fail(std::move(failure));
  shared_->retries.fetch_add(1, std::memory_order_relaxed);
  const std::chrono::milliseconds delay =
      refused_links_ == 1 ? std::chrono::milliseconds(0)
                          : BackoffDelay(shared_->options.first_backoff, refused_links_);
  shared_->http.After(delay, [self = shared_from_this()] { self->Attempt(); });
}

void RegistryCall::FollowRedirect(HttpResponse response) {
  absl::StatusOr<Url> next = RedirectTarget(response);
  if (!next.ok()) {
    if (LeaveLink()) return;
    if (place_ == Place::kImageUrl) return NextImageUrl(next.status());
    return Finish(next.status());
  }
  const Place place = place_ == Place::kImageUrl ? place_ : PlaceOf(*next);
  if (spec_.redirect_answers && place == Place::kStorage) return Finish(std::move(response));
  if (!next->SameOrigin(url_)) token_renewed_ = false;
  shared_->redirects.fetch_add(1, std::memory_order_relaxed);
  std::string referer = RefererFor(url_, *next);
  Go(*std::move(next), std::move(referer), place);
}

absl::StatusOr<Url> RegistryCall::RedirectTarget(const HttpResponse& response) {
  if (++hops_ > kMaxRedirects) {
    return absl::FailedPreconditionError(StrCat(spec_.what, ": ", endpoint_->host,
                                                " redirects more than ", kMaxRedirects,
                                                " times; check the registry's configuration"));
  }
  const bool reading = spec_.method == "GET" || spec_.method == "HEAD";
  if (!reading && response.status != 307 && response.status != 308) {
    // Such a redirect would change the request's method.
    return StatusError(*endpoint_, Error(response));
  }
  absl::StatusOr<Url> next = url_.Resolve(response.Header("location"));
  if (!next.ok()) {
    return Annotate(next.status(), StrCat(spec_.what, ": redirect of ", url_.HostPort()));
  }
  if (url_.scheme == "https" && next->scheme != "https") {
    return absl::FailedPreconditionError(
        StrCat(spec_.what, ": ", url_.HostPort(), " redirects from https to unencrypted http at ",
               next->HostPort(), ", which is not followed; check the registry's configuration"));
  }
  return next;
}

void RegistryCall::Fail(absl::Status failure) {
  if (absl::IsNotFound(failure) && !spec_.image_urls.empty()) {
    return NextImageUrl(std::move(failure));
  }
  Finish(std::move(failure));
}

void RegistryCall::NextImageUrl(absl::Status failure) {
  while (next_image_url_ < spec_.image_urls.size()) {
    absl::StatusOr<Url> url = Url::Parse(spec_.image_urls[next_image_url_++]);
    hops_ = 0;
    if (url.ok()) return Go(*std::move(url), "", Place::kImageUrl);
    failure = Annotate(url.status(), spec_.what);
  }
  if (IsRetriable(failure) || absl::IsResourceExhausted(failure)) {
    return RetryOr(std::move(failure), std::nullopt);
  }
  Finish(std::move(failure));
}

void RegistryCall::RetryOr(absl::Status failure, std::optional<std::chrono::seconds> asked) {
  const bool progress = received_ >= kProgressBytes;
  if (progress) attempts_ = 0;
  ++attempts_;
  if (spec_.once && (!progress || spec_.never_resumes)) {
    failure = Annotate(failure, spec_.what);
    return Finish(asked ? WithRetryAfter(std::move(failure), *asked) : std::move(failure));
  }
  if (asked > kMaxRetryAfter) {
    return Finish(Annotate(failure, StrCat(spec_.what, ": asked to wait ", asked->count(), " s")));
  }
  if (attempts_ >= shared_->options.max_attempts) {
    return Finish(
        Annotate(failure, StrCat(spec_.what, ": gave up after ", attempts_, " attempts")));
  }
  const std::chrono::milliseconds delay =
      asked ? std::chrono::milliseconds(*asked)
            : BackoffDelay(shared_->options.first_backoff, attempts_);
  LogDebug("registry_retry host=", url_.HostPort(), " attempt=", attempts_,
           " delay_ms=", delay.count(), " cause=", failure.message());
  shared_->RecordRetry(endpoint_->registry, failure, attempts_ + 1, shared_->options.max_attempts);
  shared_->retries.fetch_add(1, std::memory_order_relaxed);
  shared_->http.After(delay, [self = shared_from_this()] { self->Attempt(); });
}

void RegistryCall::Finish(absl::StatusOr<HttpResponse> result) {
  if (done_.called()) return;
  // The flight calls back at most once, and only while `done_` has not been called.
  const auto keep = shared_from_this();
  if (!result.ok() && step_.has_value()) step_->Failed();
  step_.reset();
  registration_.Reset();
  done_(std::move(result));
  token_ticket_.Leave();
  token_ticket_ = FlightTicket();
}

RegistryCall::Spec ManifestSpec(std::string method, std::string_view repository,
                                std::string_view tag_or_digest) {
  const bool by_digest = tag_or_digest.find(':') != std::string_view::npos;
  RegistryCall::Spec spec;
  spec.method = std::move(method);
  spec.path = StrCat("manifests/", tag_or_digest);
  spec.what = StrCat(repository, by_digest ? "@" : ":", tag_or_digest);
  return spec;
}

}  // namespace imagefs
