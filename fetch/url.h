// Absolute http and https URLs, taken apart and resolved. Pure functions.
#pragma once

#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace imagefs {

struct Url {
  std::string scheme;  // "http" or "https"
  std::string host;    // lower case, IPv6 in brackets, without the port
  int port = 0;        // as given, else the scheme's
  std::string text;    // the whole URL, normalised

  // Refuses other schemes, user information, control characters and more than 16 KiB.
  static absl::StatusOr<Url> Parse(std::string_view text);
  // What a Location header of this URL's answer points to: absolute or relative.
  absl::StatusOr<Url> Resolve(std::string_view location) const;

  // The same path and query at the origin of `other`.
  absl::StatusOr<Url> At(const Url& other) const;
  // What follows the host: "/v2/?a=b".
  std::string_view PathAndQuery() const;

  bool SameOrigin(const Url& other) const {
    return scheme == other.scheme && host == other.host && port == other.port;
  }
  std::string HostPort() const;  // "host:port", the port left out when it is the scheme's
};

bool IsRedirect(int http_status);

// The Referer header of a request for `to`, where an answer of `from` sent it: that URL, as Go's
// client sends it, without its query when that is another host's (a signed link is a secret), and
// nothing from https to http.
std::string RefererFor(const Url& from, const Url& to);

// Percent-encodes everything but unreserved characters: one value of a query or of a form.
std::string UrlEncode(std::string_view text);

}  // namespace imagefs
