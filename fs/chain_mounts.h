// SPDX-License-Identifier: Apache-2.0
// The private mounts: one file system per chain and presentation, of which all mounts of that chain
// are bind mounts or overlays. A bind mount has the source of its original, so the reference is
// part of the presentation. An unprivileged user cannot bind mount, so every mount of such a daemon
// is a FUSE session of its own. Used only by MountTable.
//
// In kernel mode, the device of a complete layer is its local data file, or a loop device over it.
// The device of a partially present layer is a file of a FUSE mount, `data`; reading it fetches the
// bytes. Once all layers of a chain are complete, new mounts get a file system over the local
// files; the old one goes away with its last user.
//
// The SessionStore preserves FUSE sessions so that the next daemon can continue them. That daemon
// calls TakeOver, then Adopt for each private mount that it still uses.
//
// Thread-safe. Methods block on mount(2), and are serialized per private mount.
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

// Which file system presents a chain.
struct Presentation {
  std::string mode;                 // kFuseMode or kKernelMode
  std::string context;              // SELinux context, kernel only; "" = none
  ErofsWay way = ErofsWay::kFiles;  // kernel only, and only for new mounts
  std::string source;  // what mountinfo shows (SourceOf); "" = nothing that people know
  ShownAs shown_as;    // FUSE only
};

class ChainMounts {
 public:
  // `directory` holds the private mounts and must exist; "" for an unprivileged daemon. `store` may
  // be null: FUSE sessions then end with this process.
  ChainMounts(std::string directory, FuseLoop& loop, SessionStore* store);
  // Mounts that the kernel serves alone stay, as do FUSE sessions kept in the store.
  ~ChainMounts();

  // Continues the sessions of the previous daemon whose trees `find_chain` finds, and ends the
  // others. Call before anything that touches a mount: until then nothing answers requests there.
  void TakeOver(const MountTable::FindChain& find_chain);

  struct Lease {
    std::string name;  // of the private mount, for Release
    std::string path;
    bool filling = false;  // bytes are missing, which the mount needs this process to fetch
  };
  // Returns the chain's private mount, mounting it if necessary. It stays until every Acquire and
  // Adopt has been matched by a Release. Concurrent callers block on the first one: the work is a
  // mount(2) without network access, so no single-flight (base/flight.h) is needed. The lock on the
  // name would be needed anyway, to keep an Acquire apart from the Release of the last user.
  absl::StatusOr<Lease> Acquire(const ChainRef& chain, const Presentation& presentation);
  // The last Release unmounts. Waits briefly for the kernel to release the file system, unless
  // `lazy`.
  void Release(const std::string& name, bool lazy);

  // Returns a private mount of an earlier daemon that is still mounted and still served, either by
  // the kernel alone (complete layers) or through a session that was taken over. `filling`: looks
  // for the kernel mount that was made while bytes were missing instead of the usual one. `of`: if
  // not null, the private mount must be the one that this is a bind mount of. `chain` may be null
  // for a mount that the kernel serves alone, which needs only the files it has open. Returns
  // kNotFound if there is no such mount.
  absl::StatusOr<Lease> Adopt(const Digest& chain_id, ChainRef chain,
                              const Presentation& presentation, bool filling, const MountInfo* of);
  // Like Adopt, for a mount in another mount namespace, where its private mount is too: what serves
  // it is enough.
  absl::StatusOr<Lease> AdoptServed(const Digest& chain_id, ChainRef chain,
                                    const Presentation& presentation, bool filling,
                                    const MountInfo* of);
  // Like Adopt, but for a kernel mount of complete layers whose private mount may be gone. `bind`
  // is a bind mount of it, or null if there is none.
  Lease AdoptKernelMount(const Digest& chain_id, ChainRef chain, const Presentation& presentation,
                         const MountInfo* bind);
  // Unmounts private mounts of earlier daemons that this one does not use.
  void RemoveOrphans();

  // Serves a FUSE mount that has no private mount (of an unprivileged daemon, or of a caller in
  // another mount namespace). `name` and `key` find it again (ServedAt).
  absl::Status Serve(const ChainRef& chain, Fd device, const std::string& name, const MountKey& key,
                     const ShownAs& shown_as);
  // Waits briefly for the end of that session, if there is one.
  void AwaitEnd(const std::string& name, const MountKey& key);
  // Returns the chain of the session of that name whose file system `there` is, or null if there is
  // none.
  ChainRef ServedAt(const std::string& name, const MountInfo& there) const;

  // Returns true while a mount of that chain exists, even a lazily unmounted one.
  bool InUse(const Digest& chain_id) const;
  // Returns true while any mount needs this process to answer the kernel.
  bool NeedProcess() const;
  // Returns true while any private mount is a kernel mount.
  bool HasKernelMounts() const;

 private:
  class Sessions;
  struct Entry {
    Digest chain_id;
    std::string path;
    bool kernel = false;
    uint64_t session = 0;              // FUSE
    ChainRef chain;                    // kernel: protects it from garbage collection
    std::weak_ptr<const Chain> shown;  // FUSE: what the session serves
    std::vector<LayerRef> served;      // kernel: layers that are files of the data mount
    size_t users = 0;
    uint64_t mount_id = 0;  // of the mount at `path`, which another process may have unmounted
    std::string index;      // the watched one; "" = none
  };

  // The mounts that existed when this daemon started; read again after RemoveOrphans.
  absl::StatusOr<std::shared_ptr<const MountView>> Outlived() ABSL_LOCKS_EXCLUDED(mu_);
  static std::string NameOf(const Digest& chain_id, const Presentation& presentation);
  KeyGate::Hold HoldName(const std::string& name) { return KeyGate::Hold(gate_, name); }
  bool Usable(const Entry& entry, const ChainRef& chain) const;
  absl::Status Mount(const ChainRef& chain, const Presentation& presentation, Entry& entry);
  absl::Status MountFuseSession(const ChainRef& chain, const Presentation& presentation,
                                Entry& entry);
  absl::StatusOr<uint64_t> ServeChain(const ChainRef& chain, Fd device, const std::string& path,
                                      const MountKey& key, const ShownAs& shown_as);
  absl::Status MountKernel(const ChainRef& chain, const Presentation& presentation, Entry& entry);
  // The kernel does not reread cached pages of an index's loop device when the underlying file is
  // written, whether that damages the file or repairs it. Drops those pages on every write until
  // ForgetIndex.
  void WatchIndex(const std::string& path) ABSL_LOCKS_EXCLUDED(mu_);
  // No-op while another entry watches the index.
  void ForgetIndex(const std::string& path) ABSL_LOCKS_EXCLUDED(mu_);
  void WatchAdopted(const MountInfo& mount, Entry& entry) ABSL_LOCKS_EXCLUDED(mu_);
  // The data mount exists while at least one layer is served.
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
  // Created with the first loop device.
  std::unique_ptr<WriteWatch> index_watch_ ABSL_GUARDED_BY(mu_);
  absl::Mutex data_mu_;  // held during mount(2); never acquired while holding mu_
  std::shared_ptr<DataFiles> data_files_ ABSL_GUARDED_BY(data_mu_);
  uint64_t data_session_ ABSL_GUARDED_BY(data_mu_) = 0;
};

}  // namespace imagefs
