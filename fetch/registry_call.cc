#include "fetch/registry_call.h"

#include <algorithm>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "base/json.h"
#include "base/log.h"
#include "base/status.h"
#include "base/text.h"
#include "fetch/backoff.h"

namespace imagefs {
namespace {

constexpr int kMaxRedirects = 10;
constexpr std::chrono::seconds kMaxRetryAfter(60);
// A connection refused by a host that never answered: it will hardly come up now.
constexpr int kMaxRefusals = 3;
// A server that sends too little would go on doing so.
constexpr int kMaxSlowAttempts = 2;
// An attempt that brought so much was no failure in a row.
constexpr uint64_t kProgressBytes = 64 << 10;
// A plain HTTP server on loopback may wait for the end of what it takes for a request.
constexpr std::chrono::milliseconds kProbeTimeout(2'000);
constexpr size_t kMaxErrorBodyBytes = 16 << 10;
constexpr size_t kMaxTableEntries = 4096;

bool IsRedirect(int status) {
  return status == 301 || status == 302 || status == 303 || status == 307 || status == 308;
}

bool PassesByItself(int status) { return status == 408 || status == 429 || status >= 500; }

// What the registry itself says about an error, for the end of a message.
std::string Detail(const std::string& body) {
  const absl::StatusOr<Json> json = Json::Parse(body);
  if (!json.ok()) return "";
  const Json error = (*json)["errors"].at(0);
  std::string text = error.StringOr("message");
  if (text.empty()) text = error.StringOr("code");
  return text.empty() ? "" : StrCat(" (\"", Printable(text), "\")");
}

template <typename Table>
void BoundTable(Table& table) {
  if (table.size() >= kMaxTableEntries) table.clear();
}

}  // namespace

RegistryShared::RegistryShared(HttpClient& http_client, Executor& answer_executor,
                               const SourceFactory::Options& source_options)
    : http(http_client),
      answers(answer_executor),
      options(source_options),
      tokens(http_client, {source_options.max_attempts, source_options.first_backoff, nullptr}),
      refreshes(http_client) {}

RegistryShared::Host& RegistryShared::HostState(const std::string& host) {
  const auto it = hosts.find(host);
  if (it != hosts.end()) return it->second;
  BoundTable(hosts);
  return hosts[host];
}

void RegistryShared::RememberAuthorisation(const std::string& audience,
                                           Authorisation authorisation) {
  BoundTable(authorisations);
  authorisations[audience] = std::move(authorisation);
}

void RegistryShared::RememberRedirect(const std::string& key, const std::string& url) {
  BoundTable(redirect_urls);
  redirect_urls[key] = url;
}

void RegistryShared::LogWarnings(const std::string& host, const HttpResponse& response) {
  const auto [begin, end] = response.headers.equal_range("warning");
  for (auto it = begin; it != end; ++it) {
    BoundTable(logged_warnings);
    const std::string text = Printable(it->second, 400);
    if (logged_warnings.insert(text).second) {
      LogInfo("registry_warning host=", host, " text=", text);
    }
  }
}

void RegistryCall::Run(std::shared_ptr<RegistryShared> shared,
                       std::shared_ptr<const RegistryEndpoint> endpoint, Spec spec,
                       CancelToken cancel, Done done) {
  HttpClient& http = shared->http;
  std::shared_ptr<RegistryCall> call(new RegistryCall(
      std::move(shared), std::move(endpoint), std::move(spec), std::move(cancel), std::move(done)));
  http.After({}, [call = std::move(call)] {
    // Waits for a token or for the next attempt end at once; requests are cancelled by the client.
    call->registration_ =
        call->cancel_.OnCancel([weak = std::weak_ptr(call), &http = call->shared_->http] {
          http.After({}, [weak] {
            if (const auto self = weak.lock())
              self->Finish(absl::CancelledError("request cancelled"));
          });
        });
    call->Attempt();
  });
}

RegistryCall::RegistryCall(std::shared_ptr<RegistryShared> shared,
                           std::shared_ptr<const RegistryEndpoint> endpoint, Spec spec,
                           CancelToken cancel, Done done)
    : shared_(std::move(shared)),
      endpoint_(std::move(endpoint)),
      spec_(std::move(spec)),
      cancel_(std::move(cancel)),
      done_(std::move(done)) {}

bool RegistryCall::IsAnswer(int status) const {
  return status == 200 || status == 206 || (spec_.answers && spec_.answers(status));
}

std::string RegistryCall::Scheme() const {
  if (endpoint_->plain_http) return "http";
  if (!endpoint_->loopback) return "https";
  if (trying_https_) return "https";
  const auto it = shared_->hosts.find(endpoint_->api_host);
  return it != shared_->hosts.end() && it->second.scheme == RegistryShared::Host::Scheme::kHttps
             ? "https"
             : "http";
}

std::string RegistryCall::RedirectKey() const {
  return StrCat(endpoint_->audience, " ", spec_.path);
}

void RegistryCall::Attempt() {
  if (done_.called()) return;
  if (cancel_.cancelled()) return Finish(absl::CancelledError("request cancelled"));
  absl::StatusOr<Url> api = Url::Parse(StrCat(Scheme(), "://", endpoint_->api_host, spec_.path));
  if (!api.ok()) return Finish(api.status());
  api_ = *std::move(api);
  hops_ = 0;
  if (spec_.url) {
    if (api_.scheme == "https" && spec_.url->scheme != "https") {
      return Finish(absl::FailedPreconditionError(
          StrCat(spec_.what, ": ", endpoint_->host, " sends its clients on to unencrypted http at ",
                 spec_.url->HostPort(),
                 ", which is not followed; have the registry know its own address (behind a proxy, "
                 "X-Forwarded-Proto)")));
    }
    if (!spec_.url->SameOrigin(api_)) return Send(*spec_.url);
    api_ = *spec_.url;
  }
  if (spec_.keep_redirect) {
    const auto it = shared_->redirect_urls.find(RedirectKey());
    if (it != shared_->redirect_urls.end()) {
      absl::StatusOr<Url> url = Url::Parse(it->second);
      if (url.ok()) return Send(*std::move(url));
    }
  }
  Authorise("");
}

// Finds the Authorization header as the registry asked for it last, then sends.
void RegistryCall::Authorise(const Secret& refused_token) {
  authorization_ = Secret();
  token_.reset();
  generation_ = endpoint_->identity->generation();
  const Credential& credential = endpoint_->identity->credential();
  const auto it = shared_->authorisations.find(endpoint_->audience);
  if (it == shared_->authorisations.end()) return Send(api_);
  const RegistryShared::Authorisation& asked = it->second;
  if (!credential.registry_token.empty()) {
    credential_sent_ = true;
    authorization_ = Secret::Concat({"Bearer ", credential.registry_token.view()});
    return Send(api_);
  }
  if (asked.kind == RegistryShared::Authorisation::Kind::kBasic) {
    if (!credential.username.empty()) {
      credential_sent_ = true;
      authorization_ = BasicAuthorization(credential);
    }
    return Send(api_);
  }
  TokenRequest request;
  request.registry = StrCat(api_.scheme, "://", endpoint_->api_host);
  request.realm = asked.realm;
  request.service = asked.service;
  request.scope = asked.scope;
  request.credential = credential;
  request.fingerprint = endpoint_->identity->fingerprint();
  request.verify_tls = endpoint_->verify_tls;
  request.loopback = endpoint_->loopback;
  asked_for_token_ = std::chrono::steady_clock::now();
  token_ticket_ = shared_->tokens.Get(
      request, refused_token, [self = shared_from_this()](absl::StatusOr<Token> token) {
        if (!token.ok()) {
          absl::Status failure = Annotate(token.status(), self->spec_.what);
          if (IsCredentialFailure(failure)) return self->RenewOr(std::move(failure));
          return self->Finish(std::move(failure));
        }
        self->token_ = *token;
        self->authorization_ = Secret::Concat({"Bearer ", token->value.view()});
        self->Send(self->api_);
      });
}

void RegistryCall::Send(Url url) {
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
  url_ = std::move(url);
  at_storage_ = !url_.SameOrigin(api_);
  own_failure_ = false;
  received_ = 0;
  error_body_.clear();
  request.url = url_.text;
  request.verify_tls = endpoint_->verify_tls;
  request.registry = endpoint_->api_host;
  request.repository = endpoint_->repository;
  request.priority = spec_.priority;
  request.cut = spec_.restarts ? ConnectionShares::Cut::kRestarts : ConnectionShares::Cut::kResumes;
  request.max_body_bytes = spec_.max_body_bytes;
  request.sink_collects = spec_.sink_collects;
  request.stall_timeout = spec_.stall_timeout;
  request.own_connection = spec_.hedge || stalled_;
  request.hedge = spec_.hedge;
  if (trying_https_) request.connect_timeout = kProbeTimeout;
  for (const auto& header : spec_.headers) request.headers.push_back(header);
  // Another host must not see the registry's credentials, and storage refuses two kinds at once.
  if (!at_storage_) request.authorization = authorization_;
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
  if (!at_storage_) {
    RegistryShared::Host& host = shared_->HostState(endpoint_->api_host);
    host.reached = true;
    // 400 is what a TLS server answers to plain HTTP.
    if (api_.scheme == "https") {
      host.scheme = RegistryShared::Host::Scheme::kHttps;
    } else if (response.status != 400) {
      host.scheme = RegistryShared::Host::Scheme::kHttp;
    }
  }
  if (response.status != 200 && response.status != 206) {
    // The text of an error, and no more of it than can be of use.
    return HttpClient::Sink([self = shared_from_this()](std::string_view data) {
      const size_t room =
          kMaxErrorBodyBytes - std::min(kMaxErrorBodyBytes, self->error_body_.size());
      self->error_body_.append(data.substr(0, room));
      return absl::OkStatus();
    });
  }
  // At once, so that what the receiver asks for next goes there directly.
  if (spec_.keep_redirect && at_storage_) shared_->RememberRedirect(RedirectKey(), url_.text);
  if (!spec_.on_headers) return HttpClient::Sink();
  absl::StatusOr<HttpClient::Sink> sink = spec_.on_headers(response);
  if (!sink.ok()) {
    own_failure_ = true;
    return sink;
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
  if (own_failure_ || absl::IsCancelled(answer.status())) return Finish(answer.status());
  OnTransportFailure(answer.status());
}

void RegistryCall::OnTransportFailure(absl::Status failure) {
  const TransportFailure kind = TransportFailureOf(failure);
  if (kind == TransportFailure::kGaveWay) return Attempt();
  stalled_ = kind == TransportFailure::kStalled;
  RegistryShared::Host& host = shared_->HostState(endpoint_->api_host);
  if (trying_https_ && !at_storage_ && kind != TransportFailure::kUntrusted) {
    // No TLS there either, so the first failure tells more.
    trying_https_ = false;
    if (kind == TransportFailure::kNotTls) host.scheme = RegistryShared::Host::Scheme::kHttp;
    if (!IsRetriable(http_failure_)) return Finish(http_failure_);
    return RetryOr(http_failure_, std::nullopt);
  }
  switch (kind) {
    case TransportFailure::kNone:
    case TransportFailure::kUnknownHost:
    case TransportFailure::kUntrusted:
    case TransportFailure::kNotTls:
      return Finish(Annotate(failure, spec_.what));
    case TransportFailure::kOutOfReach:
      shared_->redirect_urls.erase(RedirectKey());
      return Finish(Annotate(failure, spec_.what));
    case TransportFailure::kTooSlow:
      return OnTooSlow(std::move(failure));
    case TransportFailure::kRefused:
      if (!at_storage_ && !host.reached && attempts_ + 1 >= kMaxRefusals) {
        return Finish(Annotate(failure, spec_.what));
      }
      break;
    case TransportFailure::kCut:
      if (!at_storage_ && api_.scheme == "http" && endpoint_->loopback && !endpoint_->plain_http &&
          host.scheme == RegistryShared::Host::Scheme::kUnknown) {
        http_failure_ = std::move(failure);
        trying_https_ = true;
        return Attempt();
      }
      break;
    default:
      break;
  }
  if (!spec_.resend_after_cut &&
      (kind == TransportFailure::kCut || kind == TransportFailure::kStalled)) {
    return Finish(std::move(failure));  // its kind says what to do
  }
  if (at_storage_) shared_->redirect_urls.erase(RedirectKey());
  RetryOr(std::move(failure), std::nullopt);
}

void RegistryCall::OnTooSlow(absl::Status failure) {
  if (received_ >= kProgressBytes) slow_attempts_ = 0;
  if (++slow_attempts_ >= kMaxSlowAttempts || !spec_.resend_after_cut) {
    return Finish(Annotate(failure, spec_.what));
  }
  if (at_storage_) shared_->redirect_urls.erase(RedirectKey());
  RetryOr(std::move(failure), std::nullopt);
}

void RegistryCall::OnStatus(HttpResponse response) {
  const int status = response.status;
  if (!at_storage_) {
    const RegistryShared::Host& host = shared_->HostState(endpoint_->api_host);
    if (status == 400 && api_.scheme == "http" && endpoint_->loopback && !endpoint_->plain_http &&
        host.scheme == RegistryShared::Host::Scheme::kUnknown) {
      http_failure_ = StatusError(response);
      trying_https_ = true;
      return Attempt();
    }
    shared_->LogWarnings(endpoint_->host, response);
  }
  if (IsAnswer(status)) {
    if (status != 200 && status != 206) response.body = std::move(error_body_);
    return Finish(std::move(response));
  }
  if (IsRedirect(status)) return FollowRedirect(response);
  if (at_storage_ && (status == 400 || status == 401 || status == 403)) {
    return OnStorageRefused(response);
  }
  if (!at_storage_ && (status == 401 || status == 403)) return OnRefused(response);
  if (PassesByItself(status)) {
    return RetryOr(StatusError(response),
                   RetryAfter(response.Header("retry-after"), absl::ToUnixSeconds(absl::Now())));
  }
  Finish(StatusError(response));
}

void RegistryCall::OnRefused(const HttpResponse& response) {
  const auto [begin, end] = response.headers.equal_range("www-authenticate");
  std::optional<AuthChallenge> bearer, basic;
  for (auto it = begin; it != end; ++it) {
    for (AuthChallenge& challenge : ParseChallenges(it->second)) {
      if (challenge.scheme == "bearer" && !bearer && !challenge.Param("realm").empty()) {
        bearer = std::move(challenge);
      } else if (challenge.scheme == "basic" && !basic) {
        basic = std::move(challenge);
      }
    }
  }
  const Credential& credential = endpoint_->identity->credential();
  using Authorisation = RegistryShared::Authorisation;
  if (credential_sent_ && !credential.registry_token.empty()) {
    return RenewOr(RefusedError(response.status));
  }
  if (bearer) {
    Authorisation authorisation{Authorisation::Kind::kBearer, bearer->Param("realm"),
                                bearer->Param("service"), bearer->Param("scope")};
    if (!endpoint_->scope.empty()) {
      // One token for all of a push: the challenge to a question asks for no right to write.
      const bool custom =
          !authorisation.scope.empty() && !authorisation.scope.starts_with("repository:");
      authorisation.scope =
          custom ? StrCat(endpoint_->scope, " ", authorisation.scope) : endpoint_->scope;
    } else if (authorisation.scope.empty()) {
      authorisation.scope = StrCat("repository:", endpoint_->repository, ":pull");
    }
    shared_->RememberAuthorisation(endpoint_->audience, std::move(authorisation));
  } else if (basic && !credential.username.empty() && !credential_sent_) {
    shared_->RememberAuthorisation(endpoint_->audience, {Authorisation::Kind::kBasic, "", "", ""});
    return Authorise("");
  } else if (!token_) {
    return RenewOr(RefusedError(response.status));
  }
  if (!token_) return Authorise("");
  // A token that was fetched for this very question is not worth another try.
  if (token_renewed_ || token_->fetched >= asked_for_token_) {
    return RenewOr(RefusedError(response.status));
  }
  token_renewed_ = true;
  Authorise(token_->value);
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
        self->Attempt();
      });
}

void RegistryCall::OnStorageRefused(const HttpResponse& response) {
  shared_->redirect_urls.erase(RedirectKey());
  if (!resolved_again_) {
    // Signed links expire; the registry gives a new one.
    resolved_again_ = true;
    return Attempt();
  }
  Finish(absl::FailedPreconditionError(
      StrCat(spec_.what, ": the storage host ", url_.HostPort(), " refuses the link that ",
             endpoint_->host, " gave (HTTP status ", response.status,
             "); check this machine's clock and the proxy settings")));
}

void RegistryCall::FollowRedirect(const HttpResponse& response) {
  if (++hops_ > kMaxRedirects) {
    return Finish(absl::FailedPreconditionError(
        StrCat(spec_.what, ": ", endpoint_->host, " redirects more than ", kMaxRedirects,
               " times; check the registry's configuration")));
  }
  const bool reading = spec_.method == "GET" || spec_.method == "HEAD";
  if (!reading && response.status != 307 && response.status != 308) {
    // Such a redirect would turn the request into another one.
    return Finish(StatusError(response));
  }
  absl::StatusOr<Url> next = url_.Resolve(response.Header("location"));
  if (!next.ok()) {
    return Finish(Annotate(next.status(), StrCat(spec_.what, ": redirect of ", url_.HostPort())));
  }
  if (url_.scheme == "https" && next->scheme != "https") {
    return Finish(absl::FailedPreconditionError(
        StrCat(spec_.what, ": ", url_.HostPort(), " redirects from https to unencrypted http at ",
               next->HostPort(), ", which is not followed; check the registry's configuration")));
  }
  shared_->redirects.fetch_add(1, std::memory_order_relaxed);
  Send(*std::move(next));
}

void RegistryCall::RetryOr(absl::Status failure, std::optional<std::chrono::seconds> asked) {
  const bool progress = received_ >= kProgressBytes;
  if (progress) attempts_ = 0;
  ++attempts_;
  if (spec_.once && !progress) {
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
  shared_->retries.fetch_add(1, std::memory_order_relaxed);
  shared_->http.After(delay, [self = shared_from_this()] { self->Attempt(); });
}

void RegistryCall::Finish(absl::StatusOr<HttpResponse> result) {
  if (done_.called()) return;
  // The flight calls back at most once and only while `done_` is still to be called.
  const auto keep = shared_from_this();
  registration_.Reset();
  done_(std::move(result));
  token_ticket_.Leave();
  token_ticket_ = FlightTicket();
}

absl::Status RegistryCall::RefusedError(int status) const {
  const std::string login =
      endpoint_->host == "docker.io" ? "docker login" : StrCat("docker login ", endpoint_->host);
  const std::string detail = Detail(error_body_);
  if (endpoint_->push) return PushRefusedError(status, login, detail);
  if (endpoint_->identity->credential().empty()) {
    return absl::UnauthenticatedError(StrCat(spec_.what, ": ", endpoint_->host,
                                             " does not give it to anonymous users", detail,
                                             "; run `", login, "` or check the name"));
  }
  if (status == 403 || token_) {
    return absl::PermissionDeniedError(
        StrCat(spec_.what, ": ", endpoint_->host, " does not give it to this user", detail,
               "; ask for access, run `", login, "` as another user or check the name"));
  }
  return absl::UnauthenticatedError(StrCat(spec_.what, ": ", endpoint_->host,
                                           " refuses these credentials", detail, "; run `", login,
                                           "` again or check the name"));
}

absl::Status RegistryCall::PushRefusedError(int status, const std::string& login,
                                            const std::string& detail) const {
  const std::string target = StrCat(endpoint_->host, "/", endpoint_->repository);
  const bool anonymous = endpoint_->identity->credential().empty();
  const std::string who = anonymous                           ? "anonymous users"
                          : status == 401 && credential_sent_ ? "these credentials"
                                                              : "you";
  return absl::Status(
      anonymous || (status == 401 && credential_sent_) ? absl::StatusCode::kUnauthenticated
                                                       : absl::StatusCode::kPermissionDenied,
      StrCat(spec_.what, ": this registry does not let ", who, " push to ", target,
             " (HTTP status ", status, ")", detail, "; run `", login, "` or use --to REPOSITORY"));
}

absl::Status RegistryCall::StatusError(const HttpResponse& response) const {
  const int status = response.status;
  const std::string host = at_storage_ ? url_.HostPort() : endpoint_->host;
  const std::string detail = Detail(error_body_);
  if (endpoint_->push && !at_storage_ && (status == 404 || status == 405)) {
    const std::string target = StrCat(endpoint_->host, "/", endpoint_->repository);
    const std::string text = StrCat(spec_.what, ": this registry does not let you push to ", target,
                                    " (HTTP status ", status, ")", detail, "; use --to REPOSITORY");
    return status == 404 ? absl::NotFoundError(text) : absl::FailedPreconditionError(text);
  }
  if (endpoint_->push && status == 413) {
    return absl::FailedPreconditionError(
        StrCat(spec_.what, ": ", host, " takes nothing so large", detail,
               "; raise the limit of the registry or of the proxy before it, or use "
               "--to REPOSITORY"));
  }
  if (status == 404) {
    return absl::NotFoundError(
        StrCat(spec_.what, " does not exist at ", host, detail, "; check the name and the tag"));
  }
  if (status == 416) {
    return absl::DataLossError(StrCat(spec_.what, ": ", host,
                                      " has fewer bytes than the manifest says; have the image "
                                      "pushed again"));
  }
  if (status == 429) {
    return absl::ResourceExhaustedError(StrCat(host, " answered that there were too many requests",
                                               detail, "; wait, or run `docker login`"));
  }
  const std::string text =
      StrCat(host, " answered with HTTP status ", status, detail, "; check the registry");
  if (PassesByItself(status)) return absl::UnavailableError(text);
  return absl::FailedPreconditionError(StrCat(spec_.what, ": ", text));
}

}  // namespace imagefs
