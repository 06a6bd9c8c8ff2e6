// SPDX-License-Identifier: Apache-2.0
// Times in the texts that describe files. Pure.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

namespace imagefs {

struct FileTime {
  int64_t seconds = 0;  // since 1970, rounded down
  uint32_t nanoseconds = 0;
};

// Parses an RFC 3339 time. "" and Go's zero time, which stands for none, give 1970. Returns nullopt
// for any other text.
std::optional<FileTime> ParseRfc3339(std::string_view text);

}  // namespace imagefs
