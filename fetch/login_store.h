// SPDX-License-Identifier: Apache-2.0
// Stores and removes what `imagefs login` was given, where podman, skopeo and docker find it: in
// containers' auth.json (containers-auth.json(5)), or with the credential helper that is
// responsible for the registry. Nothing else in the file changes.
//
// The file is replaced atomically, with mode 0600. Two imagefs commands that change it at the same
// time wait for each other; podman and docker do not take part in that. Blocks on disk and helpers.
// Errors name file or helper, cause and remedy, and no secret.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "base/secret.h"
#include "fetch/credentials.h"
#include "image/reference.h"

namespace imagefs {

// What a login is for: a registry, or a namespace in it.
struct LoginName {
  std::string host;  // as in references
  std::string path;  // the namespace; "" = the whole registry
  // Parses HOST[:PORT][/NAMESPACE...], with the hosts that references can have.
  static absl::StatusOr<LoginName> Parse(std::string_view text);
  std::string ToString() const;  // "HOST/NAMESPACE"
  // A repository that only this login, or one for more, is for.
  Reference Example() const;
};

// Returns the file that podman would write to: `auth_file` of the options if it is set; config.json
// in `docker_config` if that is; auth.json in $XDG_RUNTIME_DIR/containers; without a session that
// of `login_dirs` which podman uses. Creates nothing. Fails if $XDG_RUNTIME_DIR does not exist or
// is not this user's.
absl::StatusOr<std::string> LoginFile(const CredentialOptions& options);

// Where a login is stored.
struct LoginPlace {
  std::string file;              // that has it, or names the helper
  std::string helper;            // "" = the file has it
  std::string ToString() const;  // "FILE", or "docker-credential-HELPER, by FILE"
};

// Stores the login, replacing an older one for the same name. Creates the directory of the file
// (0700); refuses the default one if others own it or may write to it.
//
// The helper that the file names for the registry has it instead (credHelpers, credsStore), or the
// one that docker's configuration names for this very registry, unless `options.auth_file` is set.
// Helpers know no namespaces, so a login for one is in the file.
absl::StatusOr<LoginPlace> StoreLogin(const CredentialOptions& options, const LoginName& name,
                                      const std::string& username, const Secret& password);

// Removes the login from LoginFile(options), and from the helper responsible. Returns the place
// where it was, or kNotFound.
absl::StatusOr<LoginPlace> EraseLogin(const CredentialOptions& options, const LoginName& name);

// Removes all logins of LoginFile(options), also those that are with helpers that it names. Returns
// their names, as in the file.
absl::StatusOr<std::vector<std::string>> EraseAllLogins(const CredentialOptions& options);

}  // namespace imagefs
