// Credentials for registries, from the files that docker and the containers tools write. Read by
// the CLI as the calling user and passed to the daemon with one request, for one host. Never
// stored, never logged.
#pragma once

#include <string>
#include <string_view>
#include <vector>

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

// "run `docker login HOST` or `podman login HOST`", for the end of a message. `host` as references
// name it.
std::string LoginRemedy(std::string_view host);

struct CredentialOptions {
  std::string home;             // $HOME
  std::string docker_config;    // $DOCKER_CONFIG: a directory
  std::string auth_file;        // $REGISTRY_AUTH_FILE
  std::string xdg_runtime_dir;  // $XDG_RUNTIME_DIR
  std::string xdg_config_home;  // $XDG_CONFIG_HOME
  // Where podman and skopeo put what a login without a session brought, DIR/auth.json. Looked at
  // only when they belong to this process's user and nobody else may write there: one is below
  // /tmp.
  std::vector<std::string> login_dirs;
  static CredentialOptions FromEnvironment();
};

struct FoundCredential {
  Credential credential;  // empty when there is none, or none that could be had
  // Why there may be one that could not be had: the file or the helper, the cause, the remedy, in
  // one line without secrets. "" when a credential was found, and when nothing is wrong.
  std::string trouble;
};

// Looks the reference's registry up: containers' auth.json first (longest namespaced key wins),
// then docker's config.json (credHelpers[host], credsStore, auths). A file that is unreadable or
// malformed, and a helper that is missing, fails or does not answer within 10 s, is passed over:
// most images are public. A helper that says "not found" is no trouble. Blocks.
FoundCredential FindCredential(const Reference& reference, const CredentialOptions& options);

}  // namespace imagefs
