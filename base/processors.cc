// SPDX-License-Identifier: Apache-2.0
#include "base/processors.h"

#include <sched.h>

#include <algorithm>
#include <cstdint>
#include <optional>
#include <thread>

#include "base/fd.h"
#include "base/text.h"

namespace imagefs {
namespace {

constexpr uint64_t kMaxFileBytes = 64 << 10;

// Of "QUOTA PERIOD\n"; nullopt for "max PERIOD\n", and for anything else.
std::optional<uint64_t> ParseQuota(std::string_view text) {
  text = text.substr(0, text.find('\n'));
  const size_t space = text.find(' ');
  if (space == std::string_view::npos) return std::nullopt;
  const std::optional<uint64_t> quota = ParseDecimal(text.substr(0, space));
  const std::optional<uint64_t> period = ParseDecimal(text.substr(space + 1));
  if (quota.value_or(0) == 0 || period.value_or(0) == 0) return std::nullopt;
  return *quota / *period + (*quota % *period != 0 ? 1 : 0);
}

// The path of the group in the hierarchy of version 2, "" for its root; nullopt: it is in none.
std::optional<std::string> GroupOf(std::string_view groups) {
  for (std::string_view line : Split(groups, '\n')) {
    if (ConsumePrefix(&line, "0::/")) return line.empty() ? "" : StrCat("/", line);
  }
  return std::nullopt;
}

int AllowedByAffinity() {
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof(set), &set) == 0) return CPU_COUNT(&set);
  return static_cast<int>(std::thread::hardware_concurrency());  // more than fit into a cpu_set_t
}

}  // namespace

int ProcessorsOfQuota(std::string_view groups, const std::string& root) {
  uint64_t least = 0;
  std::optional<std::string> group = GroupOf(groups);
  while (group.has_value()) {
    const absl::StatusOr<std::string> text =
        ReadFile(StrCat(root, *group, "/cpu.max"), kMaxFileBytes);
    const std::optional<uint64_t> quota = text.ok() ? ParseQuota(*text) : std::nullopt;
    if (quota.has_value() && (least == 0 || *quota < least)) least = *quota;
    // A group gets no more than each group around it.
    group->empty() ? group.reset() : group->resize(group->rfind('/'));
  }
  return static_cast<int>(std::min<uint64_t>(least, INT32_MAX));
}

int UsableProcessors() {
  int processors = AllowedByAffinity();
  const absl::StatusOr<std::string> groups = ReadFile("/proc/self/cgroup", kMaxFileBytes);
  const int quota = groups.ok() ? ProcessorsOfQuota(*groups, "/sys/fs/cgroup") : 0;
  if (quota > 0) processors = std::min(processors, quota);
  return std::max(processors, 1);
}

}  // namespace imagefs
