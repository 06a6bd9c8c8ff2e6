// SPDX-License-Identifier: Apache-2.0
// How many processors this process may use.
#pragma once

#include <string>
#include <string_view>

namespace imagefs {

// Those that its affinity mask allows, and not more than the quotas of its control groups give time
// on, rounded up (cgroup v2, cpu.max). At least 1. Reads files.
int UsableProcessors();

// What the quotas of the control groups give, rounded up; 0: there is none. `groups` is the content
// of /proc/<pid>/cgroup, and `root` where the hierarchy of version 2 is mounted. For tests.
int ProcessorsOfQuota(std::string_view groups, const std::string& root);

}  // namespace imagefs
