// SPDX-License-Identifier: Apache-2.0
#include "fetch/auth.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "base/json.h"
#include "base/log.h"
#include "base/status.h"
#include "base/text.h"
#include "fetch/backoff.h"
#include "fetch/guarded_done.h"
#include "fetch/url.h"

namespace imagefs {
namespace {

constexpr size_t kMaxTokens = 1024;
constexpr size_t kMaxTokenBytes = 64 << 10;
constexpr uint64_t kMaxTokenAnswerBytes = 256 << 10;
constexpr int64_t kDefaultTokenSeconds = 60;
constexpr int64_t kMaxTokenSeconds = 24 * 3600;
constexpr int kMaxRedirects = 10;

std::string HostOf(std::string_view url) {
  const absl::StatusOr<Url> parsed = Url::Parse(url);
  return parsed.ok() ? parsed->HostPort() : std::string("the registry");
}

std::string TokenKey(const TokenRequest& request) {
  std::string key;
  for (std::string_view part :
       {std::string_view(request.registry), std::string_view(request.account),
        std::string_view(request.realm), std::string_view(request.service),
        std::string_view(request.scope), std::string_view(request.fingerprint)}) {
    StrAppend(&key, part.size(), ":", part, "\n");
  }
  return key;
}

// Characters allowed in a Bearer header (RFC 6750, 2.1): token68, with padding at the end only.
bool IsBearerToken(std::string_view token) {
  if (token.size() > kMaxTokenBytes) return false;
  while (token.ends_with('=')) token.remove_suffix(1);
  return !token.empty() && std::all_of(token.begin(), token.end(), [](char c) {
    return absl::ascii_isalnum(static_cast<unsigned char>(c)) ||
           std::string_view("-._~+/").find(c) != std::string_view::npos;
  });
}

// Whether the realm is the registry itself. A registry accessed as localhost may know only its
// address.
bool IsRegistryItself(const Url& realm, const Url& registry) {
  Url named = registry;
  if (named.host == "localhost") named.host = "127.0.0.1";
  return realm.SameOrigin(registry) || realm.SameOrigin(named);
}

}  // namespace

Secret BasicAuthorization(const Credential& credential) {
  const Secret pair = Secret::Concat({credential.username, ":", credential.password.view()});
  std::string encoded;
  const WipeAtEnd wipe(encoded);
  encoded.reserve(pair.size() * 4 / 3 + 4);  // must not be reallocated
  absl::Base64Escape(ToAbsl(pair.view()), &encoded);
  return Secret::Concat({"Basic ", encoded});
}

absl::StatusOr<Url> RealmToAsk(const TokenRequest& request) {
  IMAGEFS_ASSIGN_OR_RETURN(const Url registry, Url::Parse(request.registry));
  absl::StatusOr<Url> realm = Url::Parse(request.realm);
  if (!realm.ok())
    return Annotate(realm.status(), StrCat("token service of ", registry.HostPort()));
  const bool downgraded = registry.scheme == "https" && realm->scheme == "http" &&
                          realm->host == registry.host &&
                          (realm->port == 80 || realm->port == registry.port);
  if (downgraded) realm = realm->At(registry);
  if (!realm.ok()) return realm.status();
  if (realm->scheme != "https" && !IsRegistryItself(*realm, registry)) {
    return absl::FailedPreconditionError(StrCat(
        registry.HostPort(), " sends its users to get a token from ", RedactUrl(request.realm),
        ", which is neither https nor the registry itself, so it was not asked; have the "
        "registry name an https token service"));
  }
  if (request.credential.empty() || realm->host == registry.host || request.loopback) return realm;
  const bool verified = request.tls == nullptr || request.tls->verify;
  if (registry.scheme == "https" && verified) return realm;
  return absl::UnauthenticatedError(StrCat(
      registry.HostPort(), " sends its users to get a token from ", realm->HostPort(),
      ", but was not verified by TLS, so the credentials were not sent there; ",
      registry.scheme == "https" ? "add its CA to the system's in place of --tls-skip-verify"
                                 : "have the registry speak https, or be its own token service"));
}

std::optional<std::chrono::seconds> RetryAfter(std::string_view header, int64_t now) {
  if (const std::optional<uint64_t> seconds = ParseDecimal(header)) {
    return std::chrono::seconds(std::min<uint64_t>(*seconds, 365 * 24 * 3600));
  }
  absl::Time when;
  if (!absl::ParseTime("%a, %d %b %Y %H:%M:%S GMT", ToAbsl(header), &when, nullptr)) {
    return std::nullopt;
  }
  return std::chrono::seconds(std::max<int64_t>(0, absl::ToUnixSeconds(when) - now));
}

// Fetches one token: by GET, or by POST and then GET. Runs on the HTTP client's thread.
class TokenSource::Fetch : public std::enable_shared_from_this<TokenSource::Fetch> {
 public:
  Fetch(TokenSource& source, TokenRequest request, FlightTable<Token>::Context context)
      : source_(source),
        request_(std::move(request)),
        context_(std::move(context)),
        done_(
            [finish = context_.finish](absl::StatusOr<Token> token) { finish(std::move(token)); }),
        use_post_(!request_.credential.identity_token.empty()) {}

  void Attempt() {
    if (context_.cancel.cancelled()) return done_(absl::CancelledError("token no longer wanted"));
    absl::StatusOr<Url> realm = RealmToAsk(request_);
    if (!realm.ok()) return done_(realm.status());
    started_ = source_.options_.now();
    hops_ = 0;
    alone_ = false;
    if (!use_post_) realm = WithQuery(*realm);
    if (!realm.ok()) return done_(realm.status());
    Ask(*std::move(realm), use_post_, "");
  }

 private:
  void Ask(Url url, bool post, std::string referer) {
    HttpRequest http;
    http.url = url.text;
    http.kind = RequestKind::kToken;
    http.registry = !request_.account.empty()
                        ? request_.account
                        : request_.registry.substr(request_.registry.find("://") + 3);
    http.max_body_bytes = kMaxTokenAnswerBytes;
    http.tls = request_.tls;
    http.proxies = request_.proxies;
    http.priority = context_.priority;
    if (!referer.empty()) http.headers.emplace_back("Referer", std::move(referer));
    url_ = std::move(url);
    post_ = post;
    if (post) {
      AddForm(http);
    } else if (!alone_) {
      AddCredential(http);
    }
    source_.http_.Start(std::move(http), context_.cancel, nullptr,
                        [self = shared_from_this()](absl::StatusOr<HttpResponse> response) {
                          self->OnAnswer(std::move(response));
                        });
  }

  absl::StatusOr<Url> WithQuery(const Url& url) const {
    std::string query;
    if (!request_.service.empty()) StrAppend(&query, "&service=", UrlEncode(request_.service));
    for (std::string_view scope : Split(request_.scope, ' ')) {
      if (!scope.empty()) StrAppend(&query, "&scope=", UrlEncode(scope));
    }
    if (query.empty()) return url;
    if (url.text.find('?') == std::string::npos) query[0] = '?';
    return Url::Parse(url.text + query);
  }

  void AddCredential(HttpRequest& http) const {
    Credential credential = request_.credential;
    if (!credential.identity_token.empty()) {
      // The user name that docker's credential helpers give to such a secret.
      credential.username = "<token>";
      credential.password = credential.identity_token;
    }
    if (!credential.empty()) http.authorization = BasicAuthorization(credential);
  }

  void AddForm(HttpRequest& http) const {
    http.method = "POST";
    http.headers.emplace_back("Content-Type", "application/x-www-form-urlencoded");
    std::string token = UrlEncode(request_.credential.identity_token.view());
    const WipeAtEnd wipe(token);
    http.secret_body = Secret::Concat(
        {"grant_type=refresh_token&client_id=imagefs&service=", UrlEncode(request_.service),
         "&scope=", UrlEncode(request_.scope), "&refresh_token=", token});
  }

  void OnAnswer(absl::StatusOr<HttpResponse> response) {
    if (!response.ok()) return OnTransportFailure(response.status());
    const int status = response->status;
    if (status == 200) {
      done_(TakeToken(*response));
      return WipeStack();  // the response was parsed here
    }
    if (IsRedirect(status)) return Follow(*response);
    if (post_ && (status == 400 || status == 401 || status == 404 || status == 405)) {
      use_post_ = false;
      return Attempt();
    }
    const std::string host = url_.HostPort();
    if (status == 401 || status == 403) return done_(Refused(host, status));
    absl::Status failure(
        status == 429 ? absl::StatusCode::kResourceExhausted : absl::StatusCode::kUnavailable,
        StrCat("the token service ", host, " answered with HTTP status ", status,
               "; try again later"));
    if (status == 408 || status == 429 || status >= 500) {
      return RetryOr(failure,
                     RetryAfter(response->Header("retry-after"), absl::ToUnixSeconds(absl::Now())));
    }
    done_(absl::FailedPreconditionError(
        StrCat("the token service ", host, " of ", HostOf(request_.registry),
               " answered with HTTP status ", status, "; check the registry's configuration")));
  }

  void OnTransportFailure(const absl::Status& failure) {
    const TransportFailure kind = TransportFailureOf(failure);
    if (kind == TransportFailure::kGaveWay) return Attempt();
    const bool passes = IsRetriable(failure) && kind != TransportFailure::kUnknownHost &&
                        kind != TransportFailure::kTooSlow;
    if (passes && kind != TransportFailure::kNone) return RetryOr(failure, {});
    done_(Annotate(failure, "token service"));
  }

  void Follow(const HttpResponse& response) {
    const auto refuse = [this](std::string_view why) {
      done_(absl::FailedPreconditionError(StrCat("the token service ", url_.HostPort(), " of ",
                                                 HostOf(request_.registry), " ", why,
                                                 "; check the registry's configuration")));
    };
    if (++hops_ > kMaxRedirects)
      return refuse(StrCat("redirects more than ", kMaxRedirects, " times"));
    absl::StatusOr<Url> next = url_.Resolve(response.Header("location"));
    if (!next.ok()) return refuse(StrCat("redirects nowhere: ", ToStd(next.status().message())));
    const absl::StatusOr<Url> registry = Url::Parse(request_.registry);
    if (next->scheme != "https" &&
        (url_.scheme == "https" || !registry.ok() || !IsRegistryItself(*next, *registry))) {
      return refuse(
          StrCat("redirects to unencrypted http at ", next->HostPort(), ", which is not followed"));
    }
    // A redirect back does not restore the credential.
    alone_ =
        alone_ || next->host != url_.host || (next->port != url_.port && next->scheme != "https");
    const bool post = post_ && (response.status == 307 || response.status == 308);
    if (post && alone_) {
      return refuse(
          StrCat("redirects to ", next->HostPort(), ", where the credentials were not sent"));
    }
    std::string referer = RefererFor(url_, *next);
    // Move the form into the query.
    if (post_ && !post && next->text.find('?') == std::string::npos) next = WithQuery(*next);
    if (!next.ok()) return done_(next.status());
    Ask(*std::move(next), post, std::move(referer));
  }

  absl::Status Refused(const std::string& host, int status) const {
    const std::string registry = HostOf(request_.registry);
    if (alone_ && !request_.credential.empty()) {
      return absl::UnauthenticatedError(
          StrCat("the token service of ", registry, " leads to ", host,
                 ", where the credentials were not sent, and which gives nothing to anonymous "
                 "users (HTTP status ",
                 status, "); check the registry's configuration"));
    }
    if (request_.credential.empty()) {
      return absl::UnauthenticatedError(StrCat("the token service ", host,
                                               " gives nothing to anonymous users (HTTP status ",
                                               status, "); ", LoginRemedy(registry)));
    }
    return absl::UnauthenticatedError(StrCat("the token service ", host,
                                             " refuses these credentials (HTTP status ", status,
                                             "); ", LoginRemedy(registry), " again"));
  }

  void RetryOr(absl::Status failure, std::optional<std::chrono::seconds> asked) {
    if (++attempts_ >= source_.options_.max_attempts || asked > kMaxRetryAfter) {
      return done_(std::move(failure));
    }
    const std::chrono::milliseconds delay =
        asked ? *asked : BackoffDelay(source_.options_.first_backoff, attempts_);
    source_.http_.After(delay, [self = shared_from_this()] { self->Attempt(); });
  }

  // Wipes the response.
  absl::StatusOr<Token> TakeToken(HttpResponse& response) {
    const WipeAtEnd wipe(response.body);
    const std::string host = url_.HostPort();
    absl::StatusOr<Json> json = Json::Parse(response.body);
    Secret value;
    int64_t seconds = kDefaultTokenSeconds;
    if (json.ok()) {
      value = json->SecretOf("token");
      if (value.empty()) value = json->SecretOf("access_token");
      seconds = json->IntOr("expires_in", kDefaultTokenSeconds);
    }
    if (!IsBearerToken(value.view())) {
      return absl::FailedPreconditionError(
          StrCat("the token service ", host, " answered without a usable token; check that ",
                 HostOf(request_.registry), " is a container registry"));
    }
    // 60 seconds is the minimum lifetime in the specification, regardless of what older services
    // say.
    seconds = std::clamp(seconds, kDefaultTokenSeconds, kMaxTokenSeconds);
    Token token;
    token.value = std::move(value);
    token.fetched = source_.options_.now();
    token.expires = started_ + std::chrono::seconds(seconds - std::max<int64_t>(5, seconds / 10));
    source_.Store(context_.key, token);
    return token;
  }

  TokenSource& source_;
  const TokenRequest request_;
  const FlightTable<Token>::Context context_;
  GuardedDone<absl::StatusOr<Token>> done_;
  bool use_post_;
  int attempts_ = 0;
  // State of the current request.
  Url url_;
  bool post_ = false;
  bool alone_ = false;  // redirected to another host, which gets no credential
  int hops_ = 0;
  std::chrono::steady_clock::time_point started_;
};

TokenSource::TokenSource(HttpClient& http, Options options)
    : http_(http), options_([&options] {
        if (!options.now) options.now = [] { return std::chrono::steady_clock::now(); };
        return std::move(options);
      }()) {}

FlightTicket TokenSource::Get(const TokenRequest& request, const Secret& refused, Done done) {
  const std::string key = TokenKey(request);
  std::optional<Token> cached;
  {
    absl::MutexLock lock(&mu_);
    const auto it = tokens_.find(key);
    if (it != tokens_.end()) {
      if (it->second.value == refused || it->second.expires <= options_.now()) {
        tokens_.erase(it);
      } else {
        cached = it->second;
      }
    }
  }
  if (cached) {
    done(*std::move(cached));
    return FlightTicket();
  }
  FlightTable<Token>::Caller caller;
  caller.auth_scope = request.fingerprint;
  caller.done = std::move(done);
  caller.start = [this, request](FlightTable<Token>::Context context) {
    std::make_shared<Fetch>(*this, request, std::move(context))->Attempt();
  };
  return flights_.Join(key, std::move(caller)).ticket;
}

void TokenSource::Store(const std::string& key, const Token& token) {
  absl::MutexLock lock(&mu_);
  const auto now = options_.now();
  absl::erase_if(tokens_, [now](const auto& entry) { return entry.second.expires <= now; });
  // Tokens are cheap to fetch again, so simply clear a full table.
  if (tokens_.size() >= kMaxTokens) tokens_.clear();
  tokens_[key] = token;
}

}  // namespace imagefs
