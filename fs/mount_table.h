// SPDX-License-Identifier: Apache-2.0
// The mounts of this daemon. As root: one private mount per chain and presentation under
// `<run>/chains` (kernel EROFS or FUSE); every user-visible mount is a bind mount of it, or an
// overlay over it if `writable`. As a user: one FUSE mount per directory (fs/user_mount.h).
//
// Thread-safe. Methods block on mount(2) and local disk only; calls for one chain or one directory
// are serialized. Every change is in MountRecords before it is acknowledged.
//
// A record stays until its directory is unmounted through this table. If the mount cannot be made,
// the table lists it as not mounted, with the reason, and mounting may be retried at any time. A
// mount that died with the previous daemon stays in place until another replaces it: programs see
// an error or the right tree, never the directory below, and write nothing there.
//
// A mount can also be made by the caller (MountCaller), in its own mount namespace. Such a mount is
// remembered by namespace and number, and forgotten when it or its namespace is gone.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "cache/chain.h"
#include "fs/erofs_mount.h"
#include "fs/fuse_loop.h"
#include "fs/mount_record.h"

namespace imagefs {

class SessionStore;

class MountTable {
 public:
  using FindChain = std::function<absl::StatusOr<ChainRef>(const Digest& chain_id)>;
  struct Options {
    std::string run_dir;   // private mounts: <run>/chains
    std::string root_dir;  // of the store; overlays' upper and work directories: <root>/upper
    bool as_root = true;
    bool kernel = true;   // false: use FUSE even if the kernel presentation is available
    bool beneath = true;  // false: behave like a kernel that cannot mount beneath another mount
    ErofsWays erofs;      // which kernel presentations to try
    // Where FUSE sessions outlive this process; null: they do not. If `find_chain` is set, Create
    // continues the sessions of the previous process.
    SessionStore* sessions = nullptr;
    FindChain find_chain;
  };
  static absl::StatusOr<std::unique_ptr<MountTable>> Create(Options options, FuseLoop& loop,
                                                            MountRecords& records);
  virtual ~MountTable() = default;

  // A chain's private mount for others to mount from (the lower of an overlay, the source of a bind
  // mount). It stays until Release. Root only.
  struct SharedMount {
    std::string lease;  // for Release
    std::string path;
    bool filling = false;  // kernel mode: bytes are missing, which this process fetches
    bool fuse = false;     // this process answers the kernel
    bool needs_process() const { return filling || fuse; }
  };
  virtual absl::StatusOr<SharedMount> MountShared(ChainRef chain) = 0;
  // Re-adopts the previous daemon's mount if the kernel serves it alone or its session was taken
  // over. Call before RemoveLeftovers. `chain` may be null.
  virtual std::optional<SharedMount> Readopt(const Digest& chain_id, ChainRef chain) = 0;
  virtual void Release(const std::string& lease) = 0;

  // Resolves the directory and the upper of a request, following symbolic links. Mount then insists
  // on these directories and rejects others of the same names. Fails with what Mount would fail
  // with: kAlreadyExists, kNotFound, kFailedPrecondition or kInvalidArgument, naming the directory
  // and the remedy. If the same image was mounted writable there and is currently not mounted, the
  // new mount continues with the written data. If it was another image whose changes are kept,
  // kFailedPrecondition says how to discard them.
  virtual absl::StatusOr<CheckedMount> Check(MountRequest request) = 0;
  // Mounts `chain`, which `manifest` describes, replacing an entry that is not mounted. On failure
  // nothing is left behind.
  virtual absl::StatusOr<MountRecord> Mount(ChainRef chain, const Digest& manifest,
                                            const CheckedMount& mount) = 0;
  // Unmounts one directory. Returns kNotFound if no mount of ours is there, and kFailedPrecondition
  // if it is busy (never with `lazy`). The last unmount of a chain also removes the private mount.
  // An entry that is not mounted is forgotten, and its upper is treated as if it were mounted.
  // A mount in another namespace can only be forgotten, once it is unmounted there; until then,
  // kFailedPrecondition.
  virtual absl::Status Unmount(const std::string& directory, bool lazy,
                               uint64_t name_space = 0) = 0;
  virtual std::vector<MountState> List() const = 0;
  // Returns true while a mount of that chain exists.
  virtual bool InUse(const Digest& chain_id) const = 0;
  // Returns true while a mount needs this process. Mounts that the kernel serves alone do not.
  virtual bool NeedProcess() const = 0;
  // Trees that FUSE shows although nobody asked for it: the kernel's presentation is unavailable
  // for them, or failed. Without those of users, for whom there is no other.
  struct Counters {
    uint64_t kernel_unavailable = 0, kernel_failed = 0;
  };
  virtual Counters counters() const { return {}; }

  // At startup: for every record, takes over the mount that outlived the previous daemon (kernel
  // mode, or a session that was taken over), or mounts again through `find_chain`. Drops records of
  // mounts that were unmounted in the meantime. A mount is restored on the directory it covered and
  // with the upper it had; otherwise it is listed as not mounted. Returns the mounted directories.
  virtual std::vector<std::string> Recover(const FindChain& find_chain) = 0;
  // Mounts one directory that is not mounted, like Recover, with a chain for its image. Returns
  // kNotFound if it has been mounted or forgotten in the meantime. A failure becomes the reason why
  // it is not mounted.
  virtual absl::StatusOr<MountRecord> MountAgain(const std::string& directory, ChainRef chain) = 0;
  // Sets the reason why a directory is not mounted.
  virtual void SetNotMounted(const std::string& directory, const std::string& why) = 0;
  // Removes private mounts of earlier daemons that are no longer used. Call after Recover, and
  // after those that call Readopt and MountShared at startup.
  virtual void RemoveLeftovers() = 0;
  // Whether there is any mount that a caller made in a namespace of its own.
  virtual bool AnyElsewhere() const = 0;
  // Forgets the mounts of other namespaces that were unmounted there, or whose namespace is gone:
  // unlike those of its own, the kernel does not report them. Call now and then, and before List.
  virtual void Refresh() = 0;
  // Unmounts and forgets everything. Mounts in other namespaces are only forgotten.
  virtual void UnmountAll() = 0;
};

}  // namespace imagefs
