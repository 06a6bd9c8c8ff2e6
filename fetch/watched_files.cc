// SPDX-License-Identifier: Apache-2.0
#include "fetch/watched_files.h"

#include <algorithm>
#include <cerrno>

#include "absl/status/status.h"
#include "base/directory.h"
#include "base/fd.h"
#include "base/status.h"
#include "base/text.h"
#include "base/thread_role.h"

namespace imagefs {
namespace {

int64_t Nanoseconds(const timespec& time) {
  return int64_t{time.tv_sec} * 1'000'000'000 + time.tv_nsec;
}

bool IsAbsent(int error) { return error == ENOENT || error == ENOTDIR || error == EACCES; }

}  // namespace

WatchedFiles::Version WatchedFiles::Look(const std::string& path) {
  MayBlock("looking for a file");
  Version out;
  struct stat st {};
  if (stat(path.c_str(), &st) != 0) {
    out.error = errno;
    return out;
  }
  out.mode = st.st_mode;
  out.device = st.st_dev;
  out.inode = st.st_ino;
  out.size = static_cast<uint64_t>(st.st_size);
  out.modified_ns = Nanoseconds(st.st_mtim);
  out.changed_ns = Nanoseconds(st.st_ctim);
  return out;
}

WatchedFiles::Version WatchedFiles::Note(const std::string& path) {
  return seen_.emplace(path, Look(path)).first->second;
}

absl::StatusOr<std::string> WatchedFiles::Read(const std::string& path, uint64_t max_bytes) {
  const Version version = Note(path);
  if (IsAbsent(version.error)) return absl::NotFoundError(StrCat(path, " does not exist"));
  if (version.error != 0) return ErrnoStatus(version.error, path);
  return ReadFile(path, max_bytes);
}

absl::StatusOr<std::vector<std::string>> WatchedFiles::List(const std::string& directory) {
  if (!IsDirectory(directory)) return std::vector<std::string>();
  absl::StatusOr<std::vector<std::string>> names = ListDir(directory);
  if (absl::IsPermissionDenied(names.status())) return std::vector<std::string>();
  if (names.ok()) std::sort(names->begin(), names->end());
  return names;
}

bool WatchedFiles::IsDirectory(const std::string& path) {
  const Version version = Note(path);
  return version.error == 0 && S_ISDIR(version.mode);
}

bool WatchedFiles::Changed() const {
  return std::any_of(seen_.begin(), seen_.end(),
                     [](const auto& file) { return Look(file.first) != file.second; });
}

}  // namespace imagefs
