#include "cmd/config.h"

#include <toml++/toml.h>
#include <unistd.h>

#include <functional>
#include <map>
#include <utility>

#include "absl/types/span.h"
#include "base/fd.h"
#include "base/status.h"
#include "base/text.h"
#include "base/units.h"
#include "cmd/options.h"
#include "image/reference.h"

namespace imagefs {
namespace {

constexpr uint64_t kMaxConfigFile = 1 << 20;

absl::Status At(const std::string& path, const toml::node& node, std::string_view name,
                std::string_view what) {
  return absl::InvalidArgumentError(
      StrCat(path, ":", node.source().begin.line, ": ", name, " ", what));
}

// "" or why the value cannot stand there.
using Setter = std::function<std::string(const toml::node&)>;

Setter Bool(bool& out) {
  return [&out](const toml::node& node) -> std::string {
    if (!node.is_boolean()) return "is true or false";
    out = **node.as_boolean();
    return "";
  };
}

Setter Duration(absl::Duration& out) {
  return [&out](const toml::node& node) -> std::string {
    const auto* const text = node.as_string();
    absl::Duration value;
    if (text == nullptr || !absl::ParseDuration(text->get(), &value) ||
        value <= absl::ZeroDuration()) {
      return "is a duration like \"5s\" or \"2m\"";
    }
    out = value;
    return "";
  };
}

Setter AbsolutePath(std::string& out) {
  return [&out](const toml::node& node) -> std::string {
    const auto* const text = node.as_string();
    if (text == nullptr || !text->get().starts_with('/')) return "is an absolute path";
    out = text->get();
    return "";
  };
}

Setter Repository(std::string& out) {
  return [&out](const toml::node& node) -> std::string {
    const auto* const text = node.as_string();
    if (text == nullptr) return "is a repository like \"registry.example/indexes\"";
    const absl::StatusOr<Reference> parsed = Reference::Parse(text->get());
    if (!parsed.ok()) return std::string(parsed.status().message());
    out = text->get();
    return "";
  };
}

// "" is the default, "none", and may be written down, too.
Setter OrNone(std::string& out, Setter setter) {
  return [&out, setter = std::move(setter)](const toml::node& node) -> std::string {
    const auto* const text = node.as_string();
    if (text == nullptr || !text->get().empty()) return setter(node);
    out.clear();
    return "";
  };
}

Setter Repositories(std::vector<std::string>& out) {
  return [&out](const toml::node& node) -> std::string {
    if (!node.is_array()) return "is a list of repositories";
    out.clear();
    for (const toml::node& one : *node.as_array()) {
      std::string text;
      if (std::string problem = Repository(text)(one); !problem.empty()) return problem;
      out.push_back(std::move(text));
    }
    return "";
  };
}

Setter Patterns(std::vector<std::string>& out) {
  return [&out](const toml::node& node) -> std::string {
    if (!node.is_array()) return "is a list of patterns like \"registry.example/**\"";
    out.clear();
    for (const toml::node& one : *node.as_array()) {
      const auto* const text = one.as_string();
      if (text == nullptr) return "is a list of patterns like \"registry.example/**\"";
      if (absl::Status status = LazyPolicy::CheckPattern(text->get()); !status.ok()) {
        return StrCat("is wrong: ", status.message());
      }
      out.push_back(text->get());
    }
    return "";
  };
}

// A size that is worth something: with less, hardly any index fits.
Setter Memory(uint64_t& out) {
  return [&out](const toml::node& node) -> std::string {
    constexpr uint64_t kLeast = 8 << 20, kMost = uint64_t{1} << 40;
    const auto* const text = node.as_string();
    const absl::StatusOr<uint64_t> bytes =
        text == nullptr ? absl::InvalidArgumentError("") : ParseBytes(text->get());
    if (!bytes.ok() || *bytes < kLeast || *bytes > kMost) {
      return "is a size of at least 8 MiB, like \"64MiB\"";
    }
    out = *bytes;
    return "";
  };
}

using TrustName = std::pair<std::string_view, IndexTrust>;
constexpr TrustName kCommandTrust[] = {{"repository", IndexTrust::Any()},
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
    return StrCat("is ", choices);
  };
}

}  // namespace

absl::StatusOr<Config> ParseConfig(std::string_view text, const std::string& path) {
  Config config;
  const std::map<std::string, std::map<std::string, Setter>, std::less<>> known = {
      {"index",
       {{"lookup", Bool(config.index_lookup)},
        {"trust", Trust(config.index_trust, kCommandTrust)},
        {"memory", Memory(config.index_memory)},
        {"repositories", Repositories(config.index_repositories)},
        {"publish", Bool(config.index_publish)},
        {"publish_to", OrNone(config.index_publish_to, Repository(config.index_publish_to))}}},
      {"fill",
       {{"background", Bool(config.fill_background)},
        {"quiet", Duration(config.fill_quiet)},
        {"deadline", Duration(config.fill_deadline)}}},
      {"profile", {{"enabled", Bool(config.profile)}}},
      {"containerd",
       {{"lazy", Trust(config.containerd_lazy, kLazyTrust)},
        {"lazy_images", Patterns(config.containerd_lazy_images)}}},
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
  try {
    const toml::table table = toml::parse(text, path);
    for (const auto& [section, node] : table) {
      const auto names = known.find(section.str());
      if (names == known.end() || !node.is_table()) {
        return At(path, node, section.str(), "is no section of the configuration");
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
  } catch (const toml::parse_error& error) {
    return absl::InvalidArgumentError(
        StrCat(path, ":", error.source().begin.line, ": ", error.description()));
  }
  if (config.kubelet_config.empty() != config.kubelet_bin_dir.empty()) {
    return absl::InvalidArgumentError(StrCat(
        path, ": credentials.kubelet_config and credentials.kubelet_bin_dir need each other"));
  }
  return config;
}

absl::StatusOr<Config> LoadConfig(const std::string& path) {
  std::string file = path;
  if (file.empty()) {
    if (geteuid() == 0) {
      file = "/etc/imagefs/config.toml";
    } else {
      std::string home = ProcessEnvironment("XDG_CONFIG_HOME");
      if (home.empty()) home = ProcessEnvironment("HOME") + "/.config";
      file = home + "/imagefs/config.toml";
    }
    if (access(file.c_str(), F_OK) != 0) return Config();
  }
  IMAGEFS_ASSIGN_OR_RETURN(const std::string text, ReadFile(file, kMaxConfigFile));
  return ParseConfig(text, file);
}

}  // namespace imagefs
