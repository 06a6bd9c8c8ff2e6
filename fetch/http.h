// SPDX-License-Identifier: Apache-2.0
// HTTP requests over one libcurl multi handle on one thread: connection reuse, HTTP/2, TLS with the
// system's CAs. No retries, authentication or redirects: fetch/registry_call.h handles those.
//
// Connections are shared according to fetch/connection_shares.h, restricted by
// fetch/address_policy.h, and timed by fetch/transfer_phases.h. Proxies come from the environment.
//
// All methods are thread-safe. Sinks and Done callbacks run on the client's thread and must not
// block on the network. Done runs exactly once per request, with kCancelled after a cancellation.
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
#include "fetch/endpoint_traffic.h"
#include "fetch/ip_address.h"
#include "fetch/proxy_choice.h"
#include "fetch/tls_settings.h"
#include "fetch/transfer_phases.h"
#include "fetch/transport_failure.h"

namespace imagefs {

struct HttpRequest {
  std::string method = "GET";  // GET, HEAD, POST, PUT, PATCH, DELETE
  std::string url;
  std::vector<std::pair<std::string, std::string>> headers;
  // On whose behalf the request is sent: the registry's API as the user named it ("host[:port]"),
  // and the repository. They determine whose share of the connections it uses and where it may go.
  // "" = the URL's own host.
  std::string registry, repository;
  RequestKind kind = RequestKind::kOther;  // for metrics
  Secret authorization;                    // value of the Authorization header; "" = none
  std::string body;                        // POST, PUT, PATCH
  Secret secret_body;                      // replaces `body` if set
  uint64_t max_body_bytes = 4 << 20;  // a buffered body beyond it fails with kResourceExhausted
  // Set if the sink also buffers the body in memory: its maximum size, which determines the time
  // limit.
  std::optional<uint64_t> sink_collects;
  std::shared_ptr<const TlsSettings> tls;        // null = the system's CAs, no certificate
  std::shared_ptr<const ProxySettings> proxies;  // null = those of this process
  PriorityRef priority;  // null = foreground; priority in the queue for a connection
  // For GET and HEAD; other methods are never cut.
  ConnectionShares::Cut cut = ConnectionShares::Cut::kResumes;
  bool own_connection = false;  // do not reuse a connection
  bool hedge = false;           // silent requests of the same source yield (ConnectionShares)
  std::chrono::milliseconds connect_timeout{15'000};
  std::chrono::milliseconds stall_timeout{20'000};  // without any progress
};

struct HttpResponse {
  int status = 0;
  std::multimap<std::string, std::string> headers;  // lower-case names
  std::string body;                                 // empty if a sink received it
  std::string url;                                  // the requested URL
  std::string proxy;                                // its name for messages; "" = none
  // Returns the first value of a header, or "". `name` in lower case.
  std::string Header(std::string_view name) const;
};

class HttpClient {
 public:
  struct Options {
    // PEM bundle of CAs in addition to the system's; "" = none. The system's are libcurl's or, if
    // set, those of the environment's SSL_CERT_FILE and SSL_CERT_DIR.
    std::string ca_file;
    ConnectionShares::Options shares;
    TransferPhases::Limits phases;
    std::vector<IpPrefix> allow;  // where registries may always lead to
    std::string user_agent = "imagefs";
  };
  static absl::StatusOr<std::unique_ptr<HttpClient>> Create(Options options);
  // Completes all requests with kCancelled, then joins the thread.
  ~HttpClient();
  HttpClient(const HttpClient&) = delete;
  HttpClient& operator=(const HttpClient&) = delete;

  // Decides, once the response's headers are known, whether the body goes to a sink (which it
  // returns) or is buffered (null), so that an error body never ends up in a blob.
  using Sink = absl::AnyInvocable<absl::Status(std::string_view data)>;
  using OnHeaders = absl::AnyInvocable<absl::StatusOr<Sink>(const HttpResponse& headers)>;
  using Done = absl::AnyInvocable<void(absl::StatusOr<HttpResponse>)>;

  // Transport failures are kUnavailable with the host, the cause and a remedy (unknown host,
  // refused, stalled, too slow, cut), or kFailedPrecondition for an untrusted certificate, a
  // disallowed address, and a proxy that refuses (fetch/transport_failure.h). An HTTP error status
  // is not a failure.
  void Start(HttpRequest request, CancelToken cancel, OnHeaders on_headers, Done done);
  // Runs `task` on the client's thread after `delay`; destroys it without running it if the client
  // is destroyed first.
  void After(std::chrono::milliseconds delay, absl::AnyInvocable<void()> task);

  struct Counters {
    uint64_t requests = 0, connections = 0, bytes_received = 0;
  };
  Counters counters() const;
  std::vector<EndpointTraffic::Row> traffic() const;

 private:
  class Impl;
  explicit HttpClient(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace imagefs
