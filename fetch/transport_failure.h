// Why a request had no answer, in words that name who is to blame: the host, or the proxy on the
// way to it. Pure functions.
#pragma once

#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "fetch/proxy_choice.h"
#include "fetch/url.h"

namespace imagefs {

// What kind of transport failure a status of HttpClient stands for; kNone for any other status.
enum class TransportFailure {
  kNone,
  kUnknownHost,
  kRefused,
  kUnreachable,
  kUntrusted,  // the certificate
  kNotTls,     // the other side does not speak TLS
  kStalled,
  kCut,
  kTooSlow,      // bytes came, and fewer than any working line transfers
  kGaveWay,      // cut because others waited: to be asked again, which is no failed attempt
  kOutOfReach,   // a place where the registry may not lead to
  kProxyRefuses  // it wants credentials, or does not connect there
};
TransportFailure TransportFailureOf(const absl::Status& status);
absl::Status MakeTransportFailure(TransportFailure kind, absl::StatusCode code,
                                  const std::string& message);

// A transfer that came to no answer.
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
  std::string cause;  // as libcurl says it
  int os_error = 0;   // of connecting; 0 = unknown
  Url url;
  ProxySettings::Proxy proxy;
  int proxy_status = 0;  // of HTTP, to CONNECT; 0 = it has not answered, or was not asked that
};
absl::Status ExplainFailure(const FailedTransfer& failed);

// 407: the proxy wants to know who asks.
absl::Status ProxyWantsCredentials(const ProxySettings::Proxy& proxy);

}  // namespace imagefs
