// SPDX-License-Identifier: Apache-2.0
// The ids of a user namespace that a user without privileges makes for a container: all that
// /etc/subuid and /etc/subgid give to the user, by newuidmap(1) and newgidmap(1), or else the
// user's own ids alone, as root of the namespace.
#pragma once

#include <sys/types.h>

#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace imagefs {

// A line of a uid_map (user_namespaces(7)).
struct IdRange {
  uint64_t inside = 0, outside = 0, count = 0;
  friend bool operator==(const IdRange&, const IdRange&) = default;
};

// Maps 0 to `own`, and the ids from 1 on to the ranges which subuid(5) text gives to the user. Only
// that of 0 if there are none.
std::vector<IdRange> MapsOf(std::string_view text, std::string_view name, uid_t user, uint64_t own);

// Maps the ids of the user namespace of `pid`, a child of this process. Returns "", or why only
// those of the caller are mapped. Blocks on the two programs.
absl::StatusOr<std::string> MapIds(pid_t pid);

}  // namespace imagefs
