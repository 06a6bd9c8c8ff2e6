// SPDX-License-Identifier: Apache-2.0
#include "fetch/credentials.h"

#include <pwd.h>
#include <unistd.h>

#include <cstdlib>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/strings/escaping.h"
#include "base/digest.h"
#include "base/fd.h"
#include "base/json.h"
#include "base/machine_user.h"
#include "base/status.h"
#include "base/text.h"
#include "fetch/credential_files.h"
#include "fetch/credential_origin.h"

namespace imagefs {
namespace {

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

// Returns the best-matching member of `object`, or an absent one.
std::pair<std::string, Json> BestFit(const Json& object, const Reference& reference) {
  std::pair<std::string, Json> best;
  size_t best_fit = 0;
  if (!object.is_object()) return best;
  for (auto& member : object.members()) {
    const size_t fit = CredentialKey::Parse(member.first).Fit(reference);
    if (fit > best_fit) {
      best_fit = fit;
      best = std::move(member);
    }
  }
  return best;
}

// ---- Helpers ----

// Returns nullopt if the helper has no credential for `server`.
absl::StatusOr<std::optional<Credential>> RunHelper(const std::string& helper,
                                                    std::string_view server,
                                                    const std::string& file) {
  absl::StatusOr<ProgramResult> result = RunCredentialHelper(helper, "get", server, file);
  if (!result.ok()) return result.status();
  const WipeAtEnd wipe(result->output);
  if (HelperHasNone(*result)) return std::nullopt;
  if (!result->succeeded()) return HelperError(helper, result->Complaint(), file);
  absl::StatusOr<Json> answer = Json::Parse(result->output);
  if (!answer.ok() || !answer->is_object() || !(*answer)["Secret"].string()) {
    return HelperError(helper, "its answer is not a JSON object with a Secret", file);
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

absl::StatusOr<std::optional<Credential>> FromHelper(const Json& config, const std::string& file,
                                                     const Reference& reference) {
  const std::string helper = HelperFor(config, reference);
  if (helper.empty()) return std::nullopt;
  for (const std::string& server : HelperServers(reference.host)) {
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
  IMAGEFS_ASSIGN_OR_RETURN(const Json config, ReadCredentialFile(file));
  if (!config.exists()) return std::nullopt;
  const absl::StatusOr<std::optional<Credential>> helped = FromHelper(config, file, reference);
  if (helped.ok() && *helped) {
    return Stored{**helped,
                  StrCat("docker-credential-", HelperFor(config, reference), ", by ", file)};
  }
  const auto [key, entry] = BestFit(config["auths"], reference);
  if (entry.is_object()) {
    const absl::StatusOr<std::optional<Credential>> found = FromAuthEntry(key, entry, file);
    IMAGEFS_RETURN_IF_ERROR(found.status());
    if (*found) return Stored{**found, file};
  }
  IMAGEFS_RETURN_IF_ERROR(helped.status());
  return std::nullopt;
}

std::vector<std::string> FilesToAsk(const CredentialOptions& options) {
  std::vector<std::string> files;
  if (!options.auth_file.empty()) files.push_back(options.auth_file);
  if (!options.xdg_runtime_dir.empty()) {
    files.push_back(options.xdg_runtime_dir + "/containers/auth.json");
  }
  for (const std::string& directory : options.login_dirs) {
    if (IsOwnDirectory(directory)) files.push_back(directory + "/auth.json");
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
  return StrCat("run `imagefs login ", IsHubHost(host) ? "docker.io" : host, "`");
}

CredentialOptions CredentialOptions::FromEnvironment() {
  CredentialOptions out;
  const uid_t uid = ThisUser().uid;
  out.home = Environment("HOME");
  if (out.home.empty()) {
    if (const struct passwd* user = getpwuid(uid); user != nullptr) out.home = user->pw_dir;
  }
  out.docker_config = Environment("DOCKER_CONFIG");
  out.auth_file = Environment("REGISTRY_AUTH_FILE");
  out.xdg_runtime_dir = Environment("XDG_RUNTIME_DIR");
  out.xdg_config_home = Environment("XDG_CONFIG_HOME");
  const std::string temporary = Environment("TMPDIR");
  out.login_dirs = {
      StrCat("/run/user/", uid, "/containers"),
      StrCat(temporary.empty() ? "/tmp" : temporary, "/podman-run-", uid, "/containers"),
      StrCat("/run/containers/", uid),
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
