// SPDX-License-Identifier: Apache-2.0
// An immutable snapshot of the mounts, indexed by path, for callers with many lookups: the kernel's
// table is read and parsed once. Thread-safe.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "base/status.h"
#include "fs/mount_syscalls.h"

namespace imagefs {

class MountView {
 public:
  static absl::StatusOr<std::shared_ptr<const MountView>> Read() {
    IMAGEFS_ASSIGN_OR_RETURN(std::vector<MountInfo> mounts, ReadMountInfo());
    auto view = std::make_shared<MountView>();
    for (MountInfo& mount : mounts) {
      std::vector<MountInfo>& there = view->by_path_[mount.mount_point];
      there.push_back(std::move(mount));
    }
    return view;
  }

  // Like the functions of fs/mount_syscalls.h. The results point into this view.
  const MountInfo* At(std::string_view path) const {
    const auto found = by_path_.find(path);
    return found == by_path_.end() ? nullptr : FindMountAt(found->second, path);
  }
  std::vector<const MountInfo*> StackOf(std::string_view path) const {
    const auto found = by_path_.find(path);
    return found == by_path_.end() ? std::vector<const MountInfo*>() : StackAt(found->second, path);
  }

 private:
  std::map<std::string, std::vector<MountInfo>, std::less<>> by_path_;
};

}  // namespace imagefs
