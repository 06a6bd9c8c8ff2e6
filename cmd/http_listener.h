// SPDX-License-Identifier: Apache-2.0
// Answers HTTP requests for the daemon's own pages: GET and HEAD of fixed paths, without
// authentication. One thread serves all connections. A connection carries one request, which must
// be complete and answered within a deadline; connections and the bytes of a request are bounded.
//
// libmicrohttpd parses and writes HTTP. The HTTP server of prometheus-cpp is not used: it cannot
// serve other pages, and civetweb, which it uses, has no unix sockets in Debian 12.
#pragma once

#include <chrono>
#include <cstddef>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "cmd/listen_address.h"

namespace imagefs {

class HttpListener {
 public:
  struct Request {
    std::string host;                              // the Host header; "" = none
    std::map<std::string, std::string> arguments;  // of the query, decoded
  };
  struct Answer {
    int status = 200;
    std::string content_type;
    std::string body;
    std::vector<std::pair<std::string, std::string>> headers;  // further ones
  };
  // By path, without query. Any other path is answered with 404. Handlers run on the listener's
  // thread, and may block on what is local and fast.
  using Handlers = std::map<std::string, std::function<Answer(const Request&)>, std::less<>>;
  struct Options {
    std::chrono::milliseconds deadline{10'000};  // of a connection
    unsigned connections = 16;                   // further ones wait in the kernel's queue
    size_t request_bytes = 16 << 10;             // of the headers of a request, and of the answer's
  };
  // Serves from now on. Fails as ListenSocket::Open does.
  static absl::StatusOr<std::unique_ptr<HttpListener>> Open(const ListenAddress& address,
                                                            Handlers handlers, Options options);
  // Cuts all connections. No handler runs afterwards.
  virtual ~HttpListener() = default;

  // With the port that the kernel chose if it was 0.
  virtual const ListenAddress& address() const = 0;
};

}  // namespace imagefs
