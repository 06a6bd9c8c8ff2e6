// HTTP requests over one libcurl multi handle on one thread: connection reuse, HTTP/2, TLS with the
// system's CAs. No retries, no authentication, no redirects: fetch/registry.h decides on those.
//
// All methods are thread-safe. Sinks and Done callbacks run on the client's thread and must not
// block on the network; Done runs exactly once per request, with kCancelled after a cancellation.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/functional/any_invocable.h"
#include "absl/status/statusor.h"
#include "base/cancel.h"
#include "base/executor.h"
#include "base/secret.h"

namespace imagefs {

struct HttpRequest {
  std::string method = "GET";  // GET, HEAD, POST, PUT, PATCH, DELETE
  std::string url;
  std::vector<std::pair<std::string, std::string>> headers;
  Secret authorization;               // the value of that header; "" = none
  std::string body;                   // POST, PUT, PATCH
  Secret secret_body;                 // in place of `body` when there is one
  uint64_t max_body_bytes = 4 << 20;  // collected bodies beyond it fail with kResourceExhausted
  bool verify_tls = true;
  PriorityRef priority;  // null = foreground; order of waiting for a connection
  std::chrono::milliseconds connect_timeout{10'000};
  std::chrono::milliseconds stall_timeout{30'000};  // no byte moved for so long: kUnavailable
};

struct HttpResponse {
  int status = 0;
  std::multimap<std::string, std::string> headers;  // names in lower case
  std::string body;                                 // empty when a sink took it
  std::string url;                                  // that answered
  // First value of a header, "" when absent. `name` in lower case.
  std::string Header(std::string_view name) const;
};

// What kind of transport failure a status of HttpClient stands for; kNone for any other status.
enum class TransportFailure {
  kNone,
  kUnknownHost,
  kRefused,
  kUnreachable,
  kUntrusted,  // the certificate
  kNotTls,     // the other side does not speak TLS
  kStalled,
  kCut
};
TransportFailure TransportFailureOf(const absl::Status& status);

class HttpClient {
 public:
  struct Options {
    // Beside the system's CAs: PEM bundle, "" = none. The system's are those of libcurl or, where
    // set, of the environment's SSL_CERT_FILE and SSL_CERT_DIR.
    std::string ca_file;
    int max_connections_per_host = 8;  // waiting requests queue by priority
    int max_connections = 32;
    std::string user_agent = "imagefs";
  };
  static absl::StatusOr<std::unique_ptr<HttpClient>> Create(Options options);
  // Completes everything with kCancelled, then joins the thread.
  ~HttpClient();
  HttpClient(const HttpClient&) = delete;
  HttpClient& operator=(const HttpClient&) = delete;

  // Decides, once the response's headers are known, whether the body goes to a sink (return it) or
  // is collected (return null), so that an error body never reaches a blob.
  using Sink = absl::AnyInvocable<absl::Status(std::string_view data)>;
  using OnHeaders = absl::AnyInvocable<absl::StatusOr<Sink>(const HttpResponse& headers)>;
  using Done = absl::AnyInvocable<void(absl::StatusOr<HttpResponse>)>;

  // Transport failures: kUnavailable with the host, the cause and a remedy (unknown host, refused,
  // TLS certificate not trusted (kFailedPrecondition), stalled, cut). An HTTP status is no failure.
  void Start(HttpRequest request, CancelToken cancel, OnHeaders on_headers, Done done);
  // Runs `task` on the client's thread after `delay`; destroyed without being run when the client
  // is destroyed first.
  void After(std::chrono::milliseconds delay, absl::AnyInvocable<void()> task);

  struct Counters {
    uint64_t requests = 0, connections = 0, bytes_received = 0;
  };
  Counters counters() const;

 private:
  class Impl;
  explicit HttpClient(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace imagefs
