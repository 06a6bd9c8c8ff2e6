// SPDX-License-Identifier: Apache-2.0
#include "cmd/http_listener.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <atomic>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "base/fd.h"
#include "base/text.h"

namespace imagefs {
namespace {

ListenAddress At(std::string_view text) {
  absl::StatusOr<ListenAddress> address = ListenAddress::Parse(text);
  EXPECT_TRUE(address.ok()) << text << ": " << address.status();
  return address.value_or(ListenAddress());
}

Fd Connect(const ListenAddress& address) {
  Fd fd(socket(address.is_unix() ? AF_UNIX : AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  int failed;
  if (address.is_unix()) {
    sockaddr_un to{};
    to.sun_family = AF_UNIX;
    address.path.copy(to.sun_path, sizeof(to.sun_path) - 1);
    failed = connect(fd.get(), reinterpret_cast<const sockaddr*>(&to), sizeof(to));
  } else {
    sockaddr_in to{};
    to.sin_family = AF_INET;
    to.sin_port = htons(address.port);
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    failed = connect(fd.get(), reinterpret_cast<const sockaddr*>(&to), sizeof(to));
  }
  EXPECT_EQ(failed, 0) << address.ToString();
  return fd;
}

// Everything until the server closes the connection.
std::string ReadAll(const Fd& fd) {
  std::string out;
  char buffer[4096];
  ssize_t n;
  while ((n = read(fd.get(), buffer, sizeof(buffer))) > 0)
    out.append(buffer, static_cast<size_t>(n));
  return out;
}

std::string Ask(const ListenAddress& address, std::string_view request) {
  const Fd fd = Connect(address);
  // The server may close the connection before it has read all.
  (void)!send(fd.get(), request.data(), request.size(), MSG_NOSIGNAL);
  return ReadAll(fd);
}

std::string Get(const ListenAddress& address, std::string_view path) {
  return Ask(address, StrCat("GET ", path, " HTTP/1.1\r\nHost: x\r\n\r\n"));
}

class HttpListenerTest : public testing::Test {
 protected:
  HttpListenerTest() { std::filesystem::create_directory(dir_); }
  ~HttpListenerTest() override {
    listener_.reset();
    std::filesystem::remove_all(dir_);
  }
  void Open(std::string_view address = "127.0.0.1:0", HttpListener::Options options = {}) {
    HttpListener::Handlers handlers;
    handlers["/metrics"] = [this](const HttpListener::Request&) {
      ++asked_;
      return HttpListener::Answer{200, "text/plain", "one 1\n"};
    };
    handlers["/page"] = [](const HttpListener::Request& request) {
      std::string body = request.host;
      for (const auto& [name, value] : request.arguments) {
        StrAppend(&body, "|", name, "=", value);
      }
      return HttpListener::Answer{200, "text/html", body, {{"X-Policy", "none"}}};
    };
    handlers["/large"] = [](const HttpListener::Request&) {
      return HttpListener::Answer{200, "text/plain", std::string(32 << 20, 'x')};
    };
    auto opened = HttpListener::Open(At(address), std::move(handlers), options);
    ASSERT_TRUE(opened.ok()) << opened.status();
    listener_ = *std::move(opened);
  }
  const ListenAddress& address() const { return listener_->address(); }

  const std::string dir_ = StrCat(testing::TempDir(), "/http-", RandomHex(6));
  std::atomic<int> asked_{0};
  std::unique_ptr<HttpListener> listener_;
};

TEST_F(HttpListenerTest, AnswersAPageAndClosesTheConnection) {
  Open();
  const std::string answer = Get(address(), "/metrics");
  EXPECT_TRUE(answer.starts_with("HTTP/1.1 200 OK\r\n")) << answer;
  EXPECT_NE(answer.find("Content-Type: text/plain\r\n"), std::string::npos);
  EXPECT_NE(answer.find("Content-Length: 6\r\n"), std::string::npos);
  EXPECT_TRUE(answer.ends_with("\r\n\r\none 1\n"));
  EXPECT_TRUE(Get(address(), "/metrics?name=x").starts_with("HTTP/1.1 200"));
  EXPECT_EQ(asked_, 2);
}

TEST_F(HttpListenerTest, AHandlerHasTheHostAndTheQuery) {
  Open();
  const std::string answer =
      Ask(address(), "GET /page?directory=/a%20%26+b%2b&x&x=2&=y HTTP/1.1\r\nHost: h:1\r\n\r\n");
  EXPECT_TRUE(answer.starts_with("HTTP/1.1 200")) << answer;
  EXPECT_TRUE(answer.ends_with("\r\n\r\nh:1|=y|directory=/a & b+|x=")) << answer;
  EXPECT_NE(answer.find("X-Policy: none\r\n"), std::string::npos);
  EXPECT_NE(answer.find("X-Content-Type-Options: nosniff\r\n"), std::string::npos);
  EXPECT_TRUE(Ask(address(), "GET /page HTTP/1.0\r\n\r\n").ends_with("\r\n\r\n"));
}

TEST_F(HttpListenerTest, HeadHasTheHeadersOnly) {
  Open();
  const std::string answer = Ask(address(), "HEAD /metrics HTTP/1.1\r\nHost: x\r\n\r\n");
  EXPECT_TRUE(answer.starts_with("HTTP/1.1 200")) << answer;
  EXPECT_NE(answer.find("Content-Length: 6\r\n"), std::string::npos);
  EXPECT_TRUE(answer.ends_with("\r\n\r\n"));
}

TEST_F(HttpListenerTest, OtherPathsAndMethodsAreRefused) {
  Open();
  for (const char* path :
       {"/", "/metrics/", "/METRICS", "/../metrics", "//metrics", "/%6detrics2"}) {
    EXPECT_TRUE(Get(address(), path).starts_with("HTTP/1.1 404")) << path;
  }
  for (const char* method : {"POST", "PUT", "DELETE", "OPTIONS", "TRACE", "X"}) {
    const std::string answer = Ask(
        address(), StrCat(method, " /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"));
    EXPECT_TRUE(answer.starts_with("HTTP/1.1 405")) << method << answer;
    EXPECT_NE(answer.find("Allow: GET, HEAD\r\n"), std::string::npos) << method;
  }
  EXPECT_EQ(asked_, 0);
}

TEST_F(HttpListenerTest, BadRequestsHarmNobody) {
  HttpListener::Options options;
  options.deadline = std::chrono::milliseconds(200);  // of what looks like a part of a request
  Open("127.0.0.1:0", options);
  const std::string zeros(100, '\0');
  for (const std::string& request :
       {std::string("GET /metrics\r\n\r\n"), std::string("\r\n\r\n\r\n"),
        std::string("GET / HTTP/9.9\r\n\r\n"), std::string("nonsense\r\n\r\n"), zeros,
        std::string("GET /metrics HTTP/1.1\r\nno colon\r\n\r\n"),
        std::string("GET /metrics HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"),
        std::string("\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")}) {
    const Fd fd = Connect(address());
    (void)!send(fd.get(), request.data(), request.size(), MSG_NOSIGNAL);
    shutdown(fd.get(), SHUT_WR);
    const std::string answer = ReadAll(fd);
    EXPECT_TRUE(answer.empty() || answer.starts_with("HTTP/")) << answer;
  }
  EXPECT_TRUE(Get(address(), "/metrics").starts_with("HTTP/1.1 200"));
}

TEST_F(HttpListenerTest, OversizedRequestsAreRefused) {
  Open();
  const std::string path = Get(address(), StrCat("/", std::string(100 << 10, 'a')));
  EXPECT_TRUE(path.empty() || path.starts_with("HTTP/1.1 4")) << path.substr(0, 100);
  const std::string header = Ask(address(), StrCat("GET /metrics HTTP/1.1\r\nHost: x\r\nCookie: ",
                                                   std::string(100 << 10, 'a'), "\r\n\r\n"));
  EXPECT_TRUE(header.empty() || header.starts_with("HTTP/1.1 4")) << header.substr(0, 100);
  EXPECT_EQ(asked_, 0);
  EXPECT_TRUE(Get(address(), "/metrics").starts_with("HTTP/1.1 200"));
}

TEST_F(HttpListenerTest, ABodyIsNotRead) {
  Open();
  const std::string answer =
      Ask(address(), StrCat("POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000000\r\n"
                            "\r\n",
                            std::string(1000, 'x')));
  EXPECT_TRUE(answer.empty() || answer.starts_with("HTTP/1.1 405")) << answer;
}

TEST_F(HttpListenerTest, ASlowClientIsCutAndDelaysNobody) {
  HttpListener::Options options;
  options.deadline = std::chrono::milliseconds(300);
  options.connections = 3;
  Open("127.0.0.1:0", options);
  // These hold all connections; each byte would renew a timeout of idleness.
  std::vector<Fd> slow;
  for (int i = 0; i < 3; ++i) slow.push_back(Connect(address()));
  std::atomic<bool> stop{false};
  std::thread drip([&] {
    while (!stop) {
      for (const Fd& fd : slow) (void)!send(fd.get(), "G", 1, MSG_NOSIGNAL);
      usleep(20'000);
    }
  });
  EXPECT_TRUE(Get(address(), "/metrics").starts_with("HTTP/1.1 200"));
  for (const Fd& fd : slow) ReadAll(fd);
  stop = true;
  drip.join();
}

TEST_F(HttpListenerTest, AClientThatDoesNotReadIsCut) {
  HttpListener::Options options;
  options.deadline = std::chrono::milliseconds(300);
  options.connections = 1;
  Open("127.0.0.1:0", options);
  const Fd fd = Connect(address());
  constexpr std::string_view kRequest = "GET /large HTTP/1.1\r\nHost: x\r\n\r\n";
  ASSERT_GT(send(fd.get(), kRequest.data(), kRequest.size(), MSG_NOSIGNAL), 0);
  EXPECT_TRUE(Get(address(), "/metrics").starts_with("HTTP/1.1 200"));
}

TEST_F(HttpListenerTest, ManyAtOnce) {
  Open();
  std::atomic<int> good{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < 20; ++t) {
    threads.emplace_back([&] {
      for (int i = 0; i < 10; ++i) {
        if (Get(address(), "/metrics").ends_with("one 1\n")) ++good;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(good, 200);
  EXPECT_GT(Get(address(), "/large").size(), size_t{32} << 20);
}

TEST_F(HttpListenerTest, EndsWithOpenConnections) {
  Open();
  const Fd idle = Connect(address());
  const Fd half = Connect(address());
  ASSERT_GT(send(half.get(), "GET /met", 8, MSG_NOSIGNAL), 0);
  listener_.reset();
  EXPECT_EQ(ReadAll(half), "");
}

TEST_F(HttpListenerTest, ATakenPortIsAnError) {
  Open();
  const auto second = HttpListener::Open(address(), {}, {});
  EXPECT_TRUE(absl::IsAlreadyExists(second.status())) << second.status();
  EXPECT_NE(second.status().message().find("another process listens on 127.0.0.1:"),
            absl::string_view::npos)
      << second.status();
}

TEST_F(HttpListenerTest, ServesAUnixSocketOfItsOwn) {
  const std::string path = StrCat(dir_, "/metrics.sock");
  Open(path);
  struct stat st;
  ASSERT_EQ(lstat(path.c_str(), &st), 0);
  EXPECT_TRUE(S_ISSOCK(st.st_mode));
  EXPECT_EQ(st.st_mode & 0777, 0600U);
  EXPECT_TRUE(Get(address(), "/metrics").ends_with("one 1\n"));
  listener_.reset();
  EXPECT_NE(lstat(path.c_str(), &st), 0);
}

TEST_F(HttpListenerTest, ASocketInADirectoryOfAGroupIsTheGroups) {
  if (geteuid() != 0) GTEST_SKIP() << "needs root";
  const std::string directory = StrCat(dir_, "/of_group");
  ASSERT_EQ(mkdir(directory.c_str(), 0750), 0);
  ASSERT_EQ(chown(directory.c_str(), 0, 4242), 0);
  Open(StrCat("unix:", directory, "/metrics.sock"));
  struct stat st;
  ASSERT_EQ(lstat(StrCat(directory, "/metrics.sock").c_str(), &st), 0);
  EXPECT_EQ(st.st_mode & 0777, 0660U);
  EXPECT_EQ(st.st_gid, 4242U);
}

TEST_F(HttpListenerTest, ReplacesOnlyASocketWithoutAProcess) {
  const std::string path = StrCat(dir_, "/metrics.sock");
  Open(path);
  EXPECT_TRUE(absl::IsAlreadyExists(HttpListener::Open(At(path), {}, {}).status()));
  listener_.reset();

  // As a killed process leaves it.
  {
    const Fd dead(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_un at{};
    at.sun_family = AF_UNIX;
    path.copy(at.sun_path, sizeof(at.sun_path) - 1);
    ASSERT_EQ(bind(dead.get(), reinterpret_cast<const sockaddr*>(&at), sizeof(at)), 0);
  }
  Open(path);
  EXPECT_TRUE(Get(address(), "/metrics").starts_with("HTTP/1.1 200"));
  listener_.reset();

  const Fd file(open(path.c_str(), O_CREAT | O_WRONLY | O_CLOEXEC, 0600));
  ASSERT_TRUE(file.valid());
  EXPECT_TRUE(absl::IsFailedPrecondition(HttpListener::Open(At(path), {}, {}).status()));
  ASSERT_EQ(unlink(path.c_str()), 0);
  ASSERT_EQ(symlink("/etc/passwd", path.c_str()), 0);
  EXPECT_TRUE(absl::IsFailedPrecondition(HttpListener::Open(At(path), {}, {}).status()));
  const std::string nowhere = StrCat(dir_, "/none/metrics.sock");
  EXPECT_TRUE(absl::IsNotFound(HttpListener::Open(At(nowhere), {}, {}).status()));
}

TEST_F(HttpListenerTest, ALongPathIsNoProblem) {
  std::string path = dir_;
  for (int i = 0; i < 3; ++i) {
    StrAppend(&path, "/", std::string(60, 'd'));
    ASSERT_EQ(mkdir(path.c_str(), 0700), 0);
  }
  Open(StrCat(path, "/metrics.sock"));
  struct stat st;
  EXPECT_EQ(lstat(StrCat(path, "/metrics.sock").c_str(), &st), 0);
}

TEST(ListenAddressTest, Parses) {
  EXPECT_EQ(At("127.0.0.1:9100").ToString(), "127.0.0.1:9100");
  EXPECT_EQ(At("localhost:9100").ToString(), "127.0.0.1:9100");
  EXPECT_EQ(At("[::1]:9100").ToString(), "[::1]:9100");
  EXPECT_EQ(At("/run/x.sock").ToString(), "/run/x.sock");
  EXPECT_EQ(At("unix:/run/x.sock").path, "/run/x.sock");
  for (const char* bad : {"", ":9100", "9100", "127.0.0.1", "127.0.0.1:", "127.0.0.1:65536",
                          "127.0.0.1:-1", "::1:9100", "[::1]", "host.example:9100", "*:9100",
                          "unix:", "unix:relative", "/", "/run/", "http://127.0.0.1:9100"}) {
    EXPECT_FALSE(ListenAddress::Parse(bad).ok()) << bad;
  }
  EXPECT_FALSE(ListenAddress::Parse(StrCat("/", std::string(81, 'x'))).ok());
}

TEST(ListenAddressTest, KnowsWhoCanConnect) {
  for (const char* local : {"127.0.0.1:1", "127.9.9.9:1", "[::1]:1", "/run/x.sock"}) {
    EXPECT_TRUE(At(local).local()) << local;
  }
  for (const char* open : {"0.0.0.0:1", "[::]:1", "192.0.2.1:1", "10.0.0.1:1", "[fd00::1]:1"}) {
    EXPECT_FALSE(At(open).local()) << open;
  }
}

}  // namespace
}  // namespace imagefs
