// SPDX-License-Identifier: Apache-2.0
// The directories of ordinary snapshots, by number:
//
//   <root>/<id>/fs      what the snapshot adds to its parent, in overlay form
//   <root>/<id>/work    overlayfs's work directory, while the snapshot is active
//   <root>/removed-<id> being removed
//   <root>/lost-<id>-<random>  an orphan without a record, kept because records were damaged
//
// Thread-safe for different numbers; methods block on local disk.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <memory>
#include <string>

#include "absl/container/flat_hash_set.h"
#include "absl/status/statusor.h"
#include "base/cancel.h"
#include "snap/snapshot.h"

namespace imagefs {

class SnapshotDirs {
 public:
  // Creates `root` (0711, so that containers in user namespaces can traverse it).
  static absl::StatusOr<std::unique_ptr<SnapshotDirs>> Open(std::string root);

  // The attributes of a tree's root.
  struct RootAttributes {
    uid_t uid = 0;
    gid_t gid = 0;
    mode_t mode = 0755;  // permission bits
  };
  absl::Status Make(uint64_t id, bool work, const RootAttributes& root);
  absl::StatusOr<RootAttributes> RootOf(uint64_t id) const;
  // Quickly renames it out of the way; Sweep then frees the space.
  absl::Status Retire(uint64_t id);
  absl::Status Sweep();
  // At startup: recreates the directories of these snapshots that were lost in a crash of the
  // machine. All others are removed, or, with `keep_others`, set aside, because they may hold what
  // a container wrote.
  absl::Status Repair(const absl::flat_hash_set<uint64_t>& known, bool keep_others);
  // Counts blocks and inodes; a hard link counts once.
  absl::StatusOr<SnapshotUsage> Usage(uint64_t id, const CancelToken& cancel) const;

  std::string fs(uint64_t id) const;
  std::string work(uint64_t id) const;

 private:
  explicit SnapshotDirs(std::string root) : root_(std::move(root)) {}
  std::string PathOf(uint64_t id) const;
  absl::Status PutAside(uint64_t id);
  const std::string root_;
};

}  // namespace imagefs
