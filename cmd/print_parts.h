// SPDX-License-Identifier: Apache-2.0
// What the .cc files that print replies share.
#pragma once

#include <algorithm>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/functional/function_ref.h"
#include "base/failure.h"
#include "base/json.h"
#include "base/text.h"
#include "cmd/table.h"

namespace imagefs {

namespace control::v1 {
class Image;
class ImageUser;
}  // namespace control::v1

// Up to three users of an image, each as `text` has it, and how many more there are; "-" if there
// are none.
std::string UsersOf(const control::v1::Image& image,
                    absl::FunctionRef<std::string(const control::v1::ImageUser&)> text);

// Writes the member "error" (print.h's ErrorJson).
void WriteError(JsonWriter& json, FailureKind kind, std::string_view message);

inline std::string Done(JsonWriter& json) { return json.Take() + "\n"; }

inline std::string Age(int64_t created_unix, int64_t now_unix) {
  const int64_t seconds = std::max<int64_t>(now_unix - created_unix, 0);
  if (seconds < 60) return StrCat(seconds, "s");
  if (seconds < 3600) return StrCat(seconds / 60, "m");
  if (seconds < 48 * 3600) return StrCat(seconds / 3600, "h");
  return StrCat(seconds / 86400, "d");
}

inline std::string ShortDigest(const std::string& digest) {
  const size_t colon = digest.find(':');
  return digest.substr(colon == std::string::npos ? 0 : colon + 1, 12);
}

inline std::string Plural(uint64_t n, std::string_view one) {
  return StrCat(n, " ", one, n == 1 ? "" : "s");
}

}  // namespace imagefs
