// The mounts of this daemon. As root: one private FUSE mount a chain under `<run>/chains/<hex>`,
// and every user's mount is a bind mount of it (or an overlay over it with `writable`). As a user:
// one FUSE mount a directory through fusermount3.
//
// Thread-safe; methods block on mount(2) and local disk only, and calls for one chain or one
// directory are serialised. Every change is in the MountRecords before it is acknowledged, and what
// a killed daemon left behind is cleaned (dead FUSE mounts are unmounted lazily) by Recover.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "cache/chain.h"
#include "fs/fuse_loop.h"

namespace imagefs {

struct MountRecord {
  std::string directory;  // absolute, symbolic links resolved
  std::string reference;  // as the user gave it, canonical
  Digest manifest_digest;
  Digest chain_id;
  std::string mode;  // "fuse" (later also "kernel")
  bool writable = false;
  std::string upper;  // of the overlay, "" otherwise
  int64_t created_unix = 0;
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
    std::string run_dir;    // private mounts: <run>/chains
    std::string upper_dir;  // overlays' upper and work directories: <root>/upper
    bool as_root = true;
  };
  static absl::StatusOr<std::unique_ptr<MountTable>> Create(Options options, FuseLoop& loop,
                                                            MountRecords& records);
  virtual ~MountTable() = default;

  // Keeps what Prepare made until it is dropped, which may unmount it (blocking). Not to outlive
  // the table.
  using Pin = std::shared_ptr<const void>;
  // Makes what all mounts of a chain share (as root its private mount), so that Mount finds it
  // ready: the work of one flight for callers that mount one chain at the same moment.
  virtual absl::StatusOr<Pin> Prepare(ChainRef chain) = 0;

  // Mounts `chain` at record.directory (which must exist, be a directory and not be a mount of ours
  // already: kAlreadyExists, kNotFound, kFailedPrecondition name it and the remedy). Fills in mode,
  // upper and created_unix. On failure nothing is left behind.
  virtual absl::StatusOr<MountRecord> Mount(ChainRef chain, MountRecord record) = 0;
  // Unmounts one directory; kNotFound when nothing of ours is there; kFailedPrecondition "busy"
  // unless `lazy`. The last mount of a chain takes the private mount with it.
  virtual absl::Status Unmount(const std::string& directory, bool lazy) = 0;
  virtual std::vector<MountRecord> List() const = 0;
  // True while a mount of that chain exists.
  virtual bool InUse(const Digest& chain_id) const = 0;

  // At start: for every record, unmounts what is dead, and mounts again through `find_chain` where
  // the chain is still here; drops the others' records. Returns the directories mounted again.
  using FindChain = std::function<absl::StatusOr<ChainRef>(const Digest& chain_id)>;
  virtual std::vector<std::string> Recover(const FindChain& find_chain) = 0;
  // Unmounts everything. Keeps the records when `keep_records` (they come back at the next start).
  virtual void UnmountAll(bool keep_records) = 0;
};

}  // namespace imagefs
