// SPDX-License-Identifier: Apache-2.0
// Requests, records and states of the mounts in the mount table (fs/mount_table.h).
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/directory.h"
#include "cache/chain.h"
#include "fs/mount_syscalls.h"
#include "fs/overlay_upper.h"

namespace imagefs {

// How a chain is presented.
inline constexpr std::string_view kFuseMode = "fuse";      // this process answers the kernel
inline constexpr std::string_view kKernelMode = "kernel";  // the kernel reads index and data itself

// How to mount an image, as chosen by the caller, except for the location.
struct MountOptions {
  bool writable = false;
  MountFlags flags;
  std::string context;           // SELinux context of every file, kernel mode only
  int64_t deadline_seconds = 0;  // for a read that waits for bytes; 0 = the daemon's default
  // How to reach its registry, in addition to this machine's configuration.
  bool plain_http = false, skip_tls_verify = false;
  // Recover drops the record after a reboot, because something else (fstab) mounts it again.
  bool this_boot_only = false;
};

// What a caller asks for.
struct MountRequest {
  std::string directory;
  std::string reference;  // as the user gave it, canonical
  std::string mode;       // one of the above, or "auto" (or "") for the best available
  // Where written data is kept, even after the unmount; "" = in the store, until the unmount.
  std::string upper;
  MountOptions options;
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
  std::string reference;  // as the user gave it, canonical
  Digest manifest_digest;
  Digest chain_id;
  std::string mode;      // "fuse" or "kernel"
  MountOptions options;  // as a user, includes the flags that fusermount3 always sets
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
  virtual absl::Status Delete(const std::string& directory) = 0;
  struct Stored {
    std::vector<MountRecord> records;
    std::vector<std::string> damaged;  // directories whose records cannot be read
  };
  virtual absl::StatusOr<Stored> List() = 0;
};

}  // namespace imagefs
