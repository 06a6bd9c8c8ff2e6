// SPDX-License-Identifier: Apache-2.0
// The formats of containerd's hosts.toml and containers' registries.conf. Pure functions: they read
// no files. The .cc is a user of toml++.
#pragma once

#include <chrono>
#include <cstddef>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"

namespace imagefs {

// hosts.toml, as containerd 1.6 to 2.x reads it (core/remotes/docker/config/hosts.go there).
struct HostsToml {
  struct Host {
    std::string scheme;  // "http", "https", or "" = by the kind of host
    std::string host;    // "HOST[:PORT]"; "" in `server` = the registry's own
    std::string root;    // "/v2" unless overridden, without a trailing slash
    bool pull = true, resolve = true, push = true;
    bool skip_verify = false;
    std::vector<std::string> ca;                              // paths as written
    std::vector<std::pair<std::string, std::string>> client;  // (certificate, key); key "" = in it
    std::vector<std::pair<std::string, std::string>> headers;
    std::optional<std::chrono::milliseconds> dial_timeout;
  };
  std::vector<Host> hosts;  // in the order of the file
  Host server;              // the last to be asked, with the settings at the top of the file
};
// Errors name `path` and the line. Unknown keys are ignored, as containerd does.
absl::StatusOr<HostsToml> ParseHostsToml(std::string_view text, const std::string& path);

// registries.conf, version 2.
struct RegistriesConf {
  struct Mirror {
    std::string location;  // "HOST[:PORT][/PATH]"
    bool insecure = false;
    bool tags = true, digests = true;  // pull-from-mirror, mirror-by-digest-only
  };
  struct Registry {
    std::string prefix;    // "HOST[:PORT][/PATH...]" or "*.HOST"
    std::string location;  // replaces the prefix; "" = nothing does, for "*.HOST" only
    bool insecure = false, blocked = false;
    std::vector<Mirror> mirrors;
    std::string origin;  // "FILE:LINE", for messages
  };
  std::vector<Registry> registries;
  std::map<std::string, std::string> aliases;  // short name -> repository; "" = unset again
  std::optional<std::vector<std::string>> search_registries;  // unqualified-search-registries
};
// Errors name `path` and the line. Version 1 of the format is an error that says so.
absl::StatusOr<RegistriesConf> ParseRegistriesConf(std::string_view text, const std::string& path);
// Adds what `over` sets: registries by prefix replace those of `base`.
void MergeRegistriesConf(RegistriesConf over, RegistriesConf& base);
// Returns how many bytes of "HOST/REPOSITORY[:TAG][@DIGEST]" a registry's prefix matches, or npos
// if it does not match. A host without a port does not match one with a port, except for "*.HOST".
size_t MatchPrefix(std::string_view name, std::string_view prefix);
// Returns the registry with the longest prefix that matches, or null.
const RegistriesConf::Registry* FindRegistry(const RegistriesConf& conf, std::string_view name);

}  // namespace imagefs
