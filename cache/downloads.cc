// SPDX-License-Identifier: Apache-2.0
#include "cache/downloads.h"

#include <unistd.h>

#include <cerrno>
#include <string_view>

#include "base/directory.h"
#include "base/log.h"
#include "base/status.h"
#include "base/text.h"

namespace imagefs {

std::string Downloads::PathOf(const std::string& name) const {
  return StrCat(directory_, "/", name, suffix_);
}

absl::StatusOr<std::shared_ptr<DownloadFile>> Downloads::Open(const std::string& name,
                                                              uint64_t size) {
  absl::MutexLock lock(&mu_);
  std::weak_ptr<DownloadFile>& slot = open_[name];
  if (std::shared_ptr<DownloadFile> download = slot.lock()) return download;
  IMAGEFS_ASSIGN_OR_RETURN(std::shared_ptr<DownloadFile> download,
                           DownloadFile::Open(PathOf(name), size));
  slot = download;
  return download;
}

void Downloads::End(const std::string& name, bool keep_file) {
  absl::MutexLock lock(&mu_);
  open_.erase(name);
  fetches_.erase(name);
  if (keep_file) return;
  const std::string path = PathOf(name);
  if (unlink(path.c_str()) != 0 && errno != ENOENT) {
    LogWarning("blob.unlink_failed path=", path, " errno=", errno);
  }
}

void Downloads::NoteFetch(const std::string& name, BlobFetch fetch) {
  absl::MutexLock lock(&mu_);
  fetches_[name] = std::move(fetch);
}

BlobFetch Downloads::FetchOf(const std::string& name) const {
  absl::MutexLock lock(&mu_);
  const auto it = fetches_.find(name);
  return it == fetches_.end() ? BlobFetch() : it->second;
}

std::vector<std::string> Downloads::Strays() const {
  std::vector<std::string> strays;
  for (std::string& name : ListDir(directory_).value_or(std::vector<std::string>())) {
    if (!std::string_view(name).ends_with(suffix_)) strays.push_back(std::move(name));
  }
  return strays;
}

}  // namespace imagefs
