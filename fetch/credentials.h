// Credentials for registries, from the files that docker and the containers tools write. Read by
// the CLI as the calling user and passed to the daemon with one request, for one host. Never
// stored, never logged.
#pragma once

#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "base/secret.h"
#include "image/reference.h"

namespace imagefs {

struct Credential {
  std::string username;
  Secret password;
  Secret identity_token;  // OAuth2 refresh token; then username and password are empty
  Secret registry_token;  // sent to the registry as it is; then all others are empty
  bool empty() const {
    return username.empty() && password.empty() && identity_token.empty() && registry_token.empty();
  }
  // A salted fingerprint: equal credentials give equal text within one process, nothing can be read
  // from it. "anonymous" when empty.
  std::string Fingerprint() const;
};

// Sets user and password from the base64 of "USER:PASSWORD", as docker and the kubelet write it.
// False, and nothing is set, when it is none.
bool DecodeUserAndPassword(std::string_view base64, Credential* out);

struct CredentialOptions {
  std::string home;             // $HOME
  std::string docker_config;    // $DOCKER_CONFIG: a directory
  std::string auth_file;        // $REGISTRY_AUTH_FILE
  std::string xdg_runtime_dir;  // $XDG_RUNTIME_DIR
  std::string xdg_config_home;  // $XDG_CONFIG_HOME
  static CredentialOptions FromEnvironment();
};

// Looks the reference's registry up: containers' auth.json first (longest namespaced key wins),
// then docker's config.json (credHelpers[host], credsStore, auths). An empty credential when there
// is none. An unreadable or malformed file is an error that names it; a helper that says "not
// found" is not.
absl::StatusOr<Credential> FindCredential(const Reference& reference,
                                          const CredentialOptions& options);

}  // namespace imagefs
