#include "fetch/auth.h"

#include <gtest/gtest.h>

#include <atomic>

#include "absl/strings/escaping.h"
#include "absl/synchronization/notification.h"
#include "base/status.h"
#include "base/text.h"
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
  // The first of equal names counts.
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

TEST(SendCredentialsTest, OnlyWhereTheyAreSafe) {
  EXPECT_TRUE(MaySendCredentials("https://a", "https://b/token").ok());
  EXPECT_TRUE(MaySendCredentials("http://a:5000", "https://b/token").ok());
  EXPECT_TRUE(MaySendCredentials("http://a:5000", "http://a:5001/token").ok());
  EXPECT_FALSE(MaySendCredentials("http://a", "http://b/token").ok());
  EXPECT_FALSE(MaySendCredentials("https://a", "http://b/token").ok());
  EXPECT_FALSE(MaySendCredentials("https://a", "http://a/token").ok());
  EXPECT_FALSE(MaySendCredentials("https://a", "ftp://a/token").ok());
  EXPECT_FALSE(MaySendCredentials("https://a", "/token").ok());
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
  void TearDown() override { http_.reset(); }  // before what its callbacks use

  TokenRequest Request() {
    TokenRequest request;
    request.registry = StrCat("http://", server_.host());
    request.realm = server_.Url("/token");
    request.service = "my service";
    request.scope = "repository:a/b:pull repository:c:pull";
    request.fingerprint = "anonymous";
    return request;
  }
  absl::StatusOr<Token> Get(const TokenRequest& request, const std::string& refused = "") {
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
  EXPECT_EQ(Get(Request())->value, "token-1");  // 300 s
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
  EXPECT_NE(std::string(anonymous.message()).find("docker login"), std::string::npos);
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
  for (const char* body : {"", "<html>", "{}", R"({"token":""})", R"({"token":"a\nb"})",
                           R"({"token":"a b"})", R"({"token":7})"}) {
    server_.On("/token", {.body = body});
    EXPECT_TRUE(absl::IsFailedPrecondition(Get(Request()).status())) << body;
  }
}

TEST_F(TokenTest, CredentialsDoNotTravelInTheClearToAnotherHost) {
  FakeRegistry other("127.0.0.2");
  TokenRequest request = Request();
  request.realm = other.Url("/token");
  request.credential = User();
  request.fingerprint = "me";
  EXPECT_TRUE(IsCredentialFailure(Get(request).status()));
  request.credential = Credential();
  request.credential.identity_token = "secret";
  EXPECT_FALSE(Get(request).ok());
  EXPECT_TRUE(other.requests().empty());
  request.credential = Credential();
  EXPECT_TRUE(Get(request).ok());
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
