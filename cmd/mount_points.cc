#include "cmd/mount_points.h"

#include <fcntl.h>

#include <vector>

#include "base/fd.h"
#include "base/status.h"
#include "base/text.h"

namespace imagefs {
namespace {

constexpr uint64_t kMaxMountinfoBytes = 64 << 20;  // the kernel's limit of mounts times a long line
constexpr size_t kMountPointField = 4;

std::string Unescape(std::string_view text) {
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    auto octal = [&](size_t at) { return text[at] >= '0' && text[at] <= '7'; };
    if (text[i] == '\\' && i + 3 < text.size() && octal(i + 1) && octal(i + 2) && octal(i + 3)) {
      out += static_cast<char>((text[i + 1] - '0') * 64 + (text[i + 2] - '0') * 8 +
                               (text[i + 3] - '0'));
      i += 3;
    } else {
      out += text[i];
    }
  }
  return out;
}

}  // namespace

absl::flat_hash_set<std::string> ParseMountPoints(std::string_view mountinfo) {
  absl::flat_hash_set<std::string> points;
  for (std::string_view line : Split(mountinfo, '\n')) {
    const std::vector<std::string_view> fields = Split(line, ' ');
    if (fields.size() > kMountPointField) points.insert(Unescape(fields[kMountPointField]));
  }
  return points;
}

absl::StatusOr<absl::flat_hash_set<std::string>> MountPoints() {
  // Sizes in /proc read as 0, so the file is read to its end.
  IMAGEFS_ASSIGN_OR_RETURN(const Fd fd, OpenFile("/proc/self/mountinfo", O_RDONLY));
  std::string text;
  std::vector<char> buffer(64 << 10);
  while (text.size() < kMaxMountinfoBytes) {
    IMAGEFS_ASSIGN_OR_RETURN(const size_t n, PreadFull(fd.get(), absl::MakeSpan(buffer), text.size()));
    if (n == 0) break;
    text.append(buffer.data(), n);
  }
  return ParseMountPoints(text);
}

}  // namespace imagefs
