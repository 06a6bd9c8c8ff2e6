// The directories of ordinary snapshots, by number:
//
//   <root>/<id>/fs      what the snapshot adds to its parent, in overlay form
//   <root>/<id>/work    overlayfs's own, while it is active
//   <root>/removed-<id> on its way out
//   <root>/lost-<id>-<random>  of no record that is left, kept since records were damaged
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
  // Makes `root` (0711: containers in user namespaces pass through).
  static absl::StatusOr<std::unique_ptr<SnapshotDirs>> Open(std::string root);

  // Who owns the root of a tree, and how.
  struct RootAttributes {
    uid_t uid = 0;
    gid_t gid = 0;
    mode_t mode = 0755;  // permission bits
  };
  absl::Status Make(uint64_t id, bool work, const RootAttributes& root);
  absl::StatusOr<RootAttributes> RootOf(uint64_t id) const;
  // Takes it out of sight, quickly; Sweep then frees the space.
  absl::Status Retire(uint64_t id);
  absl::Status Sweep();
  // At start: makes what a crash of the machine took of these snapshots. All others are swept, or,
  // with `keep_others`, put aside: what a container wrote may be in them.
  absl::Status Repair(const absl::flat_hash_set<uint64_t>& known, bool keep_others);
  // Counts blocks and inodes, a hard link once.
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
