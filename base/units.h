// SPDX-License-Identifier: Apache-2.0
// Human-readable text for sizes, durations and rates; and parsing of sizes.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace imagefs {

std::string FormatBytes(uint64_t bytes);                        // "12.3 MiB"
std::string FormatDuration(std::chrono::nanoseconds duration);  // "1.24s", "38ms"
absl::StatusOr<uint64_t> ParseBytes(std::string_view text);     // "512", "64KiB", "10G" (1024)

// Returns the boot id of the machine (/proc/sys/kernel/random/boot_id).
absl::StatusOr<std::string> BootId();

}  // namespace imagefs
