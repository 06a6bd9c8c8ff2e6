// SPDX-License-Identifier: Apache-2.0
#include "fetch/transport_failure.h"

#include <gtest/gtest.h>

#include <cerrno>

#include "base/status.h"
#include "base/text.h"

namespace imagefs {
namespace {

using At = FailedTransfer::At;

FailedTransfer Through(At at, const std::string& proxy, int os_error = 0, int proxy_status = 0,
                       const std::string& url = "https://registry.example/v2/") {
  return {at, "what curl says", os_error, *Url::Parse(url), {proxy, "HTTPS_PROXY"}, proxy_status};
}

TEST(TransportFailureTest, TheProxyIsToBlameForItself) {
  const std::string named = "the proxy 127.0.0.1:3128 (from HTTPS_PROXY)";
  for (const char* url : {"https://registry.example/v2/", "http://registry.example/v2/"}) {
    for (const FailedTransfer& failed :
         {Through(At::kConnecting, "http://u:s3cret@127.0.0.1:3128", ECONNREFUSED, 0, url),
          Through(At::kConnecting, "127.0.0.1:3128", EHOSTUNREACH, 0, url),
          Through(At::kProxyName, "127.0.0.1:3128", 0, 0, url),
          Through(At::kSocks, "socks5://127.0.0.1:3128", 0, 0, url),
          Through(At::kElse, "127.0.0.1:3128", 0, 407, url),
          Through(At::kElse, "127.0.0.1:3128", 0, 403, url),
          Through(At::kElse, "127.0.0.1:3128", 0, 502, url)}) {
      const std::string text(ExplainFailure(failed).message());
      EXPECT_NE(text.find(named), std::string::npos) << text;
      EXPECT_EQ(text.find("s3cret"), std::string::npos) << text;
      EXPECT_EQ(text.find("check that the registry runs"), std::string::npos) << text;
    }
  }
  EXPECT_EQ(ExplainFailure(Through(At::kConnecting, "127.0.0.1:3128", ECONNREFUSED)).message(),
            "cannot connect to the proxy 127.0.0.1:3128 (from HTTPS_PROXY): connection refused; "
            "check HTTPS_PROXY, or except registry.example by NO_PROXY");
}

TEST(TransportFailureTest, WhatMayPassIsTriedAgain) {
  using Kind = TransportFailure;
  const auto kind = [](const FailedTransfer& failed) {
    const absl::Status status = ExplainFailure(failed);
    EXPECT_EQ(IsRetriable(status), !absl::IsFailedPrecondition(status));
    return TransportFailureOf(status);
  };
  EXPECT_EQ(kind(Through(At::kElse, "p:1", 0, 407)), Kind::kProxyRefuses);
  EXPECT_EQ(kind(Through(At::kElse, "p:1", 0, 403)), Kind::kProxyRefuses);
  EXPECT_EQ(kind(Through(At::kElse, "p:1", 0, 503)), Kind::kUnreachable);
  EXPECT_EQ(kind(Through(At::kTimeLimit, "p:1")), Kind::kUnreachable);
  EXPECT_EQ(kind(Through(At::kConnecting, "p:1", ECONNREFUSED)), Kind::kRefused);
  EXPECT_EQ(kind(Through(At::kCertificate, "https://p:1")), Kind::kUntrusted);
  EXPECT_EQ(kind(Through(At::kConnecting, "", ECONNREFUSED)), Kind::kRefused);
  EXPECT_EQ(kind(Through(At::kHostName, "")), Kind::kUnknownHost);
  EXPECT_EQ(kind(Through(At::kElse, "")), Kind::kCut);
}

TEST(TransportFailureTest, BehindATunnelTheHostIsToBlame) {
  const std::string text(ExplainFailure(Through(At::kCertificate, "p:1", 0, 200)).message());
  EXPECT_NE(text.find("the TLS certificate of registry.example, through the proxy p:1"),
            std::string::npos)
      << text;
  EXPECT_NE(ExplainFailure(Through(At::kElse, "p:1", 0, 200))
                .message()
                .find("the connection to registry.example"),
            absl::string_view::npos);
}

}  // namespace
}  // namespace imagefs
