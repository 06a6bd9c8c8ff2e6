// SPDX-License-Identifier: Apache-2.0
#include "cmd/config.h"

#include <unistd.h>

#include <functional>
#include <map>
#include <optional>
#include <utility>

#include "absl/types/span.h"
#include "base/failure.h"
#include "base/fd.h"
#include "base/machine_user.h"
#include "base/status.h"
#include "base/text.h"
#include "base/toml.h"
#include "base/units.h"
#include "cmd/options.h"
#include "image/reference.h"

namespace imagefs {
namespace {

constexpr uint64_t kMaxConfigFile = 1 << 20;
constexpr uint64_t kMaxKeyFile = 4 << 10;
constexpr uint64_t kMaxLeastRate = 1 << 20;
constexpr uint64_t kMaxProcessors = 4096;
constexpr absl::Duration kLongest = absl::Seconds(1'000'000);  // same as --deadline

absl::Status At(const std::string& path, const toml::node& node, std::string_view name,
                std::string_view what) {
  return absl::InvalidArgumentError(
      StrCat(path, ":", node.source().begin.line, ": ", name, " ", what));
}

// Stores a value. Returns "" or why the value is invalid.
using Setter = std::function<std::string(const toml::node&)>;

Setter Bool(bool& out) {
  return [&out](const toml::node& node) -> std::string {
    if (!node.is_boolean()) return "must be true or false";
    out = **node.as_boolean();
    return "";
  };
}

Setter Duration(absl::Duration& out) {
  return [&out](const toml::node& node) -> std::string {
    const auto* const text = node.as_string();
    absl::Duration value;
    if (text == nullptr || !absl::ParseDuration(text->get(), &value) ||
        value <= absl::ZeroDuration() || value > kLongest) {
      return "must be a duration like \"5s\" or \"2m\", of at most 1000000s";
    }
    out = value;
    return "";
  };
}

// Accepts "off" as a duration of zero.
Setter OrOff(absl::Duration& out) {
  return [&out](const toml::node& node) -> std::string {
    const auto* const text = node.as_string();
    if (text == nullptr || text->get() != "off") return Duration(out)(node);
    out = absl::ZeroDuration();
    return "";
  };
}

Setter AbsolutePath(std::string& out) {
  return [&out](const toml::node& node) -> std::string {
    const auto* const text = node.as_string();
    if (text == nullptr || !text->get().starts_with('/')) return "must be an absolute path";
    out = text->get();
    return "";
  };
}

Setter Repository(std::string& out) {
  return [&out](const toml::node& node) -> std::string {
    const auto* const text = node.as_string();
    if (text == nullptr) return "must be a repository like \"registry.example/indexes\"";
    const absl::StatusOr<Reference> parsed = Reference::Parse(text->get());
    if (!parsed.ok()) return std::string(parsed.status().message());
    out = text->get();
    return "";
  };
}

// Accepts "", which is the default and means "none".
Setter OrNone(std::string& out, Setter setter) {
  return [&out, setter = std::move(setter)](const toml::node& node) -> std::string {
    const auto* const text = node.as_string();
    if (text == nullptr || !text->get().empty()) return setter(node);
    out.clear();
    return "";
  };
}

template <typename T>
Setter OrUnset(std::optional<T>& out, Setter setter) {
  return [&out, setter = std::move(setter)](const toml::node& node) -> std::string {
    const auto* const text = node.as_string();
    if (text == nullptr || !text->get().empty()) return setter(node);
    out.reset();
    return "";
  };
}

Setter Repositories(std::vector<std::string>& out) {
  return [&out](const toml::node& node) -> std::string {
    if (!node.is_array()) return "must be a list of repositories";
    out.clear();
    for (const toml::node& one : *node.as_array()) {
      std::string text;
      if (std::string problem = Repository(text)(one); !problem.empty()) return problem;
      out.push_back(std::move(text));
    }
    return "";
  };
}

// Minisign public keys, or absolute paths of .pub files.
Setter Keys(IndexKeys& out) {
  return [&out](const toml::node& node) -> std::string {
    if (!node.is_array()) return "must be a list of public keys of minisign or files of such";
    std::vector<std::string> texts;
    for (const toml::node& one : *node.as_array()) {
      const auto* const entry = one.as_string();
      if (entry == nullptr) return "must be a list of public keys of minisign or files of such";
      absl::StatusOr<std::string> text = entry->get();
      const bool is_file = entry->get().starts_with('/');
      if (is_file) text = ReadFile(entry->get(), kMaxKeyFile);
      if (!text.ok()) return StrCat("names a file: ", ToStd(text.status().message()));
      const absl::Status status = IndexKeys::Parse({*text}).status();
      if (!status.ok()) {
        return StrCat("has an invalid entry: ", is_file ? StrCat(entry->get(), ": ") : "",
                      ToStd(status.message()));
      }
      texts.push_back(*std::move(text));
    }
    out = *IndexKeys::Parse(texts);
    return "";
  };
}

Setter Prefixes(std::vector<IpPrefix>& out) {
  return [&out](const toml::node& node) -> std::string {
    constexpr char kProblem[] = "must be a list of ranges of addresses like \"10.0.0.0/8\"";
    if (!node.is_array()) return kProblem;
    out.clear();
    for (const toml::node& one : *node.as_array()) {
      const auto* const text = one.as_string();
      const auto prefix = text == nullptr ? std::nullopt : IpPrefix::Parse(text->get());
      if (!prefix) return kProblem;
      out.push_back(*prefix);
    }
    return "";
  };
}

// "auto", "off", or a list of absolute paths.
// Returns false if it is no list of absolute paths.
bool PathList(const toml::node& node, std::vector<std::string>& out) {
  if (!node.is_array()) return false;
  out.clear();
  for (const toml::node& one : *node.as_array()) {
    if (!AbsolutePath(out.emplace_back())(one).empty()) return false;
  }
  return true;
}

Setter AutoOrPaths(std::optional<std::vector<std::string>>& out) {
  return [&out](const toml::node& node) -> std::string {
    constexpr char kProblem[] = "is \"auto\", \"off\" or a list of absolute paths";
    if (const auto* const text = node.as_string(); text != nullptr) {
      if (text->get() != "auto" && text->get() != "off") return kProblem;
      out.reset();
      if (text->get() == "off") out.emplace();
      return "";
    }
    return PathList(node, out.emplace()) ? "" : kProblem;
  };
}

Setter ShortNamesMode(ShortNames& out) {
  return [&out](const toml::node& node) -> std::string {
    const auto* const text = node.as_string();
    for (const auto& [name, mode] : {std::pair("docker", ShortNames::kDocker),
                                     {"aliases", ShortNames::kAliases},
                                     {"search", ShortNames::kSearch}}) {
      if (text == nullptr || text->get() != name) continue;
      out = mode;
      return "";
    }
    return "is \"docker\", \"aliases\" or \"search\"";
  };
}

Setter Number(uint64_t& out, uint64_t most) {
  return [&out, most](const toml::node& node) -> std::string {
    const auto* const number = node.as_integer();
    if (number == nullptr || number->get() < 0 || static_cast<uint64_t>(number->get()) > most) {
      return StrCat("must be a number from 0 to ", most);
    }
    out = static_cast<uint64_t>(number->get());
    return "";
  };
}

Setter Choice(bool& out, std::string_view yes, std::string_view no) {
  return [&out, yes, no](const toml::node& node) -> std::string {
    const auto* const text = node.as_string();
    if (text == nullptr || (text->get() != yes && text->get() != no)) {
      return StrCat("must be \"", yes, "\" or \"", no, "\"");
    }
    out = text->get() == yes;
    return "";
  };
}

Setter Level(std::string& out) {
  return [&out](const toml::node& node) -> std::string {
    const auto* const text = node.as_string();
    if (text == nullptr || !IsLogLevel(text->get()))
      return "must be \"debug\", \"info\", \"warning\" or \"error\"";
    out = text->get();
    return "";
  };
}

Setter Listen(std::optional<ListenAddress>& out) {
  return [&out](const toml::node& node) -> std::string {
    const auto* const text = node.as_string();
    absl::StatusOr<ListenAddress> address =
        ListenAddress::Parse(text == nullptr ? "" : text->get());
    if (!address.ok()) return std::string(address.status().message());
    out = *std::move(address);
    return "";
  };
}

Setter Patterns(std::vector<std::string>& out) {
  return [&out](const toml::node& node) -> std::string {
    if (!node.is_array()) return "must be a list of patterns like \"registry.example/**\"";
    out.clear();
    for (const toml::node& one : *node.as_array()) {
      const auto* const text = one.as_string();
      if (text == nullptr) return "must be a list of patterns like \"registry.example/**\"";
      if (absl::Status status = LazyPolicy::CheckPattern(text->get()); !status.ok()) {
        return StrCat("is invalid: ", status.message());
      }
      out.push_back(text->get());
    }
    return "";
  };
}

Setter Paths(std::vector<std::string>& out) {
  return [&out](const toml::node& node) {
    return PathList(node, out) ? "" : "must be a list of absolute paths";
  };
}

// Has a minimum, since hardly any index fits into less.
Setter Memory(uint64_t& out) {
  return [&out](const toml::node& node) -> std::string {
    constexpr uint64_t kLeast = 8 << 20, kMost = uint64_t{1} << 40;
    const auto* const text = node.as_string();
    const absl::StatusOr<uint64_t> bytes =
        text == nullptr ? absl::InvalidArgumentError("") : ParseBytes(text->get());
    if (!bytes.ok() || *bytes < kLeast || *bytes > kMost) {
      return "must be a size of at least 8 MiB, like \"64MiB\"";
    }
    out = *bytes;
    return "";
  };
}

// Returns nothing for a text that is no percentage from 0% to 100%.
std::optional<unsigned> ParsePercent(std::string_view text) {
  if (!text.ends_with('%')) return std::nullopt;
  const std::optional<uint64_t> value = ParseDecimal(text.substr(0, text.size() - 1));
  if (!value.has_value() || *value > 100) return std::nullopt;
  return static_cast<unsigned>(*value);
}

Setter Percent(unsigned& out) {
  return [&out](const toml::node& node) -> std::string {
    const auto* const text = node.as_string();
    const std::optional<unsigned> value =
        text == nullptr ? std::nullopt : ParsePercent(text->get());
    if (!value.has_value()) return "must be a percentage like \"15%\"";
    out = *value;
    return "";
  };
}

// A size, a percentage of the file system, or one of these words.
using AmountWord = std::pair<std::string_view, SpaceAmount>;
Setter Amount(SpaceAmount& out, std::vector<AmountWord> words) {
  return [&out, words = std::move(words)](const toml::node& node) -> std::string {
    const auto* const text = node.as_string();
    for (const auto& [word, amount] : words) {
      if (text == nullptr || text->get() != word) continue;
      out = amount;
      return "";
    }
    const std::optional<unsigned> percent =
        text == nullptr ? std::nullopt : ParsePercent(text->get());
    const absl::StatusOr<uint64_t> bytes =
        text == nullptr ? absl::InvalidArgumentError("") : ParseBytes(text->get());
    if (percent.has_value() && *percent > 0) {
      out = {UINT64_MAX, *percent};
    } else if (bytes.ok() && *bytes > 0 && *bytes < UINT64_MAX) {
      out = {*bytes, 100};
    } else {
      std::string known;
      for (const auto& [word, amount] : words) StrAppend(&known, " or \"", word, "\"");
      return StrCat("must be a size like \"50G\", a part of the file system like \"80%\",", known);
    }
    return "";
  };
}

using TrustName = std::pair<std::string_view, IndexTrust>;
constexpr TrustName kCommandTrust[] = {{"repository", IndexTrust::Any()},
                                       {"any", IndexTrust::Any()},
                                       {"configured", IndexTrust::Configured()}};
constexpr TrustName kLazyTrust[] = {{"trusted", IndexTrust::Trusted()},
                                    {"repository", IndexTrust::Repository()},
                                    {"any", IndexTrust::Any()}};

Setter Trust(IndexTrust& out, absl::Span<const TrustName> names) {
  return [&out, names](const toml::node& node) -> std::string {
    const auto* const text = node.as_string();
    std::string choices;
    for (const auto& [name, trust] : names) {
      if (text != nullptr && text->get() == name) {
        out = trust;
        return "";
      }
      StrAppend(&choices, choices.empty() ? "" : " or ", "\"", name, "\"");
    }
    return StrCat("must be ", choices);
  };
}

Setter CommandTrust(Config& config) {
  return [&config](const toml::node& node) -> std::string {
    std::string problem = Trust(config.index_trust, kCommandTrust)(node);
    const auto* const text = node.as_string();
    if (problem.empty() && text->get() == "any") config.index_trust_pinned = IndexTrust::Any();
    return problem;
  };
}

// By section and name.
using Settings = std::map<std::string, std::map<std::string, Setter>, std::less<>>;

Settings SettingsOf(Config& config) {
  return {
      {"index",
       {{"lookup", Bool(config.index_lookup)},
        {"trust", CommandTrust(config)},
        {"memory", Memory(config.index_memory)},
        {"least_processors", Number(config.index_least_processors, kMaxProcessors)},
        {"repositories", Repositories(config.index_repositories)},
        {"keys", Keys(config.index_keys)},
        {"publish", Bool(config.index_publish)},
        {"publish_to", OrNone(config.index_publish_to, Repository(config.index_publish_to))},
        {"publish_spread", OrOff(config.index_publish_spread)},
        {"publish_images", Patterns(config.index_publish_images)}}},
      {"fill",
       {{"background", Bool(config.fill_background)},
        {"hot_pack", Bool(config.fill_hot_pack)},
        {"unverified", Choice(config.fill_unverified, "allow", "deny")},
        {"quiet", Duration(config.fill_quiet)},
        {"min_free", Percent(config.space.background_min_free)},
        {"deadline", Duration(config.fill_deadline)}}},
      {"network",
       {{"allow", Prefixes(config.network_allow)},
        {"least_rate", Number(config.network_least_rate, kMaxLeastRate)}}},
      {"hosts",
       {{"containerd", AutoOrPaths(config.hosts_containerd)},
        {"containers", AutoOrPaths(config.hosts_containers)},
        {"certificates", AutoOrPaths(config.hosts_certificates)},
        {"short_names", ShortNamesMode(config.short_names)}}},
      {"log", {{"level", Level(config.log_level)}}},
      {"profile", {{"enabled", Bool(config.profile)}}},
      {"store",
       {{"sharing", Choice(config.store_open, "open", "proven")},
        {"scrub", OrOff(config.store_scrub)},
        {"shared", Paths(config.store_shared)},
        {"limit", Amount(config.space.limit, {AmountWord("none", SpaceAmount())})},
        {"high", Percent(config.space.high)},
        {"low", Percent(config.space.low)},
        {"reserve", Amount(config.space.reserve, {AmountWord("auto", SpaceLimits().reserve),
                                                  AmountWord("none", SpaceAmount{0, 0})})},
        {"keep_partial", OrOff(config.store_keep_partial)}}},
      {"verify",
       {{"bin_dir", OrNone(config.verify_bin_dir, AbsolutePath(config.verify_bin_dir))},
        {"timeout", Duration(config.verify_timeout)},
        {"require", Bool(config.verify_require)}}},
      {"mount", {{"loop_devices", Bool(config.loop_devices)}}},
      {"metrics",
       {{"listen", OrUnset(config.metrics_listen, Listen(config.metrics_listen))},
        {"page", Bool(config.metrics_page)}}},
      {"containerd",
       {{"lazy", Trust(config.containerd_lazy, kLazyTrust)},
        {"lazy_images", Patterns(config.containerd_lazy_images)},
        {"keep_blobs", Bool(config.containerd_keep_blobs)}}},
      {"podman",
       {{"layers", Bool(config.podman_layers)},
        {"lazy", Trust(config.podman_lazy, kLazyTrust)},
        {"lazy_images", Patterns(config.podman_lazy_images)}}},
      {"credentials",
       {{"kubelet_config", OrNone(config.kubelet_config, AbsolutePath(config.kubelet_config))},
        {"kubelet_bin_dir", OrNone(config.kubelet_bin_dir, AbsolutePath(config.kubelet_bin_dir))},
        {"cri_proxy", Bool(config.cri_proxy)},
        {"containerd", AbsolutePath(config.containerd_socket)}}},
  };
}

}  // namespace

HostResolver::Options Config::HostsOptions(const std::string& home,
                                           const std::string& xdg_config_home,
                                           const std::string& registries_conf) const {
  HostResolver::Options out = HostResolver::SystemOptions(home, xdg_config_home, registries_conf);
  if (hosts_containerd) out.containerd_dirs = *hosts_containerd;
  if (hosts_certificates) out.certificate_dirs = *hosts_certificates;
  if (hosts_containers) {
    out.registries_conf.clear();
    for (const std::string& file : *hosts_containers) {
      out.registries_conf.emplace_back(file, file + ".d");
    }
  }
  return out;
}

HostResolver::Options Config::HostsOptions() const {
  return HostsOptions(IsMachineRoot() ? "" : ProcessEnvironment("HOME"),
                      ProcessEnvironment("XDG_CONFIG_HOME"),
                      ProcessEnvironment("CONTAINERS_REGISTRIES_CONF"));
}

absl::StatusOr<Config> ParseConfig(std::string_view text, const std::string& path) {
  Config config;
  const Settings known = SettingsOf(config);
  IMAGEFS_ASSIGN_OR_RETURN(const toml::table table, ParseToml(text, path));
  for (const auto& [section, node] : table) {
    const auto names = known.find(section.str());
    if (names == known.end() || !node.is_table()) {
      return At(path, node, section.str(), "is not a section of the configuration");
    }
    for (const auto& [name, value] : *node.as_table()) {
      const std::string full = StrCat(section.str(), ".", name.str());
      const auto setter = names->second.find(std::string(name.str()));
      if (setter == names->second.end()) return At(path, value, full, "is not known");
      if (std::string problem = setter->second(value); !problem.empty()) {
        return At(path, value, full, problem);
      }
    }
  }
  if (config.kubelet_config.empty() != config.kubelet_bin_dir.empty()) {
    return absl::InvalidArgumentError(StrCat(
        path, ": credentials.kubelet_config and credentials.kubelet_bin_dir must be set together"));
  }
  if (config.metrics_page && !config.metrics_listen.has_value()) {
    return absl::InvalidArgumentError(StrCat(path, ": metrics.page needs metrics.listen"));
  }
  if (config.space.low >= config.space.high) {
    return absl::InvalidArgumentError(
        StrCat(path, ": store.low must be below store.high: ", config.space.low, "% is not below ",
               config.space.high, "%"));
  }
  return config;
}

std::string ConfigFile(const std::string& path) {
  if (!path.empty()) return path;
  if (IsMachineRoot()) return "/etc/imagefs/config.toml";
  std::string home = ProcessEnvironment("XDG_CONFIG_HOME");
  if (home.empty()) home = ProcessEnvironment("HOME") + "/.config";
  return home + "/imagefs/config.toml";
}

absl::StatusOr<Config> LoadConfig(const std::string& path) {
  const std::string file = ConfigFile(path);
  if (path.empty() && access(file.c_str(), F_OK) != 0) return Config();
  IMAGEFS_ASSIGN_OR_RETURN(const std::string text, ReadFile(file, kMaxConfigFile));
  absl::StatusOr<Config> config = ParseConfig(text, file);
  // No daemon starts with it.
  if (!config.ok()) return WithKind(config.status(), FailureKind::kNoDaemon);
  return config;
}

}  // namespace imagefs
