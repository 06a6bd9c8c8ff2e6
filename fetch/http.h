// HTTP requests over one libcurl multi handle on one thread: connection reuse, HTTP/2, TLS with the
// system's CAs. No retries, no authentication, no redirects: fetch/registry.h decides on those.
//
// Connections are shared by the rules of fetch/connection_shares.h, go where fetch/reach.h permits,
// and last as long as fetch/transfer_phases.h says. Proxies are those of the environment.
//
// All methods are thread-safe. Sinks and Done callbacks run on the client's thread and must not
// block on the network; Done runs exactly once per request, with kCancelled after a cancellation.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/functional/any_invocable.h"
#include "absl/status/statusor.h"
#include "base/cancel.h"
#include "base/executor.h"
#include "base/secret.h"
#include "fetch/connection_shares.h"
#include "fetch/ip_address.h"
#include "fetch/transfer_phases.h"
#include "fetch/transport_failure.h"

namespace imagefs {

struct HttpRequest {
  std::string method = "GET";  // GET, HEAD, POST, PUT, PATCH, DELETE
  std::string url;
  std::vector<std::pair<std::string, std::string>> headers;
  // On whose account it is sent: the registry's API as the user named it ("host[:port]"), and the
  // repository there. They say whose share of the connections is used and where the request may
  // go. "" = the URL's own host.
  std::string registry, repository;
  Secret authorization;               // the value of that header; "" = none
  std::string body;                   // POST, PUT, PATCH
  Secret secret_body;                 // in place of `body` when there is one
  uint64_t max_body_bytes = 4 << 20;  // collected bodies beyond it fail with kResourceExhausted
  // A sink collects the body in memory as well: not more than this, in a time by that size.
  std::optional<uint64_t> sink_collects;
  bool verify_tls = true;
  PriorityRef priority;  // null = foreground; order of waiting for a connection
  // Of GET and HEAD; others are never cut.
  ConnectionShares::Cut cut = ConnectionShares::Cut::kResumes;
  bool own_connection = false;  // none that is there already
  bool hedge = false;           // silent ones of the same source give way (ConnectionShares)
  std::chrono::milliseconds connect_timeout{15'000};
  std::chrono::milliseconds stall_timeout{20'000};  // no byte moved for so long
};

struct HttpResponse {
  int status = 0;
  std::multimap<std::string, std::string> headers;  // names in lower case
  std::string body;                                 // empty when a sink took it
  std::string url;                                  // that was asked
  std::string proxy;  // that it came through, by its name for messages; "" = none
  // First value of a header, "" when absent. `name` in lower case.
  std::string Header(std::string_view name) const;
};

class HttpClient {
 public:
  struct Options {
    // Beside the system's CAs: PEM bundle, "" = none. The system's are those of libcurl or, where
    // set, of the environment's SSL_CERT_FILE and SSL_CERT_DIR.
    std::string ca_file;
    ConnectionShares::Options shares;
    TransferPhases::Limits phases;
    std::vector<IpPrefix> allow;  // where registries may lead to in any case
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
  // stalled, too slow, cut); kFailedPrecondition for a certificate that is not trusted, for what is
  // out of reach, and for a proxy that refuses (fetch/transport_failure.h). An HTTP status of the
  // host is no failure.
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
