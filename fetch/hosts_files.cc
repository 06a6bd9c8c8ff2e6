// SPDX-License-Identifier: Apache-2.0
#include "fetch/hosts_files.h"

#include <algorithm>
#include <cstdint>
#include <set>
#include <tuple>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "base/status.h"
#include "base/text.h"
#include "base/toml.h"
#include "fetch/go_duration.h"

namespace imagefs {
namespace {

constexpr size_t kMaxHosts = 64;
constexpr size_t kMaxHeaders = 64;
constexpr size_t kMaxLists = 64;
constexpr size_t kMaxLocationBytes = 1024;

absl::Status At(const std::string& path, const toml::node& node, std::string_view what) {
  return absl::InvalidArgumentError(StrCat(path, ":", node.source().begin.line, ": ", what));
}

// A host name, IPv4 address or bracketed IPv6 address.
bool IsHostName(std::string_view name) {
  if (name.starts_with('[')) {
    if (!name.ends_with(']') || name.size() < 4) return false;
    return name.substr(1, name.size() - 2).find_first_not_of("0123456789abcdefABCDEF:.") ==
           name.npos;
  }
  for (const std::string_view label : Split(name, '.')) {
    if (label.empty() || label.starts_with('-')) return false;
    for (const char c : label) {
      if (!absl::ascii_isalnum(c) && c != '-' && c != '_') return false;
    }
  }
  return true;
}

bool IsHostPort(std::string_view host) {
  if (host.size() > 255) return false;
  const size_t colon =
      host.find(':', host.starts_with('[') ? std::min(host.find(']'), host.size()) : 0);
  if (colon != host.npos) {
    const std::optional<uint64_t> port = ParseDecimal(host.substr(colon + 1));
    if (!port || *port < 1 || *port > 65535) return false;
  }
  return IsHostName(host.substr(0, colon));
}

// One table of a file.
class Entry {
 public:
  Entry(const std::string& path, const toml::table& table) : path_(path), table_(table) {}

  const toml::node* Get(std::string_view name) const { return table_.get(name); }
  absl::Status Problem(std::string_view name, std::string_view what) const {
    const toml::node* const node = Get(name);
    return At(path_, node == nullptr ? table_ : *node, StrCat(name, " ", what));
  }

  // Leave `out` as it is if there is no such name.
  absl::Status Text(std::string_view name, std::string& out) const {
    const toml::node* const node = Get(name);
    if (node == nullptr) return absl::OkStatus();
    if (!node->is_string()) return Problem(name, "is a text");
    out = node->as_string()->get();
    if (HasControls(out)) return Problem(name, "contains control characters");
    return absl::OkStatus();
  }

  absl::Status Flag(std::string_view name, bool& out) const {
    const toml::node* const node = Get(name);
    if (node == nullptr) return absl::OkStatus();
    if (!node->is_boolean()) return Problem(name, "is true or false");
    out = node->as_boolean()->get();
    return absl::OkStatus();
  }

  // `one_will_do`: a text may be given for a list of one.
  absl::Status Texts(std::string_view name, bool one_will_do, size_t most,
                     std::vector<std::string>& out) const {
    const toml::node* const node = Get(name);
    if (node == nullptr) return absl::OkStatus();
    if (one_will_do && node->is_string()) {
      IMAGEFS_RETURN_IF_ERROR(Text(name, out.emplace_back()));
      return absl::OkStatus();
    }
    if (!node->is_array()) {
      return Problem(name, one_will_do ? "is a text or a list of texts" : "is a list of texts");
    }
    if (node->as_array()->size() > most) return Problem(name, "has too many entries");
    for (const toml::node& one : *node->as_array()) {
      if (!one.is_string()) return At(path_, one, StrCat(name, " has an entry that is no text"));
      out.push_back(one.as_string()->get());
      if (HasControls(out.back())) {
        return At(path_, one, StrCat(name, " contains control characters"));
      }
    }
    return absl::OkStatus();
  }

 private:
  const std::string& path_;
  const toml::table& table_;
};

// "/a/../b//" -> "/b", as Go's path.Clean. REQUIRES: begins with '/'. "" for "/".
std::string CleanUrlPath(std::string_view path) {
  std::vector<std::string_view> parts;
  for (const std::string_view part : Split(path, '/')) {
    if (part.empty() || part == ".") continue;
    if (part != "..") {
      parts.push_back(part);
    } else if (!parts.empty()) {
      parts.pop_back();
    }
  }
  std::string out;
  for (const std::string_view part : parts) StrAppend(&out, "/", part);
  return out;
}

// Sets scheme, host and root. Returns "" or what is wrong.
std::string SetUrl(std::string_view url, bool override_path, HostsToml::Host& out) {
  std::string_view rest = url;
  if (const size_t end = url.find("://"); end != url.npos) {
    out.scheme = ToLower(url.substr(0, end));
    if (out.scheme != "http" && out.scheme != "https") return "is neither an http nor an https URL";
    rest = url.substr(end + 3);
  }
  if (rest.find_first_of("?#") != rest.npos) return "has a query or fragment";
  const std::string_view authority = rest.substr(0, rest.find('/'));
  if (authority.find('@') != authority.npos) {
    return "has a user name; log in with `imagefs login` instead";
  }
  if (!IsHostPort(authority)) return "is not HOST[:PORT] or a URL with such a host";
  out.host = std::string(authority);
  const std::string_view path = rest.substr(authority.size());
  for (const char c : path) {
    if (!absl::ascii_isalnum(c) && std::string_view("-._~!$&'()*+,;=:@/").find(c) == path.npos) {
      return "has a path with characters other than letters, digits and -._~!$&'()*+,;=:@";
    }
  }
  out.root = CleanUrlPath(path);
  if (!override_path && !out.root.ends_with("/v2")) out.root += "/v2";
  return "";
}

absl::Status ReadCapabilities(const Entry& entry, HostsToml::Host& out) {
  std::vector<std::string> names;
  IMAGEFS_RETURN_IF_ERROR(entry.Texts("capabilities", /*one_will_do=*/false, kMaxLists, names));
  if (names.empty()) return absl::OkStatus();
  out.pull = out.resolve = out.push = false;
  for (const std::string& name : names) {
    const std::string lower = ToLower(name);
    if (lower == "pull") {
      out.pull = true;
    } else if (lower == "resolve") {
      out.resolve = true;
    } else if (lower == "push") {
      out.push = true;
    } else {
      return entry.Problem("capabilities", StrCat("has \"", PrintableName(name),
                                                  "\", which is none of pull, resolve and push"));
    }
  }
  return absl::OkStatus();
}

// A file, a list of files, or a list of pairs of files.
absl::Status ReadClient(const Entry& entry, HostsToml::Host& out) {
  constexpr char kForms[] = "is a file, a list of files, or a list of pairs of files";
  const toml::node* const node = entry.Get("client");
  if (node == nullptr) return absl::OkStatus();
  const auto is_path = [](const toml::node& one) {
    return one.is_string() && !one.as_string()->get().empty() &&
           !HasControls(one.as_string()->get());
  };
  if (is_path(*node)) {
    out.client.emplace_back(node->as_string()->get(), "");
    return absl::OkStatus();
  }
  if (!node->is_array() || node->as_array()->size() > kMaxLists) {
    return entry.Problem("client", kForms);
  }
  for (const toml::node& one : *node->as_array()) {
    const toml::array* const pair = one.as_array();
    if (is_path(one)) {
      out.client.emplace_back(one.as_string()->get(), "");
    } else if (pair != nullptr && pair->size() == 2 && is_path((*pair)[0]) && is_path((*pair)[1])) {
      out.client.emplace_back((*pair)[0].as_string()->get(), (*pair)[1].as_string()->get());
    } else {
      return entry.Problem("client", kForms);
    }
  }
  return absl::OkStatus();
}

// RFC 9110, 5.6.2.
bool IsToken(std::string_view text) {
  for (const char c : text) {
    if (!absl::ascii_isalnum(c) && std::string_view("!#$%&'*+-.^_`|~").find(c) == text.npos) {
      return false;
    }
  }
  return !text.empty();
}

absl::Status ReadHeaders(const std::string& path, const Entry& entry, HostsToml::Host& out) {
  const toml::node* const node = entry.Get("header");
  if (node == nullptr) return absl::OkStatus();
  if (!node->is_table()) return entry.Problem("header", "is a table of names and values");
  const Entry headers(path, *node->as_table());
  for (const auto& [key, value] : *node->as_table()) {
    const std::string_view name = key.str();
    if (!IsToken(name)) {
      return At(path, value,
                StrCat("\"", PrintableName(name), "\" cannot be the name of a header"));
    }
    std::vector<std::string> values;
    IMAGEFS_RETURN_IF_ERROR(headers.Texts(name, /*one_will_do=*/true, kMaxHeaders, values));
    // Go's client does not send these, since they belong to the connection.
    const std::string lower = ToLower(name);
    if (lower == "host" || lower == "content-length" || lower == "transfer-encoding" ||
        lower == "trailer") {
      continue;
    }
    for (std::string& one : values) out.headers.emplace_back(name, std::move(one));
    if (out.headers.size() > kMaxHeaders) return entry.Problem("header", "has too many entries");
  }
  return absl::OkStatus();
}

// What is the same for `server` and for an entry of `host`. `url` is the text that names the host.
absl::Status ReadHost(const std::string& path, const toml::table& table, std::string_view name,
                      std::string_view url, HostsToml::Host& out) {
  const Entry entry(path, table);
  bool override_path = false;
  IMAGEFS_RETURN_IF_ERROR(entry.Flag("override_path", override_path));
  out.root = "/v2";
  if (!url.empty() || name != "server") {
    if (const std::string problem = SetUrl(url, override_path, out); !problem.empty()) {
      return At(path, name == "server" ? *entry.Get(name) : table,
                StrCat(name, " \"", PrintableName(url), "\" ", problem));
    }
  }
  IMAGEFS_RETURN_IF_ERROR(ReadCapabilities(entry, out));
  IMAGEFS_RETURN_IF_ERROR(entry.Flag("skip_verify", out.skip_verify));
  IMAGEFS_RETURN_IF_ERROR(entry.Texts("ca", /*one_will_do=*/true, kMaxLists, out.ca));
  for (const std::string& file : out.ca) {
    if (file.empty()) return entry.Problem("ca", "names no file");
  }
  IMAGEFS_RETURN_IF_ERROR(ReadClient(entry, out));
  IMAGEFS_RETURN_IF_ERROR(ReadHeaders(path, entry, out));
  std::string timeout = "0";
  IMAGEFS_RETURN_IF_ERROR(entry.Text("dial_timeout", timeout));
  const std::optional<std::chrono::milliseconds> parsed = ParseGoDuration(timeout);
  if (!parsed) return entry.Problem("dial_timeout", "is a duration like \"5s\" or \"500ms\"");
  if (parsed->count() > 0) out.dial_timeout = *parsed;
  return absl::OkStatus();
}

// Version 1 of registries.conf has [registries.search], [registries.insecure] and
// [registries.block], each with a list `registries`.
bool IsVersion1(const toml::table& table) {
  const toml::node* const node = table.get("registries");
  if (node == nullptr || !node->is_table()) return false;
  for (const auto& [name, section] : *node->as_table()) {
    if (!section.is_table()) continue;
    const toml::node* const list = section.as_table()->get("registries");
    if (list != nullptr && list->is_array() && !list->as_array()->empty()) return true;
  }
  return false;
}

bool ConsumeWildcard(std::string& text) {
  if (!text.starts_with("*.")) return false;
  text.erase(0, 2);
  return true;
}

// Removes slashes at the end. Returns "" or what is wrong.
std::string CheckLocation(std::string& text) {
  if (text.find("://") != text.npos) return "has a scheme; write HOST[:PORT][/PATH]";
  text.erase(text.find_last_not_of('/') + 1);
  if (text.size() > kMaxLocationBytes) return "is too long";
  if (!IsHostPort(text.substr(0, text.find('/')))) return "does not begin with HOST[:PORT]";
  for (const char c : text.substr(std::min(text.find('/'), text.size()))) {
    if (!absl::ascii_isalnum(c) && std::string_view("/._-:@").find(c) == std::string_view::npos) {
      return "has a path that no repository has";
    }
  }
  return text.find("//") == text.npos ? "" : "has a path that no repository has";
}

absl::Status ReadLocation(const Entry& entry, std::string_view name, std::string& out) {
  IMAGEFS_RETURN_IF_ERROR(entry.Text(name, out));
  if (out.empty()) return absl::OkStatus();
  std::string checked = out;
  const bool wildcard = name == "prefix" && ConsumeWildcard(checked);
  std::string problem = CheckLocation(checked);
  if (problem.empty() && wildcard && checked.find_first_of("/@:") != checked.npos) {
    problem = "is a wildcard with more than a domain; write it like \"*.example.com\"";
  }
  if (!problem.empty()) {
    return entry.Problem(name, StrCat("\"", PrintableName(out), "\" ", problem));
  }
  out = StrCat(wildcard ? "*." : "", checked);
  return absl::OkStatus();
}

absl::StatusOr<RegistriesConf::Mirror> ReadMirror(const Entry& entry, bool digests_only) {
  RegistriesConf::Mirror out;
  IMAGEFS_RETURN_IF_ERROR(ReadLocation(entry, "location", out.location));
  if (out.location.empty()) return entry.Problem("location", "is missing in a mirror");
  IMAGEFS_RETURN_IF_ERROR(entry.Flag("insecure", out.insecure));
  std::string use;
  IMAGEFS_RETURN_IF_ERROR(entry.Text("pull-from-mirror", use));
  if (digests_only && !use.empty()) {
    return entry.Problem("pull-from-mirror",
                         "contradicts mirror-by-digest-only of the registry; set one of them");
  }
  if (!use.empty() && use != "all" && use != "digest-only" && use != "tag-only") {
    return entry.Problem("pull-from-mirror", "is \"all\", \"digest-only\" or \"tag-only\"");
  }
  out.tags = !digests_only && use != "digest-only";
  out.digests = use != "tag-only";
  return out;
}

absl::StatusOr<RegistriesConf::Registry> ReadRegistry(const std::string& path,
                                                      const toml::table& table) {
  const Entry entry(path, table);
  RegistriesConf::Registry out;
  out.origin = StrCat(path, ":", table.source().begin.line);
  IMAGEFS_RETURN_IF_ERROR(ReadLocation(entry, "prefix", out.prefix));
  IMAGEFS_RETURN_IF_ERROR(ReadLocation(entry, "location", out.location));
  if (out.prefix.empty()) out.prefix = out.location;
  if (out.prefix.empty()) return entry.Problem("location", "is missing, and prefix, too");
  if (out.location.empty() && !out.prefix.starts_with("*.")) {
    return entry.Problem("location", "is missing: only a prefix like \"*.example.com\" has none");
  }
  IMAGEFS_RETURN_IF_ERROR(entry.Flag("insecure", out.insecure));
  IMAGEFS_RETURN_IF_ERROR(entry.Flag("blocked", out.blocked));
  bool digests_only = false;
  IMAGEFS_RETURN_IF_ERROR(entry.Flag("mirror-by-digest-only", digests_only));
  std::string use;
  IMAGEFS_RETURN_IF_ERROR(entry.Text("pull-from-mirror", use));
  if (!use.empty()) return entry.Problem("pull-from-mirror", "is a setting of mirrors");
  const toml::node* const mirrors = entry.Get("mirror");
  if (mirrors == nullptr) return out;
  if (!mirrors->is_array()) return entry.Problem("mirror", "is written [[registry.mirror]]");
  if (mirrors->as_array()->size() > kMaxHosts)
    return entry.Problem("mirror", "has too many entries");
  for (const toml::node& one : *mirrors->as_array()) {
    if (!one.is_table()) return At(path, one, "mirror is written [[registry.mirror]]");
    IMAGEFS_ASSIGN_OR_RETURN(out.mirrors.emplace_back(),
                             ReadMirror(Entry(path, *one.as_table()), digests_only));
  }
  return out;
}

struct Seen {
  std::map<std::string, std::pair<bool, bool>> security;  // by location
  std::set<std::string> prefixes;
};

// Two entries for one location must agree about its security, and the first of a prefix counts.
absl::Status AddRegistry(RegistriesConf::Registry registry, RegistriesConf& out, Seen& seen) {
  const std::string& place = registry.location.empty() ? registry.prefix : registry.location;
  const auto security = std::pair(registry.insecure, registry.blocked);
  if (const auto [it, added] = seen.security.emplace(place, security);
      !added && it->second != security) {
    return absl::InvalidArgumentError(
        StrCat(registry.origin, ": ", place,
               " is named twice with different values of `insecure` or `blocked`"));
  }
  if (seen.prefixes.insert(registry.prefix).second) out.registries.push_back(std::move(registry));
  return absl::OkStatus();
}

// Returns whether the text begins with a registry's host.
bool HasHost(std::string_view name) {
  const std::string_view first = name.substr(0, name.find('/'));
  if (first.size() == name.size()) return false;
  return first.find_first_of(".:") != first.npos || first == "localhost";
}

bool IsNameOnly(std::string_view name) {
  if (name.empty() || name.starts_with('/') || name.ends_with('/')) return false;
  for (const char c : name) {
    if (!absl::ascii_isalnum(c) && std::string_view("/._-:[]").find(c) == name.npos) return false;
  }
  return name.find(':', std::min(name.rfind('/'), name.size())) == name.npos;
}

absl::Status ReadAliases(const std::string& path, const toml::node& node, RegistriesConf& out) {
  if (!node.is_table()) return At(path, node, "aliases is a table of names and repositories");
  const Entry entry(path, *node.as_table());
  for (const auto& [key, value] : *node.as_table()) {
    const std::string name(key.str());
    if (!IsNameOnly(name) || HasHost(name) || name.find(':') != name.npos) {
      return At(path, value,
                StrCat("\"", PrintableName(name), "\" is no short name without a tag"));
    }
    std::string repository;
    IMAGEFS_RETURN_IF_ERROR(entry.Text(name, repository));
    if (!repository.empty() && (!IsNameOnly(repository) || !HasHost(repository))) {
      return At(path, value,
                StrCat("\"", PrintableName(repository), "\" is not HOST/REPOSITORY without a tag"));
    }
    out.aliases[name] = repository;
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<HostsToml> ParseHostsToml(std::string_view text, const std::string& path) {
  IMAGEFS_ASSIGN_OR_RETURN(const toml::table table, ParseToml(text, path));
  HostsToml out;
  std::string server;
  IMAGEFS_RETURN_IF_ERROR(Entry(path, table).Text("server", server));
  IMAGEFS_RETURN_IF_ERROR(ReadHost(path, table, "server", server, out.server));
  // The capabilities at the top are those of a named server.
  if (server.empty()) out.server.pull = out.server.resolve = out.server.push = true;
  const toml::node* const node = table.get("host");
  if (node == nullptr) return out;
  if (!node->is_table()) return At(path, *node, "host is written [host.\"https://HOST\"]");
  std::vector<std::tuple<uint64_t, uint64_t, std::string_view, const toml::table*>> hosts;
  for (const auto& [url, settings] : *node->as_table()) {
    if (!settings.is_table()) return At(path, settings, "host is written [host.\"https://HOST\"]");
    const toml::source_position begin = settings.source().begin;
    hosts.emplace_back(begin.line, begin.column, url.str(), settings.as_table());
  }
  if (hosts.size() > kMaxHosts) {
    return absl::InvalidArgumentError(StrCat(path, " has more than ", kMaxHosts, " hosts"));
  }
  std::sort(hosts.begin(), hosts.end());
  for (const auto& [line, column, url, settings] : hosts) {
    IMAGEFS_RETURN_IF_ERROR(ReadHost(path, *settings, "host", url, out.hosts.emplace_back()));
  }
  return out;
}

absl::StatusOr<RegistriesConf> ParseRegistriesConf(std::string_view text, const std::string& path) {
  IMAGEFS_ASSIGN_OR_RETURN(const toml::table table, ParseToml(text, path));
  if (IsVersion1(table)) {
    return At(path, *table.get("registries"),
              "[registries] is of version 1 of the format; write unqualified-search-registries and "
              "[[registry]] with `location` and `insecure` or `blocked` instead "
              "(containers-registries.conf(5))");
  }
  RegistriesConf out;
  if (const toml::node* const node = table.get("registry"); node != nullptr) {
    if (!node->is_array()) return At(path, *node, "registry is written [[registry]]");
    Seen seen;
    for (const toml::node& one : *node->as_array()) {
      if (!one.is_table()) return At(path, one, "registry is written [[registry]]");
      IMAGEFS_ASSIGN_OR_RETURN(RegistriesConf::Registry registry,
                               ReadRegistry(path, *one.as_table()));
      IMAGEFS_RETURN_IF_ERROR(AddRegistry(std::move(registry), out, seen));
    }
  }
  if (const toml::node* const node = table.get("aliases"); node != nullptr) {
    IMAGEFS_RETURN_IF_ERROR(ReadAliases(path, *node, out));
  }
  constexpr char kSearch[] = "unqualified-search-registries";
  const Entry entry(path, table);
  if (entry.Get(kSearch) == nullptr) return out;
  out.search_registries.emplace();
  IMAGEFS_RETURN_IF_ERROR(
      entry.Texts(kSearch, /*one_will_do=*/false, kMaxHosts, *out.search_registries));
  for (std::string& host : *out.search_registries) {
    std::string problem = CheckLocation(host);
    if (problem.empty() && host.find('/') != host.npos) problem = "is more than HOST[:PORT]";
    if (!problem.empty()) {
      return entry.Problem(kSearch, StrCat("has \"", PrintableName(host), "\", which ", problem));
    }
  }
  return out;
}

void MergeRegistriesConf(RegistriesConf over, RegistriesConf& base) {
  std::map<std::string, size_t> places;
  for (size_t i = 0; i < base.registries.size(); ++i) places.emplace(base.registries[i].prefix, i);
  for (RegistriesConf::Registry& registry : over.registries) {
    if (const auto same = places.find(registry.prefix); same != places.end()) {
      base.registries[same->second] = std::move(registry);
    } else {
      base.registries.push_back(std::move(registry));
    }
  }
  for (auto& [name, repository] : over.aliases) base.aliases[name] = std::move(repository);
  if (over.search_registries) base.search_registries = std::move(over.search_registries);
}

size_t MatchPrefix(std::string_view name, std::string_view prefix) {
  constexpr size_t kNone = std::string_view::npos;
  if (ConsumePrefix(&prefix, "*.")) {
    std::string_view host = name.substr(0, name.find_first_of("/@"));
    if (!host.starts_with('[')) host = host.substr(0, host.find(':'));
    if (host.size() <= prefix.size() + 1 || !host.ends_with(prefix)) return kNone;
    return host[host.size() - prefix.size() - 1] == '.' ? host.size() : kNone;
  }
  if (prefix.empty() || !name.starts_with(prefix)) return kNone;
  if (name.size() == prefix.size()) return prefix.size();
  const char next = name[prefix.size()];
  // After a host, ':' is another port.
  const bool ends = next == '/' || next == '@' || (next == ':' && prefix.find('/') != prefix.npos);
  return ends ? prefix.size() : kNone;
}

const RegistriesConf::Registry* FindRegistry(const RegistriesConf& conf, std::string_view name) {
  const RegistriesConf::Registry* best = nullptr;
  for (const RegistriesConf::Registry& registry : conf.registries) {
    if (MatchPrefix(name, registry.prefix) == std::string_view::npos) continue;
    if (best == nullptr || registry.prefix.size() > best->prefix.size()) best = &registry;
  }
  return best;
}

}  // namespace imagefs
