// SPDX-License-Identifier: Apache-2.0
// Finds the name that a mistyped one was meant to be.
#pragma once

#include <string>
#include <string_view>

#include "absl/types/span.h"

namespace imagefs {

// Returns the name that differs from `word` in the fewest letters changed, added, left out or
// swapped, the first one of equals; "" if each differs in three or more, or in all of its letters.
// Words longer than 255 bytes are not compared.
std::string MostSimilar(std::string_view word, absl::Span<const std::string> names);

}  // namespace imagefs
