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

constexpr size_t kMaxChallengeBytes = 16 << 10;
constexpr size_t kMaxChallenges = 16;
constexpr size_t kMaxParams = 32;
constexpr size_t kMaxTokens = 1024;
constexpr size_t kMaxTokenBytes = 64 << 10;
constexpr uint64_t kMaxTokenAnswerBytes = 256 << 10;
constexpr int64_t kDefaultTokenSeconds = 60;
constexpr int64_t kMaxTokenSeconds = 24 * 3600;
constexpr std::chrono::seconds kMaxRetryAfter(60);

bool IsTokenChar(char c) {
  if ((c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z')) return true;
  return std::string_view("!#$%&'*+-.^_`|~").find(c) != std::string_view::npos;
}

bool IsToken68Char(char c) { return IsTokenChar(c) || c == '/' || c == '='; }

// Reads the grammar of challenges from the front of a text.
class Cursor {
 public:
  explicit Cursor(std::string_view text) : text_(text) {}

  bool AtEnd() const { return text_.empty(); }
  void SkipBlanks() {
    while (!text_.empty() && (text_.front() == ' ' || text_.front() == '\t'))
      text_.remove_prefix(1);
  }
  // Blanks and commas: empty list elements are legal.
  void SkipSeparators() {
    while (!text_.empty() &&
           (text_.front() == ' ' || text_.front() == '\t' || text_.front() == ',')) {
      text_.remove_prefix(1);
    }
  }
  bool Consume(char c) {
    if (text_.empty() || text_.front() != c) return false;
    text_.remove_prefix(1);
    return true;
  }
  template <typename Predicate>
  std::string_view TakeWhile(Predicate predicate) {
    const size_t n = std::find_if_not(text_.begin(), text_.end(), predicate) - text_.begin();
    const std::string_view taken = text_.substr(0, n);
    text_.remove_prefix(n);
    return taken;
  }
  // A quoted string after its opening quote; nullopt when it does not end.
  std::optional<std::string> TakeQuoted() {
    std::string out;
    while (!text_.empty()) {
      char c = text_.front();
      text_.remove_prefix(1);
      if (c == '"') return out;
      if (c == '\\') {
        if (text_.empty()) return std::nullopt;
        c = text_.front();
        text_.remove_prefix(1);
      }
      out.push_back(c);
    }
    return std::nullopt;
  }
  std::string_view rest() const { return text_; }
  void Reset(std::string_view text) { text_ = text; }

 private:
  std::string_view text_;
};

// `name BWS "=" BWS (token | quoted)`. False, with the cursor where it was, when there is none.
bool TakeParam(Cursor& cursor, AuthChallenge& challenge) {
  const std::string_view before = cursor.rest();
  const std::string_view name = cursor.TakeWhile(IsTokenChar);
  cursor.SkipBlanks();
  if (name.empty() || !cursor.Consume('=')) {
    cursor.Reset(before);
    return false;
  }
  cursor.SkipBlanks();
  std::optional<std::string> value;
  if (cursor.Consume('"')) {
    value = cursor.TakeQuoted();
  } else {
    // Some registries leave the quotes out even of URLs.
    value = std::string(
        cursor.TakeWhile([](char c) { return c != ',' && c != ' ' && c != '\t' && c != '"'; }));
    if (value->empty() || value->find_first_not_of('=') == std::string::npos) value.reset();
  }
  if (!value) {
    cursor.Reset(before);
    return false;
  }
  if (challenge.params.size() < kMaxParams) challenge.params.emplace(ToLower(name), *value);
  return true;
}

void TakeParams(Cursor& cursor, AuthChallenge& challenge) {
  while (TakeParam(cursor, challenge)) {
    cursor.SkipBlanks();
    const std::string_view before = cursor.rest();
    if (!cursor.Consume(',')) return;
    cursor.SkipSeparators();
    // After a comma either the next parameter or the next challenge.
    AuthChallenge probe;
    const std::string_view next = cursor.rest();
    const bool is_param = TakeParam(cursor, probe);
    cursor.Reset(is_param ? next : before);
    if (!is_param) return;
  }
}

std::string HostOf(std::string_view url) {
  const absl::StatusOr<Url> parsed = Url::Parse(url);
  return parsed.ok() ? parsed->HostPort() : std::string("the registry");
}

std::string TokenKey(const TokenRequest& request) {
  std::string key;
  for (std::string_view part : {std::string_view(request.registry), std::string_view(request.realm),
                                std::string_view(request.service), std::string_view(request.scope),
                                std::string_view(request.fingerprint)}) {
    StrAppend(&key, part.size(), ":", part, "\n");
  }
  return key;
}

// What a Bearer header may carry (RFC 6750, 2.1): token68, so padding at its end only.
bool IsBearerToken(std::string_view token) {
  if (token.size() > kMaxTokenBytes) return false;
  while (token.ends_with('=')) token.remove_suffix(1);
  return !token.empty() && std::all_of(token.begin(), token.end(), [](char c) {
    return absl::ascii_isalnum(static_cast<unsigned char>(c)) ||
           std::string_view("-._~+/").find(c) != std::string_view::npos;
  });
}

}  // namespace

std::string AuthChallenge::Param(std::string_view name) const {
  const auto it = params.find(std::string(name));
  return it == params.end() ? "" : it->second;
}

std::vector<AuthChallenge> ParseChallenges(std::string_view header) {
  std::vector<AuthChallenge> challenges;
  Cursor cursor(header.substr(0, kMaxChallengeBytes));
  cursor.SkipSeparators();
  while (!cursor.AtEnd() && challenges.size() < kMaxChallenges) {
    AuthChallenge challenge;
    challenge.scheme = ToLower(cursor.TakeWhile(IsTokenChar));
    if (challenge.scheme.empty()) break;
    const bool blank = cursor.rest().starts_with(' ') || cursor.rest().starts_with('\t');
    cursor.SkipBlanks();
    if (!blank && !cursor.AtEnd() && !cursor.rest().starts_with(',')) break;
    TakeParams(cursor, challenge);
    if (challenge.params.empty()) {
      challenge.token68 = std::string(cursor.TakeWhile(IsToken68Char));
    }
    challenges.push_back(std::move(challenge));
    cursor.SkipBlanks();
    if (!cursor.AtEnd() && !cursor.Consume(',')) break;
    cursor.SkipSeparators();
  }
  return challenges;
}

Secret BasicAuthorization(const Credential& credential) {
  const Secret pair = Secret::Concat({credential.username, ":", credential.password.view()});
  std::string encoded;
  const WipeAtEnd wipe(encoded);
  encoded.reserve(pair.size() * 4 / 3 + 4);  // so that it is not moved
  absl::Base64Escape(ToAbsl(pair.view()), &encoded);
  return Secret::Concat({"Basic ", encoded});
}

absl::Status MayAskRealm(const TokenRequest& request) {
  IMAGEFS_ASSIGN_OR_RETURN(const Url registry, Url::Parse(request.registry));
  absl::StatusOr<Url> realm = Url::Parse(request.realm);
  if (!realm.ok())
    return Annotate(realm.status(), StrCat("token service of ", registry.HostPort()));
  if (realm->scheme != "https" && !realm->SameOrigin(registry)) {
    return absl::FailedPreconditionError(
        StrCat(registry.HostPort(), " sends its users for a token to ", RedactUrl(request.realm),
               ", which is neither https nor the registry itself, so it was not asked; have the "
               "registry name an https token service"));
  }
  if (request.credential.empty() || realm->host == registry.host || request.loopback) {
    return absl::OkStatus();
  }
  if (registry.scheme == "https" && request.verify_tls) return absl::OkStatus();
  return absl::UnauthenticatedError(StrCat(
      registry.HostPort(), " sends its users for a token to ", realm->HostPort(),
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

// One token being fetched: GET, or POST and then GET; on the HTTP client's thread.
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
    absl::Status allowed = MayAskRealm(request_);
    if (!allowed.ok()) return done_(std::move(allowed));
    started_ = source_.options_.now();
    source_.http_.Start(use_post_ ? MakePost() : MakeGet(), context_.cancel, nullptr,
                        [self = shared_from_this()](absl::StatusOr<HttpResponse> response) {
                          self->OnAnswer(std::move(response));
                        });
  }

 private:
  HttpRequest MakeRequest() {
    HttpRequest http;
    http.url = request_.realm;
    http.registry = request_.registry.substr(request_.registry.find("://") + 3);
    http.max_body_bytes = kMaxTokenAnswerBytes;
    http.verify_tls = request_.verify_tls;
    http.priority = context_.priority;
    return http;
  }

  HttpRequest MakeGet() {
    HttpRequest http = MakeRequest();
    std::string query;
    if (!request_.service.empty()) StrAppend(&query, "&service=", UrlEncode(request_.service));
    for (std::string_view scope : Split(request_.scope, ' ')) {
      if (!scope.empty()) StrAppend(&query, "&scope=", UrlEncode(scope));
    }
    if (!query.empty()) {
      if (http.url.find('?') == std::string::npos) query[0] = '?';
      http.url += query;
    }
    Credential credential = request_.credential;
    if (!credential.identity_token.empty()) {
      // What docker's credential helpers call such a secret's user.
      credential.username = "<token>";
      credential.password = credential.identity_token;
    }
    if (!credential.empty()) http.authorization = BasicAuthorization(credential);
    return http;
  }

  HttpRequest MakePost() {
    HttpRequest http = MakeRequest();
    http.method = "POST";
    http.headers.emplace_back("Content-Type", "application/x-www-form-urlencoded");
    std::string token = UrlEncode(request_.credential.identity_token.view());
    const WipeAtEnd wipe(token);
    http.secret_body = Secret::Concat(
        {"grant_type=refresh_token&client_id=imagefs&service=", UrlEncode(request_.service),
         "&scope=", UrlEncode(request_.scope), "&refresh_token=", token});
    return http;
  }

  void OnAnswer(absl::StatusOr<HttpResponse> response) {
    if (!response.ok()) {
      const TransportFailure kind = TransportFailureOf(response.status());
      if (kind == TransportFailure::kGaveWay) return Attempt();
      const bool passes = IsRetriable(response.status()) &&
                          kind != TransportFailure::kUnknownHost &&
                          kind != TransportFailure::kTooSlow;
      if (passes && kind != TransportFailure::kNone) return RetryOr(response.status(), {});
      return done_(Annotate(response.status(), "token service"));
    }
    const int status = response->status;
    if (status == 200) {
      done_(TakeToken(*response));
      return WipeStack();  // where the answer was parsed
    }
    if (use_post_ && (status == 400 || status == 401 || status == 404 || status == 405)) {
      use_post_ = false;
      return Attempt();
    }
    const std::string host = HostOf(request_.realm);
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

  absl::Status Refused(const std::string& host, int status) const {
    if (request_.credential.empty()) {
      return absl::UnauthenticatedError(
          StrCat("the token service ", host, " gives nothing to anonymous users (HTTP status ",
                 status, "); run `docker login ", HostOf(request_.registry), "`"));
    }
    return absl::UnauthenticatedError(
        StrCat("the token service ", host, " refuses these credentials (HTTP status ", status,
               "); run `docker login ", HostOf(request_.registry), "` again"));
  }

  void RetryOr(absl::Status failure, std::optional<std::chrono::seconds> asked) {
    if (++attempts_ >= source_.options_.max_attempts || asked > kMaxRetryAfter) {
      return done_(std::move(failure));
    }
    const std::chrono::milliseconds delay =
        asked ? *asked : BackoffDelay(source_.options_.first_backoff, attempts_);
    source_.http_.After(delay, [self = shared_from_this()] { self->Attempt(); });
  }

  // Wipes the answer.
  absl::StatusOr<Token> TakeToken(HttpResponse& response) {
    const WipeAtEnd wipe(response.body);
    const std::string host = HostOf(request_.realm);
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
    // The specification's least life is 60 seconds, whatever older services say.
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
  caller.audience = request.fingerprint;
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
  // Tokens are cheap to fetch again, so a full table is simply emptied.
  if (tokens_.size() >= kMaxTokens) tokens_.clear();
  tokens_[key] = token;
}

}  // namespace imagefs
