// SPDX-License-Identifier: Apache-2.0
// Parses the authentication challenges in a registry's error responses (RFC 9110, 11.6.1). Pure;
// bounded output, linear time.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "fetch/http.h"

namespace imagefs {

struct AuthChallenge {
  std::string scheme;                         // lower case: "bearer", "basic"
  std::map<std::string, std::string> params;  // lower-case names; the first of duplicates
  std::string token68;                        // for schemes without parameters

  std::string Param(std::string_view name) const;  // `name` in lower case; "" if absent
};

// Returns all challenges of one WWW-Authenticate value, in order. Ignores everything after a syntax
// error.
std::vector<AuthChallenge> ParseChallenges(std::string_view header);

// Returns the first challenge with `scheme` that can be answered: "basic", or "bearer" with a
// realm.
std::optional<AuthChallenge> UsableChallenge(const HttpResponse& response, std::string_view scheme);

}  // namespace imagefs
