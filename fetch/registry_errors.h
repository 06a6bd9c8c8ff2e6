// SPDX-License-Identifier: Apache-2.0
// Error messages for users when a registry, or a host that it leads to, does not deliver: the
// object, the cause, the remedy. Pure functions.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "fetch/registry_shared.h"

namespace imagefs {

// Where a request went.
enum class Place {
  kRegistry,       // the origin of the registry's API
  kOtherRegistry,  // the API of another registry, by redirect
  kStorage,        // any other redirect target
  kImageUrl,       // a URL that the image's manifest gives for a blob, or a redirect from it
};

// An error response.
struct ErrorAnswer {
  Place place = Place::kRegistry;
  int status = 0;     // HTTP status
  std::string what;   // names the object
  std::string asked;  // "host:port" that responded
  std::string body;
  std::string proxy;  // the proxy it came through, "" = none
  bool token_sent = false;
  bool credential_sent = false;  // the credential itself, not a token for it
  bool hides = false;            // a login might get another answer
};

// For 401 and 403. Returns kUnauthenticated or kPermissionDenied.
absl::Status RefusedError(const RegistryEndpoint& endpoint, const ErrorAnswer& answer);
// For any other status, from any place. Returns kNotFound only for 404; kUnavailable or
// kResourceExhausted for transient errors.
absl::Status StatusError(const RegistryEndpoint& endpoint, const ErrorAnswer& answer);

// The error of a token service, and why no credentials were sent although there may be some.
absl::Status TokenRefusedError(const RegistryEndpoint& endpoint, const std::string& what,
                               const absl::Status& said);

bool PassesByItself(int http_status);

}  // namespace imagefs
