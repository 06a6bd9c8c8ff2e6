// SPDX-License-Identifier: Apache-2.0
#include "fetch/header_reader.h"

#include <cstdint>
#include <optional>

#include "base/text.h"

namespace imagefs {
namespace {

constexpr size_t kMaxHeaders = 256;
constexpr size_t kMaxHeaderBytes = 64 << 10;

std::string_view Trim(std::string_view text) {
  constexpr std::string_view kBlank = " \t\r\n";
  const size_t begin = text.find_first_not_of(kBlank);
  if (begin == std::string_view::npos) return "";
  return text.substr(begin, text.find_last_not_of(kBlank) - begin + 1);
}

}  // namespace

std::string HttpResponse::Header(std::string_view name) const {
  const auto it = headers.find(std::string(name));
  return it == headers.end() ? "" : it->second;
}

absl::Status HeaderReader::Take(std::string_view line, HttpResponse& response) {
  bytes_ += line.size();
  if (response.headers.size() >= kMaxHeaders || bytes_ > kMaxHeaderBytes) {
    return absl::ResourceExhaustedError("sent too many headers");
  }
  if (line.starts_with("HTTP/")) {
    response.headers.clear();
    response.status = 0;
    const size_t space = line.find(' ');
    const std::optional<uint64_t> status =
        ParseDecimal(space == std::string_view::npos ? "" : line.substr(space + 1, 3));
    if (!status) return absl::UnavailableError("sent no HTTP status");
    response.status = static_cast<int>(*status);
    return absl::OkStatus();
  }
  line = Trim(line);
  if (line.empty()) {
    done_ = response.status >= 200;
    return absl::OkStatus();
  }
  const size_t colon = line.find(':');
  if (colon == std::string_view::npos) return absl::OkStatus();
  response.headers.emplace(ToLower(Trim(line.substr(0, colon))), Trim(line.substr(colon + 1)));
  return absl::OkStatus();
}

}  // namespace imagefs
