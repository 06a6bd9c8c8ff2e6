// SPDX-License-Identifier: Apache-2.0
#include "fetch/proxy_choice.h"

#include <cstdlib>
#include <initializer_list>
#include <optional>
#include <string_view>

#include "base/text.h"
#include "fetch/ip_address.h"

namespace imagefs {
namespace {

ProxySettings::Proxy FirstOf(std::initializer_list<const char*> names) {
  for (const char* name : names) {
    const char* const value = std::getenv(name);
    if (value != nullptr && *value != 0) return {value, name};
  }
  return {};
}

bool Matches(std::string_view exception, std::string_view host,
             const std::optional<IpAddress>& address) {
  if (exception == "*") return true;
  if (address) {
    const std::optional<IpPrefix> prefix = IpPrefix::Parse(
        exception.starts_with('[') ? exception.substr(1, exception.find(']') - 1) : exception);
    return prefix && prefix->Contains(*address);
  }
  while (exception.starts_with('.')) exception.remove_prefix(1);
  if (exception.ends_with('.')) exception.remove_suffix(1);
  if (exception.empty() || !host.ends_with(exception)) return false;
  return host.size() == exception.size() || host[host.size() - exception.size() - 1] == '.';
}

}  // namespace

ProxySettings ProxySettings::FromEnvironment() {
  return {FirstOf({"http_proxy", "all_proxy", "ALL_PROXY"}),
          FirstOf({"https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"}),
          FirstOf({"no_proxy", "NO_PROXY"}).url};
}

std::string ProxySettings::Proxy::Name() const {
  std::string_view host = url;
  if (const size_t scheme = host.find("://"); scheme != std::string_view::npos) {
    host.remove_prefix(scheme + 3);
  }
  host = host.substr(0, host.find('/'));
  if (const size_t user = host.rfind('@'); user != std::string_view::npos) {
    host.remove_prefix(user + 1);
  }
  return StrCat("the proxy ", Printable(host), " (from ", variable, ")");
}

ProxySettings::Proxy ProxySettings::For(const Url& url) const {
  const Proxy& proxy = url.scheme == "https" ? https : http;
  if (proxy.none()) return proxy;
  std::string_view host = url.host;
  if (host.ends_with('.')) host.remove_suffix(1);
  const std::optional<IpAddress> address = IpAddress::Parse(host);
  constexpr std::string_view kSeparators = ", \t";
  const std::string lower = ToLower(exceptions);
  std::string_view rest = lower;
  while (!rest.empty()) {
    const size_t end = rest.find_first_of(kSeparators);
    const std::string_view one = rest.substr(0, end);
    if (!one.empty() && Matches(one, host, address)) return {};
    rest.remove_prefix(end == std::string_view::npos ? rest.size() : end + 1);
  }
  return proxy;
}

}  // namespace imagefs
