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
  IMAGEFS_ASSIGN_OR_RETURN(
      std::shared_ptr<DownloadFile> download,
      DownloadFile::Open(PathOf(name), size, space_, StoreSpace::Writer::kWhole));
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
  for (std::string& name : ListDirOrWarn(directory_)) {
    if (!std::string_view(name).ends_with(suffix_)) strays.push_back(std::move(name));
  }
  return strays;
}

std::vector<Downloads::Partial> Downloads::Partials() const {
  std::vector<Partial> partials;
  for (const std::string& file : ListDirOrWarn(directory_)) {
    // The others are KeptBlobs'.
    if (!file.ends_with(suffix_) || file.starts_with("kept-") || file.starts_with("keeping-")) {
      continue;
    }
    std::string name = file.substr(0, file.size() - suffix_.size());
    {
      absl::MutexLock lock(&mu_);
      const auto it = open_.find(name);
      if (it != open_.end() && !it->second.expired()) continue;
    }
    const absl::StatusOr<struct stat> st = StatPath(StrCat(directory_, "/", file));
    if (!st.ok()) continue;
    partials.push_back(
        {std::move(name), static_cast<uint64_t>(st->st_blocks) * 512, st->st_mtim.tv_sec});
  }
  return partials;
}

uint64_t Downloads::BytesOf(const Digest& blob) const {
  uint64_t bytes = 0;
  for (const Partial& partial : Partials()) {
    if (partial.name.starts_with(blob.hex())) bytes += partial.bytes;
  }
  return bytes;
}

uint64_t Downloads::RemovePartial(const Partial& partial) {
  absl::MutexLock lock(&mu_);
  const auto it = open_.find(partial.name);
  if (it != open_.end() && !it->second.expired()) return 0;
  if (unlink(PathOf(partial.name).c_str()) != 0) {
    if (errno != ENOENT) {
      LogWarning("blob.unlink_failed path=", PathOf(partial.name), " errno=", errno);
    }
    return 0;
  }
  return partial.bytes;
}

}  // namespace imagefs
