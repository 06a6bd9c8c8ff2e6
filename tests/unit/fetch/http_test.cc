// SPDX-License-Identifier: Apache-2.0
#include "fetch/http.h"

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include "absl/synchronization/notification.h"
#include "base/fd.h"
#include "base/text.h"
#include "fetch/url.h"
#include "tests/fakes/fetch/fake_registry.h"

namespace imagefs {
namespace {

// A request whose completion can be awaited.
struct Pending {
  absl::Notification finished;
  absl::StatusOr<HttpResponse> result = absl::UnknownError("not finished");

  HttpClient::Done Done() {
    return [this](absl::StatusOr<HttpResponse> r) {
      result = std::move(r);
      finished.Notify();
    };
  }
  absl::StatusOr<HttpResponse>& Wait() {
    finished.WaitForNotification();
    return result;
  }
};

std::unique_ptr<HttpClient> MakeClient(HttpClient::Options options = {}) {
  auto client = HttpClient::Create(std::move(options));
  EXPECT_TRUE(client.ok()) << client.status();
  return *std::move(client);
}

HttpRequest Get(std::string url) {
  HttpRequest request;
  request.url = std::move(url);
  return request;
}

absl::StatusOr<HttpResponse> Fetch(HttpClient& client, HttpRequest request,
                                   HttpClient::OnHeaders on_headers = nullptr) {
  Pending pending;
  client.Start(std::move(request), CancelToken(), std::move(on_headers), pending.Done());
  return pending.Wait();
}

TEST(UrlTest, ParsesAndResolves) {
  const auto url = Url::Parse("HTTP://Example.COM:8080/a/b?x=1#part");
  ASSERT_TRUE(url.ok()) << url.status();
  EXPECT_EQ(url->scheme, "http");
  EXPECT_EQ(url->host, "example.com");
  EXPECT_EQ(url->port, 8080);
  EXPECT_EQ(url->HostPort(), "example.com:8080");
  EXPECT_EQ(url->text.find('#'), std::string::npos);
  EXPECT_EQ(url->Resolve("/c?sig=%2F+x")->text, "http://example.com:8080/c?sig=%2F+x");
  EXPECT_EQ(url->Resolve("d")->text, "http://example.com:8080/a/d");
  EXPECT_EQ(url->Resolve("//other/e")->host, "other");
  EXPECT_EQ(Url::Parse("https://h/x")->HostPort(), "h");
  EXPECT_EQ(Url::Parse("http://[::1]:5000/")->HostPort(), "[::1]:5000");
}

TEST(UrlTest, RefererIsWhatGoSendsAndNoSecret) {
  const auto referer = [](const char* from, const char* to) {
    return RefererFor(*Url::Parse(from), *Url::Parse(to));
  };
  EXPECT_EQ(referer("http://a/v2/x", "http://b/y"), "http://a/v2/x");
  EXPECT_EQ(referer("https://a/v2/x", "https://b/y"), "https://a/v2/x");
  EXPECT_EQ(referer("http://a/v2/x", "https://b/y"), "http://a/v2/x");
  EXPECT_EQ(referer("https://a/v2/x", "http://b/y"), "");
  EXPECT_EQ(referer("https://a/x?sig=1", "https://a/y"), "https://a/x?sig=1");
  EXPECT_EQ(referer("https://a/x?sig=1", "https://b/y"), "https://a/x");
}

TEST(UrlTest, RefusesWhatIsNoWebAddress) {
  for (const char* text : {"ftp://h/x", "file:///etc/passwd", "h/x", "", "http://", "http:///x",
                           "https://user:secret@h/x", "http://h/\nx", "gopher://h"}) {
    const auto url = Url::Parse(text);
    EXPECT_FALSE(url.ok()) << text;
    EXPECT_EQ(std::string(url.status().message()).find("secret"), std::string::npos);
  }
  EXPECT_FALSE(Url::Parse("http://h/" + std::string(20000, 'x')).ok());
  EXPECT_FALSE(Url::Parse("http://h/")->Resolve("file:///etc/passwd").ok());
  EXPECT_FALSE(Url::Parse("http://h/")->Resolve("http://u:p@h2/").ok());
  EXPECT_FALSE(Url::Parse("http://h/")->Resolve("").ok());
}

TEST(UrlTest, Encodes) { EXPECT_EQ(UrlEncode("a b/c:d~e&"), "a%20b%2Fc%3Ad~e%26"); }

TEST(HttpTest, GetsABody) {
  FakeRegistry server;
  server.AddFile("/x", "hello");
  auto client = MakeClient();
  const auto response = Fetch(*client, Get(server.Url("/x")));
  ASSERT_TRUE(response.ok()) << response.status();
  EXPECT_EQ(response->status, 200);
  EXPECT_EQ(response->body, "hello");
  EXPECT_EQ(response->Header("content-type"), "application/octet-stream");
  EXPECT_EQ(response->Header("absent"), "");
  const auto requests = server.requests();
  ASSERT_EQ(requests.size(), 1u);
  EXPECT_EQ(requests[0].method, "GET");
  EXPECT_EQ(requests[0].Header("accept-encoding"), "identity");
  EXPECT_EQ(requests[0].Header("user-agent"), "imagefs");
}

TEST(HttpTest, SendsABodyAndKnowsHead) {
  FakeRegistry server;
  server.AddFile("/x", "hello");
  auto client = MakeClient();
  HttpRequest post = Get(server.Url("/x"));
  post.method = "POST";
  post.body = "a=1";
  ASSERT_TRUE(Fetch(*client, std::move(post)).ok());
  HttpRequest head = Get(server.Url("/x"));
  head.method = "HEAD";
  const auto response = Fetch(*client, std::move(head));
  ASSERT_TRUE(response.ok()) << response.status();
  EXPECT_EQ(response->Header("content-length"), "5");
  EXPECT_EQ(response->body, "");
  EXPECT_EQ(server.requests()[0].method, "POST");
  EXPECT_EQ(server.requests()[0].body, "a=1");
  EXPECT_EQ(server.requests()[1].method, "HEAD");
}

TEST(HttpTest, AStatusIsNoFailureAndRedirectsAreNotFollowed) {
  FakeRegistry server;
  server.On("/moved", {.status = 302, .headers = {{"Location", "/x"}}});
  auto client = MakeClient();
  EXPECT_EQ(Fetch(*client, Get(server.Url("/nothing")))->status, 404);
  const auto moved = Fetch(*client, Get(server.Url("/moved")));
  EXPECT_EQ(moved->status, 302);
  EXPECT_EQ(moved->Header("location"), "/x");
  EXPECT_TRUE(server.RequestsFor("/x").empty());
}

TEST(HttpTest, ASinkTakesTheBodyItWasChosenFor) {
  FakeRegistry server;
  server.AddFile("/x", std::string(300000, 'a'));
  auto client = MakeClient();
  size_t taken = 0;
  const auto choose = [&taken](const HttpResponse& headers) -> absl::StatusOr<HttpClient::Sink> {
    if (headers.status != 200) return HttpClient::Sink();
    return HttpClient::Sink([&taken](std::string_view data) {
      taken += data.size();
      return absl::OkStatus();
    });
  };
  EXPECT_EQ(Fetch(*client, Get(server.Url("/x")), choose)->body, "");
  EXPECT_EQ(taken, 300000u);
  EXPECT_NE(Fetch(*client, Get(server.Url("/none")), choose)->body, "");
  EXPECT_EQ(taken, 300000u);
  EXPECT_GE(client->counters().bytes_received, 300000u);

  const std::vector<EndpointTraffic::Row> traffic = client->traffic();
  ASSERT_EQ(traffic.size(), 1u);
  EXPECT_EQ(StrCat("http://", traffic[0].endpoint, "/x"), server.Url("/x"));
  EXPECT_EQ(traffic[0].kind, RequestKind::kOther);
  EXPECT_EQ(traffic[0].bytes, client->counters().bytes_received);
  EXPECT_EQ(traffic[0].results, (std::array<uint64_t, 5>{1, 1, 0, 0, 0}));  // 200 and 404
  EXPECT_EQ(traffic[0].answered.count(), 2u);
}

TEST(HttpTest, ASinkOrItsChoiceMayFailTheRequest) {
  FakeRegistry server;
  server.AddFile("/x", "abc");
  auto client = MakeClient();
  const auto by_sink = Fetch(*client, Get(server.Url("/x")), [](const HttpResponse&) {
    return absl::StatusOr<HttpClient::Sink>(
        [](std::string_view) { return absl::ResourceExhaustedError("disk full"); });
  });
  EXPECT_EQ(by_sink.status(), absl::ResourceExhaustedError("disk full"));
  const auto by_choice = Fetch(*client, Get(server.Url("/x")),
                               [](const HttpResponse&) -> absl::StatusOr<HttpClient::Sink> {
                                 return absl::DataLossError("wrong size");
                               });
  EXPECT_EQ(by_choice.status(), absl::DataLossError("wrong size"));
}

TEST(HttpTest, CollectedBodiesAndHeadersAreBounded) {
  FakeRegistry server;
  server.AddFile("/x", std::string(1000, 'a'));
  FakeRegistry::Behaviour many;
  for (int i = 0; i < 400; ++i) many.headers.emplace_back(StrCat("x-", i), "v");
  server.On("/many", many);
  server.On("/big", {.headers = {{"x-big", std::string(70000, 'b')}}});
  auto client = MakeClient();
  HttpRequest request = Get(server.Url("/x"));
  request.max_body_bytes = 999;
  EXPECT_TRUE(absl::IsResourceExhausted(Fetch(*client, request).status()));
  request.max_body_bytes = 1000;
  EXPECT_TRUE(Fetch(*client, request).ok());
  EXPECT_TRUE(absl::IsResourceExhausted(Fetch(*client, Get(server.Url("/many"))).status()));
  EXPECT_FALSE(Fetch(*client, Get(server.Url("/big"))).ok());
}

TEST(HttpTest, RefusesUrlsWithoutAskingAnyone) {
  FakeRegistry server;
  auto client = MakeClient();
  EXPECT_TRUE(absl::IsInvalidArgument(
      Fetch(*client, Get(StrCat("http://user:pw@", server.host(), "/x"))).status()));
  EXPECT_TRUE(absl::IsInvalidArgument(Fetch(*client, Get("file:///etc/passwd")).status()));
  EXPECT_TRUE(server.requests().empty());
}

TEST(HttpTest, UnknownHost) {
  auto client = MakeClient();
  HttpRequest request = Get("http://no-such-host.invalid/");
  request.connect_timeout = std::chrono::milliseconds(3000);
  const absl::Status status = Fetch(*client, std::move(request)).status();
  EXPECT_TRUE(absl::IsUnavailable(status)) << status;
  EXPECT_EQ(TransportFailureOf(status), TransportFailure::kUnknownHost);
  EXPECT_NE(std::string(status.message()).find("no-such-host.invalid"), std::string::npos);
}

TEST(HttpTest, RefusedConnection) {
  std::string url;
  {
    FakeRegistry gone;
    url = gone.Url("/");
  }
  auto client = MakeClient();
  const absl::Status status = Fetch(*client, Get(url)).status();
  EXPECT_TRUE(absl::IsUnavailable(status));
  EXPECT_EQ(TransportFailureOf(status), TransportFailure::kRefused);
  EXPECT_NE(std::string(status.message()).find("refused"), std::string::npos);
  EXPECT_EQ(TransportFailureOf(absl::UnavailableError("other")), TransportFailure::kNone);
}

TEST(HttpTest, CutAndSilentConnections) {
  FakeRegistry server;
  server.AddFile("/x", std::string(1000, 'a'));
  server.AddFile("/silent", "x");
  server.On("/x", {.cut_after_bytes = 10});
  server.On("/x", {.close = true});
  server.On("/x", {.cut_head = true});
  server.On("/silent", {.hold = true});
  auto client = MakeClient();
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(TransportFailureOf(Fetch(*client, Get(server.Url("/x"))).status()),
              TransportFailure::kCut)
        << i;
  }
  HttpRequest request = Get(server.Url("/silent"));
  request.connect_timeout = std::chrono::milliseconds(50);
  request.stall_timeout = std::chrono::milliseconds(50);
  const absl::Status status = Fetch(*client, std::move(request)).status();
  EXPECT_TRUE(absl::IsUnavailable(status));
  EXPECT_EQ(TransportFailureOf(status), TransportFailure::kStalled);
}

TEST(HttpTest, ABodyThatLeavesSlowlyIsNoStall) {
  FakeRegistry server;
  server.AddFile("/slow", "taken");
  server.On("/slow", {.read_slowly = true});
  HttpRequest request = Get(server.Url("/slow"));
  request.method = "PATCH";
  request.body = std::string(40 << 20, 'x');
  request.connect_timeout = request.stall_timeout = std::chrono::milliseconds(1200);
  const auto began = std::chrono::steady_clock::now();
  const auto response = Fetch(*MakeClient(), std::move(request));
  ASSERT_TRUE(response.ok()) << response.status();
  EXPECT_EQ(response->body, "taken");
  EXPECT_EQ(response->url, server.Url("/slow"));
  EXPECT_EQ(server.RequestsFor("/slow").at(0).method, "PATCH");
  EXPECT_EQ(server.RequestsFor("/slow").at(0).body.size(), 40u << 20);
  EXPECT_GT(std::chrono::steady_clock::now() - began, std::chrono::milliseconds(1400));
}

TEST(HttpTest, PlainHttpWhereTlsIsAskedFor) {
  FakeRegistry server;
  auto client = MakeClient();
  const absl::Status status = Fetch(*client, Get(StrCat("https://", server.host(), "/"))).status();
  EXPECT_FALSE(status.ok());
  EXPECT_NE(TransportFailureOf(status), TransportFailure::kNone);
}

TEST(HttpTest, CancellationEndsARunningAndAWaitingRequest) {
  FakeRegistry server;
  server.On("/held", {.hold = true});
  HttpClient::Options options;
  options.shares.per_host = 1;
  auto client = MakeClient(options);
  CancelSource running_cancel, waiting_cancel, early_cancel;
  Pending running, waiting, early;
  client->Start(Get(server.Url("/held")), running_cancel.token(), nullptr, running.Done());
  ASSERT_TRUE(server.WaitForRequests("/held", 1));
  client->Start(Get(server.Url("/waiting")), waiting_cancel.token(), nullptr, waiting.Done());
  waiting_cancel.Cancel();
  EXPECT_TRUE(absl::IsCancelled(waiting.Wait().status()));
  running_cancel.Cancel();
  EXPECT_TRUE(absl::IsCancelled(running.Wait().status()));
  early_cancel.Cancel();
  client->Start(Get(server.Url("/early")), early_cancel.token(), nullptr, early.Done());
  EXPECT_TRUE(absl::IsCancelled(early.Wait().status()));
  EXPECT_TRUE(server.RequestsFor("/waiting").empty());
  EXPECT_TRUE(server.RequestsFor("/early").empty());
}

TEST(HttpTest, TheMostUrgentWaitingRequestGoesFirst) {
  FakeRegistry server;
  server.On("/held", {.hold = true});
  HttpClient::Options options;
  options.shares.per_host = 1;
  auto client = MakeClient(options);
  Pending held, background, raised, foreground;
  client->Start(Get(server.Url("/held")), CancelToken(), nullptr, held.Done());
  ASSERT_TRUE(server.WaitForRequests("/held", 1));
  HttpRequest request = Get(server.Url("/background"));
  request.priority = std::make_shared<LivePriority>(Priority::kBackground);
  client->Start(request, CancelToken(), nullptr, background.Done());
  client->Start(Get(server.Url("/foreground")), CancelToken(), nullptr, foreground.Done());
  request.url = server.Url("/raised");
  request.priority = std::make_shared<LivePriority>(Priority::kBackground);
  client->Start(request, CancelToken(), nullptr, raised.Done());
  request.priority->RaiseTo(Priority::kOnDemand);
  server.Release("/held");
  for (Pending* pending : {&held, &background, &raised, &foreground}) pending->Wait();
  std::vector<std::string> order;
  for (const auto& seen : server.requests()) order.push_back(seen.path);
  EXPECT_EQ(order, (std::vector<std::string>{"/held", "/raised", "/foreground", "/background"}));
}

TEST(HttpTest, ConnectionsAreLimitedAndUsedAgain) {
  FakeRegistry server, other("127.0.0.2");
  HttpClient::Options options;
  options.shares.per_host = 2;
  options.shares.total = 4;  // with fewer, one host's idle connection would be closed for the other
  auto client = MakeClient(options);
  std::vector<std::unique_ptr<Pending>> pendings;
  for (int i = 0; i < 12; ++i) {
    pendings.push_back(std::make_unique<Pending>());
    client->Start(Get((i % 2 ? server : other).Url("/x")), CancelToken(), nullptr,
                  pendings.back()->Done());
  }
  for (auto& pending : pendings) EXPECT_TRUE(pending->Wait().ok());
  EXPECT_LE(server.connections(), 2u);
  EXPECT_LE(other.connections(), 2u);
  EXPECT_EQ(client->counters().requests, 12u);
  EXPECT_EQ(client->counters().connections, server.connections() + other.connections());
}

// Limits short enough for a test.
HttpClient::Options Impatient() {
  HttpClient::Options options;
  options.phases.least_rate = 16'000;
  options.phases.slow_window = std::chrono::milliseconds(200);
  options.phases.end_window = std::chrono::milliseconds(400);
  options.phases.header = std::chrono::milliseconds(300);
  options.phases.collected = std::chrono::milliseconds(300);
  options.phases.collected_rate = 1 << 20;
  return options;
}

TEST(HttpTest, APeerThatSendsALittleNowAndThenIsLeft) {
  FakeRegistry server;
  for (const char* path : {"/head", "/small", "/blob", "/error"}) {
    server.AddFile(path, std::string(5000, 'a'));
  }
  server.On("/head", {.slow_head = true});
  server.On("/small", {.slow_body = true});
  server.On("/blob", {.slow_body = true});
  server.On("/error", {.status = 404, .slow_body = true});
  auto client = MakeClient(Impatient());
  const std::pair<const char*, const char*> cases[] = {
      {"/head", "has not completed the headers"},
      {"/small", "has not sent the whole of a small answer"},
      {"/blob", "less than the least rate of 1000 bytes a second"},
      {"/error", "has not sent the whole of a small answer"}};
  size_t taken = 0;
  const auto take = [&taken](const HttpResponse&) {
    return absl::StatusOr<HttpClient::Sink>([&taken](std::string_view data) {
      taken += data.size();
      return absl::OkStatus();
    });
  };
  for (const auto& [path, why] : cases) {
    const bool sink = std::string_view(path) != "/small";
    const absl::Status status =
        Fetch(*client, Get(server.Url(path)), sink ? HttpClient::OnHeaders(take) : nullptr)
            .status();
    EXPECT_TRUE(absl::IsUnavailable(status)) << path;
    EXPECT_EQ(TransportFailureOf(status), TransportFailure::kTooSlow) << status;
    EXPECT_NE(status.message().find(why), std::string::npos) << status;
    EXPECT_EQ(status.message().find(server.host()), 0u) << status;
  }
}

TEST(HttpTest, AnotherRegistrysRequestTakesTheConnectionOfOneThatHoldsMore) {
  FakeRegistry server;
  server.On("/held", {.times = -1, .hold = true});
  HttpClient::Options options;
  options.shares.per_host = 2;
  auto client = MakeClient(options);
  Pending held[2];
  HttpRequest request = Get(server.Url("/held"));
  request.registry = "evil.localhost";
  for (Pending& one : held) client->Start(request, CancelToken(), nullptr, one.Done());
  ASSERT_TRUE(server.WaitForRequests("/held", 2));
  EXPECT_EQ(Fetch(*client, Get(server.Url("/x")))->status, 404);
  size_t gave_way = 0;
  for (Pending& one : held) {
    if (!one.finished.HasBeenNotified()) continue;
    ++gave_way;
    EXPECT_EQ(TransportFailureOf(one.result.status()), TransportFailure::kGaveWay);
  }
  EXPECT_EQ(gave_way, 1u);
  server.Release("/held");
  for (Pending& one : held) one.Wait();
}

TEST(HttpTest, ARegistryLeadsToNoAddressMoreInsideThanItsOwn) {
  FakeRegistry server;
  server.AddFile("/x", "secret");
  HttpClient::Options options;
  auto client = MakeClient(options);
  HttpRequest led = Get(server.Url("/x"));
  led.registry = "registry.example:5000";
  const auto refused = [&led](HttpClient& by) {
    const absl::Status status = Fetch(by, led).status();
    EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status;
    EXPECT_EQ(TransportFailureOf(status), TransportFailure::kOutOfReach);
    EXPECT_NE(status.message().find("registry.example leads to 127.0.0.1"), std::string::npos)
        << status;
  };
  refused(*client);
  EXPECT_EQ(server.connections(), 0u);
  // An existing connection does not bypass it.
  EXPECT_TRUE(Fetch(*client, Get(server.Url("/x"))).ok());
  EXPECT_EQ(server.connections(), 1u);
  refused(*client);
  EXPECT_TRUE(Fetch(*client, Get(server.Url("/x"))).ok());
  EXPECT_EQ(server.requests().size(), 2u);
  // Other notations, and a name that resolves to the address.
  for (const char* host : {"2130706433", "0x7f.1", "localhost", "[::ffff:127.0.0.1]", "0.0.0.0"}) {
    HttpRequest other = led;
    other.url = StrCat("http://", host, server.host().substr(server.host().find(':')), "/x");
    EXPECT_EQ(TransportFailureOf(Fetch(*client, other).status()), TransportFailure::kOutOfReach)
        << host;
  }
  EXPECT_EQ(server.requests().size(), 2u);
  // A registry on loopback may, and so may one that the configuration allows.
  led.registry = "127.0.0.9:5000";
  EXPECT_EQ(Fetch(*client, led)->body, "secret");
  led.registry = "registry.example:5000";
  options.allow = {*IpPrefix::Parse("127.0.0.1")};
  EXPECT_EQ(Fetch(*MakeClient(options), led)->body, "secret");
  // Nothing may lead to the metadata service.
  led.url = "http://169.254.169.254/latest/meta-data/";
  led.registry = "169.254.169.254";
  options.allow = {*IpPrefix::Parse("0.0.0.0/0")};
  EXPECT_EQ(TransportFailureOf(Fetch(*MakeClient(options), led).status()),
            TransportFailure::kOutOfReach);
}

TEST(HttpTest, AProxyIsConnectedToAndTheTargetCheckedByName) {
  FakeRegistry proxy;
  ASSERT_EQ(setenv("http_proxy", proxy.Url("").c_str(), 1), 0);
  ASSERT_EQ(setenv("no_proxy", "direct.invalid", 1), 0);
  auto client = MakeClient();
  unsetenv("http_proxy");
  unsetenv("no_proxy");
  HttpRequest led = Get("http://cdn.invalid/x");
  led.registry = "registry.invalid";
  EXPECT_EQ(Fetch(*client, led)->status, 404);  // from the proxy
  EXPECT_EQ(proxy.requests().size(), 1u);
  led.url = "http://127.0.0.1:1/x";
  EXPECT_EQ(TransportFailureOf(Fetch(*client, led).status()), TransportFailure::kOutOfReach);
  led.url = "http://direct.invalid/x";
  EXPECT_EQ(TransportFailureOf(Fetch(*client, led).status()), TransportFailure::kUnknownHost);
  EXPECT_EQ(proxy.requests().size(), 1u);
}

TEST(HttpTest, TasksRunInOrderOfTheirTime) {
  auto client = MakeClient();
  std::vector<int> order;
  absl::Notification finished;
  client->After(std::chrono::milliseconds(30), [&] {
    order.push_back(3);
    finished.Notify();
  });
  client->After({}, [&] { order.push_back(1); });
  client->After({}, [&] { order.push_back(2); });
  finished.WaitForNotification();
  EXPECT_EQ(order, (std::vector<int>{1, 2, 3}));
}

TEST(HttpTest, DestructionCompletesEverything) {
  FakeRegistry server;
  server.On("/held", {.hold = true});
  HttpClient::Options options;
  options.shares.per_host = 1;
  auto client = MakeClient(options);
  Pending running, waiting, from_callback;
  bool ran = false;
  auto dropped = std::make_shared<int>(0);
  client->Start(Get(server.Url("/held")), CancelToken(), nullptr,
                [&, http = client.get()](absl::StatusOr<HttpResponse> result) {
                  http->Start(Get(server.Url("/late")), CancelToken(), nullptr,
                              from_callback.Done());
                  running.Done()(std::move(result));
                });
  client->Start(Get(server.Url("/x")), CancelToken(), nullptr, waiting.Done());
  client->After(std::chrono::hours(1), [&ran, dropped] { ran = true; });
  ASSERT_TRUE(server.WaitForRequests("/held", 1));
  client.reset();
  EXPECT_TRUE(absl::IsCancelled(running.Wait().status()));
  EXPECT_TRUE(absl::IsCancelled(waiting.Wait().status()));
  EXPECT_TRUE(absl::IsCancelled(from_callback.Wait().status()));
  EXPECT_FALSE(ran);
  EXPECT_EQ(dropped.use_count(), 1);
}

TEST(HttpTest, ABadCaFileIsNamed) {
  HttpClient::Options options;
  options.ca_file = "/nonexistent/ca.pem";
  const auto missing = HttpClient::Create(options);
  ASSERT_FALSE(missing.ok());
  EXPECT_NE(std::string(missing.status().message()).find("/nonexistent/ca.pem"), std::string::npos);
  options.ca_file = "/dev/null";
  EXPECT_TRUE(absl::IsInvalidArgument(HttpClient::Create(options).status()));
}

}  // namespace
}  // namespace imagefs
