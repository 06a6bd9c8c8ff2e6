// SPDX-License-Identifier: Apache-2.0
#include "fetch/url.h"

#include <curl/curl.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <utility>

#include "absl/strings/ascii.h"
#include "base/log.h"
#include "base/text.h"

namespace imagefs {
namespace {

constexpr size_t kMaxUrlBytes = 16 << 10;

using UrlHandle = std::unique_ptr<CURLU, decltype(&curl_url_cleanup)>;

std::string Part(CURLU* handle, CURLUPart part, unsigned flags = 0) {
  char* text = nullptr;
  if (curl_url_get(handle, part, &text, flags) != CURLUE_OK) return "";
  std::string result(text);
  curl_free(text);
  return result;
}

bool HasControlCharacter(std::string_view text) {
  for (unsigned char c : text) {
    if (c < 0x20 || c == 0x7f) return true;
  }
  return false;
}

absl::Status Refuse(std::string_view url, std::string_view why) {
  return absl::InvalidArgumentError(StrCat("URL \"", RedactUrl(url), "\" refused: ", why));
}

// Sets `text` on `handle`, resolving a relative one against the handle's URL.
absl::StatusOr<Url> Take(CURLU* handle, std::string_view text) {
  if (text.size() > kMaxUrlBytes) return Refuse(text.substr(0, 200), "longer than 16 KiB");
  if (HasControlCharacter(text)) return Refuse("", "it contains control characters");
  const size_t authority = text.find("://");
  if (authority != std::string_view::npos && text.substr(authority).starts_with(":///")) {
    return Refuse(text, "it names no host");
  }
  const CURLUcode code =
      curl_url_set(handle, CURLUPART_URL, std::string(text).c_str(), CURLU_URLENCODE);
  if (code != CURLUE_OK) return Refuse(text, curl_url_strerror(code));
  if (!Part(handle, CURLUPART_USER).empty() || !Part(handle, CURLUPART_PASSWORD).empty()) {
    return Refuse(text, "it carries a user name; give credentials by `imagefs login` instead");
  }
  curl_url_set(handle, CURLUPART_FRAGMENT, nullptr, 0);
  Url url;
  url.scheme = ToLower(Part(handle, CURLUPART_SCHEME));
  url.host = ToLower(Part(handle, CURLUPART_HOST));
  if (url.scheme != "http" && url.scheme != "https") {
    return Refuse(text, "only http and https are supported");
  }
  curl_url_set(handle, CURLUPART_HOST, url.host.c_str(), 0);
  if (url.host.empty()) return Refuse(text, "it names no host");
  const std::optional<uint64_t> port =
      ParseDecimal(Part(handle, CURLUPART_PORT, CURLU_DEFAULT_PORT));
  if (!port || *port > 65535) return Refuse(text, "its port is not a number");
  url.port = static_cast<int>(*port);
  url.text = Part(handle, CURLUPART_URL);
  return url;
}

}  // namespace

absl::StatusOr<Url> Url::Parse(std::string_view text) {
  UrlHandle handle(curl_url(), &curl_url_cleanup);
  if (text.find("://") == std::string_view::npos) return Refuse(text, "it is not absolute");
  return Take(handle.get(), text);
}

absl::StatusOr<Url> Url::Resolve(std::string_view location) const {
  UrlHandle handle(curl_url(), &curl_url_cleanup);
  if (curl_url_set(handle.get(), CURLUPART_URL, text.c_str(), 0) != CURLUE_OK) {
    return Refuse(text, "it cannot be parsed");
  }
  if (location.empty()) return Refuse(location, "it is empty");
  return Take(handle.get(), location);
}

std::string Url::HostPort() const {
  if (port == (scheme == "https" ? 443 : 80)) return host;
  return StrCat(host, ":", port);
}

std::string_view Url::PathAndQuery() const {
  const size_t authority = text.find("://") + 3;
  const size_t path = text.find_first_of("/?", authority);
  return path == std::string::npos ? std::string_view() : std::string_view(text).substr(path);
}

absl::StatusOr<Url> Url::At(const Url& other) const {
  return Parse(StrCat(other.scheme, "://", other.HostPort(), PathAndQuery()));
}

bool IsRedirect(int http_status) {
  return http_status == 301 || http_status == 302 || http_status == 303 || http_status == 307 ||
         http_status == 308;
}

std::string RefererFor(const Url& from, const Url& to) {
  if (from.scheme == "https" && to.scheme != "https") return "";
  return from.host == to.host ? from.text : from.text.substr(0, from.text.find('?'));
}

std::string UrlEncode(std::string_view text) {
  constexpr char kHex[] = "0123456789ABCDEF";
  std::string out;
  out.reserve(text.size());
  for (unsigned char c : text) {
    if (absl::ascii_isalnum(c) || c == '-' || c == '.' || c == '_' || c == '~') {
      out.push_back(static_cast<char>(c));
    } else {
      out.append({'%', kHex[c >> 4], kHex[c & 15]});
    }
  }
  return out;
}

}  // namespace imagefs
