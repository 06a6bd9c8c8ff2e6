// What is asked for, recorded and answered about a mount of the mount table (fs/mount_table.h).
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

// How a chain is shown.
inline constexpr std::string_view kFuseMode = "fuse";      // this process answers the kernel
inline constexpr std::string_view kKernelMode = "kernel";  // the kernel reads index and data itself

// How an image is mounted, as the caller has chosen it; where is not among it.
struct MountOptions {
  bool writable = false;
  MountFlags flags;
  std::string context;           // SELinux context of every file, kernel mode only
  int64_t deadline_seconds = 0;  // of a read that waits for bytes; 0 = the daemon's
  // How its registry is reached, in addition to what this machine knows of it.
  bool plain_http = false, skip_tls_verify = false;
  // Recover in another boot drops it: somebody else (fstab) sees to it that it is mounted.
  bool this_boot_only = false;
};

// What a caller asks for.
struct MountRequest {
  std::string directory;
  std::string reference;  // as the user gave it, canonical
  std::string mode;       // one of the above, or "auto" (or "") for the best that there is
  // Where what is written is kept, also after the mount; "" = in the store, until it is unmounted.
  std::string upper;
  MountOptions options;
};

// A request that nothing is known to be against, for Mount.
struct CheckedMount {
  MountRequest request;  // its paths without symbolic links
  FileId covered;        // the directory itself
  // The upper of what was written there before, with which it goes on; "" = nothing was.
  std::string continued;
  UpperIds continued_ids;
};

// What is remembered of a mount, also by the daemons after this one.
struct MountRecord {
  std::string directory;  // absolute, symbolic links resolved
  std::string reference;  // as the user gave it, canonical
  Digest manifest_digest;
  Digest chain_id;
  std::string mode;      // "fuse" or "kernel"
  MountOptions options;  // as a user with the flags that fusermount3 sets always
  // The directory that the mount covers, not the mount's root; not known in records of older
  // versions.
  FileId covered;
  std::string upper;        // of the overlay, "" otherwise
  UpperIds upper_ids;       // not known in records of older versions
  bool keep_upper = false;  // the upper is the caller's and outlives the mount
  int64_t created_unix = 0;
  std::string boot_id;  // of the boot that mounted it
  // As root: the mounts that lie on the directory, of which the last one shows the image. Others
  // died with a daemon, and could not be taken away from below it.
  std::vector<MountKey> mounts;
  bool filling = false;  // kernel mode: bytes were missing, which the daemon brings
  // Another program has unmounted it, and what was written is still in `upper`, which goes when the
  // directory is mounted on anew, or with Unmount. It is not mounted again by itself.
  bool unmounted = false;
};

// What the mount table answers about a mount.
struct MountState {
  MountRecord record;
  std::string not_mounted;  // why, for people; "" = it is mounted
  // What it shows, also when the store has forgotten it meanwhile. Null where it is not mounted,
  // and where the kernel shows by itself what an earlier daemon has mounted.
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
    std::vector<std::string> damaged;  // directories whose records cannot be read any more
  };
  virtual absl::StatusOr<Stored> List() = 0;
};

}  // namespace imagefs
