// SPDX-License-Identifier: Apache-2.0
// What is common to finding credentials (fetch/credentials.h) and storing them
// (fetch/login_store.h): the keys of docker's config.json and containers' auth.json
// (containers-auth.json(5)), and the helpers that they name. Thread-safe.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "base/json.h"
#include "base/subprocess.h"
#include "image/reference.h"

namespace imagefs {

// Docker's key and helper name for its hub.
inline constexpr std::string_view kDockerHubServer = "https://index.docker.io/v1/";
// The user name that marks a refresh token.
inline constexpr std::string_view kTokenUser = "<token>";

// True for docker.io and its other names.
bool IsHubHost(std::string_view host);

// HOST, HOST/NAMESPACE..., or one of docker's old URLs ("https://HOST/v1/"), which stand for the
// host.
struct CredentialKey {
  std::string host;  // "docker.io" for all names of the hub; "" = not a key
  std::string path;  // the namespace; "" = the whole registry
  static CredentialKey Parse(std::string_view text);
  bool operator==(const CredentialKey&) const = default;
  // Returns how well it matches: 0 for no match, higher for a longer matching path.
  size_t Fit(const Reference& reference) const;
};

// Returns an object, or an absent value if there is no such file or it is empty. Messages name the
// file and quote nothing of it.
absl::StatusOr<Json> ReadCredentialFile(const std::string& file);

// Whether only this process's user can have put files into that directory.
bool IsOwnDirectory(const std::string& directory);

// Returns the helper that a file makes responsible for `reference`, or "".
std::string HelperFor(const Json& config, const Reference& reference);
// Returns the names under which helpers know the registry, the preferred one first.
std::vector<std::string> HelperServers(const std::string& host);

// Runs `docker-credential-HELPER ACTION`, for at most 10 s. The caller must wipe the output.
// Returns an error that names program, cause and remedy if it cannot be run; `file` names it. A
// nonzero exit status is none.
absl::StatusOr<ProgramResult> RunCredentialHelper(const std::string& helper,
                                                  std::string_view action, std::string_view input,
                                                  const std::string& file);
// Whether a helper's failure means that it has no such credential.
bool HelperHasNone(const ProgramResult& result);
absl::Status HelperError(const std::string& helper, std::string_view why, const std::string& file);

}  // namespace imagefs
