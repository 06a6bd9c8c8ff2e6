// SPDX-License-Identifier: Apache-2.0
#include "cmd/process_stats.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/resource.h>
#include <unistd.h>

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/fd.h"
#include "base/text.h"

namespace imagefs {
namespace {

constexpr size_t kMaxBytes = 64 << 10;

// Files of /proc have no size, so ReadFile cannot be used.
std::string ReadProc(const char* path) {
  const absl::StatusOr<Fd> fd = OpenFile(path, O_RDONLY);
  if (!fd.ok()) return "";
  std::string bytes(kMaxBytes, '\0');
  const absl::StatusOr<size_t> n = PreadFull(fd->get(), absl::MakeSpan(bytes), 0);
  bytes.resize(n.value_or(0));
  return bytes;
}

uint64_t CountFds() {
  const std::unique_ptr<DIR, int (*)(DIR*)> directory(opendir("/proc/self/fd"), &closedir);
  if (directory == nullptr) return 0;
  uint64_t count = 0;
  while (const dirent* entry = readdir(directory.get())) count += entry->d_name[0] != '.' ? 1 : 0;
  return count - 1;  // without this directory
}

uint64_t BootUnixSeconds() {
  const std::string text = ReadProc("/proc/stat");
  for (const std::string_view line : Split(text, '\n')) {
    if (line.starts_with("btime ")) return ParseDecimal(line.substr(6)).value_or(0);
  }
  return 0;
}

}  // namespace

ProcessStats ReadProcessStats() {
  ProcessStats out;
  const auto tick = static_cast<double>(sysconf(_SC_CLK_TCK));
  const std::string stat = ReadProc("/proc/self/stat");
  // Behind the program's name, which may contain anything; proc(5) counts from 1, and this is 3.
  const size_t name_end = stat.rfind(") ");
  std::vector<std::string_view> fields;
  if (name_end != std::string::npos)
    fields = Split(std::string_view(stat).substr(name_end + 2), ' ');
  const auto field = [&fields](size_t number) {
    const size_t i = number - 3;
    return i < fields.size() ? ParseDecimal(fields[i]).value_or(0) : uint64_t{0};
  };
  out.cpu_seconds = static_cast<double>(field(14) + field(15)) / tick;
  out.threads = field(20);
  const double since_boot = static_cast<double>(field(22)) / tick;
  if (const uint64_t boot = BootUnixSeconds(); boot > 0 && since_boot > 0) {
    out.start_unix_seconds = static_cast<double>(boot) + since_boot;
  }
  out.virtual_bytes = field(23);
  out.resident_bytes = field(24) * static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
  out.open_fds = CountFds();
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) == 0) out.max_fds = limit.rlim_cur;
  return out;
}

}  // namespace imagefs
