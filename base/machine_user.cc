// SPDX-License-Identifier: Apache-2.0
#include "base/machine_user.h"

#include <unistd.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/fd.h"
#include "base/text.h"

namespace imagefs {
namespace {

constexpr uint64_t kAllNumbers = UINT32_MAX;
constexpr uint64_t kMaxMapBytes = 64 << 10;  // the kernel's limit is 340 lines

struct Range {
  uint64_t inside = 0, outside = 0, count = 0;
};

std::vector<Range> Parse(std::string_view uid_map) {
  std::vector<Range> out;
  for (const std::string_view line : Split(uid_map, '\n')) {
    std::vector<uint64_t> numbers;
    for (const std::string_view word : Split(line, ' ')) {
      if (const std::optional<uint64_t> number = ParseDecimal(word)) numbers.push_back(*number);
    }
    if (numbers.size() == 3) out.push_back({numbers[0], numbers[1], numbers[2]});
  }
  return out;
}

bool IsWhole(const std::vector<Range>& map) {
  return map.empty() || (map.size() == 1 && map[0].inside == 0 && map[0].outside == 0 &&
                         map[0].count == kAllNumbers);
}

std::string OwnMap() { return ReadFile("/proc/self/uid_map", kMaxMapBytes).value_or(""); }

}  // namespace

MachineUser MachineUserOf(uid_t uid, std::string_view uid_map) {
  const std::vector<Range> map = Parse(uid_map);
  MachineUser out;
  out.root = uid == 0 && IsWhole(map);
  out.uid = uid;
  uint64_t users = 0;
  for (const Range& range : map) {
    users += range.count;
    if (uid >= range.inside && uid - range.inside < range.count) {
      out.uid = static_cast<uid_t>(range.outside + (uid - range.inside));
    }
  }
  out.root_of_users = uid == 0 && !out.root && users > 1;
  return out;
}

MachineUser ThisUser() { return MachineUserOf(geteuid(), OwnMap()); }

bool InUserNamespace() { return !IsWhole(Parse(OwnMap())); }

}  // namespace imagefs
