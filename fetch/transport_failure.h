// SPDX-License-Identifier: Apache-2.0
// Explains why a request got no response, and whether the host or the proxy is to blame. Pure
// functions.
#pragma once

#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "fetch/proxy_choice.h"
#include "fetch/url.h"

namespace imagefs {

// The kind of transport failure that a status of HttpClient represents; kNone for any other status.
enum class TransportFailure {
  kNone,
  kUnknownHost,
  kRefused,
  kUnreachable,
  kUntrusted,  // the certificate
  kNotTls,     // the peer does not speak TLS
  kStalled,
  kCut,
  kTooSlow,      // bytes arrived, but more slowly than over any working link
  kGaveWay,      // cut in favor of others: to be sent again, not a failed attempt
  kOutOfReach,   // an address to which the registry may not lead
  kProxyRefuses  // it requires credentials, or refuses to connect
};
TransportFailure TransportFailureOf(const absl::Status& status);
absl::Status MakeTransportFailure(TransportFailure kind, absl::StatusCode code,
                                  const std::string& message);

// A transfer without a response.
struct FailedTransfer {
  enum class At {
    kProxyName,
    kHostName,
    kConnecting,
    kTimeLimit,
    kCertificate,
    kTls,
    kSocks,
    kElse
  };
  At at = At::kElse;
  std::string cause;  // libcurl's message
  int os_error = 0;   // errno of connect; 0 = unknown
  Url url;
  ProxySettings::Proxy proxy;
  int proxy_status = 0;  // HTTP status of its response to CONNECT; 0 = no response, or no CONNECT
};
absl::Status ExplainFailure(const FailedTransfer& failed);

// 407: the proxy requires authentication.
absl::Status ProxyWantsCredentials(const ProxySettings::Proxy& proxy);

}  // namespace imagefs
