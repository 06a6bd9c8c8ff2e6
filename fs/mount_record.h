// SPDX-License-Identifier: Apache-2.0
// Requests, records and states of the mounts in the mount table (fs/mount_table.h).
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/directory.h"
#include "base/fd.h"
#include "cache/chain.h"
#include "fs/mount_syscalls.h"
#include "fs/overlay_upper.h"
#include "fs/shown_as.h"

namespace imagefs {

// How a chain is presented.
inline constexpr std::string_view kFuseMode = "fuse";      // this process answers the kernel
inline constexpr std::string_view kKernelMode = "kernel";  // the kernel reads index and data itself

// How to mount an image, as chosen by the caller, except for the location.
struct MountOptions {
  bool writable = false;
  MountFlags flags;
  std::string context;           // SELinux context of every file, kernel mode only
  ShownAs shown_as;              // FUSE only
  bool allow_other = false;      // of a user's mount: FuseAccess::kAll
  int64_t deadline_seconds = 0;  // for a read that waits for bytes; 0 = the daemon's default
  // How to reach its registry, in addition to this machine's configuration.
  bool plain_http = false, skip_tls_verify = false;
  // Recover drops the record after a reboot, because something else (fstab) mounts it again.
  bool this_boot_only = false;
};

// The name of a place to mount on: the directory, and the mount namespace unless it is the daemon's
// own (0).
std::string PlaceName(uint64_t name_space, const std::string& directory);

// A FUSE mount that a caller made.
struct MadeFuse {
  Fd device;
  uint32_t major = 0, minor = 0;  // of the file system; 0 = unknown
};

// A caller that makes the mount itself: in a mount namespace in which the daemon is not, or on an
// automount point, where all others wait for that mount. The caller has resolved and checked the
// directory. Functions block until the caller has answered, and fail if it does not.
class MountCaller {
 public:
  virtual ~MountCaller() = default;
  // Has a detached mount attached to the directory.
  virtual absl::Status Attach(const Fd& mount) = 0;
  // Has a FUSE mount made there, for a daemon without privileges.
  virtual absl::StatusOr<MadeFuse> MakeFuse(const std::string& source, const MountFlags& flags,
                                            FuseAccess access) = 0;
  // Has that mount replaced by an overlay over it. The caller opens `upper` (OverlayUpper) in its
  // own namespace; `expected` is the directory that it must be, unless it is not known. The mount
  // is being served.
  virtual absl::Status MakeOverlay(const std::string& upper, const FileId& expected) = 0;
};

// What a caller asks for.
struct MountRequest {
  std::string directory;
  std::string reference;  // as the user gave it, canonical
  std::string mode;       // one of the above, or "auto" (or "") for the best available
  // Where written data is kept, even after the unmount; "" = in the store, until the unmount.
  std::string upper;
  MountOptions options;
  std::shared_ptr<MountCaller> caller;  // null: this process mounts
  uint64_t name_space = 0;              // with `caller`: 0 = this process's
  FileId covered;                       // with `caller`: the directory
  std::string place() const { return PlaceName(name_space, directory); }
};

// A request that has passed all checks, ready for Mount.
struct CheckedMount {
  MountRequest request;  // its paths contain no symbolic links
  FileId covered;        // the directory itself
  // The existing upper that the mount continues with; "" = none.
  std::string continued;
  UpperIds continued_ids;
};

// What is remembered about a mount, also by later daemons.
struct MountRecord {
  std::string directory;  // absolute, symbolic links resolved
  // The mount namespace in which it is: of its caller, or of an earlier daemon; 0 = this daemon's.
  // Of this boot only.
  uint64_t name_space = 0;
  uint64_t made_in = 0;    // that of the daemon that made it; 0: a caller, or an older version
  uint64_t unique_id = 0;  // the mount (UniqueMountId)
  // A MountCaller made it. The daemon never looks at the directory, which may be an automount point
  // that would wait for the daemon, and does not mount it again.
  bool by_caller = false;
  std::string reference;  // as the user gave it, canonical
  Digest manifest_digest;
  Digest chain_id;
  std::string mode;      // "fuse" or "kernel"
  MountOptions options;  // as a user, includes the flags that UserMount always sets
  // The directory that the mount covers, not the mount's root. Not set in records of older
  // versions.
  FileId covered;
  std::string upper;        // of the overlay, "" otherwise
  UpperIds upper_ids;       // not set in records of older versions
  bool keep_upper = false;  // the caller owns the upper, which outlives the mount
  int64_t created_unix = 0;
  std::string boot_id;  // of the boot that mounted it
  // As root: the mounts on the directory; the last one presents the image. The others died with an
  // earlier daemon and could not be removed from below it.
  std::vector<MountKey> mounts;
  bool filling = false;  // kernel mode: bytes were missing, which the daemon fetches
  // Another program has unmounted it. The written data is still in `upper`, which is removed by
  // Unmount or when the directory is mounted again. It is not remounted automatically.
  bool unmounted = false;
  std::string place() const { return PlaceName(name_space, directory); }
};

// The mount table's answer about a mount.
struct MountState {
  MountRecord record;
  std::string not_mounted;  // the reason, for display; "" = it is mounted
  // What the mount presents, even if the store has since forgotten it. Null if it is not mounted,
  // or if an earlier daemon mounted it and the kernel serves it alone.
  ChainRef chain;
  bool mounted() const { return not_mounted.empty(); }
  bool needs_daemon() const { return mounted() && (record.mode == kFuseMode || record.filling); }
};

// Durable storage of mount records; implemented over the store by cmd/.
class MountRecords {
 public:
  virtual ~MountRecords() = default;
  virtual absl::Status Put(const MountRecord& record) = 0;
  virtual absl::Status Delete(const std::string& place) = 0;  // PlaceName
  struct Stored {
    std::vector<MountRecord> records;
    std::vector<std::string> damaged;  // directories whose records cannot be read
  };
  virtual absl::StatusOr<Stored> List() = 0;
};

}  // namespace imagefs
