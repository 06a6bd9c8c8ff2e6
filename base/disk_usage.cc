// SPDX-License-Identifier: Apache-2.0
#include "base/disk_usage.h"

#include <errno.h>
#include <fts.h>
#include <sys/stat.h>

#include <memory>
#include <set>
#include <utility>

#include "base/status.h"

namespace imagefs {

absl::StatusOr<DiskUsage> DiskUsageOf(const std::string& root) {
  std::string path = root;
  char* const roots[] = {path.data(), nullptr};
  const std::unique_ptr<FTS, int (*)(FTS*)> walk(
      fts_open(roots, FTS_PHYSICAL | FTS_XDEV | FTS_NOCHDIR, nullptr), fts_close);
  if (walk == nullptr) return ErrnoStatus(errno, root);
  DiskUsage usage;
  std::set<std::pair<dev_t, ino_t>> counted;
  while (const FTSENT* entry = (errno = 0, fts_read(walk.get()))) {
    switch (entry->fts_info) {
      case FTS_DP:
        continue;  // counted before its content
      case FTS_DNR:
      case FTS_ERR:
      case FTS_NS:
        if (entry->fts_errno == ENOENT) continue;
        return ErrnoStatus(entry->fts_errno, entry->fts_path);
      default:
        break;
    }
    const struct stat& st = *entry->fts_statp;
    const bool directory = entry->fts_info == FTS_D;
    if (!directory && st.st_nlink > 1 && !counted.emplace(st.st_dev, st.st_ino).second) continue;
    usage.bytes += static_cast<uint64_t>(st.st_blocks) * 512;
    if (!directory) ++usage.files;
  }
  if (errno != 0) return ErrnoStatus(errno, root);
  return usage;
}

}  // namespace imagefs
