// SPDX-License-Identifier: Apache-2.0
// hosts.toml and registries.conf as anybody may have written them. What is accepted can be sent to
// a registry: no control characters in hosts, paths and headers.
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>

#include "base/text.h"
#include "fetch/hosts_files.h"

namespace {

void CheckHost(const imagefs::HostsToml::Host& host, bool may_be_empty) {
  if (host.host.empty() && !may_be_empty) abort();
  if (host.host.find_first_of("/@?# \r\n") != std::string::npos) abort();
  if (!host.root.empty() && (host.root[0] != '/' || host.root.back() == '/')) abort();
  if (imagefs::HasControls(host.host + host.root)) abort();
  for (const auto& [name, value] : host.headers) {
    if (name.empty() || imagefs::HasControls(name) || imagefs::HasControls(value)) abort();
  }
  for (const std::string& path : host.ca) {
    if (path.empty() || imagefs::HasControls(path)) abort();
  }
}

void CheckError(const absl::Status& status) {
  if (imagefs::HasControls(imagefs::ToStd(status.message()))) abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  if (const auto hosts = imagefs::ParseHostsToml(text, "f"); hosts.ok()) {
    if (hosts->hosts.size() > 64) abort();
    for (const auto& host : hosts->hosts) CheckHost(host, /*may_be_empty=*/false);
    CheckHost(hosts->server, /*may_be_empty=*/true);
  } else {
    CheckError(hosts.status());
  }
  const auto conf = imagefs::ParseRegistriesConf(text, "f");
  if (!conf.ok()) {
    CheckError(conf.status());
    return 0;
  }
  for (const auto& registry : conf->registries) {
    if (registry.prefix.empty() || imagefs::HasControls(registry.prefix + registry.location))
      abort();
    if (registry.prefix.starts_with("*.")) continue;
    // The prefix itself is an image name that it matches.
    if (imagefs::MatchPrefix(registry.prefix, registry.prefix) != registry.prefix.size()) abort();
    if (imagefs::FindRegistry(*conf, registry.prefix) == nullptr) abort();
  }
  imagefs::RegistriesConf merged = *conf;
  imagefs::MergeRegistriesConf(*conf, merged);
  if (merged.registries.size() != conf->registries.size()) abort();
  return 0;
}
