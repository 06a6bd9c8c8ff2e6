// SPDX-License-Identifier: Apache-2.0
#include "image/rfc3339.h"

#include <string>

#include "absl/time/time.h"
#include "base/text.h"

namespace imagefs {

std::optional<FileTime> ParseRfc3339(std::string_view text) {
  constexpr std::string_view kZeroTime = "0001-01-01T00:00:00Z";
  if (text.empty() || text == kZeroTime) return FileTime();
  absl::Time time;
  std::string error;
  if (!absl::ParseTime(absl::RFC3339_full, ToAbsl(text), &time, &error) ||
      time == absl::InfiniteFuture() || time == absl::InfinitePast()) {
    return std::nullopt;
  }
  FileTime out;
  out.seconds = absl::ToUnixSeconds(time);  // rounds down, as the next line requires
  out.nanoseconds =
      static_cast<uint32_t>(absl::ToInt64Nanoseconds(time - absl::FromUnixSeconds(out.seconds)));
  return out;
}

}  // namespace imagefs
