// What is mounted in this process's mount namespace, from /proc/self/mountinfo.
#pragma once

#include <string>
#include <string_view>

#include "absl/container/flat_hash_set.h"
#include "absl/status/statusor.h"

namespace imagefs {

absl::StatusOr<absl::flat_hash_set<std::string>> MountPoints();

// The mount points of a mountinfo text (proc(5)), octal escapes undone.
absl::flat_hash_set<std::string> ParseMountPoints(std::string_view mountinfo);

}  // namespace imagefs
