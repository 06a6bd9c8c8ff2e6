// SPDX-License-Identifier: Apache-2.0
#include "image/reference.h"

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "base/status.h"
#include "base/text.h"

namespace imagefs {
namespace {

constexpr size_t kMaxTextBytes = 5000;       // a path of PATH_MAX plus a tag
constexpr size_t kMaxRepositoryBytes = 255;  // docker's limits
constexpr size_t kMaxTagBytes = 128;
constexpr size_t kMaxHostBytes = 255;
constexpr size_t kMaxLocalTagBytes = 512;

constexpr std::string_view kDockerHub = "docker.io";
constexpr std::string_view kDefaultTag = "latest";

absl::Status Refuse(std::string_view text, std::string_view why) {
  return absl::InvalidArgumentError(
      StrCat("invalid reference \"", Printable(text, 300), "\": ", why));
}

bool IsLowerAlnum(char c) { return absl::ascii_islower(c) || absl::ascii_isdigit(c); }
bool IsWord(char c) { return absl::ascii_isalnum(c) || c == '_'; }

bool AllOf(std::string_view text, bool (*accepts)(char)) {
  for (char c : text) {
    if (!accepts(c)) return false;
  }
  return true;
}

// Runs of [a-z0-9] separated by one of '.', '_', "__" or any number of '-'.
bool IsPathComponent(std::string_view text) {
  size_t i = 0;
  while (true) {
    const size_t run = i;
    while (i < text.size() && IsLowerAlnum(text[i])) ++i;
    if (i == run) return false;
    if (i == text.size()) return true;
    const size_t separator = i;
    if (text[i] == '-') {
      while (i < text.size() && text[i] == '-') ++i;
    } else if (text[i] == '.') {
      ++i;
    } else {
      while (i < text.size() && text[i] == '_' && i - separator < 2) ++i;
      if (i == separator) return false;
    }
  }
}

// Letters, digits and inner hyphens.
bool IsHostLabel(std::string_view label) {
  if (label.empty() || label.front() == '-' || label.back() == '-') return false;
  return AllOf(label, [](char c) { return absl::ascii_isalnum(c) || c == '-'; });
}

bool IsIpv6Literal(std::string_view text) {
  return text.size() >= 2 &&
         AllOf(text, [](char c) { return absl::ascii_isxdigit(c) || c == ':'; }) &&
         (text.find(':') != std::string_view::npos);
}

bool IsPort(std::string_view text) {
  const std::optional<uint64_t> port = ParseDecimal(text);
  return port && *port >= 1 && *port <= 65535;
}

struct HostAndPort {
  std::string_view name;  // IPv6 addresses keep their brackets
  std::string_view port;
  bool has_port = false;
};

HostAndPort SplitPort(std::string_view host) {
  size_t from = 0;
  if (host.starts_with('[')) {
    const size_t close = host.find(']');
    from = close == std::string_view::npos ? host.size() : close + 1;
  }
  const size_t colon = host.find(':', from);
  if (colon == std::string_view::npos) return {host, "", false};
  return {host.substr(0, colon), host.substr(colon + 1), true};
}

absl::Status CheckHost(std::string_view text, std::string_view host) {
  if (host.size() > kMaxHostBytes) return Refuse(text, "the host name is longer than 255 bytes");
  const HostAndPort parts = SplitPort(host);
  if (parts.has_port && !IsPort(parts.port)) {
    return Refuse(text,
                  StrCat("\"", Printable(parts.port), "\" is not a port number (1 to 65535)"));
  }
  bool good = false;
  if (parts.name.starts_with('[')) {
    good = parts.name.ends_with(']') && IsIpv6Literal(parts.name.substr(1, parts.name.size() - 2));
  } else {
    good = true;
    for (std::string_view label : Split(parts.name, '.')) good &= IsHostLabel(label);
  }
  if (!good) {
    return Refuse(text, StrCat("\"", Printable(parts.name), "\" is not a valid host name"));
  }
  return absl::OkStatus();
}

absl::Status CheckRepository(std::string_view text, std::string_view repository) {
  if (repository.empty()) return Refuse(text, "the repository name is missing");
  if (repository.size() > kMaxRepositoryBytes) {
    return Refuse(text, "the repository name is longer than 255 bytes");
  }
  if (ToLower(repository) != repository) {
    return Refuse(text, "the repository name must be in lower case");
  }
  for (std::string_view component : Split(repository, '/')) {
    if (!IsPathComponent(component)) {
      return Refuse(text, StrCat("\"", Printable(component),
                                 "\" is not a valid part of a repository name (a-z and 0-9, "
                                 "separated by one '.', '_', \"__\" or hyphens)"));
    }
  }
  return absl::OkStatus();
}

absl::Status CheckTag(std::string_view text, std::string_view tag) {
  if (tag.empty()) return Refuse(text, "the tag after ':' is empty");
  if (tag.size() > kMaxTagBytes) return Refuse(text, "the tag is longer than 128 bytes");
  if (!IsWord(tag.front()) ||
      !AllOf(tag, [](char c) { return IsWord(c) || c == '.' || c == '-'; })) {
    return Refuse(text, StrCat("\"", Printable(tag),
                               "\" is not a valid tag (letters, digits, '_', '.', '-'; not "
                               "beginning with '.' or '-')"));
  }
  return absl::OkStatus();
}

// True if docker interprets the part before the first '/' as a registry host.
bool NamesHost(std::string_view first) {
  return (first.find('.') != std::string_view::npos) ||
         (first.find(':') != std::string_view::npos) || first == "localhost" ||
         ToLower(first) != first;
}

absl::StatusOr<Reference> ParseRegistry(std::string_view text, std::string_view rest) {
  Reference reference;
  reference.transport = Reference::Transport::kRegistry;
  if (rest.size() == 64 &&
      AllOf(rest, [](char c) { return absl::ascii_isdigit(c) || (c >= 'a' && c <= 'f'); })) {
    return Refuse(text,
                  "64 hexadecimal digits are an image id, not a name; use NAME@sha256:DIGEST");
  }
  if (const size_t scheme = rest.find("://"); scheme != std::string_view::npos) {
    return Refuse(text, StrCat("leave out \"", Printable(rest.substr(0, scheme + 3)),
                               "\" and write HOST/REPOSITORY:TAG"));
  }
  if (const size_t at = rest.find('@'); at != std::string_view::npos) {
    absl::StatusOr<Digest> digest = Digest::Parse(rest.substr(at + 1));
    if (!digest.ok()) return Refuse(text, ToStd(digest.status().message()));
    reference.digest = *digest;
    rest = rest.substr(0, at);
  }
  std::string_view host = kDockerHub;
  if (const size_t slash = rest.find('/');
      slash != std::string_view::npos && NamesHost(rest.substr(0, slash))) {
    host = rest.substr(0, slash);
    rest = rest.substr(slash + 1);
  }
  IMAGEFS_RETURN_IF_ERROR(CheckHost(text, host));
  if (const size_t colon = rest.find(':'); colon != std::string_view::npos) {
    reference.tag = std::string(rest.substr(colon + 1));
    IMAGEFS_RETURN_IF_ERROR(CheckTag(text, reference.tag));
    rest = rest.substr(0, colon);
  } else if (!reference.digest.has_value()) {
    reference.tag = std::string(kDefaultTag);
  }
  if (host == "index.docker.io") host = kDockerHub;
  reference.host = std::string(host);
  const bool official =
      host == kDockerHub && !rest.empty() && !(rest.find('/') != std::string_view::npos);
  reference.repository = official ? StrCat("library/", rest) : std::string(rest);
  IMAGEFS_RETURN_IF_ERROR(CheckRepository(text, reference.repository));
  return reference;
}

absl::Status CheckLocalTag(std::string_view text, std::string_view tag) {
  if (tag.size() > kMaxLocalTagBytes) return Refuse(text, "the tag is longer than 512 bytes");
  if (tag.starts_with('@')) {
    const std::string_view position = tag.substr(1);
    if (position.empty() || position.size() > 4 ||
        !AllOf(position, [](char c) { return absl::ascii_isdigit(c); })) {
      return Refuse(text, "after '@' comes the position of an image, counted from 0");
    }
    return absl::OkStatus();
  }
  if (tag.empty()) return Refuse(text, "the tag after ':' is empty");
  if (!absl::ascii_isalnum(tag.front()) || !AllOf(tag, [](char c) {
        return IsWord(c) || std::string_view("-.:@/+").find(c) != std::string_view::npos;
      })) {
    return Refuse(text, StrCat("\"", Printable(tag), "\" is not a valid tag"));
  }
  return absl::OkStatus();
}

absl::StatusOr<Reference> ParseLocal(std::string_view text, Reference::Transport transport,
                                     std::string_view rest) {
  Reference reference;
  reference.transport = transport;
  if (const size_t colon = rest.find(':'); colon != std::string_view::npos) {
    reference.tag = std::string(rest.substr(colon + 1));
    IMAGEFS_RETURN_IF_ERROR(CheckLocalTag(text, reference.tag));
    rest = rest.substr(0, colon);
  }
  if (rest.empty()) {
    return Refuse(text, transport == Reference::Transport::kOciLayout
                            ? "the directory of the image layout is missing"
                            : "the path of the archive is missing");
  }
  reference.path = std::string(rest);
  return reference;
}

struct Scheme {
  std::string_view prefix;
  Reference::Transport transport;
};
constexpr Scheme kLocalSchemes[] = {
    {"oci:", Reference::Transport::kOciLayout},
    {"oci-archive:", Reference::Transport::kOciArchive},
    {"docker-archive:", Reference::Transport::kDockerArchive},
};

bool IsIpv4Loopback(std::string_view name) {
  const std::vector<std::string_view> octets = Split(name, '.');
  if (octets.size() != 4 || octets[0] != "127") return false;
  for (std::string_view octet : octets) {
    const std::optional<uint64_t> value = ParseDecimal(octet);
    if (!value || *value > 255 || octet.size() > 3) return false;
  }
  return true;
}

}  // namespace

absl::StatusOr<Reference> Reference::Parse(std::string_view text) {
  if (text.empty())
    return Refuse(text, "it is empty; write for example docker.io/library/alpine:3");
  if (text.size() > kMaxTextBytes) return Refuse(text, "it is too long");
  if (!AllOf(text, [](char c) { return !absl::ascii_iscntrl(c); })) {
    return Refuse(text, "it contains a control character");
  }
  for (const Scheme& scheme : kLocalSchemes) {
    if (text.starts_with(scheme.prefix)) {
      return ParseLocal(text, scheme.transport, text.substr(scheme.prefix.size()));
    }
  }
  std::string_view rest = text;
  ConsumePrefix(&rest, "docker://");
  return ParseRegistry(text, rest);
}

std::string Reference::ToString() const {
  std::string out;
  if (transport == Transport::kRegistry) {
    out = StrCat(host, "/", repository);
  } else {
    for (const Scheme& scheme : kLocalSchemes) {
      if (scheme.transport == transport) out = StrCat(scheme.prefix, path);
    }
  }
  if (!tag.empty()) StrAppend(&out, ":", tag);
  if (digest.has_value()) StrAppend(&out, "@", digest->ToString());
  return out;
}

std::string Reference::TagOrDigest() const { return digest.has_value() ? digest->ToString() : tag; }

std::string Reference::ApiHost() const {
  return host == kDockerHub ? "registry-1.docker.io" : host;
}

bool IsLoopbackHost(std::string_view host) {
  const std::string_view name = SplitPort(host).name;
  return ToLower(name) == "localhost" || name == "[::1]" || IsIpv4Loopback(name);
}

bool Reference::IsLoopback() const {
  return transport == Transport::kRegistry && IsLoopbackHost(host);
}

void Reference::MakeAbsolute(std::string_view directory) {
  if (transport == Transport::kRegistry) return;
  const std::string joined = path.starts_with('/') ? path : StrCat(directory, "/", path);
  // ".." is kept: its meaning depends on symbolic links.
  std::string clean;
  for (std::string_view component : Split(joined, '/')) {
    if (!component.empty() && component != ".") StrAppend(&clean, "/", component);
  }
  path = clean.empty() ? "/" : clean;
}

}  // namespace imagefs
