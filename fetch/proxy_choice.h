// Which proxy the environment names for a host, by the rules of curl. It is decided here, so that
// fetch/reach.h is asked about the address that is really connected to.
#pragma once

#include <string>

#include "fetch/url.h"

namespace imagefs {

// http_proxy, https_proxy and HTTPS_PROXY by the URL's scheme, else all_proxy and ALL_PROXY; none
// where no_proxy or NO_PROXY holds the host: names, which stand for what is below them as well,
// addresses, ranges like 10.0.0.0/8, or "*". (HTTP_PROXY in capitals is not read: a CGI script gets
// that from its client.)
struct ProxySettings {
  struct Proxy {
    std::string url;       // as the environment has it; "" = none
    std::string variable;  // that names it
    bool none() const { return url.empty(); }
    // "the proxy 127.0.0.1:3128 (from HTTPS_PROXY)", without credentials, for messages.
    std::string Name() const;
  };
  Proxy http, https;
  std::string exceptions;  // separated by commas or blanks

  static ProxySettings FromEnvironment();
  // None: connect directly.
  Proxy For(const Url& url) const;
};

}  // namespace imagefs
