// SPDX-License-Identifier: Apache-2.0
// The directories of a writable mount: DIR/upper, which receives what is written, and DIR/work,
// which belongs to overlayfs. DIR may belong to a user who can replace its contents at any moment,
// so it is opened once, without following links, and everything else is done through descriptors.
// Not thread-safe. Blocks on the file system of DIR.
#pragma once

#include <sys/types.h>
#include <time.h>

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/directory.h"
#include "base/fd.h"

namespace imagefs {

// Identifies the directories; a writable mount is restored with exactly these or not at all.
struct UpperIds {
  FileId directory, upper, work;
  // Device numbers change with a reboot.
  void ForgetDevices() { directory.device = upper.device = work.device = 0; }
  friend bool operator==(const UpperIds&, const UpperIds&) = default;
};

// The attributes of the image's root. An overlay takes those of its root from the upper. A user may
// not be able to set the owner, which then stays the user.
struct RootAttributes {
  uid_t uid = 0;
  gid_t gid = 0;
  mode_t mode = 0755;  // permission bits
  timespec mtime = {};
};

// Returns the path that `asked` leads to, following links. Trailing components may be missing.
absl::StatusOr<std::string> ResolveUpper(const std::string& asked);

class OverlayUpper {
 public:
  // `path` must be absolute and without links. Creates what is missing of it with mode 0700 (or
  // returns kNotFound if `expected` says that it once existed) and never changes what exists. A new
  // `upper` gets the attributes of the image's root. If others may write to DIR, an existing
  // `upper` or `work` must belong to this process's user (`upper`: or to the owner of the image's
  // root). kFailedPrecondition says what is wrong. On failure, removes what it created.
  static absl::StatusOr<OverlayUpper> Open(const std::string& path, const UpperIds& expected,
                                           const RootAttributes& root);
  OverlayUpper(OverlayUpper&&) = default;
  OverlayUpper& operator=(OverlayUpper&&) = default;

  const Fd& upper() const { return upper_; }
  const Fd& work() const { return work_; }
  const UpperIds& ids() const { return ids_; }

  // Removes what Open created.
  void Undo();

 private:
  OverlayUpper() = default;
  absl::Status OpenDirectory(const std::string& path, bool make);
  absl::Status OpenParts(const std::string& path, const RootAttributes& root);

  struct Made {
    Fd parent;
    std::string name;
  };
  std::vector<Made> made_;  // DIR and its parents, the highest first
  Fd directory_, upper_, work_;
  bool made_upper_ = false, made_work_ = false;
  UpperIds ids_;
};

}  // namespace imagefs
