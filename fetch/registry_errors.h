// What users are told when a registry, or where it leads, does not give what was asked for: the
// thing, the cause, the remedy. Pure functions.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "fetch/registry_shared.h"

namespace imagefs {

// Where a question went.
enum class Place {
  kRegistry,       // the origin of the registry's API
  kOtherRegistry,  // the API of another one, to which it redirects
  kStorage,        // elsewhere, where it redirects
  kImageUrl,       // one of the URLs that the image's manifest gives for a blob, or where it leads
};

// An answer that is an error.
struct ErrorAnswer {
  Place place = Place::kRegistry;
  int status = 0;     // of HTTP
  std::string what;   // names the thing
  std::string asked;  // "host:port" that answered
  std::string body;
  std::string proxy;  // that the answer came through, "" = none
  bool token_sent = false;
  bool credential_sent = false;  // itself, and not a token for it
  bool hides = false;            // the registry answers those who log in otherwise
};

// 401 and 403. kUnauthenticated or kPermissionDenied.
absl::Status RefusedError(const RegistryEndpoint& endpoint, const ErrorAnswer& answer);
// Any other, of any place. kNotFound for 404 only; kUnavailable or kResourceExhausted for what may
// pass by itself.
absl::Status StatusError(const RegistryEndpoint& endpoint, const ErrorAnswer& answer);

// What a token service said, and why nobody was named to it where a credential was to be had.
absl::Status TokenRefusedError(const RegistryEndpoint& endpoint, const std::string& what,
                               const absl::Status& said);

bool PassesByItself(int http_status);

}  // namespace imagefs
