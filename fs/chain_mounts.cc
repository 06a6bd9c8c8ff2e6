// SPDX-License-Identifier: Apache-2.0
#include "fs/chain_mounts.h"

#include <fcntl.h>
#include <linux/major.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <algorithm>
#include <functional>
#include <optional>
#include <set>
#include <thread>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "absl/container/flat_hash_map.h"
#include "absl/functional/function_ref.h"
#include "absl/time/time.h"
#include "base/directory.h"
#include "base/log.h"
#include "base/monotonic.h"
#include "base/status.h"
#include "base/text.h"
#include "base/thread_role.h"
#include "fs/erofs_mount.h"
#include "fs/fuse_ops.h"
#include "fs/loop_devices.h"

namespace imagefs {
namespace {

// How long an unmount waits for the kernel to release the file system. It takes no time unless
// another mount namespace has a copy of the mount.
constexpr absl::Duration kReleaseWait = absl::Milliseconds(100);

// The kernel queues INIT before the mount is attached, and a worker answers it.
constexpr absl::Duration kInitWait = absl::Seconds(5);

constexpr char kData[] = "data";  // the name of the data mount
constexpr char kFillingSuffix[] = ".filling";

// Makes the kernel send a request (FuseSession::fails_older). Runs on a detached thread, because
// this process itself must answer it.
void ProvokeRequest(const std::string& path) {
  std::thread([path] {
    EnterThread(ThreadRole::kBrief);
    struct statfs ignored;
    (void)statfs(path.c_str(), &ignored);
  }).detach();
}

}  // namespace

// The active FUSE sessions. Each stays until the kernel ends it, possibly long after the unmount: a
// lazily unmounted tree stays visible to the processes that use it, and needs its chain.
class ChainMounts::Sessions : public std::enable_shared_from_this<Sessions> {
 public:
  explicit Sessions(SessionStore* store) : store_(store) {}

  // `begin` passes the session to the loop, along with the callback for its end.
  using Begin = absl::FunctionRef<absl::StatusOr<std::unique_ptr<FuseSession>>(
      FuseDevice, std::function<void()>)>;
  // Serves a new session, which is then kept in the store, or a kept one (device.agreed).
  absl::StatusOr<uint64_t> Serve(SessionRecord record, FuseDevice device, const ChainRef& chain,
                                 Begin begin) ABSL_LOCKS_EXCLUDED(mu_);

  bool Alive(uint64_t id) const ABSL_LOCKS_EXCLUDED(mu_) {
    absl::MutexLock lock(&mu_);
    return sessions_.contains(id);
  }

  bool Any() const ABSL_LOCKS_EXCLUDED(mu_) {
    absl::MutexLock lock(&mu_);
    return !sessions_.empty();
  }

  bool Serves(const Digest& chain_id) const ABSL_LOCKS_EXCLUDED(mu_) {
    absl::MutexLock lock(&mu_);
    return std::any_of(sessions_.begin(), sessions_.end(),
                       [&](const auto& entry) { return entry.second.record.chain_id == chain_id; });
  }

  // Returns the session mounted at `path` with that device number; 0 = none.
  uint64_t Find(const std::string& path, const MountInfo& mount) const ABSL_LOCKS_EXCLUDED(mu_) {
    absl::MutexLock lock(&mu_);
    for (const auto& [id, session] : sessions_) {
      if (session.record.path == path && session.record.major == mount.major &&
          session.record.minor == mount.minor) {
        return id;
      }
    }
    return 0;
  }
  // Returns a session of that path that serves the chain, or the data if it is null; 0 = none.
  uint64_t FindAny(const std::string& path, const Digest* chain_id) const ABSL_LOCKS_EXCLUDED(mu_) {
    absl::MutexLock lock(&mu_);
    for (const auto& [id, session] : sessions_) {
      const SessionRecord& record = session.record;
      const bool same = chain_id == nullptr ? record.data : record.chain_id == *chain_id;
      if (same && record.path == path) return id;
    }
    return 0;
  }
  ChainRef ChainOf(uint64_t id) const ABSL_LOCKS_EXCLUDED(mu_) {
    absl::MutexLock lock(&mu_);
    const auto found = sessions_.find(id);
    return found == sessions_.end() ? nullptr : found->second.shown.lock();
  }

  void WaitEnded(uint64_t id, absl::Duration timeout) ABSL_LOCKS_EXCLUDED(mu_) {
    MayBlock("waiting for the end of a session");
    const Moment deadline = Moment::Now() + timeout;
    absl::MutexLock lock(&mu_);
    while (sessions_.contains(id) && ended_.WaitUntil(&mu_, deadline)) {
    }
  }

  void Clear() ABSL_LOCKS_EXCLUDED(mu_) {
    // Destroyed after the lock is released: the destructor of a handle waits for notifications,
    // which take the lock.
    absl::flat_hash_map<uint64_t, Served> all;
    absl::MutexLock lock(&mu_);
    all.swap(sessions_);
  }

 private:
  struct Served {
    SessionRecord record;
    std::weak_ptr<const Chain> shown;
    std::unique_ptr<FuseSession> handle;  // null until Serve sets it
  };

  void Keep(FuseSession& session, SessionRecord record, const Fd& device);
  void Ended(uint64_t id) ABSL_LOCKS_EXCLUDED(mu_) {
    std::unique_ptr<FuseSession> handle;
    std::string kept;
    {
      absl::MutexLock lock(&mu_);
      const auto found = sessions_.find(id);
      if (found == sessions_.end()) return;
      handle = std::move(found->second.handle);
      kept = found->second.record.id;
    }
    handle.reset();  // closes the descriptor and releases the chain
    if (store_ != nullptr) store_->Forget(kept);
    absl::MutexLock lock(&mu_);
    sessions_.erase(id);
    ended_.SignalAll();
  }

  SessionStore* const store_;
  mutable absl::Mutex mu_;
  TimedCondition ended_;
  uint64_t next_id_ ABSL_GUARDED_BY(mu_) = 1;
  absl::flat_hash_map<uint64_t, Served> sessions_ ABSL_GUARDED_BY(mu_);
};

absl::StatusOr<uint64_t> ChainMounts::Sessions::Serve(SessionRecord record, FuseDevice device,
                                                      const ChainRef& chain, Begin begin) {
  if (record.id.empty()) record.id = SessionStore::NewId();
  std::optional<Fd> to_keep;
  if (store_ != nullptr && !device.agreed.has_value()) {
    IMAGEFS_ASSIGN_OR_RETURN(to_keep, device.fd.Duplicate());
  }
  uint64_t id = 0;
  {
    absl::MutexLock lock(&mu_);
    id = next_id_++;
    sessions_[id] = {record, chain, nullptr};
  }
  auto session = begin(std::move(device), [weak = weak_from_this(), id] {
    if (auto self = weak.lock()) self->Ended(id);
  });
  if (session.ok() && to_keep.has_value()) Keep(**session, record, *to_keep);
  if (session.ok() && (*session)->fails_older()) ProvokeRequest(record.path);
  absl::MutexLock lock(&mu_);
  const auto found = sessions_.find(id);
  if (!session.ok()) {
    if (found != sessions_.end()) sessions_.erase(found);
    return session.status();
  }
  // Not found if the kernel has already ended it; the handle is then destroyed, too.
  if (found != sessions_.end()) {
    found->second.handle = *std::move(session);
  } else if (store_ != nullptr) {
    store_->Forget(record.id);
  }
  return id;
}

void ChainMounts::Sessions::Keep(FuseSession& session, SessionRecord record, const Fd& device) {
  const absl::StatusOr<FuseAgreement> agreed = session.AwaitInit(kInitWait);
  if (!agreed.ok()) {
    return LogWarning("session_not_kept path=", Printable(record.path),
                      " error=", agreed.status().message());
  }
  record.agreed = *agreed;
  store_->Keep(record, device);
}

ChainMounts::ChainMounts(std::string directory, FuseLoop& loop, SessionStore* store)
    : directory_(std::move(directory)),
      loop_(loop),
      store_(store),
      sessions_(std::make_shared<Sessions>(store)) {}

ChainMounts::~ChainMounts() { sessions_->Clear(); }

void ChainMounts::TakeOver(const MountTable::FindChain& find_chain) {
  if (store_ == nullptr) return;
  for (SessionStore::Inherited& inherited : store_->Inherit()) {
    const std::string id = inherited.record.id, path = inherited.record.path;
    const absl::Status status = inherited.record.data
                                    ? TakeOverData(std::move(inherited), find_chain)
                                    : TakeOverChain(std::move(inherited), find_chain);
    if (status.ok()) continue;
    LogWarning("session_ended path=", Printable(path), " error=", status.message());
    store_->Forget(id);
  }
}

absl::Status ChainMounts::TakeOverChain(SessionStore::Inherited inherited,
                                        const MountTable::FindChain& find_chain) {
  const SessionRecord& record = inherited.record;
  IMAGEFS_ASSIGN_OR_RETURN(const ChainRef chain, find_chain(record.chain_id));
  if (chain->index->Checksum() != record.index_sum) {
    return absl::FailedPreconditionError("the merged tree differs from the one that was mounted");
  }
  const FuseAgreement agreed = record.agreed;
  return sessions_
      ->Serve(record, FuseDevice(std::move(inherited.device), agreed), chain,
              [&](FuseDevice device, std::function<void()> ended) {
                return loop_.Serve(chain, std::move(device), {chain->overlay_form, record.shown_as},
                                   std::move(ended));
              })
      .status();
}

absl::Status ChainMounts::TakeOverData(SessionStore::Inherited inherited,
                                       const MountTable::FindChain& find_chain) {
  const SessionRecord& record = inherited.record;
  auto files = std::make_shared<DataFiles>(store_->JournalOf(record.id));
  for (const SessionStore::Node& node : inherited.nodes) {
    const auto restore = [&]() -> absl::Status {
      IMAGEFS_ASSIGN_OR_RETURN(const ChainRef chain, find_chain(node.chain_id));
      for (const LayerRef& layer : chain->layers) {
        if (layer->id != node.layer || DataNodeOf(*layer) != node.number) continue;
        files->Restore(layer);
        return absl::OkStatus();
      }
      return absl::NotFoundError("the layer's layout has changed");
    };
    // Readers of that layer get an error.
    if (const absl::Status status = restore(); !status.ok()) {
      LogWarning("session_lost_a_layer layer=", node.layer.Short(), " error=", status.message());
    }
  }
  const FuseAgreement agreed = record.agreed;
  IMAGEFS_ASSIGN_OR_RETURN(
      const uint64_t session,
      sessions_->Serve(record, FuseDevice(std::move(inherited.device), agreed), nullptr,
                       [&](FuseDevice device, std::function<void()> ended) {
                         return loop_.ServeData(files, std::move(device), std::move(ended));
                       }));
  // Other sessions were mounted there before; they serve lazily unmounted trees.
  const auto mounts = Outlived();
  const MountInfo* there = mounts.ok() ? (*mounts)->At(data_directory()) : nullptr;
  if (there == nullptr || sessions_->Find(data_directory(), *there) != session) {
    return absl::OkStatus();
  }
  absl::MutexLock lock(&data_mu_);
  data_files_ = std::move(files);
  data_session_ = session;
  return absl::OkStatus();
}

absl::StatusOr<std::shared_ptr<const MountView>> ChainMounts::Outlived() {
  absl::MutexLock lock(&mu_);
  if (outlived_ == nullptr) {
    IMAGEFS_ASSIGN_OR_RETURN(outlived_, MountView::Read());
  }
  return outlived_;
}

// Names begin with the ChainID, so that the entries of a chain are adjacent.
std::string ChainMounts::NameOf(const Digest& chain_id, const Presentation& presentation) {
  std::string name = StrCat(chain_id.hex(), ".", presentation.mode);
  if (!presentation.context.empty()) {
    StrAppend(&name, "-", Sha256Of(presentation.context).hex().substr(0, 8));
  }
  if (presentation.shown_as.any()) {
    StrAppend(&name, "+", Sha256Of(presentation.shown_as.ToString()).hex().substr(0, 8));
  }
  if (!presentation.source.empty()) {
    StrAppend(&name, "@", Sha256Of(presentation.source).hex().substr(0, 16));
  }
  return name;
}

// A session may serve a chain that the store has dropped (a layer that did not match its index).
// Such a session is only for its current users.
bool ChainMounts::Usable(const Entry& entry, const ChainRef& chain) const {
  return entry.mount_id != 0 && MountIdAt(entry.path) == entry.mount_id &&
         (entry.kernel || (sessions_->Alive(entry.session) && entry.shown.lock() == chain));
}

absl::StatusOr<ChainMounts::Lease> ChainMounts::Acquire(const ChainRef& chain,
                                                        const Presentation& presentation) {
  const bool filling = presentation.mode == kKernelMode && !chain->whole();
  const std::string name =
      StrCat(NameOf(chain->chain_id, presentation), filling ? kFillingSuffix : "");
  const auto hold = HoldName(name);
  Entry entry;
  {
    absl::MutexLock lock(&mu_);
    if (const auto found = entries_.find(name); found != entries_.end()) entry = found->second;
  }
  if (!Usable(entry, chain)) {
    // Stop serving its layers now, exactly once, even if the new mount fails.
    StopServing(std::exchange(entry.served, {}));
    {
      absl::MutexLock lock(&mu_);
      if (const auto found = entries_.find(name); found != entries_.end()) {
        found->second.served.clear();
      }
    }
    entry.path = StrCat(directory_, "/", name);
    entry.chain_id = chain->chain_id;
    entry.kernel = presentation.mode == kKernelMode;
    IMAGEFS_RETURN_IF_ERROR(Mount(chain, presentation, entry));
  }
  ++entry.users;
  absl::MutexLock lock(&mu_);
  entries_[name] = entry;
  return Lease{name, entry.path, filling};
}

absl::Status ChainMounts::Mount(const ChainRef& chain, const Presentation& presentation,
                                Entry& entry) {
  absl::Cleanup undo = [&] {
    UnmountStack(entry.path).IgnoreError();
    rmdir(entry.path.c_str());
  };
  if (entry.kernel) {
    IMAGEFS_RETURN_IF_ERROR(MountKernel(chain, presentation, entry));
  } else {
    IMAGEFS_RETURN_IF_ERROR(MountFuseSession(chain, presentation, entry));
  }
  entry.mount_id = MountIdAt(entry.path);
  std::move(undo).Cancel();
  return absl::OkStatus();
}

absl::Status ChainMounts::MountKernel(const ChainRef& chain, const Presentation& presentation,
                                      Entry& entry) {
  absl::Cleanup undo = [&] {
    StopServing(std::exchange(entry.served, {}));
    ForgetIndex(std::exchange(entry.index, ""));
  };
  ErofsSource source;
  source.index = chain->index_path;
  source.context = presentation.context;
  source.shown = presentation.source;
  for (const LayerRef& layer : chain->layers) {
    if (layer->whole()) {
      source.devices.push_back(layer->directory + "/data");
      continue;
    }
    if (presentation.way == ErofsWay::kLoopDevices) {
      return absl::FailedPreconditionError(StrCat(
          "layer ", layer->id.Short(), " is incomplete, and this kernel needs complete layers, ",
          "which it reads from loop devices"));
    }
    IMAGEFS_RETURN_IF_ERROR(ServeLayer(layer, chain->chain_id));
    entry.served.push_back(layer);
    source.devices.push_back(StrCat(data_directory(), "/", DataNameOf(*layer)));
  }
  // All mounts of the chain use one link, whose name appears in mountinfo if there is no other.
  std::optional<KeyGate::Hold> link;
  if (presentation.way == ErofsWay::kLoopDevices) {
    link.emplace(gate_, chain->chain_id.hex());
    source.link = StrCat(directory_, "/", chain->chain_id.hex());
    entry.index = chain->index_path;
    WatchIndex(entry.index);
  }
  IMAGEFS_ASSIGN_OR_RETURN(const Fd mount, MountErofs(source, presentation.way));
  IMAGEFS_RETURN_IF_ERROR(ReplaceMount(mount, entry.path));
  entry.chain = chain;
  std::move(undo).Cancel();
  return absl::OkStatus();
}

void ChainMounts::WatchIndex(const std::string& path) {
  absl::MutexLock lock(&mu_);
  if (index_watch_ == nullptr) index_watch_ = std::make_unique<WriteWatch>();
  index_watch_->Add(path, [path] {
    const absl::Status status = DropLoopCaches(path);
    if (!status.ok()) LogError("loop_cache_not_dropped error=", status.message());
  });
}

void ChainMounts::ForgetIndex(const std::string& path) {
  absl::MutexLock lock(&mu_);
  if (path.empty() || std::any_of(entries_.begin(), entries_.end(),
                                  [&](const auto& entry) { return entry.second.index == path; })) {
    return;
  }
  index_watch_->Remove(path);
}

void ChainMounts::WatchAdopted(const MountInfo& mount, Entry& entry) {
  if (!entry.kernel || entry.chain == nullptr || mount.major != LOOP_MAJOR) return;
  entry.index = entry.chain->index_path;
  WatchIndex(entry.index);
}

absl::Status ChainMounts::BeginDataMount() {
  IMAGEFS_ASSIGN_OR_RETURN(FuseMount fuse, MakeFuse());
  IMAGEFS_ASSIGN_OR_RETURN(const MountKey key, KeyOf(fuse.mount));
  IMAGEFS_RETURN_IF_ERROR(ReplaceMount(fuse.mount, data_directory()));
  SessionRecord record;
  record.id = SessionStore::NewId();
  record.data = true;
  record.path = data_directory();
  record.major = key.major;
  record.minor = key.minor;
  auto files =
      std::make_shared<DataFiles>(store_ == nullptr ? nullptr : store_->JournalOf(record.id));
  IMAGEFS_ASSIGN_OR_RETURN(data_session_,
                           sessions_->Serve(record, std::move(fuse.device), nullptr,
                                            [&](FuseDevice device, std::function<void()> ended) {
                                              return loop_.ServeData(files, std::move(device),
                                                                     std::move(ended));
                                            }));
  data_files_ = std::move(files);
  return absl::OkStatus();
}

absl::Status ChainMounts::ServeLayer(const LayerRef& layer, const Digest& chain_id) {
  absl::MutexLock lock(&data_mu_);
  if (data_files_ == nullptr || !sessions_->Alive(data_session_)) {
    IMAGEFS_RETURN_IF_ERROR(BeginDataMount());
  }
  return data_files_->Add(layer, chain_id);
}

void ChainMounts::StopServing(const std::vector<LayerRef>& layers) {
  absl::MutexLock lock(&data_mu_);
  if (layers.empty() || data_files_ == nullptr) return;
  for (const LayerRef& layer : layers) data_files_->Remove(layer);
  EndDataMount();
}

// Unmounts the data mount if no file of it has a name.
void ChainMounts::EndDataMount() {
  if (!data_files_->unused()) return;
  const absl::Status status = UnmountStack(data_directory());
  if (!status.ok()) LogWarning("data_unmount_failed error=", status.message());
  rmdir(data_directory().c_str());
  // A lazily unmounted tree keeps its devices open and readable; the session ends after it.
  data_files_.reset();
}

absl::Status ChainMounts::MountFuseSession(const ChainRef& chain, const Presentation& presentation,
                                           Entry& entry) {
  const std::string& source = presentation.source;
  IMAGEFS_ASSIGN_OR_RETURN(FuseMount fuse,
                           MakeFuse(/*writable=*/false, source.empty() ? kOwnSource : source));
  // Must precede the reply to INIT, which may lower the read-ahead but never raise it.
  IMAGEFS_ASSIGN_OR_RETURN(const MountKey key, KeyOf(fuse.mount));
  if (!SetReadAhead(key, kFuseReadAheadBytes)) {
    LogDebug("read_ahead_not_set chain=", chain->chain_id.Short());
  }
  IMAGEFS_RETURN_IF_ERROR(ReplaceMount(fuse.mount, entry.path));
  IMAGEFS_ASSIGN_OR_RETURN(entry.session, ServeChain(chain, std::move(fuse.device), entry.path, key,
                                                     presentation.shown_as));
  entry.shown = chain;
  return absl::OkStatus();
}

absl::StatusOr<uint64_t> ChainMounts::ServeChain(const ChainRef& chain, Fd device,
                                                 const std::string& path, const MountKey& key,
                                                 const ShownAs& shown_as) {
  SessionRecord record;
  record.shown_as = shown_as;
  record.path = path;
  record.major = key.major;
  record.minor = key.minor;
  record.chain_id = chain->chain_id;
  if (store_ != nullptr) record.index_sum = chain->index->Checksum();
  return sessions_->Serve(std::move(record), std::move(device), chain,
                          [&](FuseDevice fuse, std::function<void()> ended) {
                            return loop_.Serve(chain, std::move(fuse),
                                               {chain->overlay_form, shown_as}, std::move(ended));
                          });
}

void ChainMounts::Release(const std::string& name, bool lazy) {
  const auto hold = HoldName(name);
  Entry entry;
  {
    absl::MutexLock lock(&mu_);
    const auto found = entries_.find(name);
    if (found == entries_.end() || --found->second.users > 0) return;
    entry = std::move(found->second);
    entries_.erase(found);
  }
  const absl::Status status = UnmountStack(entry.path);
  if (!status.ok() && !absl::IsNotFound(status)) {
    LogWarning("private_unmount_failed error=", status.message());
  }
  rmdir(entry.path.c_str());
  StopServing(entry.served);
  ForgetIndex(entry.index);
  if (!entry.kernel && !lazy) sessions_->WaitEnded(entry.session, kReleaseWait);
}

absl::StatusOr<ChainMounts::Lease> ChainMounts::Adopt(const Digest& chain_id, ChainRef chain,
                                                      const Presentation& presentation,
                                                      bool filling, const MountInfo* of) {
  const std::string name = StrCat(NameOf(chain_id, presentation), filling ? kFillingSuffix : "");
  const auto hold = HoldName(name);
  const std::string path = StrCat(directory_, "/", name);
  IMAGEFS_ASSIGN_OR_RETURN(const std::shared_ptr<const MountView> mounts, Outlived());
  const MountInfo* there = mounts->At(path);
  if (there == nullptr || !IsOurs(*there, presentation.source) || MountIdAt(path) != there->id) {
    return absl::NotFoundError(StrCat("nothing is mounted at ", path));
  }
  if (of != nullptr && (of->major != there->major || of->minor != there->minor)) {
    return absl::NotFoundError(StrCat(of->mount_point, " is not a mount of ", path));
  }
  {
    absl::MutexLock lock(&mu_);
    if (const auto found = entries_.find(name); found != entries_.end()) {
      ++found->second.users;
      return Lease{name, path, filling};
    }
  }
  Entry entry;
  entry.chain_id = chain_id;
  entry.path = path;
  entry.kernel = presentation.mode == kKernelMode;
  entry.users = 1;
  entry.mount_id = MountIdAt(path);
  IMAGEFS_RETURN_IF_ERROR(FindReader(*there, chain, filling, entry));
  entry.chain = std::move(chain);
  WatchAdopted(*there, entry);
  absl::MutexLock lock(&mu_);
  entries_[name] = std::move(entry);
  return Lease{name, path, filling};
}

// Finds what serves a private mount that outlived its daemon.
absl::Status ChainMounts::FindReader(const MountInfo& there, const ChainRef& chain, bool filling,
                                     Entry& entry) {
  if (entry.kernel != (there.fs_type == kErofsType)) {
    return absl::NotFoundError(StrCat("another file system is mounted at ", entry.path));
  }
  if (!entry.kernel) {
    entry.session = sessions_->Find(entry.path, there);
    const ChainRef shown = sessions_->ChainOf(entry.session);
    if (shown == nullptr) return absl::NotFoundError("its session has ended");
    entry.shown = shown;
    return absl::OkStatus();
  }
  if (!filling) return absl::OkStatus();
  if (chain == nullptr) return absl::NotFoundError("its image is not local");
  absl::MutexLock lock(&data_mu_);
  if (data_files_ == nullptr) return absl::NotFoundError("the session of its layers has ended");
  for (const LayerRef& layer : chain->layers) {
    if (data_files_->Find(DataNodeOf(*layer)).layer != nullptr) {
      entry.served.push_back(layer);
    } else if (!layer->whole()) {
      return absl::NotFoundError(StrCat("layer ", layer->id.Short(), " is not served"));
    }
  }
  for (const LayerRef& layer : entry.served) {
    IMAGEFS_RETURN_IF_ERROR(data_files_->Add(layer, chain->chain_id));
  }
  return absl::OkStatus();
}

absl::StatusOr<ChainMounts::Lease> ChainMounts::AdoptServed(const Digest& chain_id, ChainRef chain,
                                                            const Presentation& presentation,
                                                            bool filling, const MountInfo* of) {
  const std::string name = StrCat(NameOf(chain_id, presentation), filling ? kFillingSuffix : "");
  const auto hold = HoldName(name);
  Entry entry;
  entry.chain_id = chain_id;
  entry.path = StrCat(directory_, "/", name);
  entry.kernel = presentation.mode == kKernelMode;
  if (!entry.kernel) {
    entry.session = of != nullptr ? sessions_->Find(entry.path, *of)
                                  : sessions_->FindAny(entry.path, &chain_id);
    const ChainRef shown = sessions_->ChainOf(entry.session);
    if (shown == nullptr) return absl::NotFoundError("its session has ended");
    entry.shown = shown;
  } else if (chain == nullptr || sessions_->FindAny(data_directory(), nullptr) == 0) {
    return absl::NotFoundError("nothing serves its layers");
  }
  entry.chain = std::move(chain);
  const std::string path = entry.path;
  absl::MutexLock lock(&mu_);
  const auto [there, added] = entries_.try_emplace(name, std::move(entry));
  ++there->second.users;
  return Lease{name, path, filling};
}

ChainMounts::Lease ChainMounts::AdoptKernelMount(const Digest& chain_id, ChainRef chain,
                                                 const Presentation& presentation,
                                                 const MountInfo* bind) {
  const std::string name = NameOf(chain_id, presentation);
  const auto hold = HoldName(name);
  {
    absl::MutexLock lock(&mu_);
    if (const auto found = entries_.find(name); found != entries_.end()) {
      ++found->second.users;
      return {name, found->second.path, false};
    }
  }
  Entry entry;
  entry.chain_id = chain_id;
  entry.path = StrCat(directory_, "/", name);
  entry.kernel = true;
  entry.chain = std::move(chain);
  entry.users = 1;
  const auto mounts = Outlived();
  const MountInfo* there = mounts.ok() ? (*mounts)->At(entry.path) : nullptr;
  if (there != nullptr && there->fs_type == kErofsType && MountIdAt(entry.path) == there->id) {
    entry.mount_id = there->id;
  } else if (bind != nullptr) {
    // Another mount of the same file system, so that future mounts share its page cache.
    const auto again = [&]() -> absl::Status {
      IMAGEFS_ASSIGN_OR_RETURN(const Fd source, OpenWithoutLinks(bind->mount_point, O_PATH));
      IMAGEFS_ASSIGN_OR_RETURN(const MountKey key, KeyOf(source));
      if (key != KeyOf(*bind)) {
        return absl::NotFoundError(StrCat(bind->mount_point, " is a different mount now"));
      }
      IMAGEFS_ASSIGN_OR_RETURN(const Fd target, MakeOwnDir(entry.path));
      IMAGEFS_ASSIGN_OR_RETURN(const Fd copy, CloneMount(source, {}, entry.path, /*exactly=*/true));
      IMAGEFS_RETURN_IF_ERROR(AttachMount(copy, target, entry.path));
      return MakePrivate(entry.path);
    };
    const absl::Status status = again();
    if (status.ok()) {
      entry.mount_id = MountIdAt(entry.path);
    } else {
      LogWarning("private_mount_not_restored error=", status.message());
    }
  }
  if (const MountInfo* shows = there != nullptr ? there : bind; shows != nullptr) {
    WatchAdopted(*shows, entry);
  }
  const std::string path = entry.path;
  absl::MutexLock lock(&mu_);
  entries_[name] = std::move(entry);
  return {name, path, false};
}

void ChainMounts::RemoveOrphans() {
  {
    absl::MutexLock lock(&mu_);
    outlived_ = nullptr;
  }
  const auto mounts = ReadMountInfo();
  if (!mounts.ok()) return;
  std::set<std::string> names;
  for (const MountInfo& mount : *mounts) {
    std::string_view name = mount.mount_point;
    if (ConsumePrefix(&name, directory_ + "/")) names.emplace(name);
  }
  for (const std::string& name : names) {
    if (name == kData) {
      absl::MutexLock lock(&data_mu_);
      if (data_files_ != nullptr) {
        EndDataMount();
        continue;
      }
    }
    // A mount acquired in the meantime is in use.
    const auto hold = HoldName(name);
    {
      absl::MutexLock lock(&mu_);
      if (entries_.contains(name)) continue;
    }
    const std::string path = StrCat(directory_, "/", name);
    const absl::Status status = UnmountStack(path);
    if (!status.ok()) LogWarning("dead_unmount_failed error=", status.message());
    rmdir(path.c_str());
  }
}

absl::Status ChainMounts::Serve(const ChainRef& chain, Fd device, const std::string& name,
                                const MountKey& key, const ShownAs& shown_as) {
  return ServeChain(chain, std::move(device), name, key, shown_as).status();
}

void ChainMounts::AwaitEnd(const std::string& name, const MountKey& key) {
  MountInfo there;
  there.major = key.major;
  there.minor = key.minor;
  const uint64_t session = sessions_->Find(name, there);
  if (session != 0) sessions_->WaitEnded(session, kReleaseWait);
}

ChainRef ChainMounts::ServedAt(const std::string& name, const MountInfo& there) const {
  return sessions_->ChainOf(sessions_->Find(name, there));
}

bool ChainMounts::InUse(const Digest& chain_id) const {
  {
    absl::MutexLock lock(&mu_);
    const auto found = entries_.lower_bound(chain_id.hex());
    if (found != entries_.end() && found->second.chain_id == chain_id) return true;
  }
  return sessions_->Serves(chain_id);
}

bool ChainMounts::NeedProcess() const { return sessions_->Any(); }

bool ChainMounts::HasKernelMounts() const {
  absl::MutexLock lock(&mu_);
  return std::any_of(entries_.begin(), entries_.end(),
                     [](const auto& entry) { return entry.second.kernel; });
}

}  // namespace imagefs
