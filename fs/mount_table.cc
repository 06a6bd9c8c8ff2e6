// As root a chain is mounted once for each presentation under <run>/chains, in a directory that
// only root may enter; what people see is a bind mount of it or an overlay over it. As a user each
// directory is a FUSE mount of its own.
//
// What changes one directory is serialised by its name; the private mounts below it serialise by
// theirs (fs/chain_mounts.h), always inside. The table's lock is only held to look at the map,
// never over a system call.
//
// A janitor thread watches mountinfo, so that a mount that was taken away by plain umount(8) does
// not stay in the table.

#include "fs/mount_table.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include <map>
#include <optional>
#include <set>
#include <thread>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "base/directory.h"
#include "base/log.h"
#include "base/status.h"
#include "base/units.h"
#include "fs/chain_mounts.h"
#include "fs/erofs_mount.h"
#include "fs/key_gate.h"
#include "fs/mount_syscalls.h"
#include "fs/mount_target.h"

namespace imagefs {
namespace {

// The path of a directory of this daemon's own, as mountinfo names it.
absl::StatusOr<std::string> MakeOwnPath(const std::string& path) {
  IMAGEFS_ASSIGN_OR_RETURN(const Fd fd, MakeOwnDir(path));
  return PathOf(fd, path);
}

// The name under which the kernel lists a mount at `path`. What is dead or absent keeps its name.
std::string Canonical(const std::string& path) {
  const absl::StatusOr<Fd> place = OpenPlace(path);
  if (!place.ok()) return path;
  auto resolved = PathOf(*place, path);
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
        upper_dir_(options_.root_dir + "/upper"),
        loop_(loop),
        records_(records) {}

  ~MountTableImpl() override {
    if (janitor_.joinable()) {
      const uint64_t one = 1;
      [[maybe_unused]] const ssize_t written = write(stop_.get(), &one, sizeof(one));
      janitor_.join();
    }
    const bool needed = chains_ != nullptr && chains_->HasKernelMounts();
    chains_.reset();
    if (own_parent_ && !needed) UnmountPath(chains_dir_, true).IgnoreError();
  }

  absl::Status Start();

  absl::StatusOr<Pin> Prepare(ChainRef chain, const MountRecord& wanted) override;
  absl::StatusOr<Shown> Show(ChainRef chain) override;
  std::optional<Shown> ShowAgain(const Digest& chain_id, ChainRef chain) override;
  void Hide(const std::string& lease) override { chains_->Release(lease, /*lazy=*/true); }
  absl::Status Check(MountRecord& record) override;
  absl::StatusOr<MountRecord> Mount(ChainRef chain, MountRecord record) override;
  absl::Status Unmount(const std::string& directory, bool lazy) override;
  std::vector<MountRecord> List() const override ABSL_LOCKS_EXCLUDED(mu_);
  ChainRef ChainOf(const std::string& directory) const override ABSL_LOCKS_EXCLUDED(mu_);
  bool InUse(const Digest& chain_id) const override { return chains_->InUse(chain_id); }
  bool NeedProcess() const override { return chains_->NeedProcess(); }
  std::vector<std::string> Recover(const FindChain& find_chain) override;
  void UnmountAll(bool keep_records) override;

 private:
  // What becomes of the durable part of a mount that goes.
  enum class Keep { kNothing, kUpper, kRecord };

  // The key of the directory is held by the callers of what ends in D.
  absl::StatusOr<MountRecord> MountAtD(const ChainRef& chain, MountRecord record);
  absl::Status MountD(const ChainRef& chain, const Fd& target, OverlayUpper* upper,
                      MountRecord& record);
  absl::Status MountByUserD(const ChainRef& chain, MountRecord& record);
  absl::StatusOr<MountKey> AttachD(const Fd& mount, const Fd& target, const std::string& directory);
  absl::Status UnmountD(const std::string& directory, bool lazy, Keep keep);
  absl::Status ForgetD(const MountRecord& record, bool lazy, Keep keep);
  // What became of a mount that needed no daemon. kHere: it is in the table now.
  enum class Outlived { kHere, kUnmounted, kUnknown };
  Outlived AdoptD(const MountRecord& record, const FindChain& find_chain);
  absl::Status MountAgain(MountRecord record, const FindChain& find_chain);
  absl::Status CheckRecord(const MountRecord& record) const;
  absl::Status CheckOwn(const std::string& directory, std::string_view what) const;
  // Which presentation a record that asks for one, or for "auto", gets.
  absl::StatusOr<std::string> ChooseMode(const MountRecord& record) const;
  // The chain's private mount, by the presentation that `record` then names.
  absl::StatusOr<ChainMounts::Lease> AcquireChain(const ChainRef& chain, MountRecord& record);
  absl::StatusOr<OverlayUpper> OpenUpper(const Chain& chain, MountRecord& record) const;
  absl::Status RemoveUpper(const std::string& upper) const;
  void UnmountDead(const std::string& directory);
  void Watch();
  void Prune();
  void PruneDirectory(const std::string& directory);

  KeyGate::Hold HoldDirectory(const std::string& directory) {
    return KeyGate::Hold(gate_, directory);
  }

  Options options_;
  std::string chains_dir_, upper_dir_;
  FuseLoop& loop_;
  MountRecords& records_;
  std::unique_ptr<ChainMounts> chains_;
  std::string boot_id_;
  absl::Status kernel_;      // why there is no kernel presentation, else OK
  KeyGate gate_;             // by directory
  bool own_parent_ = false;  // chains_dir_ is bound to itself, privately
  Fd mountinfo_;
  Fd stop_;
  std::thread janitor_;

  mutable absl::Mutex mu_;
  struct Mounted {
    MountRecord record;
    MountKey key;       // as root
    std::string lease;  // of its private mount; "" = it has none
    std::weak_ptr<const Chain> chain;
  };
  std::map<std::string, Mounted> mounts_ ABSL_GUARDED_BY(mu_);  // by directory

  // The mounts of ours that the kernel lists.
  struct Present {
    std::set<MountKey> keys;
    std::set<std::string> directories;
  };
  static absl::StatusOr<Present> FindPresent();
  bool IsThere(const Mounted& mounted, const Present& present) const;
};

absl::Status MountTableImpl::Start() {
  IMAGEFS_ASSIGN_OR_RETURN(boot_id_, BootId());
  IMAGEFS_RETURN_IF_ERROR(MakeDirs(options_.run_dir));
  IMAGEFS_ASSIGN_OR_RETURN(chains_dir_, MakeOwnPath(chains_dir_));
  options_.run_dir = ParentOf(chains_dir_);
  if (!options_.as_root) {
    options_.root_dir = Canonical(options_.root_dir);
  } else {
    IMAGEFS_ASSIGN_OR_RETURN(upper_dir_, MakeOwnPath(upper_dir_));
    options_.root_dir = ParentOf(upper_dir_);
    // A mount below a shared one appears in every container that sees this directory, and stays
    // there. The private mounts are for this daemon only.
    IMAGEFS_ASSIGN_OR_RETURN(const auto mounts, ReadMountInfo());
    const MountInfo* parent = FindMountOf(mounts, chains_dir_);
    own_parent_ = parent != nullptr && parent->mount_point == chains_dir_;
    if (parent != nullptr && parent->shared && !own_parent_) {
      IMAGEFS_RETURN_IF_ERROR(BindMount(chains_dir_, chains_dir_, {}));
      own_parent_ = true;
      IMAGEFS_RETURN_IF_ERROR(MakePrivate(chains_dir_));
    }
  }
  chains_ = std::make_unique<ChainMounts>(chains_dir_, loop_);
  kernel_ = !options_.as_root ? absl::FailedPreconditionError("it needs root")
            : options_.kernel ? ProbeErofs(upper_dir_)  // of the store, where indexes lie
                              : absl::FailedPreconditionError("it is switched off");
  if (options_.as_root && !kernel_.ok()) {
    LogInfo("kernel_presentation_unavailable images_are_shown_by=fuse reason=\"", kernel_.message(),
            "\"");
  }
  IMAGEFS_ASSIGN_OR_RETURN(mountinfo_, OpenFile("/proc/self/mountinfo", O_RDONLY));
  stop_ = Fd(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!stop_.valid()) return ErrnoStatus(errno, "cannot make an eventfd");
  janitor_ = std::thread([this] { Watch(); });
  return absl::OkStatus();
}

absl::StatusOr<std::string> MountTableImpl::ChooseMode(const MountRecord& record) const {
  const bool automatic = record.mode.empty() || record.mode == "auto";
  if (!automatic && record.mode != kFuseMode && record.mode != kKernelMode) {
    return absl::InvalidArgumentError(
        StrCat("mode ", Printable(record.mode), " is not known; use auto, kernel or fuse"));
  }
  // What only the kernel's file system can do.
  const bool kernel_only = !record.context.empty() || !record.flags.id_map.empty();
  if (record.mode == kKernelMode || (automatic && kernel_only)) {
    if (kernel_.ok()) return std::string(kKernelMode);
    return absl::FailedPreconditionError(StrCat(
        "the kernel cannot show ", record.reference, " by itself: ", ToStd(kernel_.message()),
        kernel_only ? "; leave out --context and --map-uids" : "; use --mode fuse"));
  }
  if (kernel_only) {
    return absl::InvalidArgumentError("--context and --map-uids need --mode kernel");
  }
  return std::string(automatic && kernel_.ok() ? kKernelMode : kFuseMode);
}

absl::StatusOr<ChainMounts::Lease> MountTableImpl::AcquireChain(const ChainRef& chain,
                                                                MountRecord& record) {
  IMAGEFS_ASSIGN_OR_RETURN(std::string mode, ChooseMode(record));
  auto lease = chains_->Acquire(chain, {mode, record.context});
  if (!lease.ok() && mode == kKernelMode && record.mode != kKernelMode && record.context.empty() &&
      record.flags.id_map.empty()) {
    LogWarning("kernel_presentation_failed chain=", chain->chain_id.Short(),
               " error=", lease.status().message());
    mode = kFuseMode;
    lease = chains_->Acquire(chain, {mode, ""});
  }
  IMAGEFS_RETURN_IF_ERROR(lease.status());
  record.mode = mode;
  record.filling = lease->filling;
  return lease;
}

absl::StatusOr<MountTable::Pin> MountTableImpl::Prepare(ChainRef chain, const MountRecord& wanted) {
  if (!options_.as_root) return Pin();
  MountRecord record = wanted;
  IMAGEFS_ASSIGN_OR_RETURN(ChainMounts::Lease lease, AcquireChain(chain, record));
  // The pin holds the chain itself too: the index stays mapped while its mount may be used.
  const Chain* pinned = chain.get();
  return Pin(pinned, [this, chain = std::move(chain), name = std::move(lease.name)](const void*) {
    chains_->Release(name, /*lazy=*/true);
  });
}

absl::StatusOr<MountTable::Shown> MountTableImpl::Show(ChainRef chain) {
  if (!options_.as_root) return absl::FailedPreconditionError("showing an image needs root");
  MountRecord record;
  IMAGEFS_ASSIGN_OR_RETURN(ChainMounts::Lease lease, AcquireChain(chain, record));
  return Shown{std::move(lease.name), std::move(lease.path), lease.filling,
               record.mode == kFuseMode};
}

std::optional<MountTable::Shown> MountTableImpl::ShowAgain(const Digest& chain_id, ChainRef chain) {
  if (!options_.as_root || !kernel_.ok()) return std::nullopt;
  absl::StatusOr<ChainMounts::Lease> lease =
      chains_->AdoptIfThere(chain_id, std::move(chain), {std::string(kKernelMode), ""});
  if (!lease.ok()) return std::nullopt;
  return Shown{std::move(lease->name), std::move(lease->path), false};
}

// What the daemon needs itself is neither hidden nor mounted in.
absl::Status MountTableImpl::CheckOwn(const std::string& directory, std::string_view what) const {
  for (const std::string& own : {options_.run_dir, options_.root_dir}) {
    if (!Contains(directory, own) && !Contains(own, directory)) continue;
    return absl::InvalidArgumentError(StrCat(what, " ", PrintableName(directory), " ",
                                             Contains(directory, own) ? "would hide " : "lies in ",
                                             own,
                                             ", which is the daemon's own; choose another "
                                             "directory"));
  }
  return absl::OkStatus();
}

absl::Status MountTableImpl::CheckRecord(const MountRecord& record) const {
  const std::string& directory = record.directory;
  IMAGEFS_RETURN_IF_ERROR(CheckOwn(directory, "a mount at"));
  if (record.writable && !options_.as_root) {
    return absl::FailedPreconditionError(
        StrCat("cannot mount ", directory, " writable: overlayfs needs root; leave out --rw"));
  }
  if (record.writable && !record.flags.id_map.empty()) {
    return absl::InvalidArgumentError("--map-uids and --rw exclude each other");
  }
  if (!record.flags.id_map.empty()) IMAGEFS_RETURN_IF_ERROR(CheckIdMap(record.flags.id_map));
  absl::MutexLock lock(&mu_);
  if (const auto found = mounts_.find(directory); found != mounts_.end()) {
    return absl::AlreadyExistsError(StrCat(directory, ": ", found->second.record.reference,
                                           " is mounted there already; unmount it first (imagefs "
                                           "umount ",
                                           directory, ")"));
  }
  for (const auto& [other, mounted] : mounts_) {
    if (record.upper.empty() || mounted.record.upper != record.upper) continue;
    return absl::AlreadyExistsError(StrCat("the changes of ", other, " are kept in ", record.upper,
                                           "; choose another --upper"));
  }
  return absl::OkStatus();
}

absl::Status MountTableImpl::Check(MountRecord& record) {
  IMAGEFS_ASSIGN_OR_RETURN(record.directory, ResolveTarget(record.directory));
  if (!record.upper.empty()) {
    IMAGEFS_ASSIGN_OR_RETURN(record.upper, ResolveUpper(record.upper));
    IMAGEFS_RETURN_IF_ERROR(CheckOwn(record.upper, "--upper"));
  }
  const auto hold = HoldDirectory(record.directory);
  IMAGEFS_RETURN_IF_ERROR(CheckRecord(record));
  absl::StatusOr<Fd> target = OpenTarget(record.directory, {});
  if (absl::IsFailedPrecondition(target.status())) {
    UnmountDead(record.directory);  // where it is one of a daemon before this one
    target = OpenTarget(record.directory, {});
  }
  IMAGEFS_RETURN_IF_ERROR(target.status());
  IMAGEFS_ASSIGN_OR_RETURN(const struct stat st, StatFd(*target, record.directory));
  record.covered = IdOf(st);
  return absl::OkStatus();
}

absl::StatusOr<MountRecord> MountTableImpl::Mount(ChainRef chain, MountRecord record) {
  if (!record.covered.known()) IMAGEFS_RETURN_IF_ERROR(Check(record));
  const auto hold = HoldDirectory(record.directory);
  return MountAtD(chain, std::move(record));
}

absl::StatusOr<MountRecord> MountTableImpl::MountAtD(const ChainRef& chain, MountRecord record) {
  IMAGEFS_RETURN_IF_ERROR(CheckRecord(record));
  IMAGEFS_ASSIGN_OR_RETURN(const Fd target, OpenTarget(record.directory, record.covered));
  IMAGEFS_ASSIGN_OR_RETURN(const struct stat covered, StatFd(target, record.directory));
  record.covered = IdOf(covered);
  record.chain_id = chain->chain_id;
  if (record.created_unix == 0) record.created_unix = time(nullptr);
  record.boot_id = boot_id_;
  const std::string asked = record.mode;
  IMAGEFS_ASSIGN_OR_RETURN(record.mode, ChooseMode(record));
  std::optional<OverlayUpper> upper;
  if (record.writable) {
    IMAGEFS_ASSIGN_OR_RETURN(upper, OpenUpper(*chain, record));
  }
  // Before the mount, so that a crash in between leaves nothing that nobody knows of.
  absl::Status status = records_.Put(record);
  const std::string recorded = std::exchange(record.mode, asked);
  const MountFlags flags = record.flags;
  if (status.ok()) {
    status = MountD(chain, target, upper.has_value() ? &*upper : nullptr, record);
    if (status.ok() && (record.mode != recorded || record.filling || record.flags != flags)) {
      status = records_.Put(record);
    }
    if (!status.ok()) records_.Delete(record.directory).IgnoreError();
  }
  if (status.ok()) return record;
  if (upper.has_value()) upper->Undo();
  return status;
}

absl::Status MountTableImpl::MountD(const ChainRef& chain, const Fd& target, OverlayUpper* upper,
                                    MountRecord& record) {
  Mounted mounted;
  if (options_.as_root) {
    IMAGEFS_ASSIGN_OR_RETURN(const ChainMounts::Lease lease, AcquireChain(chain, record));
    const auto mount = [&]() -> absl::StatusOr<MountKey> {
      IMAGEFS_ASSIGN_OR_RETURN(const Fd shown, OpenWithoutLinks(lease.path, O_PATH));
      const std::string& directory = record.directory;
      IMAGEFS_ASSIGN_OR_RETURN(
          const Fd made, upper == nullptr ? CloneMount(shown, record.flags, directory)
                                          : MakeOverlay({shown, upper->upper(), upper->work()},
                                                        record.flags, directory));
      return AttachD(made, target, directory);
    };
    const absl::StatusOr<MountKey> key = mount();
    if (!key.ok()) {
      chains_->Release(lease.name, false);
      return key.status();
    }
    mounted.key = *key;
    mounted.lease = lease.name;
  } else {
    IMAGEFS_ASSIGN_OR_RETURN(record.mode, ChooseMode(record));
    IMAGEFS_RETURN_IF_ERROR(MountByUserD(chain, record));
  }
  mounted.record = record;
  mounted.chain = chain;
  absl::MutexLock lock(&mu_);
  mounts_[record.directory] = std::move(mounted);
  return absl::OkStatus();
}

absl::StatusOr<MountKey> MountTableImpl::AttachD(const Fd& mount, const Fd& target,
                                                 const std::string& directory) {
  IMAGEFS_ASSIGN_OR_RETURN(const MountKey key, KeyOf(mount));
  IMAGEFS_RETURN_IF_ERROR(AttachMount(mount, target, directory));
  // It lies on the right directory. Where somebody has given that one another name meanwhile, the
  // name that was asked for leads to something else.
  const absl::StatusOr<std::string> path = PathOf(mount, directory);
  if (path.ok() && *path == directory) return key;
  UnmountExactly(key, path.ok() ? *path : directory, true).IgnoreError();
  return absl::FailedPreconditionError(
      StrCat(directory, " was moved or covered while it was being mounted on; try again"));
}

absl::Status MountTableImpl::MountByUserD(const ChainRef& chain, MountRecord& record) {
  IMAGEFS_ASSIGN_OR_RETURN(Fd device, FusermountMount(record.directory, record.flags));
  record.flags.nosuid = record.flags.nodev = true;  // as fusermount3 makes them, always
  const absl::Status status = chains_->Serve(chain, std::move(device));
  if (!status.ok()) FusermountUnmount(record.directory, true).IgnoreError();
  return status;
}

absl::StatusOr<OverlayUpper> MountTableImpl::OpenUpper(const Chain& chain,
                                                       MountRecord& record) const {
  if (record.upper.empty()) record.upper = StrCat(upper_dir_, "/", RandomHex(8));
  IMAGEFS_ASSIGN_OR_RETURN(const ErofsImage::Stat root, chain.index->GetStat(chain.index->root()));
  IMAGEFS_ASSIGN_OR_RETURN(OverlayUpper upper,
                           OverlayUpper::Open(record.upper, record.upper_ids,
                                              {root.uid,
                                               root.gid,
                                               static_cast<mode_t>(root.mode & 07777),
                                               {root.mtime_seconds, root.mtime_nanoseconds}}));
  record.upper_ids = upper.ids();
  return upper;
}

// Of a mount that goes. What the record names is only removed where this daemon makes such
// directories: the record of a store that was moved names those of the store that it was.
absl::Status MountTableImpl::RemoveUpper(const std::string& upper) const {
  const size_t slash = upper.rfind('/');
  if (slash != std::string::npos && upper.substr(0, slash) == upper_dir_) {
    return RemoveTree(upper);
  }
  LogWarning("upper_not_removed directory=", upper, " not_below=", upper_dir_);
  return absl::OkStatus();
}

absl::Status MountTableImpl::Unmount(const std::string& path, bool lazy) {
  IMAGEFS_RETURN_IF_ERROR(CheckPath(path, "the directory to unmount"));
  std::string directory = path;
  {
    absl::MutexLock lock(&mu_);
    if (!mounts_.contains(path)) directory.clear();
  }
  if (directory.empty()) directory = Canonical(path);
  const auto hold = HoldDirectory(directory);
  return UnmountD(directory, lazy, Keep::kNothing);
}

absl::Status MountTableImpl::UnmountD(const std::string& directory, bool lazy, Keep keep) {
  MountRecord record;
  MountKey key;
  {
    absl::MutexLock lock(&mu_);
    const auto found = mounts_.find(directory);
    if (found == mounts_.end()) {
      return absl::NotFoundError(
          StrCat(directory, " is not a mount of imagefs; `imagefs ls` lists them"));
    }
    record = found->second.record;
    key = found->second.key;
  }
  const absl::Status status =
      options_.as_root ? UnmountExactly(key, directory, lazy) : FusermountUnmount(directory, lazy);
  // Not there: somebody else unmounted it, which is as good.
  if (!status.ok() && !absl::IsNotFound(status)) return status;
  return ForgetD(record, lazy, keep);
}

absl::Status MountTableImpl::ForgetD(const MountRecord& record, bool lazy, Keep keep) {
  std::string lease;
  {
    absl::MutexLock lock(&mu_);
    const auto found = mounts_.find(record.directory);
    if (found != mounts_.end()) {
      lease = found->second.lease;
      mounts_.erase(found);
    }
  }
  if (!lease.empty()) chains_->Release(lease, lazy);
  absl::Status status;
  if (keep == Keep::kNothing && !record.upper.empty() && !record.keep_upper) {
    status = RemoveUpper(record.upper);
  }
  if (keep != Keep::kRecord) status.Update(records_.Delete(record.directory));
  return status;
}

std::vector<MountRecord> MountTableImpl::List() const {
  std::vector<MountRecord> out;
  absl::MutexLock lock(&mu_);
  for (const auto& [directory, mounted] : mounts_) out.push_back(mounted.record);
  return out;
}

ChainRef MountTableImpl::ChainOf(const std::string& directory) const {
  absl::MutexLock lock(&mu_);
  const auto found = mounts_.find(directory);
  return found == mounts_.end() ? nullptr : found->second.chain.lock();
}

// Unmounts what a daemon before this one left at `directory`.
void MountTableImpl::UnmountDead(const std::string& directory) {
  auto mounts = ReadMountInfo();
  if (!mounts.ok()) return;
  // The one on top first.
  for (auto mount = mounts->rbegin(); mount != mounts->rend(); ++mount) {
    if (mount->mount_point != directory || !IsOurs(*mount)) continue;
    const absl::Status status = options_.as_root ? UnmountExactly(KeyOf(*mount), directory, true)
                                                 : FusermountUnmount(directory, true);
    if (!status.ok()) LogWarning("dead_unmount_failed error=", status.message());
  }
}

MountTableImpl::Outlived MountTableImpl::AdoptD(const MountRecord& record,
                                                const FindChain& find_chain) {
  const auto mounts = ReadMountInfo();
  // What was filling lost its device with the daemon.
  if (!options_.as_root || record.mode != kKernelMode || record.filling || !mounts.ok()) {
    return Outlived::kUnknown;
  }
  const MountInfo* there = FindMountAt(*mounts, record.directory);
  if (there == nullptr || !IsOurs(*there)) {
    return record.boot_id == boot_id_ ? Outlived::kUnmounted : Outlived::kUnknown;
  }
  const bool same = record.writable ? there->fs_type == "overlay"
                                    : there->fs_type == kErofsType &&
                                          there->source.ends_with("/" + record.chain_id.hex());
  if (!same) return Outlived::kUnknown;
  auto chain = find_chain(record.chain_id);
  if (!chain.ok()) {
    LogWarning("mount_outlives_its_image directory=", record.directory,
               " error=", chain.status().message());
  }
  const ChainMounts::Lease lease = chains_->Adopt(
      record.chain_id, chain.ok() ? *std::move(chain) : nullptr, {record.mode, record.context},
      record.writable || !record.flags.id_map.empty() ? nullptr : there);
  absl::MutexLock lock(&mu_);
  mounts_[record.directory] = {record, KeyOf(*there), lease.name, {}};
  return Outlived::kHere;
}

std::vector<std::string> MountTableImpl::Recover(const FindChain& find_chain) {
  std::vector<std::string> out;
  if (options_.as_root) chains_->RemoveStrangers(/*fuse=*/true);
  auto records = records_.List();
  if (!records.ok()) {
    LogError("mounts_not_read error=", records.status().message());
    return out;
  }
  for (MountRecord& record : *records) {
    {
      const auto hold = HoldDirectory(record.directory);
      {
        absl::MutexLock lock(&mu_);
        if (mounts_.contains(record.directory)) continue;
      }
      if (record.this_boot_only && record.boot_id != boot_id_) {
        const absl::Status status = ForgetD(record, /*lazy=*/true, Keep::kNothing);
        if (!status.ok()) LogWarning("mount_not_forgotten error=", status.message());
        continue;
      }
      const Outlived outlived = AdoptD(record, find_chain);
      if (outlived == Outlived::kHere) out.push_back(record.directory);
      if (outlived == Outlived::kUnmounted) {
        LogInfo("unmounted_elsewhere directory=", record.directory,
                record.upper.empty() ? "" : " changes_kept_in=", record.upper);
        records_.Delete(record.directory).IgnoreError();
      }
      if (outlived != Outlived::kUnknown) continue;
    }
    const absl::Status status = MountAgain(record, find_chain);
    if (status.ok()) {
      out.push_back(record.directory);
      continue;
    }
    LogWarning("mount_not_recovered directory=", record.directory, " reference=", record.reference,
               record.upper.empty() ? "" : " changes_kept_in=", record.upper,
               " error=", status.message());
    records_.Delete(record.directory).IgnoreError();
  }
  if (options_.as_root) chains_->RemoveStrangers(/*fuse=*/false);
  return out;
}

absl::Status MountTableImpl::MountAgain(MountRecord record, const FindChain& find_chain) {
  const auto hold = HoldDirectory(record.directory);
  UnmountDead(record.directory);
  if (!kernel_.ok()) record.mode = "auto";  // another kernel may run than the one that made it
  // Each boot numbers devices anew.
  if (record.boot_id != boot_id_) {
    for (FileId* id : {&record.covered, &record.upper_ids.directory, &record.upper_ids.upper,
                       &record.upper_ids.work}) {
      id->device = 0;
    }
  }
  IMAGEFS_ASSIGN_OR_RETURN(const ChainRef chain, find_chain(record.chain_id));
  return MountAtD(chain, std::move(record)).status();
}

void MountTableImpl::UnmountAll(bool keep_records) {
  for (const MountRecord& record : List()) {
    // What the kernel shows by itself is not in need of a daemon.
    if (keep_records && record.mode == kKernelMode && !record.filling) continue;
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

bool MountTableImpl::IsThere(const Mounted& mounted, const Present& present) const {
  return options_.as_root ? present.keys.contains(mounted.key)
                          : present.directories.contains(mounted.record.directory);
}

absl::StatusOr<MountTableImpl::Present> MountTableImpl::FindPresent() {
  IMAGEFS_ASSIGN_OR_RETURN(const std::vector<MountInfo> mounts, ReadMountInfo());
  Present out;
  for (const MountInfo& mount : mounts) {
    if (!IsOurs(mount)) continue;
    out.keys.insert(KeyOf(mount));
    out.directories.insert(mount.mount_point);
  }
  return out;
}

// Drops the entries whose mounts somebody else has taken away. What is missing at the first look
// may be a mount under way, so each is looked at again while its key is held.
void MountTableImpl::Prune() {
  const auto present = FindPresent();
  if (!present.ok()) return;
  std::vector<std::string> missing;
  {
    absl::MutexLock lock(&mu_);
    for (const auto& [directory, mounted] : mounts_) {
      if (!IsThere(mounted, *present)) missing.push_back(directory);
    }
  }
  for (const std::string& directory : missing) PruneDirectory(directory);
}

void MountTableImpl::PruneDirectory(const std::string& directory) {
  const auto hold = HoldDirectory(directory);
  const auto present = FindPresent();
  if (!present.ok()) return;
  MountRecord record;
  {
    absl::MutexLock lock(&mu_);
    const auto found = mounts_.find(directory);
    if (found == mounts_.end() || IsThere(found->second, *present)) return;
    record = found->second.record;
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
