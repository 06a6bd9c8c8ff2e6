// The mounts of this daemon. As root: one private mount a chain and presentation under
// `<run>/chains` (EROFS by the kernel, or FUSE), and every user's mount is a bind mount of it (or
// an overlay over it with `writable`). As a user: one FUSE mount a directory through fusermount3.
//
// Thread-safe; methods block on mount(2) and local disk only, and calls for one chain or one
// directory are serialised. Every change is in the MountRecords before it is acknowledged, and what
// a killed daemon left behind is cleaned (dead FUSE mounts are unmounted lazily) by Recover.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "cache/chain.h"
#include "fs/fuse_loop.h"
#include "fs/mount_syscalls.h"
#include "fs/overlay_upper.h"

namespace imagefs {

// How a chain is shown.
inline constexpr std::string_view kFuseMode = "fuse";      // this process answers the kernel
inline constexpr std::string_view kKernelMode = "kernel";  // the kernel reads index and data itself

struct MountRecord {
  std::string directory;  // absolute, symbolic links resolved
  std::string reference;  // as the user gave it, canonical
  Digest manifest_digest;
  Digest chain_id;
  std::string mode;  // "fuse" or "kernel"; in a request also "auto" (or ""), and Mount fills it in
  bool writable = false;
  // The directory that the mount covers, not the mount's root; filled in by Check, not known in
  // records of older versions.
  FileId covered;
  std::string upper;        // of the overlay, "" otherwise; in a request: its place, "" = the store
  UpperIds upper_ids;       // filled in; not known in records of older versions
  bool keep_upper = false;  // the upper is the caller's and outlives the mount
  MountFlags flags;
  std::string context;  // SELinux context of every file, kernel mode only
  int64_t created_unix = 0;
  std::string boot_id;           // of the boot that mounted it; Mount fills it in
  int64_t deadline_seconds = 0;  // of a read that waits for bytes; 0 = the daemon's
  bool filling = false;  // kernel mode: bytes were missing, which the daemon brings; filled in
  // Recover in another boot drops it: somebody else (fstab) sees to it that it is mounted.
  bool this_boot_only = false;
};

// Durable storage of mount records; implemented over the store by cmd/.
class MountRecords {
 public:
  virtual ~MountRecords() = default;
  virtual absl::Status Put(const MountRecord& record) = 0;
  virtual absl::Status Delete(const std::string& directory) = 0;
  virtual absl::StatusOr<std::vector<MountRecord>> List() = 0;
};

class MountTable {
 public:
  struct Options {
    std::string run_dir;   // private mounts: <run>/chains
    std::string root_dir;  // of the store; overlays' upper and work directories: <root>/upper
    bool as_root = true;
    bool kernel = true;  // false: FUSE also where the kernel could show chains by itself
  };
  static absl::StatusOr<std::unique_ptr<MountTable>> Create(Options options, FuseLoop& loop,
                                                            MountRecords& records);
  virtual ~MountTable() = default;

  // Keeps what Prepare made until it is dropped, which may unmount it (blocking). Not to outlive
  // the table.
  using Pin = std::shared_ptr<const void>;
  // Makes what all mounts of a chain share (as root its private mount in the presentation that
  // `wanted` asks for), so that Mount finds it ready: the work of one flight for callers that mount
  // one chain at the same moment.
  virtual absl::StatusOr<Pin> Prepare(ChainRef chain, const MountRecord& wanted) = 0;

  // A chain's private mount for mounts that others make of it (the lower of an overlay, the source
  // of a bind mount): it stays until Hide. Root only.
  struct Shown {
    std::string lease;  // for Hide
    std::string path;
    bool filling = false;  // kernel mode: bytes are missing, which this process brings
    bool fuse = false;     // this process answers the kernel
    bool needs_process() const { return filling || fuse; }
  };
  virtual absl::StatusOr<Shown> Show(ChainRef chain) = 0;
  // The one of the daemon before this one, where the kernel shows it by itself; to be asked before
  // Recover, which unmounts what nobody wants. `chain` may be null.
  virtual std::optional<Shown> ShowAgain(const Digest& chain_id, ChainRef chain) = 0;
  virtual void Hide(const std::string& lease) = 0;

  // Finds out what record.directory and record.upper are, following symbolic links, and fills that
  // in: from then on other directories of those names will not do. kAlreadyExists, kNotFound,
  // kFailedPrecondition and kInvalidArgument are what Mount would fail with, and name the directory
  // and the remedy.
  virtual absl::Status Check(MountRecord& record) = 0;
  // Mounts `chain` at record.directory, after Check where that was not called. Fills in mode, upper
  // and created_unix. On failure nothing is left behind.
  virtual absl::StatusOr<MountRecord> Mount(ChainRef chain, MountRecord record) = 0;
  // Unmounts one directory; kNotFound when nothing of ours is there; kFailedPrecondition "busy"
  // unless `lazy`. The last mount of a chain takes the private mount with it.
  virtual absl::Status Unmount(const std::string& directory, bool lazy) = 0;
  virtual std::vector<MountRecord> List() const = 0;
  // What the mount at a directory shows, also when the store has forgotten it meanwhile. Null where
  // nothing of ours is, and where the kernel shows by itself what an earlier daemon has mounted.
  virtual ChainRef ChainOf(const std::string& directory) const = 0;
  // True while a mount of that chain exists.
  virtual bool InUse(const Digest& chain_id) const = 0;
  // True while a mount needs this process. What the kernel shows by itself does not.
  virtual bool NeedProcess() const = 0;

  // At start: for every record, takes over the mount that outlived the daemon before this one
  // (kernel mode), else unmounts what is dead, and mounts again through `find_chain` where the
  // chain is still here; drops the others' records, also of what would be there had nobody
  // unmounted it. A mount comes back on the directory that it covered and with the upper that it
  // had, or not at all. Returns the directories that are mounted.
  using FindChain = std::function<absl::StatusOr<ChainRef>(const Digest& chain_id)>;
  virtual std::vector<std::string> Recover(const FindChain& find_chain) = 0;
  // Unmounts everything; with `keep_records`, what needs this process only: its records stay, so
  // that it comes back at the next start.
  virtual void UnmountAll(bool keep_records) = 0;
};

}  // namespace imagefs
