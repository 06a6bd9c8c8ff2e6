// SPDX-License-Identifier: Apache-2.0
#include "fetch/credential_files.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <utility>

#include "absl/strings/ascii.h"
#include "base/fd.h"
#include "base/secret.h"
#include "base/status.h"
#include "base/text.h"

namespace imagefs {
namespace {

constexpr uint64_t kMaxFileBytes = 4 << 20;
constexpr size_t kMaxHelperBytes = 64 << 10;
constexpr std::chrono::seconds kHelperTimeout{10};
constexpr std::string_view kDockerHub = "docker.io";

}  // namespace

bool IsHubHost(std::string_view host) {
  return host == kDockerHub || host == "index.docker.io" || host == "registry-1.docker.io";
}

CredentialKey CredentialKey::Parse(std::string_view text) {
  const bool url = ConsumePrefix(&text, "https://") || ConsumePrefix(&text, "http://");
  while (text.ends_with('/')) text.remove_suffix(1);
  const size_t slash = text.find('/');
  CredentialKey key;
  key.host = text.substr(0, slash);
  if (IsHubHost(key.host)) key.host = kDockerHub;
  if (slash == std::string_view::npos || url) return key;
  const std::string_view path = text.substr(slash + 1);
  if (path != "v1" && path != "v2") key.path = path;
  return key;
}

size_t CredentialKey::Fit(const Reference& reference) const {
  const bool same = host == reference.host || (IsHubHost(host) && IsHubHost(reference.host));
  if (host.empty() || !same) return 0;
  if (path.empty()) return 1;
  if (!reference.repository.starts_with(path)) return 0;
  const bool whole = reference.repository.size() == path.size();
  return whole || reference.repository[path.size()] == '/' ? 1 + path.size() : 0;
}

absl::StatusOr<Json> ReadCredentialFile(const std::string& file) {
  absl::StatusOr<std::string> text = ReadFile(file, kMaxFileBytes);
  if (absl::IsNotFound(text.status())) return Json();
  if (!text.ok()) {
    return Annotate(text.status(), StrCat("credentials in ", file, " cannot be read"));
  }
  const WipeAtEnd wipe(*text);
  if (absl::StripAsciiWhitespace(*text).empty()) return Json();
  absl::StatusOr<Json> config = Json::Parse(*text);
  if (config.ok() && config->is_object()) return config;
  // The parser's message may quote a secret.
  return absl::InvalidArgumentError(
      StrCat(file, " is not a valid JSON object; repair or remove it"));
}

bool IsOwnDirectory(const std::string& directory) {
  struct stat found;
  return lstat(directory.c_str(), &found) == 0 && S_ISDIR(found.st_mode) &&
         found.st_uid == geteuid() && (found.st_mode & 022) == 0;
}

std::string HelperFor(const Json& config, const Reference& reference) {
  Json helper;
  size_t best = 0;
  for (const auto& [key, value] : config["credHelpers"].members()) {
    const size_t fit = CredentialKey::Parse(key).Fit(reference);
    if (fit <= best) continue;
    best = fit;
    helper = value;
  }
  if (helper.exists()) return helper.string().value_or("");
  return config.StringOr("credsStore");
}

std::vector<std::string> HelperServers(const std::string& host) {
  // Docker stores its hub under an old URL, the containers tools under its name.
  if (IsHubHost(host)) return {std::string(kDockerHubServer), std::string(kDockerHub)};
  return {host};
}

absl::Status HelperError(const std::string& helper, std::string_view why, const std::string& file) {
  return absl::FailedPreconditionError(StrCat("credential helper docker-credential-", helper, ": ",
                                              why, "; repair it, or remove it from ", file));
}

absl::StatusOr<ProgramResult> RunCredentialHelper(const std::string& helper,
                                                  std::string_view action, std::string_view input,
                                                  const std::string& file) {
  const bool plain = std::all_of(helper.begin(), helper.end(), [](char c) {
    return absl::ascii_isalnum(c) || c == '-' || c == '_' || c == '.';
  });
  if (!plain || helper.size() > 128) {
    return absl::InvalidArgumentError(
        StrCat(file, ": \"", Printable(helper), "\" is not a valid name of a credential helper"));
  }
  ProgramCall call;
  call.argv = {StrCat("docker-credential-", helper), std::string(action)};
  call.input = input;
  call.timeout = kHelperTimeout;
  call.max_output_bytes = kMaxHelperBytes;
  absl::StatusOr<ProgramResult> result = RunProgram(call);
  if (!result.ok()) return HelperError(helper, ToStd(result.status().message()), file);
  return result;
}

bool HelperHasNone(const ProgramResult& result) {
  return !result.succeeded() &&
         ToLower(result.output).find("credentials not found") != std::string::npos;
}

}  // namespace imagefs
