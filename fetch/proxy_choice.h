// SPDX-License-Identifier: Apache-2.0
// Chooses a host's proxy from the environment, by curl's rules. Done here rather than in curl so
// that fetch/address_policy.h can check the address that is actually connected to.
#pragma once

#include <string>

#include "fetch/url.h"

namespace imagefs {

// http_proxy, https_proxy and HTTPS_PROXY by the URL's scheme, else all_proxy and ALL_PROXY; none
// if no_proxy or NO_PROXY contains the host: names, which include their subdomains, addresses,
// ranges like 10.0.0.0/8, or "*". (HTTP_PROXY in capitals is ignored: a CGI script would get it
// from its client.)
struct ProxySettings {
  struct Proxy {
    std::string url;       // verbatim; "" = none
    std::string variable;  // the variable that names it
    bool none() const { return url.empty(); }
    // For messages, without credentials: "the proxy 127.0.0.1:3128 (from HTTPS_PROXY)".
    std::string Name() const;
  };
  Proxy http, https;
  std::string exceptions;  // separated by commas or blanks

  static ProxySettings FromEnvironment();
  // Returns none() for a direct connection.
  Proxy For(const Url& url) const;
};

}  // namespace imagefs
