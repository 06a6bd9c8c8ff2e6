// SPDX-License-Identifier: Apache-2.0
#include "fetch/go_duration.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <utility>

#include "base/text.h"

namespace imagefs {

std::optional<std::chrono::milliseconds> ParseGoDuration(std::string_view text) {
  if (text == "0") return std::chrono::milliseconds(0);
  if (text.empty() || text.size() > 64) return std::nullopt;
  double seconds = 0;
  while (!text.empty()) {
    const size_t digits = std::min(text.find_first_not_of("0123456789."), text.size());
    if (digits == 0 || text.find('.') != text.substr(0, digits).rfind('.')) return std::nullopt;
    const std::string number(text.substr(0, digits));
    if (number == ".") return std::nullopt;
    text.remove_prefix(digits);
    double unit = 0;
    // If a unit is a prefix of another, the longer one comes first.
    for (const auto& [name, value] : {std::pair<std::string_view, double>{"ns", 1e-9},
                                      {"us", 1e-6},
                                      {"\u00b5s", 1e-6},
                                      {"ms", 1e-3},
                                      {"s", 1},
                                      {"m", 60},
                                      {"h", 3600}}) {
      if (!ConsumePrefix(&text, name)) continue;
      unit = value;
      break;
    }
    if (unit == 0) return std::nullopt;
    seconds += strtod(number.c_str(), nullptr) * unit;
  }
  // The limit of Go's type.
  if (!(seconds < 9.2e9)) return std::nullopt;
  // A little is added for what a sum of doubles lacks: "1.001s" is 1001 ms.
  return std::chrono::milliseconds(static_cast<int64_t>(std::floor(seconds * 1e3 + 1e-6)));
}

}  // namespace imagefs
