// The mounts of this daemon. As root: one private mount a chain and presentation under
// `<run>/chains` (EROFS by the kernel, or FUSE), and every user's mount is a bind mount of it (or
// an overlay over it with `writable`). As a user: one FUSE mount a directory through fusermount3.
//
// Thread-safe; methods block on mount(2) and local disk only, and calls for one chain or one
// directory are serialised. Every change is in the MountRecords before it is acknowledged.
//
// A record stays until somebody unmounts its directory. Where its mount cannot be there, the table
// has it as not mounted, with the cause, and it may be tried again at any time. A mount that died
// with the daemon before this one stays where it is until another takes its place: programs see an
// error or the right tree, never the directory below it, and write nothing there.
#pragma once

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
    bool kernel = true;   // false: FUSE also where the kernel could show chains by itself
    bool beneath = true;  // false: as on a kernel that mounts nothing beneath another mount
    ErofsWays erofs;      // which of the kernel's ways are tried
    // Where FUSE sessions outlive this process; null: nowhere. With `find_chain` Create goes on
    // with those of the process before it.
    SessionStore* sessions = nullptr;
    FindChain find_chain;
  };
  static absl::StatusOr<std::unique_ptr<MountTable>> Create(Options options, FuseLoop& loop,
                                                            MountRecords& records);
  virtual ~MountTable() = default;

  // A chain's private mount for mounts that others make of it (the lower of an overlay, the source
  // of a bind mount): it stays until Release. Root only.
  struct SharedMount {
    std::string lease;  // for Release
    std::string path;
    bool filling = false;  // kernel mode: bytes are missing, which this process brings
    bool fuse = false;     // this process answers the kernel
    bool needs_process() const { return filling || fuse; }
  };
  virtual absl::StatusOr<SharedMount> MountShared(ChainRef chain) = 0;
  // The one of the daemon before this one, where the kernel shows it by itself or its session was
  // taken over; to be asked before RemoveLeftovers. `chain` may be null.
  virtual std::optional<SharedMount> Readopt(const Digest& chain_id, ChainRef chain) = 0;
  virtual void Release(const std::string& lease) = 0;

  // Finds out what the directory and the upper of a request are, following symbolic links: from
  // then on other directories of those names will not do. kAlreadyExists, kNotFound,
  // kFailedPrecondition and kInvalidArgument are what Mount would fail with, and name the directory
  // and the remedy. Where that image was mounted writable there and now is not, it goes on with
  // what was written; where another was, whose changes are kept, kFailedPrecondition says how to
  // give them up.
  virtual absl::StatusOr<CheckedMount> Check(MountRequest request) = 0;
  // Mounts `chain`, of that manifest, in the place of what is not mounted there. On failure nothing
  // is left behind.
  virtual absl::StatusOr<MountRecord> Mount(ChainRef chain, const Digest& manifest,
                                            const CheckedMount& mount) = 0;
  // Unmounts one directory; kNotFound when nothing of ours is there; kFailedPrecondition "busy"
  // unless `lazy`. The last mount of a chain takes the private mount with it. What is not mounted
  // is forgotten, with its upper as if it were mounted.
  virtual absl::Status Unmount(const std::string& directory, bool lazy) = 0;
  virtual std::vector<MountState> List() const = 0;
  // True while a mount of that chain exists.
  virtual bool InUse(const Digest& chain_id) const = 0;
  // True while a mount needs this process. What the kernel shows by itself does not.
  virtual bool NeedProcess() const = 0;

  // At start: for every record, takes over the mount that outlived the daemon before this one
  // (kernel mode, or one whose session was taken over), or mounts again through `find_chain`; drops
  // the records of what somebody has unmounted meanwhile. A mount comes back on the directory that
  // it covered and with the upper that it had; what cannot is not mounted from then on. Returns the
  // directories that are mounted.
  virtual std::vector<std::string> Recover(const FindChain& find_chain) = 0;
  // The same of one directory that is not mounted, with a chain that shows its image; kNotFound
  // where it is mounted meanwhile, or forgotten. A failure is why it is not mounted from then on.
  virtual absl::StatusOr<MountRecord> MountAgain(const std::string& directory, ChainRef chain) = 0;
  // Says why a directory that is not mounted is not.
  virtual void SetNotMounted(const std::string& directory, const std::string& why) = 0;
  // Takes away the private mounts of the daemons before this one that are of no more use. After
  // Recover, and after those that call Readopt and MountShared at the start.
  virtual void RemoveLeftovers() = 0;
  // Unmounts and forgets everything.
  virtual void UnmountAll() = 0;
};

}  // namespace imagefs
