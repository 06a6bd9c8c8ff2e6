// SPDX-License-Identifier: Apache-2.0
// Registry credentials from the files that docker and the containers tools write. The CLI reads
// them as the calling user and passes them to the daemon with a single request, for a single host.
// Never stored, never logged.
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
  Secret identity_token;  // OAuth2 refresh token; username and password are then empty
  Secret registry_token;  // sent to the registry verbatim; all others are then empty
  bool empty() const {
    return username.empty() && password.empty() && identity_token.empty() && registry_token.empty();
  }
  // A salted fingerprint: equal credentials have equal fingerprints within one process, and it
  // reveals nothing about them. "anonymous" if empty.
  std::string Fingerprint() const;
};

// Sets user name and password from the base64 of "USER:PASSWORD", the format of docker and the
// kubelet. Returns false and sets nothing if it is malformed.
bool DecodeUserAndPassword(std::string_view base64, Credential* out);

// Returns "run `imagefs login HOST`", to end a message with. `host` is
// written as in references.
std::string LoginRemedy(std::string_view host);

struct CredentialOptions {
  std::string home;             // $HOME
  std::string docker_config;    // $DOCKER_CONFIG: a directory
  std::string auth_file;        // $REGISTRY_AUTH_FILE
  std::string xdg_runtime_dir;  // $XDG_RUNTIME_DIR
  std::string xdg_config_home;  // $XDG_CONFIG_HOME
  // Where podman and skopeo store credentials of a login without a session, as DIR/auth.json. Used
  // only if the directory is owned by this process's user and not writable by others, since one of
  // them is under /tmp.
  std::vector<std::string> login_dirs;
  static CredentialOptions FromEnvironment();
};

struct FoundCredential {
  Credential credential;  // empty if none was found or available
  // Why a credential that may exist is not available: the file or helper, the cause and the remedy,
  // in one line without secrets. "" if a credential was found or nothing is wrong.
  std::string trouble;
};

// Looks up the reference's registry: first in containers' auth.json (the longest namespaced key
// wins), then in docker's config.json (credHelpers[host], credsStore, auths). Skips files that are
// unreadable or malformed, and helpers that are missing, fail, or do not respond within 10 s,
// because most images are public. A helper that reports "not found" is not an error. Blocks.
FoundCredential FindCredential(const Reference& reference, const CredentialOptions& options);

}  // namespace imagefs
