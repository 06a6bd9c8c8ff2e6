// SPDX-License-Identifier: Apache-2.0
// Durations as configuration files of Go programs write them. Pure.
#pragma once

#include <chrono>
#include <optional>
#include <string_view>

namespace imagefs {

// Parses a duration in Go's format ("1h30m", "500ms", "0"), rounded down to milliseconds. Returns
// nullopt for other text, a negative duration, and one that Go's type cannot hold.
std::optional<std::chrono::milliseconds> ParseGoDuration(std::string_view text);

}  // namespace imagefs
