// SPDX-License-Identifier: Apache-2.0
#define TOML_IMPLEMENTATION
#include "base/toml.h"

#include <algorithm>
#include <exception>

#include "absl/status/status.h"
#include "base/text.h"

namespace imagefs {
namespace {

constexpr size_t kMaxFileBytes = 1 << 20;
constexpr size_t kMaxMessageBytes = 300;
// Each part of a dotted key becomes a table within a table, which is destroyed recursively, and a
// key ends with its line. Dots in texts are counted too, since no real file has so many.
constexpr ptrdiff_t kMaxDots = 256;

class CheckFailed : public std::exception {};

}  // namespace

void FailTomlCheck() { throw CheckFailed(); }

absl::StatusOr<toml::table> ParseToml(std::string_view text, const std::string& path) {
  if (text.size() > kMaxFileBytes) {
    return absl::InvalidArgumentError(StrCat(path, " is larger than 1 MiB"));
  }
  size_t number = 0;
  for (const std::string_view line : Split(text, '\n')) {
    ++number;
    if (std::count(line.begin(), line.end(), '.') > kMaxDots) {
      return absl::InvalidArgumentError(
          StrCat(path, ":", number, ": has more than ", kMaxDots, " dots in one line"));
    }
  }
  try {
    return toml::parse(text, path);
  } catch (const toml::parse_error& error) {
    return absl::InvalidArgumentError(StrCat(path, ":", error.source().begin.line, ": ",
                                             PrintableName(error.description(), kMaxMessageBytes)));
  } catch (const CheckFailed&) {
    return absl::InvalidArgumentError(StrCat(path, " is not valid TOML"));
  }
}

}  // namespace imagefs
