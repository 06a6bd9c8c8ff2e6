// SPDX-License-Identifier: Apache-2.0
#include "fetch/auth.h"

#include <gtest/gtest.h>

#include <array>
#include <atomic>

#include "absl/strings/escaping.h"
#include "absl/synchronization/notification.h"
#include "base/status.h"
#include "base/text.h"
#include "fetch/auth_challenge.h"
#include "tests/fakes/fetch/fake_registry.h"

namespace imagefs {
namespace {

TEST(ChallengeTest, TheUsualForm) {
  const auto found =
      ParseChallenges(R"(Bearer realm="https://auth.docker.io/token",service="registry.docker.io",)"
                      R"(scope="repository:library/alpine:pull,push",error="invalid_token")");
  ASSERT_EQ(found.size(), 1u);
  EXPECT_EQ(found[0].scheme, "bearer");
  EXPECT_EQ(found[0].Param("realm"), "https://auth.docker.io/token");
  EXPECT_EQ(found[0].Param("service"), "registry.docker.io");
  EXPECT_EQ(found[0].Param("scope"), "repository:library/alpine:pull,push");
  EXPECT_EQ(found[0].Param("error"), "invalid_token");
  EXPECT_EQ(found[0].Param("absent"), "");
}

TEST(ChallengeTest, SeveralInOneHeaderInAnyCase) {
  const auto found = ParseChallenges(
      "Negotiate, , BASIC Realm=\"a, b=\\\"c\\\"\" , charset = utf-8,Digest abc/def==, "
      "bEaReR realm=https://h/t,SERVICE=x");
  ASSERT_EQ(found.size(), 4u);
  EXPECT_EQ(found[0].scheme, "negotiate");
  EXPECT_TRUE(found[0].params.empty());
  EXPECT_EQ(found[1].scheme, "basic");
  EXPECT_EQ(found[1].Param("realm"), "a, b=\"c\"");
  EXPECT_EQ(found[1].Param("charset"), "utf-8");
  EXPECT_EQ(found[2].scheme, "digest");
  EXPECT_EQ(found[2].token68, "abc/def==");
  EXPECT_EQ(found[3].scheme, "bearer");
  EXPECT_EQ(found[3].Param("realm"), "https://h/t");
  EXPECT_EQ(found[3].Param("service"), "x");
}

TEST(ChallengeTest, HostileInputIsBounded) {
  EXPECT_TRUE(ParseChallenges("").empty());
  EXPECT_TRUE(ParseChallenges(" ,,, ").empty());
  EXPECT_TRUE(ParseChallenges("\"quoted\"").empty());
  EXPECT_TRUE(ParseChallenges("=x").empty());
  const auto open = ParseChallenges("Bearer realm=\"never ends");
  ASSERT_EQ(open.size(), 1u);
  EXPECT_EQ(open[0].Param("realm"), "");
  EXPECT_EQ(ParseChallenges("Bearer realm=\"a\\").at(0).Param("realm"), "");
  // The first of duplicates wins.
  EXPECT_EQ(ParseChallenges("Bearer realm=a, realm=b").at(0).Param("realm"), "a");
  std::string many;
  for (int i = 0; i < 1000; ++i) StrAppend(&many, "S", i, " a=b,");
  EXPECT_LE(ParseChallenges(many).size(), 16u);
  std::string params = "Bearer a=b";
  for (int i = 0; i < 1000; ++i) StrAppend(&params, ",p", i, "=v");
  EXPECT_LE(ParseChallenges(params).at(0).params.size(), 32u);
}

TEST(RetryAfterTest, SecondsAndDates) {
  EXPECT_EQ(RetryAfter("0", 0), std::chrono::seconds(0));
  EXPECT_EQ(RetryAfter("120", 0), std::chrono::seconds(120));
  // 1994-11-06 08:49:37 UTC is 784111777.
  EXPECT_EQ(RetryAfter("Sun, 06 Nov 1994 08:49:37 GMT", 784111770), std::chrono::seconds(7));
  EXPECT_EQ(RetryAfter("Sun, 06 Nov 1994 08:49:37 GMT", 784111800), std::chrono::seconds(0));
  EXPECT_EQ(RetryAfter("", 0), std::nullopt);
  EXPECT_EQ(RetryAfter("-1", 0), std::nullopt);
  EXPECT_EQ(RetryAfter("soon", 0), std::nullopt);
}

// The result of RealmToAsk without and then with a credential.
std::string Verdict(const std::string& registry, const std::string& realm, bool verify_tls = true,
                    bool loopback = false) {
  std::string out;
  for (const char* password : {"", "pw"}) {
    TokenRequest request;
    request.registry = registry;
    request.realm = realm;
    request.tls = std::make_shared<TlsSettings>(TlsSettings{.verify = verify_tls});
    request.loopback = loopback;
    request.credential.password = password;
    const absl::Status status = RealmToAsk(request).status();
    StrAppend(&out, out.empty() ? "" : " ", status.ok() ? "ok" : "no");
    if (status.ok()) continue;
    // Another credential would not help against the first kind.
    EXPECT_EQ(absl::IsUnauthenticated(status), out == "ok no") << status;
    EXPECT_EQ(std::string(status.message()).find("pw"), std::string::npos) << status;
  }
  return out;
}

TEST(RealmTest, ThoseOfTheLargeRegistries) {
  for (const auto& [registry, realm] : std::vector<std::pair<std::string, std::string>>{
           {"https://registry-1.docker.io", "https://auth.docker.io/token"},
           {"https://ghcr.io", "https://ghcr.io/token"},
           {"https://quay.io", "https://quay.io/v2/auth"},
           {"https://gcr.io", "https://gcr.io/v2/token"},
           {"https://europe-docker.pkg.dev", "https://europe-docker.pkg.dev/v2/token"},
           {"https://public.ecr.aws", "https://public.ecr.aws/token/"},
           {"https://registry.gitlab.com", "https://gitlab.com/jwt/auth"},
           {"https://x.azurecr.io", "https://x.azurecr.io/oauth2/token"},
           {"https://harbor.example:8443", "https://harbor.example:8443/service/token"},
           {"https://registry.example:5000", "https://registry.example:5001/auth"},
       }) {
    EXPECT_EQ(Verdict(registry, realm), "ok ok") << registry;
  }
}

TEST(RealmTest, InTheClearOnlyToTheRegistryItself) {
  EXPECT_EQ(Verdict("http://a:5000", "http://a:5000/token"), "ok ok");
  EXPECT_EQ(Verdict("http://a", "http://a:80/token"), "ok ok");
  EXPECT_EQ(Verdict("http://a", "http://A/token"), "ok ok");
  EXPECT_EQ(Verdict("http://localhost:5000", "http://127.0.0.1:5000/token", true, true), "ok ok");
  EXPECT_EQ(Verdict("http://localhost:5000", "http://127.0.0.1:5001/token", true, true), "no no");
  EXPECT_EQ(Verdict("http://localhost:5000", "http://127.0.0.2:5000/token", true, true), "no no");
  EXPECT_EQ(Verdict("http://a:5000", "http://a:5001/token"), "no no");
  EXPECT_EQ(Verdict("http://a:5000", "http://a/token"), "no no");
  EXPECT_EQ(Verdict("http://a", "http://b/token"), "no no");
  EXPECT_EQ(Verdict("http://a", "http://a.b/token"), "no no");
  EXPECT_EQ(Verdict("https://a", "http://a:8080/token"), "no no");
  EXPECT_EQ(Verdict("https://a:5000", "http://a:443/token"), "no no");
  EXPECT_EQ(Verdict("https://a", "http://169.254.169.254/latest/api/token"), "no no");
  EXPECT_EQ(Verdict("http://127.0.0.1:5000", "http://127.0.0.1:80/secret", true, true), "no no");
  EXPECT_EQ(Verdict("http://127.0.0.1:5000", "http://localhost:5000/secret", true, true), "no no");
  for (const char* realm :
       {"ftp://a/token", "/token", "//a/token", "", "https:///token", "https://u:p@a/token",
        "https://a\r\nX: y/token", "file:///etc/shadow"}) {
    EXPECT_EQ(Verdict("https://a", realm), "no no") << realm;
  }
}

// Behind a TLS-terminating proxy, a registry may not know that it is accessed by https.
TEST(RealmTest, OneInTheClearOfARegistryByHttpsIsAskedByHttps) {
  for (const auto& [registry, realm, asked] : std::vector<std::array<std::string, 3>>{
           {"https://a", "http://a/token?x=1", "https://a/token?x=1"},
           {"https://a", "http://A:443/token", "https://a/token"},
           {"https://a:8443", "http://a/t", "https://a:8443/t"},
           {"https://a:8443", "http://a:8443/t", "https://a:8443/t"}}) {
    TokenRequest request;
    request.registry = registry;
    request.realm = realm;
    request.credential.password = "pw";
    const auto url = RealmToAsk(request);
    ASSERT_TRUE(url.ok()) << realm << ": " << url.status();
    EXPECT_EQ(url->text, asked);
  }
}

TEST(RealmTest, CredentialsGoToAnotherHostOnlyWhenTheRegistryWasVerified) {
  EXPECT_EQ(Verdict("https://a", "https://b/token", /*verify_tls=*/false), "ok no");
  EXPECT_EQ(Verdict("https://a", "https://a/token", /*verify_tls=*/false), "ok ok");
  EXPECT_EQ(Verdict("https://a", "https://a:8443/token", /*verify_tls=*/false), "ok ok");
  EXPECT_EQ(Verdict("http://a", "https://b/token"), "ok no");
  EXPECT_EQ(Verdict("http://a", "https://a/token"), "ok ok");
  // Nobody can be in the middle.
  EXPECT_EQ(Verdict("http://127.0.0.1:5000", "https://b/token", true, /*loopback=*/true), "ok ok");
}

class TokenTest : public testing::Test {
 protected:
  void SetUp() override {
    auto http = HttpClient::Create({});
    ASSERT_TRUE(http.ok());
    http_ = *std::move(http);
    TokenSource::Options options;
    options.first_backoff = std::chrono::milliseconds(1);
    options.max_attempts = 3;
    options.now = [this] {
      return std::chrono::steady_clock::time_point(std::chrono::seconds(now_.load()));
    };
    tokens_ = std::make_unique<TokenSource>(*http_, options);
  }
  void TearDown() override { http_.reset(); }  // before the objects that its callbacks use

  TokenRequest Request() {
    TokenRequest request;
    request.registry = StrCat("http://", server_.host());
    request.realm = server_.Url("/token");
    request.service = "my service";
    request.scope = "repository:a/b:pull repository:c:pull";
    request.fingerprint = "anonymous";
    return request;
  }
  absl::StatusOr<Token> Get(const TokenRequest& request, const Secret& refused = {}) {
    absl::Notification finished;
    absl::StatusOr<Token> result = absl::UnknownError("");
    tokens_->Get(request, refused, [&](absl::StatusOr<Token> token) {
      result = std::move(token);
      finished.Notify();
    });
    finished.WaitForNotification();
    return result;
  }
  static Credential User() {
    Credential credential;
    credential.username = "me";
    credential.password = "pw";
    return credential;
  }

  FakeRegistry server_;
  std::atomic<int64_t> now_{1000};
  std::unique_ptr<HttpClient> http_;
  std::unique_ptr<TokenSource> tokens_;
};

TEST_F(TokenTest, AsksWithServiceAndEveryScopeAndCaches) {
  const auto token = Get(Request());
  ASSERT_TRUE(token.ok()) << token.status();
  EXPECT_EQ(token->value, "token-1");
  EXPECT_EQ(Get(Request())->value, "token-1");
  const auto requests = server_.RequestsFor("/token");
  ASSERT_EQ(requests.size(), 1u);
  EXPECT_EQ(requests[0].query,
            "service=my%20service&scope=repository%3Aa%2Fb%3Apull&scope=repository%3Ac%3Apull");
  EXPECT_EQ(requests[0].Header("authorization"), "");
}

TEST_F(TokenTest, OtherKeysAreOtherTokens) {
  TokenRequest other = Request();
  other.fingerprint = "someone";
  EXPECT_EQ(Get(Request())->value, "token-1");
  EXPECT_EQ(Get(other)->value, "token-2");
  other.scope = "repository:x:pull";
  EXPECT_EQ(Get(other)->value, "token-3");
  EXPECT_EQ(Get(Request())->value, "token-1");
}

TEST_F(TokenTest, ExpiresALittleEarly) {
  EXPECT_EQ(Get(Request())->value, "token-1");  // valid for 300 s
  now_ += 260;
  EXPECT_EQ(Get(Request())->value, "token-1");
  now_ += 20;
  EXPECT_EQ(Get(Request())->value, "token-2");
}

TEST_F(TokenTest, MissingAndTinyLivesAreSixtySeconds) {
  server_.On("/token", {.body = R"({"access_token":"t-a"})"});
  server_.On("/token", {.body = R"({"token":"t-b","expires_in":1})"});
  EXPECT_EQ(Get(Request())->value, "t-a");
  now_ += 50;
  EXPECT_EQ(Get(Request())->value, "t-a");
  now_ += 10;
  EXPECT_EQ(Get(Request())->value, "t-b");
  now_ += 50;
  EXPECT_EQ(Get(Request())->value, "t-b");
}

TEST_F(TokenTest, ARefusedTokenIsDroppedButNotItsSuccessor) {
  EXPECT_EQ(Get(Request())->value, "token-1");
  EXPECT_EQ(Get(Request(), "token-1")->value, "token-2");
  EXPECT_EQ(Get(Request(), "token-1")->value, "token-2");
}

TEST_F(TokenTest, OneFetchForAllWaiters) {
  server_.On("/token", {.hold = true});
  constexpr int kWaiters = 20;
  absl::Notification finished;
  std::atomic<int> left{kWaiters};
  std::atomic<int> right{0};
  for (int i = 0; i < kWaiters; ++i) {
    tokens_->Get(Request(), "", [&](absl::StatusOr<Token> token) {
      if (token.ok() && token->value == "token-1") ++right;
      if (--left == 0) finished.Notify();
    });
  }
  server_.Release("/token");
  finished.WaitForNotification();
  EXPECT_EQ(right, kWaiters);
  EXPECT_EQ(server_.RequestsFor("/token").size(), 1u);
  EXPECT_EQ(tokens_->counters().leaders, 1u);
  EXPECT_EQ(tokens_->counters().joins, kWaiters - 1u);
}

TEST_F(TokenTest, SendsCredentialsAsBasic) {
  server_.SetAuth({.kind = FakeRegistry::Auth::Kind::kBearer, .user = "me", .password = "pw"});
  TokenRequest request = Request();
  request.credential = User();
  request.fingerprint = "me";
  EXPECT_TRUE(Get(request).ok());
  const absl::Status anonymous = Get(Request()).status();
  EXPECT_TRUE(absl::IsUnauthenticated(anonymous));
  EXPECT_NE(std::string(anonymous.message()).find("imagefs login"), std::string::npos);
  request.credential.password = "wrong";
  request.fingerprint = "me, wrongly";
  const absl::Status refused = Get(request).status();
  EXPECT_TRUE(absl::IsUnauthenticated(refused));
  EXPECT_NE(refused.message(), anonymous.message());
  EXPECT_EQ(std::string(refused.message()).find("wrong\""), std::string::npos);
}

TEST_F(TokenTest, AnIdentityTokenGoesByPost) {
  server_.SetAuth({.kind = FakeRegistry::Auth::Kind::kBearer,
                   .user = "<token>",
                   .password = "idtoken",
                   .identity_token = "idtoken"});
  TokenRequest request = Request();
  request.credential.identity_token = "idtoken";
  EXPECT_TRUE(Get(request).ok());
  ASSERT_EQ(server_.requests().size(), 1u);
  const auto post = server_.requests()[0];
  EXPECT_EQ(post.method, "POST");
  EXPECT_NE(post.body.find("grant_type=refresh_token"), std::string::npos);
  EXPECT_NE(post.body.find("&service=my%20service&"), std::string::npos);
  EXPECT_NE(post.body.find("&scope=repository%3Aa%2Fb%3Apull%20repository"), std::string::npos);
  EXPECT_EQ(post.query, "");
}

TEST_F(TokenTest, PostFallsBackToGet) {
  server_.SetAuth(
      {.kind = FakeRegistry::Auth::Kind::kBearer, .user = "<token>", .password = "idtoken"});
  for (const int status : {400, 401, 404, 405}) {
    server_.On("/token", {.status = status});
    TokenRequest request = Request();
    request.credential.identity_token = "idtoken";
    request.fingerprint = StrCat("fallback ", status);
    EXPECT_TRUE(Get(request).ok()) << status;
    EXPECT_EQ(server_.requests().back().method, "GET");
  }
}

TEST_F(TokenTest, RetriesWhatMayPass) {
  server_.On("/token", {.status = 503});
  server_.On("/token", {.close = true});
  EXPECT_TRUE(Get(Request()).ok());
  EXPECT_EQ(server_.RequestsFor("/token").size(), 3u);
}

TEST_F(TokenTest, GivesUpInTheEnd) {
  server_.On("/token", {.times = -1, .status = 429, .headers = {{"Retry-After", "0"}}});
  EXPECT_TRUE(absl::IsResourceExhausted(Get(Request()).status()));
  EXPECT_EQ(server_.RequestsFor("/token").size(), 3u);
}

TEST_F(TokenTest, DoesNotWaitAnHour) {
  server_.On("/token", {.times = -1, .status = 429, .headers = {{"Retry-After", "3600"}}});
  EXPECT_TRUE(absl::IsResourceExhausted(Get(Request()).status()));
  EXPECT_EQ(server_.RequestsFor("/token").size(), 1u);
}

TEST_F(TokenTest, UselessAnswersAreRefused) {
  for (const char* body :
       {"", "<html>", "{}", R"({"token":""})", R"({"token":"a\nb"})", R"({"token":"a b"})",
        R"({"token":7})", R"({"token":["t"]})", R"(["token"])", R"({"token":"="})",
        R"({"token":"a=b"})", R"({"token":"a\"b"})", R"({"token":"a,b"})",
        R"({"token":"caf\u00e9"})", R"({"secret":"s"})", "token"}) {
    server_.On("/token", {.body = body});
    EXPECT_TRUE(absl::IsFailedPrecondition(Get(Request()).status())) << body;
  }
}

TEST_F(TokenTest, EveryKindOfTokenCharacter) {
  for (const std::string token : {"eyJh.eyJ_.Q-x", "djE6bmFtZQ==", "AZaz09-._~+/", "ya29.c.x"}) {
    server_.On("/token", {.body = StrCat(R"({"token":")", token, "\"}")});
    TokenRequest request = Request();
    request.fingerprint = token;
    EXPECT_EQ(Get(request)->value, token);
  }
  server_.On("/token", {.body = StrCat(R"({"token":")", std::string((64 << 10) + 1, 'a'), "\"}")});
  EXPECT_TRUE(absl::IsFailedPrecondition(Get(Request()).status()));
}

TEST_F(TokenTest, NobodyElseIsAskedInTheClear) {
  FakeRegistry other("127.0.0.2");
  const FakeRegistry neighbour;  // the same host, another port
  for (const std::string& realm : {other.Url("/token"), neighbour.Url("/token")}) {
    TokenRequest request = Request();
    request.realm = realm;
    EXPECT_TRUE(absl::IsFailedPrecondition(Get(request).status()));
    request.credential = User();
    request.fingerprint = "me";
    EXPECT_FALSE(Get(request).ok());
    request.credential = Credential();
    request.credential.identity_token = "secret";
    EXPECT_FALSE(Get(request).ok());
  }
  EXPECT_TRUE(other.requests().empty());
  EXPECT_TRUE(neighbour.requests().empty());
}

TEST_F(TokenTest, ATokenServiceThatLeadsElsewhereIsNotFollowed) {
  FakeRegistry other("127.0.0.2");
  server_.On("/token", {.status = 307, .headers = {{"Location", other.Url("/token")}}});
  TokenRequest request = Request();
  request.credential = User();
  request.fingerprint = "me";
  EXPECT_TRUE(absl::IsFailedPrecondition(Get(request).status()));
  EXPECT_TRUE(other.requests().empty());
}

TEST_F(TokenTest, ATokenServiceThatMovedOnItsHostIsFollowedWithTheCredential) {
  for (const int status : {301, 302, 303, 307, 308}) {
    TokenRequest request = Request();
    request.credential = User();
    request.fingerprint = StrCat("me ", status);
    server_.SetAuth({.user = "me", .password = "pw"});
    const std::string moved = StrCat("/moved", status);
    request.realm = server_.Url(moved);
    server_.On(moved, {.status = status, .headers = {{"Location", "/token?x=1"}}});
    const auto token = Get(request);
    ASSERT_TRUE(token.ok()) << status << ": " << token.status();
    const auto asked = server_.RequestsFor("/token").back();
    EXPECT_EQ(asked.method, "GET");
    EXPECT_EQ(asked.query, "x=1");
    EXPECT_EQ(asked.Header("authorization"),
              server_.RequestsFor(moved).back().Header("authorization"));
    EXPECT_TRUE(asked.Header("referer").starts_with(server_.Url(moved)));
  }
}

TEST_F(TokenTest, AFormIsSentOnOrBecomesAQuery) {
  for (const int status : {301, 307}) {
    TokenRequest request = Request();
    request.credential.identity_token = "my-refresh";
    request.fingerprint = StrCat("me ", status);
    request.realm = server_.Url("/moved");
    server_.SetAuth({.user = "<token>", .password = "my-refresh", .identity_token = "my-refresh"});
    server_.On("/moved", {.status = status, .headers = {{"Location", "/token"}}});
    const auto token = Get(request);
    ASSERT_TRUE(token.ok()) << status << ": " << token.status();
    const auto asked = server_.RequestsFor("/token").back();
    EXPECT_EQ(asked.method, status == 307 ? "POST" : "GET");
    EXPECT_EQ(asked.body.find("my-refresh") != std::string::npos, status == 307);
    EXPECT_EQ(asked.query.find("scope=repository") != std::string::npos, status == 301);
  }
}

TEST_F(TokenTest, ACredentialIsNotSentToAnotherHostByARedirect) {
  // Nothing listens there, so the error shows how far it got.
  for (const int status : {302, 307}) {
    server_.On("/token", {.status = status, .headers = {{"Location", "https://127.0.0.2:1/t"}}});
    TokenRequest request = Request();
    request.credential.identity_token = "my-refresh";
    request.fingerprint = StrCat("me ", status);
    const absl::Status refused = Get(request).status();
    const bool form = status == 307;
    EXPECT_EQ(absl::IsFailedPrecondition(refused), form) << refused;
    EXPECT_EQ(std::string(refused.message()).find("credentials were not sent") != std::string::npos,
              form)
        << refused;
  }
}

TEST_F(TokenTest, RedirectsOfATokenServiceEnd) {
  server_.On("/token", {.times = -1, .status = 302, .headers = {{"Location", "/token"}}});
  EXPECT_TRUE(absl::IsFailedPrecondition(Get(Request()).status()));
  EXPECT_EQ(server_.RequestsFor("/token").size(), 11u);
  for (const char* nowhere : {"file:///etc/shadow", "http://u:p@127.0.0.1/", "", "gopher://x/"}) {
    TokenRequest request = Request();
    request.realm = server_.Url("/nowhere");
    server_.On("/nowhere", {.status = 302, .headers = {{"Location", nowhere}}});
    EXPECT_TRUE(absl::IsFailedPrecondition(Get(request).status())) << nowhere;
  }
}

TEST_F(TokenTest, LeavingDisturbsNobody) {
  server_.On("/token", {.hold = true});
  absl::Notification left, stayed;
  absl::Status left_status;
  bool stayed_ok = false;
  const FlightTicket ticket = tokens_->Get(Request(), "", [&](absl::StatusOr<Token> token) {
    left_status = token.status();
    left.Notify();
  });
  tokens_->Get(Request(), "", [&](absl::StatusOr<Token> token) {
    stayed_ok = token.ok();
    stayed.Notify();
  });
  ticket.Leave();
  left.WaitForNotification();
  EXPECT_TRUE(absl::IsCancelled(left_status));
  server_.Release("/token");
  stayed.WaitForNotification();
  EXPECT_TRUE(stayed_ok);
}

}  // namespace
}  // namespace imagefs
