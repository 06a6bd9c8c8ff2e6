// SPDX-License-Identifier: Apache-2.0
#include "fetch/transport_failure.h"

#include <cerrno>
#include <cstring>
#include <optional>
#include <utility>

#include "base/failure.h"
#include "base/text.h"

namespace imagefs {
namespace {

constexpr char kPayload[] = "imagefs/transport-failure";

using At = FailedTransfer::At;
using Kind = TransportFailure;

constexpr char kTrustIt[] =
    "; add its CA to the system's, or start the daemon with it by --ca-file or IMAGEFS_CA_FILE "
    "(imagefs stop first where one runs)";

absl::Status Passing(Kind kind, const std::string& message) {
  return MakeTransportFailure(kind, absl::StatusCode::kUnavailable, message);
}

absl::Status Lasting(Kind kind, const std::string& message) {
  absl::Status status = MakeTransportFailure(kind, absl::StatusCode::kFailedPrecondition, message);
  return kind == Kind::kProxyRefuses ? WithKind(std::move(status), FailureKind::kDenied) : status;
}

std::string_view Because(const FailedTransfer& failed) {
  return failed.os_error != 0 ? std::string_view(std::strerror(failed.os_error))
                              : std::string_view(failed.cause);
}

// The proxy refused to open a tunnel.
absl::Status ExplainTunnel(const FailedTransfer& failed) {
  const std::string proxy = failed.proxy.Name();
  if (failed.proxy_status == 407) return ProxyWantsCredentials(failed.proxy);
  const std::string text = StrCat(proxy, " does not connect to ", failed.url.HostPort(),
                                  " (HTTP status ", failed.proxy_status, "); ");
  if (failed.proxy_status >= 500) {
    return Passing(Kind::kUnreachable,
                   StrCat(text, "check the host's name and the proxy's network"));
  }
  return Lasting(Kind::kProxyRefuses,
                 StrCat(text, "have the proxy allow it, or except the host by NO_PROXY"));
}

// Until a proxy has let anything through, failures are its own.
absl::Status ExplainProxy(const FailedTransfer& failed) {
  const std::string proxy = failed.proxy.Name();
  const std::string check =
      StrCat("; check ", failed.proxy.variable, ", or except ", failed.url.host, " by NO_PROXY");
  switch (failed.at) {
    case At::kProxyName:
      return Passing(Kind::kUnknownHost,
                     StrCat("cannot find ", proxy, ": the name is unknown", check));
    case At::kConnecting:
      if (failed.os_error == ECONNREFUSED) {
        return Passing(Kind::kRefused,
                       StrCat("cannot connect to ", proxy, ": connection refused", check));
      }
      return Passing(Kind::kUnreachable,
                     StrCat("cannot connect to ", proxy, ": ", Because(failed), check));
    case At::kTimeLimit:
      return Passing(Kind::kUnreachable, StrCat(proxy, " does not answer: ", failed.cause, check));
    case At::kSocks:
      return Lasting(Kind::kProxyRefuses, StrCat(proxy, " does not connect to ",
                                                 failed.url.HostPort(), ": ", failed.cause, check));
    case At::kCertificate:
      return Lasting(Kind::kUntrusted, StrCat("the TLS certificate of ", proxy,
                                              " is not trusted: ", failed.cause, kTrustIt));
    default:
      return Passing(Kind::kCut,
                     StrCat("the connection to ", proxy, " was cut: ", failed.cause, check));
  }
}

bool ProxyFailed(const FailedTransfer& failed) {
  if (failed.proxy.none()) return false;
  switch (failed.at) {
    case At::kProxyName:
    case At::kConnecting:
    case At::kSocks:
      return true;
    case At::kHostName:  // to be resolved by the proxy
      return false;
    case At::kCertificate:
    case At::kTls:
      return failed.proxy_status == 0 && failed.proxy.url.starts_with("https://");
    case At::kTimeLimit:
    case At::kElse:
      // The tunnel is not established yet.
      return failed.proxy_status == 0 && failed.url.scheme == "https";
  }
  return false;
}

absl::Status ExplainTls(const FailedTransfer& failed, const std::string& host) {
  const std::string& cause = failed.cause;
  if (failed.at == At::kCertificate) {
    return Lasting(Kind::kUntrusted,
                   StrCat("the TLS certificate of ", host, " is not trusted: ", cause, kTrustIt));
  }
  if ((cause.find("wrong version number") != std::string::npos) ||
      (cause.find("packet length too long") != std::string::npos) ||
      (cause.find("unexpected message") != std::string::npos)) {
    return Lasting(Kind::kNotTls, StrCat(host, " does not speak TLS (", cause,
                                         "); use --plain-http if it is a plain HTTP registry"));
  }
  return Passing(Kind::kCut, StrCat("TLS handshake with ", host, " failed: ", cause,
                                    "; check the network and the proxy settings"));
}

}  // namespace

TransportFailure TransportFailureOf(const absl::Status& status) {
  const auto payload = status.GetPayload(kPayload);
  if (!payload) return TransportFailure::kNone;
  const std::optional<uint64_t> kind = ParseDecimal(std::string(*payload));
  return kind ? static_cast<TransportFailure>(*kind) : TransportFailure::kNone;
}

absl::Status MakeTransportFailure(TransportFailure kind, absl::StatusCode code,
                                  const std::string& message) {
  absl::Status status(code, message);
  status.SetPayload(kPayload, absl::Cord(StrCat(static_cast<int>(kind))));
  return status;
}

absl::Status ProxyWantsCredentials(const ProxySettings::Proxy& proxy) {
  return Lasting(Kind::kProxyRefuses,
                 StrCat(proxy.Name(),
                        " requires a user name and a password (HTTP status 407); give them as "
                        "http://USER:PASSWORD@HOST:PORT in ",
                        proxy.variable));
}

absl::Status ExplainFailure(const FailedTransfer& failed) {
  if (failed.proxy_status != 0 && failed.proxy_status / 100 != 2) return ExplainTunnel(failed);
  if (ProxyFailed(failed)) return ExplainProxy(failed);
  const std::string host =
      failed.proxy.none() ? failed.url.HostPort()
                          : StrCat(failed.url.HostPort(), ", through ", failed.proxy.Name(), ",");
  switch (failed.at) {
    case At::kCertificate:
    case At::kTls:
      return ExplainTls(failed, host);
    case At::kHostName:
      return Passing(Kind::kUnknownHost,
                     StrCat("cannot find host ", failed.url.host,
                            ": the name is unknown; check its spelling, DNS and the network"));
    case At::kConnecting:
      if (failed.os_error == ECONNREFUSED) {
        return Passing(Kind::kRefused, StrCat("cannot connect to ", host,
                                              ": connection refused; check that the registry runs "
                                              "there and that the port is right"));
      }
      return Passing(Kind::kUnreachable, StrCat("cannot connect to ", host, ": ", Because(failed),
                                                "; check the network and the firewall"));
    case At::kTimeLimit:
      if (failed.cause.starts_with("Resolving")) {
        return Passing(Kind::kUnknownHost,
                       StrCat("cannot find host ", failed.url.host,
                              ": the name servers do not answer; check DNS and the network"));
      }
      return Passing(Kind::kUnreachable, StrCat("cannot connect to ", host, ": ", failed.cause,
                                                "; check the network and the firewall"));
    default:
      return Passing(Kind::kCut, StrCat("the connection to ", host, " was cut: ", failed.cause,
                                        "; check the network and the registry"));
  }
}

}  // namespace imagefs
