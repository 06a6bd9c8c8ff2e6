// SPDX-License-Identifier: Apache-2.0
#include "fetch/credentials.h"

#include <pwd.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "base/digest.h"
#include "base/fd.h"
#include "base/json.h"
#include "base/status.h"
#include "base/subprocess.h"
#include "base/text.h"
#include "fetch/credential_origin.h"

namespace imagefs {
namespace {

constexpr uint64_t kMaxFileBytes = 4 << 20;
constexpr size_t kMaxHelperBytes = 64 << 10;
constexpr std::chrono::seconds kHelperTimeout{10};
constexpr std::string_view kDockerHub = "docker.io";
constexpr std::string_view kDockerHubServer = "https://index.docker.io/v1/";
constexpr std::string_view kTokenUser = "<token>";

std::string Environment(const char* name) {
  const char* value = getenv(name);
  return value == nullptr ? "" : value;
}

// Both stores mark a refresh token by its user name.
Credential MakeCredential(std::string username, Secret secret) {
  Credential out;
  if (username.empty() || username == kTokenUser) {
    out.identity_token = std::move(secret);
  } else {
    out.username = std::move(username);
    out.password = std::move(secret);
  }
  return out;
}

// ---- Keys ----

bool IsHubHost(std::string_view host) {
  return host == kDockerHub || host == "index.docker.io" || host == "registry-1.docker.io";
}

bool SameHost(std::string_view a, std::string_view b) {
  return a == b || (IsHubHost(a) && IsHubHost(b));
}

// Returns how well a key in a file matches `reference`: 0 for no match, higher for a longer
// matching path. Keys are HOST, HOST/NAMESPACE..., or docker's old URLs ("https://HOST/v1/"), which
// stand for the host.
size_t Fit(std::string_view key, const Reference& reference) {
  const bool url = ConsumePrefix(&key, "https://") || ConsumePrefix(&key, "http://");
  while (key.ends_with('/')) key.remove_suffix(1);
  const size_t slash = key.find('/');
  const std::string_view host = key.substr(0, slash);
  if (host.empty() || !SameHost(host, reference.host)) return 0;
  if (slash == std::string_view::npos || url) return 1;
  const std::string_view path = key.substr(slash + 1);
  if (path == "v1" || path == "v2") return 1;
  if (!reference.repository.starts_with(path)) return 0;
  const bool whole = reference.repository.size() == path.size();
  return whole || reference.repository[path.size()] == '/' ? 1 + path.size() : 0;
}

// Returns the best-matching member of `object`, or an absent one.
std::pair<std::string, Json> BestFit(const Json& object, const Reference& reference) {
  std::pair<std::string, Json> best;
  size_t best_fit = 0;
  if (!object.is_object()) return best;
  for (auto& member : object.members()) {
    const size_t fit = Fit(member.first, reference);
    if (fit > best_fit) {
      best_fit = fit;
      best = std::move(member);
    }
  }
  return best;
}

// ---- Helpers ----

absl::Status HelperError(const std::string& program, std::string_view why,
                         const std::string& file) {
  return absl::FailedPreconditionError(
      StrCat("credential helper ", program, ": ", why, "; repair it, or remove it from ", file));
}

// Returns nullopt if the helper has no credential for `server`.
absl::StatusOr<std::optional<Credential>> RunHelper(const std::string& helper,
                                                    std::string_view server,
                                                    const std::string& file) {
  const std::string program = "docker-credential-" + helper;
  const bool plain = std::all_of(helper.begin(), helper.end(), [](char c) {
    return absl::ascii_isalnum(c) || c == '-' || c == '_' || c == '.';
  });
  if (!plain || helper.size() > 128) {
    return absl::InvalidArgumentError(
        StrCat(file, ": \"", Printable(helper), "\" is not a valid name of a credential helper"));
  }
  absl::StatusOr<ProgramResult> result =
      RunProgram({{program, "get"}, {}, server, kHelperTimeout, kMaxHelperBytes});
  if (!result.ok()) return HelperError(program, ToStd(result.status().message()), file);
  const WipeAtEnd wipe(result->output);
  if (!result->succeeded()) {
    if (ToLower(result->output).find("credentials not found") != std::string::npos) {
      return std::nullopt;
    }
    return HelperError(program, result->Complaint(), file);
  }
  absl::StatusOr<Json> answer = Json::Parse(result->output);
  if (!answer.ok() || !answer->is_object() || !(*answer)["Secret"].string()) {
    return HelperError(program, "its answer is not a JSON object with a Secret", file);
  }
  Credential credential = MakeCredential(answer->StringOr("Username"), answer->SecretOf("Secret"));
  if (credential.empty()) return std::nullopt;
  return credential;
}

// ---- Files ----

absl::StatusOr<std::optional<Credential>> FromAuthEntry(const std::string& key, const Json& entry,
                                                        const std::string& file) {
  if (Secret token = entry.SecretOf("identitytoken"); !token.empty()) {
    Credential out;
    out.identity_token = std::move(token);
    return out;
  }
  Credential pair{.username = entry.StringOr("username"), .password = entry.SecretOf("password")};
  const Secret encoded = entry.SecretOf("auth");
  if (!encoded.empty() && !DecodeUserAndPassword(encoded.view(), &pair)) {
    return absl::InvalidArgumentError(StrCat(file, ": the auth member of \"", Printable(key),
                                             "\" is not the base64 of USER:PASSWORD; log in to "
                                             "the registry again"));
  }
  Credential out = MakeCredential(std::move(pair.username), std::move(pair.password));
  // A login through a helper leaves an empty entry.
  if (out.empty()) return std::nullopt;
  return out;
}

// Returns the helper responsible for `reference`, or "".
std::string HelperFor(const Json& config, const Reference& reference) {
  const auto [key, value] = BestFit(config["credHelpers"], reference);
  if (value.exists()) return value.string().value_or("");
  return config.StringOr("credsStore");
}

absl::StatusOr<std::optional<Credential>> FromHelper(const Json& config, const std::string& file,
                                                     const Reference& reference) {
  const std::string helper = HelperFor(config, reference);
  if (helper.empty()) return std::nullopt;
  std::vector<std::string> servers = {reference.host};
  // Docker stores its hub under an old URL, the containers tools under its name.
  if (IsHubHost(reference.host)) servers = {std::string(kDockerHubServer), "docker.io"};
  for (const std::string& server : servers) {
    IMAGEFS_ASSIGN_OR_RETURN(std::optional<Credential> found, RunHelper(helper, server, file));
    if (found) return found;
  }
  return std::nullopt;
}

struct Stored {
  Credential credential;
  std::string origin;
};
absl::StatusOr<std::optional<Stored>> FindInFile(const std::string& file,
                                                 const Reference& reference) {
  absl::StatusOr<std::string> text = ReadFile(file, kMaxFileBytes);
  if (absl::IsNotFound(text.status())) return std::nullopt;
  if (!text.ok()) {
    return Annotate(text.status(), StrCat("credentials in ", file, " cannot be read"));
  }
  const WipeAtEnd wipe(*text);
  if (absl::StripAsciiWhitespace(*text).empty()) return std::nullopt;
  absl::StatusOr<Json> config = Json::Parse(*text);
  if (!config.ok() || !config->is_object()) {
    // The parser's message may quote a secret.
    return absl::InvalidArgumentError(
        StrCat(file, " is not a valid JSON object; repair or remove it"));
  }
  const absl::StatusOr<std::optional<Credential>> helped = FromHelper(*config, file, reference);
  if (helped.ok() && *helped) {
    return Stored{**helped,
                  StrCat("docker-credential-", HelperFor(*config, reference), ", by ", file)};
  }
  const auto [key, entry] = BestFit((*config)["auths"], reference);
  if (entry.is_object()) {
    const absl::StatusOr<std::optional<Credential>> found = FromAuthEntry(key, entry, file);
    IMAGEFS_RETURN_IF_ERROR(found.status());
    if (*found) return Stored{**found, file};
  }
  IMAGEFS_RETURN_IF_ERROR(helped.status());
  return std::nullopt;
}

// Whether only this user can have put files there.
bool IsOurs(const std::string& directory) {
  struct stat found;
  return lstat(directory.c_str(), &found) == 0 && S_ISDIR(found.st_mode) &&
         found.st_uid == geteuid() && (found.st_mode & 022) == 0;
}

std::vector<std::string> FilesToAsk(const CredentialOptions& options) {
  std::vector<std::string> files;
  if (!options.auth_file.empty()) files.push_back(options.auth_file);
  if (!options.xdg_runtime_dir.empty()) {
    files.push_back(options.xdg_runtime_dir + "/containers/auth.json");
  }
  for (const std::string& directory : options.login_dirs) {
    if (IsOurs(directory)) files.push_back(directory + "/auth.json");
  }
  if (!options.xdg_config_home.empty()) {
    files.push_back(options.xdg_config_home + "/containers/auth.json");
  } else if (!options.home.empty()) {
    files.push_back(options.home + "/.config/containers/auth.json");
  }
  if (!options.docker_config.empty()) {
    files.push_back(options.docker_config + "/config.json");
  } else if (!options.home.empty()) {
    files.push_back(options.home + "/.docker/config.json");
  }
  return files;
}

}  // namespace

std::string Credential::Fingerprint() const {
  if (empty()) return "anonymous";
  static const std::string salt = RandomHex(16);
  const Secret all = Secret::Concat(
      {salt, StrCat(username.size(), ":", username, password.size(), ":"), password.view(),
       StrCat(identity_token.size(), ":"), identity_token.view(), registry_token.view()});
  return Sha256Of(all.view()).hex().substr(0, 32);
}

bool DecodeUserAndPassword(std::string_view base64, Credential* out) {
  std::string decoded;
  const WipeAtEnd wipe(decoded);
  decoded.reserve(base64.size());  // must not be reallocated
  if (!absl::Base64Unescape(ToAbsl(base64), &decoded)) return false;
  const size_t colon = decoded.find(':');
  if (colon == std::string::npos) return false;
  std::string_view password = std::string_view(decoded).substr(colon + 1);
  while (password.ends_with('\0')) password.remove_suffix(1);
  out->username = decoded.substr(0, colon);
  out->password = password;
  return true;
}

std::string LoginRemedy(std::string_view host) {
  return StrCat("run `docker login", IsHubHost(host) ? "" : " ", IsHubHost(host) ? "" : host,
                "` or `podman login ", host, "`");
}

CredentialOptions CredentialOptions::FromEnvironment() {
  CredentialOptions out;
  out.home = Environment("HOME");
  if (out.home.empty()) {
    if (const struct passwd* user = getpwuid(getuid()); user != nullptr) out.home = user->pw_dir;
  }
  out.docker_config = Environment("DOCKER_CONFIG");
  out.auth_file = Environment("REGISTRY_AUTH_FILE");
  out.xdg_runtime_dir = Environment("XDG_RUNTIME_DIR");
  out.xdg_config_home = Environment("XDG_CONFIG_HOME");
  const std::string temporary = Environment("TMPDIR");
  out.login_dirs = {
      StrCat("/run/user/", geteuid(), "/containers"),
      StrCat(temporary.empty() ? "/tmp" : temporary, "/podman-run-", geteuid(), "/containers"),
      StrCat("/run/containers/", geteuid()),
  };
  return out;
}

CredentialOrigin FindCredentialOrigin(const Reference& reference,
                                      const CredentialOptions& options) {
  CredentialOrigin out;
  if (reference.transport != Reference::Transport::kRegistry) return out;
  for (const std::string& file : FilesToAsk(options)) {
    absl::StatusOr<std::optional<Stored>> stored = FindInFile(file, reference);
    if (stored.ok() && *stored) {
      out.found = {std::move((*stored)->credential), ""};
      out.origin = std::move((*stored)->origin);
      break;
    }
    if (!stored.ok() && out.found.trouble.empty()) {
      out.found.trouble = ToStd(stored.status().message());
    }
  }
  WipeStack();  // files and responses were parsed here
  return out;
}

FoundCredential FindCredential(const Reference& reference, const CredentialOptions& options) {
  return FindCredentialOrigin(reference, options).found;
}

}  // namespace imagefs
