#include "fs/chain_mounts.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <functional>
#include <set>
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
#include "fs/erofs_mount.h"
#include "fs/fuse_ops.h"

namespace imagefs {
namespace {

// How long an unmount waits for the kernel to let go of the file system. It is over at once unless
// another mount namespace has a copy of the mount.
constexpr absl::Duration kReleaseWait = absl::Milliseconds(100);

constexpr char kData[] = "data";  // the name, and the key, of the data mount

}  // namespace

// The FUSE sessions in service. Each stays until the kernel has ended it, which may be long after
// the unmount: a lazily unmounted tree lives on in the processes that use it, and needs its chain.
class ChainMounts::Sessions : public std::enable_shared_from_this<Sessions> {
 public:
  // `begin` hands the session to the loop, with what is to be called at its end.
  using Begin =
      absl::FunctionRef<absl::StatusOr<std::unique_ptr<FuseSession>>(std::function<void()>)>;
  absl::StatusOr<uint64_t> Serve(const Digest& chain_id, Begin begin) ABSL_LOCKS_EXCLUDED(mu_) {
    uint64_t id = 0;
    {
      absl::MutexLock lock(&mu_);
      id = next_id_++;
      sessions_[id].chain_id = chain_id;
    }
    auto session = begin([weak = weak_from_this(), id] {
      if (auto self = weak.lock()) self->Ended(id);
    });
    absl::MutexLock lock(&mu_);
    const auto found = sessions_.find(id);
    if (!session.ok()) {
      if (found != sessions_.end()) sessions_.erase(found);
      return session.status();
    }
    // Gone where the kernel has ended it already; then the handle may go as well.
    if (found != sessions_.end()) found->second.handle = *std::move(session);
    return id;
  }

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
                       [&](const auto& entry) { return entry.second.chain_id == chain_id; });
  }

  void WaitEnded(uint64_t id, absl::Duration timeout) ABSL_LOCKS_EXCLUDED(mu_) {
    const Moment deadline = Moment::Now() + timeout;
    absl::MutexLock lock(&mu_);
    while (sessions_.contains(id) && ended_.WaitUntil(&mu_, deadline)) {
    }
  }

  void Clear() ABSL_LOCKS_EXCLUDED(mu_) {
    // Destroyed after the lock is given back: a handle waits for notifications, which take the
    // lock.
    absl::flat_hash_map<uint64_t, Served> all;
    absl::MutexLock lock(&mu_);
    all.swap(sessions_);
  }

 private:
  struct Served {
    Digest chain_id;
    std::unique_ptr<FuseSession> handle;  // null until Serve has it
  };

  void Ended(uint64_t id) ABSL_LOCKS_EXCLUDED(mu_) {
    std::unique_ptr<FuseSession> handle;
    {
      absl::MutexLock lock(&mu_);
      const auto found = sessions_.find(id);
      if (found == sessions_.end()) return;
      handle = std::move(found->second.handle);
    }
    handle.reset();  // closes the descriptor and lets the chain go
    absl::MutexLock lock(&mu_);
    sessions_.erase(id);
    ended_.SignalAll();
  }

  mutable absl::Mutex mu_;
  TimedCondition ended_;
  uint64_t next_id_ ABSL_GUARDED_BY(mu_) = 1;
  absl::flat_hash_map<uint64_t, Served> sessions_ ABSL_GUARDED_BY(mu_);
};

ChainMounts::ChainMounts(std::string directory, FuseLoop& loop)
    : directory_(std::move(directory)), loop_(loop), sessions_(std::make_shared<Sessions>()) {}

ChainMounts::~ChainMounts() { sessions_->Clear(); }

// A name is the ChainID first, so that the entries of a chain stand together.
std::string ChainMounts::NameOf(const Digest& chain_id, const Presentation& presentation) {
  std::string name = StrCat(chain_id.hex(), ".", presentation.mode);
  if (!presentation.context.empty()) {
    StrAppend(&name, "-", Sha256Of(presentation.context).hex().substr(0, 8));
  }
  return name;
}

// A session that serves what the store has forgotten, a layer that was not what its index said, is
// for those who have it.
bool ChainMounts::Usable(const Entry& entry, const ChainRef& chain) const {
  return entry.mount_id != 0 && MountIdAt(entry.path) == entry.mount_id &&
         (entry.kernel || (sessions_->Alive(entry.session) && entry.shown.lock() == chain));
}

absl::StatusOr<ChainMounts::Lease> ChainMounts::Acquire(const ChainRef& chain,
                                                        const Presentation& presentation) {
  const bool filling = presentation.mode == kKernelMode && !chain->complete();
  const std::string name = StrCat(NameOf(chain->chain_id, presentation), filling ? ".filling" : "");
  const auto hold = HoldName(name);
  Entry entry;
  {
    absl::MutexLock lock(&mu_);
    if (const auto found = entries_.find(name); found != entries_.end()) entry = found->second;
  }
  if (!Usable(entry, chain)) {
    // What it was served from goes now, and once, also where the new mount fails.
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
    IMAGEFS_RETURN_IF_ERROR(MountFuseSession(chain, entry));
  }
  entry.mount_id = MountIdAt(entry.path);
  std::move(undo).Cancel();
  return absl::OkStatus();
}

absl::Status ChainMounts::MountKernel(const ChainRef& chain, const Presentation& presentation,
                                      Entry& entry) {
  absl::Cleanup undo = [&] { StopServing(std::exchange(entry.served, {})); };
  ErofsSource source;
  source.index = chain->index_path;
  source.context = presentation.context;
  for (const LayerRef& layer : chain->layers) {
    if (layer->complete()) {
      source.devices.push_back(layer->directory + "/data");
      continue;
    }
    IMAGEFS_RETURN_IF_ERROR(ServeLayer(layer));
    entry.served.push_back(layer->id);
    source.devices.push_back(StrCat(data_directory(), "/", layer->id.hex()));
  }
  IMAGEFS_ASSIGN_OR_RETURN(const Fd mount, MountErofs(source));
  IMAGEFS_RETURN_IF_ERROR(ReplaceMount(mount, entry.path));
  entry.chain = chain;
  std::move(undo).Cancel();
  return absl::OkStatus();
}

absl::Status ChainMounts::ServeLayer(const LayerRef& layer) {
  const auto hold = HoldName(kData);
  if (data_files_ == nullptr || !sessions_->Alive(data_session_)) {
    IMAGEFS_ASSIGN_OR_RETURN(FuseMount fuse, MakeFuse());
    IMAGEFS_RETURN_IF_ERROR(ReplaceMount(fuse.mount, data_directory()));
    auto files = std::make_shared<DataFiles>();
    IMAGEFS_ASSIGN_OR_RETURN(
        data_session_, sessions_->Serve(Digest(), [&](std::function<void()> ended) {
          return loop_.ServeData(files, std::move(fuse.device), std::move(ended));
        }));
    data_files_ = std::move(files);
  }
  data_files_->Add(layer);
  return absl::OkStatus();
}

void ChainMounts::StopServing(const std::vector<Digest>& layers) {
  const auto hold = HoldName(kData);
  if (layers.empty() || data_files_ == nullptr) return;
  bool empty = false;
  for (const Digest& layer : layers) empty = data_files_->Remove(layer);
  if (!empty) return;
  const absl::Status status = UnmountStack(data_directory());
  if (!status.ok()) LogWarning("data_unmount_failed error=", status.message());
  rmdir(data_directory().c_str());
  // A tree that was lazily unmounted has its devices open and reads on: the session ends after it.
  data_files_.reset();
}

absl::Status ChainMounts::MountFuseSession(const ChainRef& chain, Entry& entry) {
  IMAGEFS_ASSIGN_OR_RETURN(FuseMount fuse, MakeFuse());
  // Before INIT is answered: the answer may lower the read-ahead and never raises it.
  IMAGEFS_ASSIGN_OR_RETURN(const MountKey key, KeyOf(fuse.mount));
  if (!SetReadAhead(key, kFuseReadAheadBytes)) {
    LogDebug("read_ahead_not_set chain=", chain->chain_id.Short());
  }
  IMAGEFS_RETURN_IF_ERROR(ReplaceMount(fuse.mount, entry.path));
  IMAGEFS_ASSIGN_OR_RETURN(
      entry.session, sessions_->Serve(chain->chain_id, [&](std::function<void()> ended) {
        return loop_.Serve(chain, std::move(fuse.device), {chain->overlay_form}, std::move(ended));
      }));
  entry.shown = chain;
  return absl::OkStatus();
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
  if (!entry.kernel && !lazy) sessions_->WaitEnded(entry.session, kReleaseWait);
}

ChainMounts::Lease ChainMounts::Adopt(const Digest& chain_id, ChainRef chain,
                                      const Presentation& presentation, const MountInfo* bind) {
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
  const auto mounts = ReadMountInfo();
  const MountInfo* there = mounts.ok() ? FindMountAt(*mounts, entry.path) : nullptr;
  if (there != nullptr && there->fs_type == kErofsType) {
    entry.mount_id = MountIdAt(entry.path);
  } else if (bind != nullptr) {
    // The same file system once more, so that mounts to come share its page cache.
    const auto again = [&]() -> absl::Status {
      IMAGEFS_ASSIGN_OR_RETURN(const Fd source, OpenWithoutLinks(bind->mount_point, O_PATH));
      IMAGEFS_ASSIGN_OR_RETURN(const MountKey key, KeyOf(source));
      if (key != KeyOf(*bind)) {
        return absl::NotFoundError(StrCat(bind->mount_point, " is something else now"));
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
  const std::string path = entry.path;
  absl::MutexLock lock(&mu_);
  entries_[name] = std::move(entry);
  return {name, path, false};
}

absl::StatusOr<ChainMounts::Lease> ChainMounts::AdoptIfThere(const Digest& chain_id, ChainRef chain,
                                                             const Presentation& presentation) {
  const std::string path = StrCat(directory_, "/", NameOf(chain_id, presentation));
  IMAGEFS_ASSIGN_OR_RETURN(const auto mounts, ReadMountInfo());
  const MountInfo* there = FindMountAt(mounts, path);
  if (there == nullptr || there->fs_type != kErofsType) {
    return absl::NotFoundError(StrCat("nothing is mounted at ", path));
  }
  return Adopt(chain_id, std::move(chain), presentation, nullptr);
}

void ChainMounts::RemoveStrangers() {
  const auto mounts = ReadMountInfo();
  if (!mounts.ok()) return;
  std::set<std::string> names;
  for (const MountInfo& mount : *mounts) {
    std::string_view name = mount.mount_point;
    if (ConsumePrefix(&name, directory_ + "/")) names.emplace(name);
  }
  for (const std::string& name : names) {
    // What is acquired meanwhile is no stranger.
    const auto hold = HoldName(name);
    {
      absl::MutexLock lock(&mu_);
      if (entries_.contains(name) || (name == kData && data_files_ != nullptr)) continue;
    }
    const std::string path = StrCat(directory_, "/", name);
    const absl::Status status = UnmountStack(path);
    if (!status.ok()) LogWarning("dead_unmount_failed error=", status.message());
    rmdir(path.c_str());
  }
}

absl::Status ChainMounts::Serve(const ChainRef& chain, Fd device) {
  return sessions_
      ->Serve(chain->chain_id,
              [&](std::function<void()> ended) {
                return loop_.Serve(chain, std::move(device), {}, std::move(ended));
              })
      .status();
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
