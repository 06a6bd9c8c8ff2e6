// SPDX-License-Identifier: Apache-2.0
#include "base/units.h"

#include <cmath>
#include <cstdio>
#include <limits>

#include "base/fd.h"
#include "base/status.h"
#include "base/text.h"

namespace imagefs {
namespace {

std::string Fixed(double value, int decimals, const char* unit) {
  char text[64];
  snprintf(text, sizeof(text), "%.*f%s", decimals, value, unit);
  return text;
}

}  // namespace

std::string FormatBytes(uint64_t bytes) {
  static constexpr const char* kUnits[] = {" B", " KiB", " MiB", " GiB", " TiB", " PiB", " EiB"};
  double value = static_cast<double>(bytes);
  size_t unit = 0;
  while (value >= 1023.95 && unit + 1 < std::size(kUnits)) {
    value /= 1024;
    ++unit;
  }
  return Fixed(value, unit == 0 ? 0 : 1, kUnits[unit]);
}

std::string FormatDuration(std::chrono::nanoseconds duration) {
  const double seconds = std::chrono::duration<double>(duration).count();
  if (seconds < 1e-3) return Fixed(seconds * 1e6, 0, "us");
  if (seconds < 1) return Fixed(seconds * 1e3, seconds < 0.01 ? 1 : 0, "ms");
  if (seconds < 60) return Fixed(seconds, 2, "s");
  const auto whole = static_cast<int64_t>(seconds);
  if (whole < 3600) return StrCat(whole / 60, "m", whole % 60, "s");
  return StrCat(whole / 3600, "h", whole % 3600 / 60, "m");
}

absl::StatusOr<uint64_t> ParseBytes(std::string_view text) {
  const auto bad = [&] {
    return absl::InvalidArgumentError(
        StrCat("\"", Printable(text), "\" is not a size; expected e.g. 512, 64KiB, 10G"));
  };
  uint64_t value = 0;
  size_t i = 0;
  for (; i < text.size() && text[i] >= '0' && text[i] <= '9'; ++i) {
    const auto digit = static_cast<uint64_t>(text[i] - '0');
    if (value > (std::numeric_limits<uint64_t>::max() - digit) / 10) return bad();
    value = value * 10 + digit;
  }
  if (i == 0) return bad();
  std::string_view unit = text.substr(i);
  while (!unit.empty() && unit.front() == ' ') unit.remove_prefix(1);
  if (unit.empty() && i < text.size()) return bad();
  int shift = 0;
  if (!unit.empty() && unit != "B") {
    const size_t power = std::string_view("KMGTPE").find(unit.front());
    const std::string_view rest = unit.substr(1);
    if (power == std::string_view::npos || !(rest.empty() || rest == "B" || rest == "iB")) {
      return bad();
    }
    shift = 10 * static_cast<int>(power + 1);
  }
  if (shift > 0 && value > (std::numeric_limits<uint64_t>::max() >> shift)) return bad();
  return value << shift;
}

absl::StatusOr<std::string> BootId() {
  IMAGEFS_ASSIGN_OR_RETURN(std::string id, ReadFile("/proc/sys/kernel/random/boot_id", 128));
  while (!id.empty() && (id.back() == '\n' || id.back() == ' ')) id.pop_back();
  if (id.size() < 8) return absl::InternalError("the kernel provides no boot id");
  return id;
}

}  // namespace imagefs
