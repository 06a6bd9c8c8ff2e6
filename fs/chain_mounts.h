// The private mounts: one file system a chain and presentation, which all mounts of that chain are
// bind mounts of or overlays over. As a user, who may not bind, every mount is a FUSE session of
// its own. Used by MountTable only.
//
// In kernel mode a complete layer's device is its local data file, or a loop device over it. That
// of a layer which is being filled is a file of one FUSE mount, `data`: reading it brings the
// bytes. Once all layers of a chain are complete, what is mounted next gets a file system over the
// local files; the old one goes with its last user.
//
// FUSE sessions are kept by the SessionStore, so that the daemon after this one goes on with them;
// TakeOver is its side. Which private mounts it has a use for, it learns by Adopt.
//
// Thread-safe; methods block on mount(2), and those for one private mount are serialised.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "base/fd.h"
#include "cache/chain.h"
#include "cache/write_watch.h"
#include "fs/data_files.h"
#include "fs/erofs_mount.h"
#include "fs/fuse_loop.h"
#include "fs/key_gate.h"
#include "fs/mount_syscalls.h"
#include "fs/mount_table.h"
#include "fs/mount_view.h"
#include "fs/session_store.h"

namespace imagefs {

// Which file system shows a chain.
struct Presentation {
  std::string mode;                 // kFuseMode or kKernelMode
  std::string context;              // SELinux context, kernel only; "" = none
  ErofsWay way = ErofsWay::kFiles;  // kernel only, and of what is mounted anew
};

class ChainMounts {
 public:
  // `directory` holds the private mounts; "" for a user. It exists. `store` may be null: FUSE
  // sessions end with this process.
  ChainMounts(std::string directory, FuseLoop& loop, SessionStore* store);
  // What the kernel shows by itself stays mounted, as do FUSE sessions that are kept.
  ~ChainMounts();

  // Goes on with the sessions of the daemon before this one, as far as `find_chain` has the trees
  // that they show; the others end. Before anything that touches a mount: until then nobody answers
  // there.
  void TakeOver(const MountTable::FindChain& find_chain);

  struct Lease {
    std::string name;  // of the private mount, for Release
    std::string path;
    bool filling = false;  // the mount needs this process for bytes that are not here yet
  };
  // The chain's private mount, made where there is none. It stays until each Acquire and Adopt has
  // had its Release. Callers that ask for one at the same moment wait for the first of them, on
  // their threads: it takes a mount(2) and no network. So no flight (base/flight.h) is needed for
  // it, which could not take the place of the name's lock anyway: that keeps an Acquire apart from
  // the Release of the last user, too.
  absl::StatusOr<Lease> Acquire(const ChainRef& chain, const Presentation& presentation);
  // Unmounts with the last one. Waits a moment for the kernel to let go of the file system, unless
  // `lazy`.
  void Release(const std::string& name, bool lazy);

  // The private mount of a daemon before this one that is still there and is read by somebody: by
  // the kernel alone (complete layers) or through a session that was taken over. `filling`: only
  // one that needs bytes which were not there, else what is found first. `of`: only the one that
  // this is a bind mount of. `chain` may be null for what the kernel shows by itself: it needs no
  // more than the files that it has open. kNotFound.
  absl::StatusOr<Lease> Adopt(const Digest& chain_id, ChainRef chain,
                              const Presentation& presentation, bool filling, const MountInfo* of);
  // The same of a kernel mount of complete layers whose private mount is gone, and that `bind` is a
  // bind mount of (null: there is none).
  Lease AdoptKernelMount(const Digest& chain_id, ChainRef chain, const Presentation& presentation,
                         const MountInfo* bind);
  // Unmounts what earlier daemons left and this one has no use for.
  void RemoveStrangers();

  // Serves a FUSE mount that has no private mount (a user's).
  absl::Status Serve(const ChainRef& chain, Fd device, const std::string& directory);
  // What shows that directory, on which `there` is mounted, since TakeOver; null: no session was
  // taken over there.
  ChainRef ServedAt(const std::string& directory, const MountInfo& there) const;

  // True while a mount shows that chain, also one that was lazily unmounted.
  bool InUse(const Digest& chain_id) const;
  // True while a mount needs this process to answer the kernel.
  bool NeedProcess() const;
  // True while private mounts are there that need no process.
  bool HasKernelMounts() const;

 private:
  class Sessions;
  struct Entry {
    Digest chain_id;
    std::string path;
    bool kernel = false;
    uint64_t session = 0;              // FUSE
    ChainRef chain;                    // kernel: keeps the collector away
    std::weak_ptr<const Chain> shown;  // FUSE: what the session serves
    std::vector<LayerRef> served;      // kernel: layers that are files of the data mount
    size_t users = 0;
    uint64_t mount_id = 0;  // of the mount at `path`; somebody else may have unmounted it
    std::string index;      // that which is watched; "" = none
  };

  // What was mounted when this daemon started; read anew after RemoveStrangers.
  absl::StatusOr<std::shared_ptr<const MountView>> Outlived() ABSL_LOCKS_EXCLUDED(mu_);
  static std::string NameOf(const Digest& chain_id, const Presentation& presentation);
  KeyGate::Hold HoldName(const std::string& name) { return KeyGate::Hold(gate_, name); }
  bool Usable(const Entry& entry, const ChainRef& chain) const;
  absl::Status Mount(const ChainRef& chain, const Presentation& presentation, Entry& entry);
  absl::Status MountFuseSession(const ChainRef& chain, Entry& entry);
  absl::StatusOr<uint64_t> ServeChain(const ChainRef& chain, Fd device, const std::string& path,
                                      const MountKey& key);
  absl::Status MountKernel(const ChainRef& chain, const Presentation& presentation, Entry& entry);
  // The kernel has pages of an index's device that it does not look up again when the file is
  // written to: when somebody damages it, and when it is made right. Until ForgetIndex it is told.
  void WatchIndex(const std::string& path) ABSL_LOCKS_EXCLUDED(mu_);
  // Does nothing while another entry watches it.
  void ForgetIndex(const std::string& path) ABSL_LOCKS_EXCLUDED(mu_);
  void WatchAdopted(const MountInfo& mount, Entry& entry) ABSL_LOCKS_EXCLUDED(mu_);
  // The data mount is there from the first layer that it serves to the last.
  absl::Status BeginDataMount() ABSL_EXCLUSIVE_LOCKS_REQUIRED(data_mu_);
  absl::Status ServeLayer(const LayerRef& layer, const Digest& chain_id)
      ABSL_LOCKS_EXCLUDED(data_mu_);
  void StopServing(const std::vector<LayerRef>& layers) ABSL_LOCKS_EXCLUDED(data_mu_);
  void EndDataMount() ABSL_EXCLUSIVE_LOCKS_REQUIRED(data_mu_);
  absl::Status TakeOverData(SessionStore::Inherited inherited,
                            const MountTable::FindChain& find_chain) ABSL_LOCKS_EXCLUDED(data_mu_);
  absl::Status TakeOverChain(SessionStore::Inherited inherited,
                             const MountTable::FindChain& find_chain);
  absl::Status FindReader(const MountInfo& there, const ChainRef& chain, bool filling, Entry& entry)
      ABSL_LOCKS_EXCLUDED(data_mu_);
  std::string data_directory() const { return directory_ + "/data"; }

  const std::string directory_;
  FuseLoop& loop_;
  SessionStore* const store_;
  const std::shared_ptr<Sessions> sessions_;
  KeyGate gate_;  // by name
  mutable absl::Mutex mu_;
  std::map<std::string, Entry> entries_ ABSL_GUARDED_BY(mu_);  // by name
  std::shared_ptr<const MountView> outlived_ ABSL_GUARDED_BY(mu_);
  // From the first loop device on.
  std::unique_ptr<WriteWatch> index_watch_ ABSL_GUARDED_BY(mu_);
  absl::Mutex data_mu_;  // held over mount(2); not taken while mu_ is
  std::shared_ptr<DataFiles> data_files_ ABSL_GUARDED_BY(data_mu_);
  uint64_t data_session_ ABSL_GUARDED_BY(data_mu_) = 0;
};

}  // namespace imagefs
