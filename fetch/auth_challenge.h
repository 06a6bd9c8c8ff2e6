// How a registry asks who it is that asks: the challenges of its refusals (RFC 9110, 11.6.1). Pure;
// bounded in output, linear in input.
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
  std::map<std::string, std::string> params;  // names in lower case; the first of equal names
  std::string token68;                        // of schemes that have no parameters

  std::string Param(std::string_view name) const;  // `name` in lower case; "" when absent
};

// All challenges of one WWW-Authenticate value, in order. What follows a syntax error is left out.
std::vector<AuthChallenge> ParseChallenges(std::string_view header);

// The first challenge of a refusal that can be met: "basic", or "bearer" with a realm.
std::optional<AuthChallenge> UsableChallenge(const HttpResponse& response, std::string_view scheme);

}  // namespace imagefs
