// The directories of a writable mount: DIR/upper, which takes what is written, and DIR/work, which
// is overlayfs's own. DIR may belong to somebody who exchanges what is in it at any moment, so that
// it is opened once, without following a link, and all else is done by descriptor. Not thread-safe;
// blocks on the file system of DIR.
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

// Which directories they were; a writable mount comes back with these or not at all.
struct UpperIds {
  FileId directory, upper, work;
  // Another boot numbers devices anew.
  void ForgetDevices() { directory.device = upper.device = work.device = 0; }
  friend bool operator==(const UpperIds&, const UpperIds&) = default;
};

// How the root of the image looks; the root of an overlay is the upper one's.
struct RootAttributes {
  uid_t uid = 0;
  gid_t gid = 0;
  mode_t mode = 0755;  // permission bits
  timespec mtime = {};
};

// The path that `asked` leads to, links followed; the last names may be missing.
absl::StatusOr<std::string> ResolveUpper(const std::string& asked);

class OverlayUpper {
 public:
  // `path` is absolute and without links. What is missing of it is made, with mode 0700 (kNotFound
  // where `expected` says that it was there once), and what
  // is there is never changed; `upper` gets the attributes of the image's root when it is made.
  // Where somebody else may write to DIR, an `upper` or `work` that is there has to belong to this
  // process's user (`upper`: or to the owner of the image's root). kFailedPrecondition says what is
  // wrong. On failure what was made is gone again.
  static absl::StatusOr<OverlayUpper> Open(const std::string& path, const UpperIds& expected,
                                           const RootAttributes& root);
  OverlayUpper(OverlayUpper&&) = default;
  OverlayUpper& operator=(OverlayUpper&&) = default;

  const Fd& upper() const { return upper_; }
  const Fd& work() const { return work_; }
  const UpperIds& ids() const { return ids_; }

  // Removes what Open made.
  void Undo();

 private:
  OverlayUpper() = default;
  absl::Status OpenDirectory(const std::string& path, bool make);
  absl::Status OpenParts(const std::string& path, const RootAttributes& root);

  struct Made {
    Fd parent;
    std::string name;
  };
  std::vector<Made> made_;  // of DIR and those above it, the highest first
  Fd directory_, upper_, work_;
  bool made_upper_ = false, made_work_ = false;
  UpperIds ids_;
};

}  // namespace imagefs
