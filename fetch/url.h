// SPDX-License-Identifier: Apache-2.0
// Parsed absolute http and https URLs. Pure functions.
#pragma once

#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace imagefs {

struct Url {
  std::string scheme;  // "http" or "https"
  std::string host;    // lower case, IPv6 in brackets, without the port
  int port = 0;        // explicit, or the scheme's default
  std::string text;    // the whole URL, normalized

  // Rejects other schemes, user information, control characters and more than 16 KiB.
  static absl::StatusOr<Url> Parse(std::string_view text);
  // Resolves a Location header, absolute or relative, of a response from this URL.
  absl::StatusOr<Url> Resolve(std::string_view location) const;

  // Returns the same path and query at the origin of `other`.
  absl::StatusOr<Url> At(const Url& other) const;
  // The part after the host: "/v2/?a=b".
  std::string_view PathAndQuery() const;

  bool SameOrigin(const Url& other) const {
    return scheme == other.scheme && host == other.host && port == other.port;
  }
  std::string HostPort() const;  // "host:port", without the scheme's default port
};

bool IsRedirect(int http_status);

// Returns the Referer header for `to`, to which a response from `from` redirected: that URL, as
// Go's client sends it, without its query if it is another host's (a signed link is a secret), and
// nothing from https to http.
std::string RefererFor(const Url& from, const Url& to);

// Percent-encodes everything but unreserved characters, for a value in a query or form.
std::string UrlEncode(std::string_view text);

}  // namespace imagefs
