// A chain's mount as root is one FUSE mount under <run>/chains, in a directory that only root may
// enter; what people see is a bind mount of it or an overlay over it. As a user each directory is a
// FUSE mount of its own.
//
// Two kinds of keys serialise the operations: "dir <path>" around everything that changes one
// directory, and inside it "chain <id>" around making and taking away a chain's private mount. The
// table's lock is only held to look at the maps, never over a system call.
//
// A janitor thread watches mountinfo, so that a mount that was taken away by plain umount(8) does
// not stay in the table.

#include "fs/mount_table.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <map>
#include <set>
#include <thread>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/cleanup/cleanup.h"
#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "base/log.h"
#include "base/status.h"
#include "fs/fuse_ops.h"
#include "fs/mount_syscalls.h"

namespace imagefs {
namespace {

// How long an unmount waits for the kernel to let go of the file system. It is over at once unless
// another mount namespace has a copy of the mount.
constexpr absl::Duration kReleaseWait = absl::Milliseconds(100);
constexpr char kFuseMode[] = "fuse";

// Mutual exclusion by name.
class KeyGate {
 public:
  // Holds the key until it is destroyed.
  class [[nodiscard]] Hold {
   public:
    Hold(KeyGate& gate, std::string key) : gate_(gate), key_(std::move(key)) {
      absl::MutexLock lock(&gate_.mu_);
      while (!gate_.held_.insert(key_).second) gate_.released_.Wait(&gate_.mu_);
    }
    ~Hold() {
      absl::MutexLock lock(&gate_.mu_);
      gate_.held_.erase(key_);
      gate_.released_.SignalAll();
    }
    Hold(const Hold&) = delete;
    Hold& operator=(const Hold&) = delete;

   private:
    KeyGate& gate_;
    const std::string key_;
  };

 private:
  absl::Mutex mu_;
  absl::CondVar released_;
  absl::flat_hash_set<std::string> held_ ABSL_GUARDED_BY(mu_);
};

// The FUSE sessions in service. Each stays until the kernel has ended it, which may be long after
// the unmount: a lazily unmounted tree lives on in the processes that use it, and needs its chain.
class SessionSet : public std::enable_shared_from_this<SessionSet> {
 public:
  absl::StatusOr<uint64_t> Serve(FuseLoop& loop, ChainRef chain, Fd device)
      ABSL_LOCKS_EXCLUDED(mu_) {
    const Digest chain_id = chain->chain_id;
    uint64_t id = 0;
    {
      absl::MutexLock lock(&mu_);
      id = next_id_++;
      sessions_[id].chain_id = chain_id;
    }
    auto session =
        loop.Serve(std::move(chain), std::move(device), {}, [weak = weak_from_this(), id] {
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

  bool Serves(const Digest& chain_id) const ABSL_LOCKS_EXCLUDED(mu_) {
    absl::MutexLock lock(&mu_);
    return std::any_of(sessions_.begin(), sessions_.end(),
                       [&](const auto& entry) { return entry.second.chain_id == chain_id; });
  }

  void WaitEnded(uint64_t id, absl::Duration timeout) ABSL_LOCKS_EXCLUDED(mu_) {
    const absl::Time deadline = absl::Now() + timeout;
    absl::MutexLock lock(&mu_);
    while (sessions_.contains(id)) {
      if (ended_.WaitWithDeadline(&mu_, deadline)) return;
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
  absl::CondVar ended_;
  uint64_t next_id_ ABSL_GUARDED_BY(mu_) = 1;
  absl::flat_hash_map<uint64_t, Served> sessions_ ABSL_GUARDED_BY(mu_);
};

absl::Status CheckDirectory(const std::string& directory) {
  struct stat found;
  if (stat(directory.c_str(), &found) < 0) {
    if (errno == ENOENT) {
      return absl::NotFoundError(
          StrCat(directory, " does not exist; create it first (mkdir -p ", directory, ")"));
    }
    if (errno == ENOTCONN) {
      return absl::FailedPreconditionError(
          StrCat(directory, " is the mount of a file system that has died; unmount it (umount -l ",
                 directory, ")"));
    }
    return ErrnoStatus(errno, StrCat("cannot mount at ", directory));
  }
  if (!S_ISDIR(found.st_mode)) {
    return absl::FailedPreconditionError(
        StrCat(directory, " is not a directory; give the path of one"));
  }
  return absl::OkStatus();
}

// Whatever the umask is.
absl::Status MakePrivateDir(const std::string& path) {
  IMAGEFS_RETURN_IF_ERROR(MakeDirs(path, 0700));
  if (chmod(path.c_str(), 0700) < 0) return ErrnoStatus(errno, StrCat("cannot chmod ", path));
  return absl::OkStatus();
}

// As mountinfo names it.
absl::StatusOr<std::string> Resolve(const std::string& path) {
  char resolved[PATH_MAX];
  if (realpath(path.c_str(), resolved) == nullptr) {
    return ErrnoStatus(errno, StrCat("cannot resolve ", path));
  }
  return std::string(resolved);
}

// The name under which the kernel lists a mount at `path`. What is dead or absent keeps its name.
std::string Canonical(const std::string& path) {
  auto resolved = Resolve(path);
  return resolved.ok() ? *std::move(resolved) : path;
}

bool Contains(std::string_view directory, std::string_view path) {
  if (directory == "/") return true;
  return path.starts_with(directory) &&
         (path.size() == directory.size() || path[directory.size()] == '/');
}

class MountTableImpl : public MountTable {
 public:
  MountTableImpl(Options options, FuseLoop& loop, MountRecords& records)
      : options_(std::move(options)),
        chains_dir_(options_.run_dir + "/chains"),
        loop_(loop),
        records_(records),
        sessions_(std::make_shared<SessionSet>()) {}

  ~MountTableImpl() override {
    if (janitor_.joinable()) {
      const uint64_t one = 1;
      [[maybe_unused]] const ssize_t written = write(stop_.get(), &one, sizeof(one));
      janitor_.join();
    }
    sessions_->Clear();
    if (own_parent_) UnmountPath(chains_dir_, true).IgnoreError();
  }

  absl::Status Start();

  absl::StatusOr<Pin> Prepare(ChainRef chain) override;
  absl::StatusOr<MountRecord> Mount(ChainRef chain, MountRecord record) override;
  absl::Status Unmount(const std::string& directory, bool lazy) override;
  std::vector<MountRecord> List() const override ABSL_LOCKS_EXCLUDED(mu_);
  bool InUse(const Digest& chain_id) const override;
  std::vector<std::string> Recover(const FindChain& find_chain) override;
  void UnmountAll(bool keep_records) override;

 private:
  struct ChainMount {
    std::string path;
    uint64_t session = 0;
    size_t users = 0;   // entries of mounts_, and pins
    bool lost = false;  // its private mount was taken away by somebody else
  };

  // What becomes of the durable part of a mount that goes.
  enum class Keep { kNothing, kUpper, kRecord };

  // Keys are held by the callers as the names say: D = the directory's, C = the chain's.
  absl::Status MountD(const ChainRef& chain, const MountRecord& record);
  absl::Status UnmountD(const std::string& directory, bool lazy, Keep keep);
  absl::Status ForgetD(const MountRecord& record, bool lazy, Keep keep);
  absl::StatusOr<std::string> AcquireChain(const ChainRef& chain);
  absl::Status MountChainC(const ChainRef& chain, ChainMount& mount);
  void ReleaseChain(const Digest& chain_id, bool lazy);
  absl::Status MountWritable(const Chain& chain, const std::string& lower,
                             const MountRecord& record);
  absl::Status PrepareUpper(const Chain& chain, const OverlayPaths& paths);
  void UnmountDead(const std::string& directory);
  void CleanChainsDir();
  void Watch();
  void Prune();
  void PruneChain(const Digest& chain_id);
  void PruneDirectory(const std::string& directory);

  KeyGate::Hold HoldDirectory(const std::string& directory) {
    return KeyGate::Hold(gate_, "dir " + directory);
  }
  KeyGate::Hold HoldChain(const Digest& chain_id) {
    return KeyGate::Hold(gate_, "chain " + chain_id.hex());
  }

  Options options_;
  std::string chains_dir_;
  FuseLoop& loop_;
  MountRecords& records_;
  const std::shared_ptr<SessionSet> sessions_;
  KeyGate gate_;
  bool own_parent_ = false;  // chains_dir_ is bound to itself, privately
  Fd mountinfo_;
  Fd stop_;
  std::thread janitor_;

  mutable absl::Mutex mu_;
  std::map<std::string, MountRecord> mounts_ ABSL_GUARDED_BY(mu_);  // by directory
  absl::flat_hash_map<Digest, ChainMount> chains_ ABSL_GUARDED_BY(mu_);
};

absl::Status MountTableImpl::Start() {
  IMAGEFS_RETURN_IF_ERROR(MakeDirs(options_.run_dir));
  IMAGEFS_RETURN_IF_ERROR(MakePrivateDir(chains_dir_));
  IMAGEFS_ASSIGN_OR_RETURN(chains_dir_, Resolve(chains_dir_));
  if (options_.as_root) {
    IMAGEFS_RETURN_IF_ERROR(MakePrivateDir(options_.upper_dir));
    IMAGEFS_ASSIGN_OR_RETURN(options_.upper_dir, Resolve(options_.upper_dir));
    // A mount below a shared one appears in every container that sees this directory, and stays
    // there. The private mounts are for this daemon only.
    IMAGEFS_ASSIGN_OR_RETURN(const auto mounts, ReadMountInfo());
    const MountInfo* parent = FindMountOf(mounts, chains_dir_);
    own_parent_ = parent != nullptr && parent->mount_point == chains_dir_;
    if (parent != nullptr && parent->shared && !own_parent_) {
      IMAGEFS_RETURN_IF_ERROR(BindMount(chains_dir_, chains_dir_));
      own_parent_ = true;
      IMAGEFS_RETURN_IF_ERROR(MakePrivate(chains_dir_));
    }
  }
  IMAGEFS_ASSIGN_OR_RETURN(mountinfo_, OpenFile("/proc/self/mountinfo", O_RDONLY));
  stop_ = Fd(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!stop_.valid()) return ErrnoStatus(errno, "cannot make an eventfd");
  janitor_ = std::thread([this] { Watch(); });
  return absl::OkStatus();
}

absl::StatusOr<MountTable::Pin> MountTableImpl::Prepare(ChainRef chain) {
  if (!options_.as_root) return Pin();
  IMAGEFS_RETURN_IF_ERROR(AcquireChain(chain).status());
  // The pin holds the chain itself too: the index stays mapped while its mount may be used.
  const Chain* pinned = chain.get();
  return Pin(pinned, [this, chain = std::move(chain)](const void*) {
    ReleaseChain(chain->chain_id, /*lazy=*/true);
  });
}

absl::StatusOr<MountRecord> MountTableImpl::Mount(ChainRef chain, MountRecord record) {
  if (!record.directory.starts_with('/')) {
    return absl::InvalidArgumentError(StrCat(record.directory, " is not an absolute path"));
  }
  record.directory = Canonical(record.directory);
  const std::string& directory = record.directory;
  for (const std::string& own : {chains_dir_, options_.upper_dir}) {
    if (!Contains(directory, own)) continue;
    return absl::InvalidArgumentError(StrCat("a mount at ", directory, " would hide ", own,
                                             ", which the daemon needs; choose another directory"));
  }
  if (record.writable && !options_.as_root) {
    return absl::FailedPreconditionError(
        StrCat("cannot mount ", directory, " writable: overlayfs needs root; leave out --rw"));
  }
  const auto hold = HoldDirectory(directory);
  {
    absl::MutexLock lock(&mu_);
    if (const auto found = mounts_.find(directory); found != mounts_.end()) {
      return absl::AlreadyExistsError(
          StrCat(directory, " is already the mount of ", found->second.reference,
                 "; unmount it first (imagefs umount ", directory, ")"));
    }
  }
  absl::Status usable = CheckDirectory(directory);
  if (absl::IsFailedPrecondition(usable)) {
    UnmountDead(directory);  // where it is one of a daemon before this one
    usable = CheckDirectory(directory);
  }
  IMAGEFS_RETURN_IF_ERROR(usable);
  record.chain_id = chain->chain_id;
  record.mode = kFuseMode;
  if (record.created_unix == 0) record.created_unix = time(nullptr);
  if (record.writable && record.upper.empty()) {
    record.upper = StrCat(options_.upper_dir, "/", RandomHex(8));
  }
  const bool fresh_upper = record.writable && access(record.upper.c_str(), F_OK) != 0;
  // Before the mount, so that a crash in between leaves nothing that nobody knows of.
  IMAGEFS_RETURN_IF_ERROR(records_.Put(record));
  if (absl::Status status = MountD(chain, record); !status.ok()) {
    if (fresh_upper) RemoveTree(record.upper).IgnoreError();
    records_.Delete(directory).IgnoreError();
    return status;
  }
  return record;
}

absl::Status MountTableImpl::MountD(const ChainRef& chain, const MountRecord& record) {
  if (options_.as_root) {
    IMAGEFS_ASSIGN_OR_RETURN(const std::string lower, AcquireChain(chain));
    const absl::Status status =
        record.writable ? MountWritable(*chain, lower, record) : BindMount(lower, record.directory);
    if (!status.ok()) {
      ReleaseChain(chain->chain_id, false);
      return status;
    }
  } else {
    IMAGEFS_ASSIGN_OR_RETURN(Fd device, FusermountMount(record.directory));
    if (auto session = sessions_->Serve(loop_, chain, std::move(device)); !session.ok()) {
      FusermountUnmount(record.directory, true).IgnoreError();
      return session.status();
    }
  }
  absl::MutexLock lock(&mu_);
  mounts_[record.directory] = record;
  return absl::OkStatus();
}

absl::StatusOr<std::string> MountTableImpl::AcquireChain(const ChainRef& chain) {
  const auto hold = HoldChain(chain->chain_id);
  ChainMount mount;
  {
    absl::MutexLock lock(&mu_);
    const auto found = chains_.find(chain->chain_id);
    if (found != chains_.end()) mount = found->second;
  }
  if (mount.session == 0 || mount.lost || !sessions_->Alive(mount.session)) {
    IMAGEFS_RETURN_IF_ERROR(MountChainC(chain, mount));
  }
  ++mount.users;
  absl::MutexLock lock(&mu_);
  chains_[chain->chain_id] = mount;
  return mount.path;
}

absl::Status MountTableImpl::MountChainC(const ChainRef& chain, ChainMount& mount) {
  mount.path = StrCat(chains_dir_, "/", chain->chain_id.hex());
  // What is there is dead, or is not the mount that this table made.
  UnmountPath(mount.path, true).IgnoreError();
  IMAGEFS_RETURN_IF_ERROR(MakePrivateDir(mount.path));
  absl::Cleanup undo = [&] {
    UnmountPath(mount.path, true).IgnoreError();
    rmdir(mount.path.c_str());
  };
  IMAGEFS_ASSIGN_OR_RETURN(Fd device, MountFuse(mount.path));
  IMAGEFS_RETURN_IF_ERROR(MakePrivate(mount.path));
  // Before INIT is answered: the answer may lower the read-ahead and never raises it.
  IMAGEFS_ASSIGN_OR_RETURN(const auto mounts, ReadMountInfo());
  if (const MountInfo* info = FindMountAt(mounts, mount.path)) {
    if (!SetReadAhead(*info, kFuseReadAheadBytes)) {
      LogDebug("read_ahead_not_set chain=", chain->chain_id.Short());
    }
  }
  IMAGEFS_ASSIGN_OR_RETURN(mount.session, sessions_->Serve(loop_, chain, std::move(device)));
  mount.lost = false;
  std::move(undo).Cancel();
  return absl::OkStatus();
}

void MountTableImpl::ReleaseChain(const Digest& chain_id, bool lazy) {
  const auto hold = HoldChain(chain_id);
  ChainMount mount;
  {
    absl::MutexLock lock(&mu_);
    const auto found = chains_.find(chain_id);
    if (found == chains_.end() || --found->second.users > 0) return;
    mount = std::move(found->second);
    chains_.erase(found);
  }
  if (absl::Status status = UnmountPath(mount.path, true); !status.ok() && !mount.lost) {
    LogWarning("private_unmount_failed error=", status.message());
  }
  rmdir(mount.path.c_str());
  if (!lazy) sessions_->WaitEnded(mount.session, kReleaseWait);
}

absl::Status MountTableImpl::PrepareUpper(const Chain& chain, const OverlayPaths& paths) {
  IMAGEFS_ASSIGN_OR_RETURN(const ErofsImage::Stat root, chain.index->GetStat(chain.index->root()));
  IMAGEFS_RETURN_IF_ERROR(MakePrivateDir(paths.upper));
  IMAGEFS_RETURN_IF_ERROR(MakePrivateDir(paths.work));
  // The root of an overlay is the upper one's: it has to look like the image's.
  const timespec mtime = {root.mtime_seconds, root.mtime_nanoseconds};
  const timespec times[2] = {mtime, mtime};
  if (chown(paths.upper.c_str(), root.uid, root.gid) < 0 ||
      chmod(paths.upper.c_str(), root.mode & 07777) < 0 ||
      utimensat(AT_FDCWD, paths.upper.c_str(), times, 0) < 0) {
    return ErrnoStatus(errno, StrCat("cannot prepare ", paths.upper));
  }
  return absl::OkStatus();
}

absl::Status MountTableImpl::MountWritable(const Chain& chain, const std::string& lower,
                                           const MountRecord& record) {
  const OverlayPaths paths = {lower, record.upper + "/upper", record.upper + "/work"};
  if (access(paths.upper.c_str(), F_OK) != 0) {
    IMAGEFS_RETURN_IF_ERROR(MakePrivateDir(record.upper));
    IMAGEFS_RETURN_IF_ERROR(PrepareUpper(chain, paths));
  }
  return MountOverlay(paths, record.directory);
}

absl::Status MountTableImpl::Unmount(const std::string& path, bool lazy) {
  const std::string directory = Canonical(path);
  const auto hold = HoldDirectory(directory);
  return UnmountD(directory, lazy, Keep::kNothing);
}

absl::Status MountTableImpl::UnmountD(const std::string& directory, bool lazy, Keep keep) {
  MountRecord record;
  {
    absl::MutexLock lock(&mu_);
    const auto found = mounts_.find(directory);
    if (found == mounts_.end()) {
      return absl::NotFoundError(
          StrCat(directory, " is not a mount of imagefs; `imagefs ls` lists them"));
    }
    record = found->second;
  }
  const absl::Status status =
      options_.as_root ? UnmountPath(directory, lazy) : FusermountUnmount(directory, lazy);
  // Not there: somebody else unmounted it, which is as good.
  if (!status.ok() && !absl::IsNotFound(status)) return status;
  return ForgetD(record, lazy, keep);
}

absl::Status MountTableImpl::ForgetD(const MountRecord& record, bool lazy, Keep keep) {
  {
    absl::MutexLock lock(&mu_);
    mounts_.erase(record.directory);
  }
  if (options_.as_root) ReleaseChain(record.chain_id, lazy);
  absl::Status status;
  if (keep == Keep::kNothing && !record.upper.empty()) status = RemoveTree(record.upper);
  if (keep != Keep::kRecord) status.Update(records_.Delete(record.directory));
  return status;
}

std::vector<MountRecord> MountTableImpl::List() const {
  std::vector<MountRecord> out;
  absl::MutexLock lock(&mu_);
  for (const auto& [directory, record] : mounts_) out.push_back(record);
  return out;
}

bool MountTableImpl::InUse(const Digest& chain_id) const {
  {
    absl::MutexLock lock(&mu_);
    if (chains_.contains(chain_id)) return true;
  }
  return sessions_->Serves(chain_id);
}

// Unmounts what a daemon before this one left at `directory`.
void MountTableImpl::UnmountDead(const std::string& directory) {
  auto mounts = ReadMountInfo();
  if (!mounts.ok()) return;
  for (const MountInfo& mount : *mounts) {
    if (mount.mount_point != directory || !IsOurs(mount)) continue;
    const absl::Status status =
        options_.as_root ? UnmountPath(directory, true) : FusermountUnmount(directory, true);
    if (!status.ok()) LogWarning("dead_unmount_failed error=", status.message());
  }
}

void MountTableImpl::CleanChainsDir() {
  auto mounts = ReadMountInfo();
  if (!mounts.ok()) return;
  for (auto mount = mounts->rbegin(); mount != mounts->rend(); ++mount) {
    if (mount->mount_point == chains_dir_ || !Contains(chains_dir_, mount->mount_point)) continue;
    const absl::Status status = UnmountPath(mount->mount_point, true);
    if (!status.ok()) LogWarning("dead_unmount_failed error=", status.message());
    rmdir(mount->mount_point.c_str());
  }
}

std::vector<std::string> MountTableImpl::Recover(const FindChain& find_chain) {
  std::vector<std::string> out;
  if (options_.as_root) CleanChainsDir();
  auto records = records_.List();
  if (!records.ok()) {
    LogError("mounts_not_read error=", records.status().message());
    return out;
  }
  for (const MountRecord& record : *records) {
    {
      const auto hold = HoldDirectory(record.directory);
      absl::MutexLock lock(&mu_);
      if (mounts_.contains(record.directory)) continue;
    }
    UnmountDead(record.directory);
    auto chain = find_chain(record.chain_id);
    absl::Status status = chain.status();
    if (status.ok()) status = Mount(*chain, record).status();
    if (status.ok()) {
      out.push_back(record.directory);
      continue;
    }
    LogWarning("mount_not_recovered directory=", record.directory, " reference=", record.reference,
               record.upper.empty() ? "" : " changes_kept_in=", record.upper,
               " error=", status.message());
    records_.Delete(record.directory).IgnoreError();
  }
  return out;
}

void MountTableImpl::UnmountAll(bool keep_records) {
  for (const MountRecord& record : List()) {
    const auto hold = HoldDirectory(record.directory);
    const Keep keep = keep_records ? Keep::kRecord : Keep::kNothing;
    const absl::Status status = UnmountD(record.directory, true, keep);
    if (!status.ok() && !absl::IsNotFound(status)) {
      LogWarning("unmount_failed error=", status.message());
    }
  }
}

void MountTableImpl::Watch() {
  pthread_setname_np(pthread_self(), "mounts");
  while (true) {
    pollfd polled[2] = {{stop_.get(), POLLIN, 0}, {mountinfo_.get(), POLLPRI, 0}};
    if (poll(polled, 2, -1) < 0 && errno != EINTR) {
      LogError("mountinfo_poll_failed errno=", errno);
      return;
    }
    if (polled[0].revents != 0) return;
    if (polled[1].revents != 0) Prune();
  }
}

// Where something of ours is mounted.
absl::StatusOr<std::set<std::string>> MountPoints() {
  IMAGEFS_ASSIGN_OR_RETURN(const auto mounts, ReadMountInfo());
  std::set<std::string> out;
  for (const MountInfo& mount : mounts) {
    if (IsOurs(mount)) out.insert(mount.mount_point);
  }
  return out;
}

// Drops the entries whose mounts somebody else has taken away. What is missing at the first look
// may be a mount under way, so each is looked at again while its key is held.
void MountTableImpl::Prune() {
  std::vector<std::string> directories;
  std::vector<Digest> chains;
  const auto present = MountPoints();
  if (!present.ok()) return;
  {
    absl::MutexLock lock(&mu_);
    for (const auto& [directory, record] : mounts_) {
      if (!present->contains(directory)) directories.push_back(directory);
    }
    for (const auto& [chain_id, mount] : chains_) {
      if (!mount.lost && !present->contains(mount.path)) chains.push_back(chain_id);
    }
  }
  for (const Digest& chain_id : chains) PruneChain(chain_id);
  for (const std::string& directory : directories) PruneDirectory(directory);
}

void MountTableImpl::PruneChain(const Digest& chain_id) {
  const auto hold = HoldChain(chain_id);
  const auto present = MountPoints();
  absl::MutexLock lock(&mu_);
  const auto found = chains_.find(chain_id);
  if (!present.ok() || found == chains_.end() || present->contains(found->second.path)) return;
  found->second.lost = true;
}

void MountTableImpl::PruneDirectory(const std::string& directory) {
  const auto hold = HoldDirectory(directory);
  const auto present = MountPoints();
  if (!present.ok() || present->contains(directory)) return;
  MountRecord record;
  {
    absl::MutexLock lock(&mu_);
    const auto found = mounts_.find(directory);
    if (found == mounts_.end()) return;
    record = found->second;
  }
  LogInfo("unmounted_elsewhere directory=", directory,
          record.upper.empty() ? "" : " changes_kept_in=", record.upper);
  const absl::Status status = ForgetD(record, true, Keep::kUpper);
  if (!status.ok()) LogWarning("mount_not_forgotten error=", status.message());
}

}  // namespace

absl::StatusOr<std::unique_ptr<MountTable>> MountTable::Create(Options options, FuseLoop& loop,
                                                               MountRecords& records) {
  auto table = std::make_unique<MountTableImpl>(std::move(options), loop, records);
  IMAGEFS_RETURN_IF_ERROR(table->Start());
  return table;
}

}  // namespace imagefs
