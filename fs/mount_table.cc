// SPDX-License-Identifier: Apache-2.0
// As root, a chain is mounted once per presentation under <run>/chains, in a directory that only
// root can enter; users see bind mounts of it or overlays over it. As a user, each directory is a
// FUSE mount of its own.
//
// Changes of one directory are serialized by its name; the private mounts below have their own
// locks (fs/chain_mounts.h), always acquired inside. The table's mutex only protects the map and is
// never held during a system call.
#include <fcntl.h>
#include <time.h>

#include <algorithm>
#include <optional>
#include <utility>

#include "base/failure.h"
#include "base/log.h"
#include "base/machine_user.h"
#include "base/status.h"
#include "base/timeline.h"
#include "base/units.h"
#include "fs/erofs_mount.h"
#include "fs/mount_namespace.h"
#include "fs/mount_table_impl.h"
#include "fs/user_mount.h"

namespace imagefs {
namespace {

// Returns the path of a directory owned by this daemon, as it appears in mountinfo.
absl::StatusOr<std::string> MakeOwnPath(const std::string& path) {
  IMAGEFS_ASSIGN_OR_RETURN(const Fd fd, MakeOwnDir(path));
  return PathOf(fd, path);
}

// Options that only kernel mode supports.
bool NeedsKernel(const MountOptions& options) {
  return !options.context.empty() || !options.flags.id_map.empty();
}

FuseAccess AccessOf(const MountOptions& options) {
  return options.allow_other ? FuseAccess::kAll : FuseAccess::kUser;
}

// What mountinfo shows as the source of a FUSE or overlay mount.
std::string SourceOrOwn(const MountRecord& record) {
  std::string source = SourceOf(record.reference);
  return source.empty() ? kOwnSource : source;
}

bool CanAskNamespaces() {
  const absl::StatusOr<uint64_t> own = OwnMountNamespace();
  const absl::StatusOr<Fd> root = OpenFile("/", O_PATH);
  return own.ok() && root.ok() && FindMountIn(*own, UniqueMountId(*root)).ok();
}

}  // namespace

absl::Status MountTableImpl::Start() {
  IMAGEFS_ASSIGN_OR_RETURN(boot_id_, BootId());
  IMAGEFS_RETURN_IF_ERROR(MakeDirs(options_.run_dir));
  IMAGEFS_ASSIGN_OR_RETURN(chains_dir_, MakeOwnPath(chains_dir_));
  options_.run_dir = ParentOf(chains_dir_);
  if (!options_.as_root) {
    options_.root_dir = MountPointOf(options_.root_dir);
    upper_dir_ = options_.root_dir + "/upper";
  } else {
    IMAGEFS_ASSIGN_OR_RETURN(upper_dir_, MakeOwnPath(upper_dir_));
    options_.root_dir = ParentOf(upper_dir_);
    // A mount below a shared one propagates to every container that sees this directory, and stays
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
  own_namespace_ = OwnMountNamespace().value_or(0);
  if (options_.as_root) asks_namespaces_ = CanAskNamespaces();
  chains_ = std::make_unique<ChainMounts>(chains_dir_, loop_, options_.sessions);
  if (options_.find_chain) chains_->TakeOver(options_.find_chain);
  if (!options_.as_root || !options_.kernel) {
    kernel_ =
        absl::FailedPreconditionError(options_.as_root ? "it is switched off" : "it needs root");
  } else {
    kernel_ = ProbeErofs(upper_dir_, options_.erofs);  // on the file system of the indexes
  }
  if (options_.as_root && !kernel_.ok()) {
    LogInfo("kernel_presentation_unavailable images_are_shown_by=fuse reason=",
            kernel_.status().message());
  }
  IMAGEFS_ASSIGN_OR_RETURN(watch_, MountWatch::Start([this] { Prune(); }));
  return absl::OkStatus();
}

absl::StatusOr<MountTableImpl::Choice> MountTableImpl::ChooseMode(const MountRequest& request,
                                                                  const Chain& chain) const {
  const std::string& mode = request.mode;
  const bool automatic = mode.empty() || mode == "auto";
  if (!automatic && mode != kFuseMode && mode != kKernelMode) {
    return absl::InvalidArgumentError(
        StrCat("mode ", Printable(mode), " is not known; use auto, kernel or fuse"));
  }
  const bool kernel_only = NeedsKernel(request.options);
  if (request.options.shown_as.any()) {
    if (mode != kKernelMode && !kernel_only) return Choice{std::string(kFuseMode)};
    return absl::InvalidArgumentError(
        "uid=, gid=, umask=, fmask= and dmask= need FUSE; leave out --mode kernel, --context and "
        "--map-uids");
  }
  absl::Status can = kernel_.status();
  if (can.ok() && *kernel_ == ErofsWay::kLoopDevices && !chain.whole()) {
    can = absl::FailedPreconditionError(
        "this kernel reads loop devices, which needs complete layers (imagefs pull fetches them)");
  }
  if (mode == kKernelMode || (automatic && kernel_only)) {
    if (can.ok()) return Choice{std::string(kKernelMode)};
    return absl::FailedPreconditionError(
        StrCat("the kernel cannot show ", request.reference, " by itself: ", ToStd(can.message()),
               kernel_only ? "; leave out --context and --map-uids" : "; use --mode fuse"));
  }
  if (kernel_only) {
    return absl::InvalidArgumentError("--context and --map-uids need --mode kernel");
  }
  if (!automatic) return Choice{std::string(kFuseMode)};
  if (!can.ok()) return Choice{.mode = std::string(kFuseMode), .no_kernel = options_.as_root};
  return Choice{std::string(kKernelMode), /*or_fuse=*/true};
}

absl::StatusOr<MountTableImpl::Presented> MountTableImpl::AcquireChain(const ChainRef& chain,
                                                                       const Choice& choice,
                                                                       const MountOptions& options,
                                                                       const std::string& source) {
  std::string mode = choice.mode;
  const ErofsWay way = kernel_.value_or(ErofsWay::kFiles);
  auto lease = chains_->Acquire(chain, {mode, options.context, way, source, options.shown_as});
  if (!lease.ok() && choice.or_fuse) {
    LogWarning("kernel_presentation_failed chain=", chain->chain_id.Short(),
               " error=", lease.status().message());
    mode = kFuseMode;
    lease = chains_->Acquire(chain, {mode, "", way, source, {}});
    if (lease.ok()) kernel_failed_++;
  }
  IMAGEFS_RETURN_IF_ERROR(lease.status());
  if (choice.no_kernel) kernel_unavailable_++;
  return Presented{*std::move(lease), std::move(mode)};
}

absl::StatusOr<MountTable::SharedMount> MountTableImpl::MountShared(ChainRef chain) {
  if (!options_.as_root) return absl::FailedPreconditionError("sharing a mount needs root");
  const TimedStep step(TimelineEvent::Step::kMount);
  const MountRequest plain;
  IMAGEFS_ASSIGN_OR_RETURN(const Choice choice, ChooseMode(plain, *chain));
  IMAGEFS_ASSIGN_OR_RETURN(Presented shown, AcquireChain(chain, choice, {}, ""));
  return SharedMount{std::move(shown.lease.name), std::move(shown.lease.path), shown.lease.filling,
                     shown.mode == kFuseMode};
}

std::optional<MountTable::SharedMount> MountTableImpl::Readopt(const Digest& chain_id,
                                                               ChainRef chain) {
  if (!options_.as_root) return std::nullopt;
  struct Form {
    std::string_view mode;
    bool filling;
  };
  // Mounts that need no process come first.
  for (const Form& form :
       {Form{kKernelMode, false}, Form{kKernelMode, true}, Form{kFuseMode, false}}) {
    absl::StatusOr<ChainMounts::Lease> lease =
        chains_->Adopt(chain_id, chain, {std::string(form.mode), ""}, form.filling, nullptr);
    if (!lease.ok()) continue;
    return SharedMount{std::move(lease->name), std::move(lease->path), lease->filling,
                       form.mode == kFuseMode};
  }
  return std::nullopt;
}

// Rejects mounts that would hide the daemon's own directories or be placed in them.
absl::Status MountTableImpl::CheckOwn(const std::string& directory, std::string_view what) const {
  for (const std::string& own : {options_.run_dir, options_.root_dir}) {
    const bool hides = LiesIn(own, directory);
    if (!hides && !LiesIn(directory, own)) continue;
    return absl::InvalidArgumentError(
        StrCat(what, " ", PrintableName(directory), hides ? " would hide " : " lies in ", own,
               ", which belongs to the daemon; choose another directory"));
  }
  return absl::OkStatus();
}

absl::Status MountTableImpl::CheckRequest(const MountRequest& request) const {
  const std::string& directory = request.directory;
  const MountOptions& options = request.options;
  // In another namespace the daemon's directories are not these.
  if (request.name_space == 0 || request.name_space == own_namespace_)
    IMAGEFS_RETURN_IF_ERROR(CheckOwn(directory, "a mount at"));
  if (options.writable && !options_.as_root &&
      (request.caller == nullptr || request.name_space == 0)) {
    return UserOverlayDenied(directory);
  }
  const std::string& id_map = options.flags.id_map;
  if (options.writable && !id_map.empty()) {
    return absl::InvalidArgumentError("--map-uids and --rw exclude each other");
  }
  if (!id_map.empty()) IMAGEFS_RETURN_IF_ERROR(CheckIdMap(id_map));
  absl::MutexLock lock(&mu_);
  auto found = entries_.find(request.place());
  if (found == entries_.end() && request.name_space == 0) {
    found = entries_.find(PlaceName(own_namespace_, directory));
  } else if (found == entries_.end() && request.name_space == own_namespace_) {
    found = entries_.find(directory);
  }
  if (found != entries_.end() && found->second.mounted()) {
    return absl::AlreadyExistsError(StrCat(directory, ": ", found->second.record.reference,
                                           " is mounted there already; unmount it first (imagefs "
                                           "umount ",
                                           directory, ")"));
  }
  if (request.upper.empty()) return absl::OkStatus();
  for (const auto& [other, entry] : entries_) {
    if (other == request.place() || entry.record.upper != request.upper) continue;
    return absl::AlreadyExistsError(StrCat("the changes of ", entry.record.directory,
                                           " are kept in ", request.upper,
                                           "; choose another --upper"));
  }
  return absl::OkStatus();
}

absl::StatusOr<CheckedMount> MountTableImpl::Check(MountRequest request) {
  const bool by_caller = request.caller != nullptr;
  if (by_caller) {
    IMAGEFS_RETURN_IF_ERROR(CheckResolved(request.directory, "the directory to mount on"));
  } else {
    const std::string asked = request.directory;
    IMAGEFS_ASSIGN_OR_RETURN(request.directory, ResolveTarget(asked));
  }
  if (!request.upper.empty() && !options_.as_root) {
    IMAGEFS_RETURN_IF_ERROR(CheckPath(request.upper, "--upper"));  // the caller opens it
    Refresh();  // which may be that of a mount that is gone
  } else if (!request.upper.empty()) {
    if (request.name_space != 0) {
      return absl::FailedPreconditionError(
          "--upper names a directory of the daemon's mount namespace, which is not this one; leave "
          "it out");
    }
    IMAGEFS_ASSIGN_OR_RETURN(request.upper, ResolveUpper(request.upper));
    IMAGEFS_RETURN_IF_ERROR(CheckOwn(request.upper, "--upper"));
  }
  if (request.name_space != 0 && options_.as_root && !asks_namespaces_ &&
      (request.options.writable || request.mode == kKernelMode || NeedsKernel(request.options))) {
    return absl::FailedPreconditionError(
        StrCat(request.directory,
               ": in another mount namespace than the daemon's, only read-only FUSE mounts are "
               "possible before Linux 6.11; leave out --rw, --mode kernel, --context and "
               "--map-uids"));
  }
  const std::string place = request.place();
  const auto hold = HoldPlace(place);
  if (request.name_space != 0) RefreshPlaceLocked(place);
  IMAGEFS_RETURN_IF_ERROR(CheckRequest(request));
  const std::optional<Entry> before = FindNotMounted(place);
  CheckedMount out;
  if (before.has_value()) IMAGEFS_RETURN_IF_ERROR(Continue(*before, request, out));
  if (by_caller) {
    out.covered = request.covered;
  } else {
    const std::string& directory = request.directory;
    IMAGEFS_ASSIGN_OR_RETURN(
        const MountTarget target,
        OpenTargetDirLocked(directory, {}, before.has_value() ? &before->record : nullptr));
    out.covered = target.covered;
    if (!options_.as_root)
      IMAGEFS_RETURN_IF_ERROR(CheckUserMount(directory, target.place, AccessOf(request.options)));
  }
  out.request = std::move(request);
  return out;
}

bool MountTableImpl::IsOf(const MountRecord& record, const MountInfo& mount) const {
  if (IsOurs(mount)) return true;
  // Anybody can mount with any source, so the device must be one that this boot's record has. Not
  // the whole key: a daemon in a container that was made again sees the mount by another number.
  return record.boot_id == boot_id_ && IsOurs(mount, SourceOf(record.reference)) &&
         std::any_of(record.mounts.begin(), record.mounts.end(), [&](const MountKey& key) {
           return key.major == mount.major && key.minor == mount.minor;
         });
}

bool MountTableImpl::IsOld(const MountRecord* before, const MountInfo& mount) const {
  if (before == nullptr || before->boot_id != boot_id_ || before->unmounted) return false;
  // Older versions did not record the mounts.
  return IsOf(*before, mount) &&
         (before->mounts.empty() || std::find(before->mounts.begin(), before->mounts.end(),
                                              KeyOf(mount)) != before->mounts.end());
}

absl::StatusOr<MountTarget> MountTableImpl::OpenTargetDirLocked(const std::string& directory,
                                                                const FileId& expected,
                                                                const MountRecord* before) {
  // An unprivileged user cannot look below a dead mount, and fusermount3 cannot mount on one.
  if (!options_.as_root) UnmountDeadByUser(directory);
  return OpenTarget(directory, expected, [&](const MountInfo& mount) {
    return options_.as_root && IsOld(before, mount);
  });
}

std::optional<MountTableImpl::Entry> MountTableImpl::Find(const std::string& place) const {
  absl::MutexLock lock(&mu_);
  const auto found = entries_.find(place);
  return found == entries_.end() ? std::nullopt : std::optional(found->second);
}

std::optional<MountTableImpl::Entry> MountTableImpl::FindNotMounted(
    const std::string& place) const {
  std::optional<Entry> found = Find(place);
  return found.has_value() && found->mounted() ? std::nullopt : found;
}

// Lets a new mount continue with the data written before, or rejects it.
absl::Status MountTableImpl::Continue(const Entry& entry, const MountRequest& request,
                                      CheckedMount& out) const {
  const MountRecord& before = entry.record;
  if (before.upper.empty() || before.keep_upper || before.unmounted) return absl::OkStatus();
  const std::string& directory = request.directory;
  if (!request.options.writable || !request.upper.empty() ||
      request.reference != before.reference) {
    return WithKind(
        absl::FailedPreconditionError(
            StrCat(directory, ": the changes to ", before.reference,
                   " there are kept, although it is not mounted (", *entry.not_mounted,
                   "); mount that image with --rw, or discard them: imagefs umount ", directory)),
        FailureKind::kBusy);
  }
  out.continued = before.upper;
  out.continued_ids = before.upper_ids;
  if (before.boot_id != boot_id_) out.continued_ids.ForgetDevices();
  return absl::OkStatus();
}

absl::StatusOr<MountRecord> MountTableImpl::Mount(ChainRef chain, const Digest& manifest,
                                                  const CheckedMount& mount) {
  const MountRequest& request = mount.request;
  const std::string& directory = request.directory;
  const TimedStep step(TimelineEvent::Step::kMount, directory);
  const auto hold = HoldPlace(request.place());
  const std::optional<Entry> entry = FindNotMounted(request.place());
  const MountRecord* before = entry.has_value() ? &entry->record : nullptr;
  if (before != nullptr && !mount.continued.empty() && before->upper == mount.continued &&
      before->chain_id != chain->chain_id && before->manifest_digest != manifest) {
    return WithKind(
        absl::FailedPreconditionError(StrCat(
            directory, ": the changes there belong to an earlier image of ", request.reference,
            "; mount that image (by its digest ", before->manifest_digest.ToString(),
            "), or discard them: imagefs umount ", directory)),
        FailureKind::kBusy);
  }
  MountRecord record;
  record.directory = directory;
  record.name_space = request.name_space;
  record.by_caller = request.caller != nullptr;
  record.reference = request.reference;
  record.manifest_digest = manifest;
  record.options = request.options;
  record.covered = mount.covered;
  record.upper = mount.continued.empty() ? request.upper : mount.continued;
  record.upper_ids = mount.continued_ids;
  record.keep_upper = !request.upper.empty();
  return MountAtDirLocked(chain, request, std::move(record), before);
}

absl::StatusOr<MountRecord> MountTableImpl::MountAtDirLocked(const ChainRef& chain,
                                                             const MountRequest& request,
                                                             MountRecord record,
                                                             const MountRecord* before) {
  IMAGEFS_RETURN_IF_ERROR(CheckRequest(request));
  MountTarget target;
  if (request.caller == nullptr) {
    IMAGEFS_ASSIGN_OR_RETURN(target, OpenTargetDirLocked(record.directory, record.covered, before));
    record.covered = target.covered;
    record.made_in = own_namespace_;
  }
  record.chain_id = chain->chain_id;
  if (record.created_unix == 0) record.created_unix = time(nullptr);
  record.boot_id = boot_id_;
  record.unmounted = false;
  IMAGEFS_ASSIGN_OR_RETURN(const Choice choice, ChooseMode(request, *chain));
  record.mode = choice.mode;
  std::optional<OverlayUpper> upper;
  if (record.options.writable && options_.as_root) {
    IMAGEFS_ASSIGN_OR_RETURN(upper, OpenUpper(*chain, record));
  }
  const MountWork work{target, request.caller.get(), upper.has_value() ? &*upper : nullptr, before};
  const absl::Status status = options_.as_root ? MountByRootDirLocked(chain, choice, work, record)
                                               : MountByUserDirLocked(chain, work, record);
  if (status.ok()) return record;
  if (upper.has_value()) upper->Undo();
  return status;
}

absl::Status MountTableImpl::MountByRootDirLocked(const ChainRef& chain, const Choice& choice,
                                                  const MountWork& work, MountRecord& record) {
  const MountTarget& target = work.target;
  MountCaller* const caller = work.caller;
  OverlayUpper* const upper = work.upper;
  const MountRecord* const before = work.before;
  if (record.name_space != 0 && !asks_namespaces_) {
    return MountSessionDirLocked(chain, work, record);
  }
  const std::string& directory = record.directory;
  const std::string source = SourceOf(record.reference);
  IMAGEFS_ASSIGN_OR_RETURN(const Presented presented,
                           AcquireChain(chain, choice, record.options, source));
  const ChainMounts::Lease& lease = presented.lease;
  record.mode = presented.mode;
  record.filling = lease.filling;
  const MountFlags& flags = record.options.flags;
  const auto mount = [&]() -> absl::Status {
    IMAGEFS_ASSIGN_OR_RETURN(const Fd shown, OpenWithoutLinks(lease.path, O_PATH));
    IMAGEFS_ASSIGN_OR_RETURN(
        const Fd made, upper == nullptr ? CloneMount(shown, flags, directory)
                                        : MakeOverlay({shown, upper->upper(), upper->work(),
                                                       SourceOrOwn(record), InUserNamespace()},
                                                      flags, directory));
    record.mounts.clear();
    if (!target.old.empty()) record.mounts.push_back(KeyOf(target.old.front()));
    IMAGEFS_ASSIGN_OR_RETURN(record.mounts.emplace_back(), KeyOf(made));
    // Before attaching, so that a crash in between leaves no unrecorded mount.
    record.unique_id = UniqueMountId(made);
    absl::Status status = records_.Put(record);
    if (status.ok() && caller != nullptr) {
      status = caller->Attach(made);
    } else if (status.ok()) {
      auto there = AttachTo(target, made, source, directory, options_.beneath);
      status = there.status();
      if (there.ok()) record.mounts = *std::move(there);
    }
    if (!status.ok()) PutBackDirLocked(record.place(), before).IgnoreError();
    return status;
  };
  const absl::Status status = mount();
  if (!status.ok()) {
    chains_->Release(lease.name, false);
    return status;
  }
  AddMountedDirLocked(chain, record, lease.name, before);
  return absl::OkStatus();
}

absl::Status MountTableImpl::MountSessionDirLocked(const ChainRef& chain, const MountWork& work,
                                                   MountRecord& record) {
  record.mode = kFuseMode;
  const auto mount = [&]() -> absl::Status {
    IMAGEFS_ASSIGN_OR_RETURN(
        FuseMount made, MakeFuse(/*writable=*/false, SourceOrOwn(record), record.options.flags));
    IMAGEFS_ASSIGN_OR_RETURN(const MountKey key, KeyOf(made.mount));
    record.mounts = {key};
    IMAGEFS_RETURN_IF_ERROR(records_.Put(record));
    IMAGEFS_RETURN_IF_ERROR(chains_->Serve(chain, std::move(made.device), SessionName(record), key,
                                           record.options.shown_as));
    return work.caller->Attach(made.mount);
  };
  const absl::Status status = mount();
  if (!status.ok()) {
    PutBackDirLocked(record.place(), work.before).IgnoreError();
    return status;
  }
  AddMountedDirLocked(chain, record, "", work.before);
  return absl::OkStatus();
}

absl::Status MountTableImpl::MountByUserDirLocked(const ChainRef& chain, const MountWork& work,
                                                  MountRecord& record) {
  MountFlags& flags = record.options.flags;
  flags.nosuid = flags.nodev = true;  // UserMount always sets them
  absl::Status status = records_.Put(record);
  if (status.ok()) {
    status = work.caller != nullptr ? ServeForCaller(chain, *work.caller, record)
                                    : MountHereByUser(chain, work.target, record);
  }
  if (!status.ok()) {
    if (!record.upper.empty() && !record.keep_upper) RemoveUpper(record.upper).IgnoreError();
    PutBackDirLocked(record.place(), work.before).IgnoreError();
    return status;
  }
  AddMountedDirLocked(chain, record, "", work.before);
  return absl::OkStatus();
}

absl::Status MountTableImpl::MountHereByUser(const ChainRef& chain, const MountTarget& target,
                                             MountRecord& record) {
  IMAGEFS_ASSIGN_OR_RETURN(FuseMount made,
                           UserMount(record.directory, target.place, SourceOrOwn(record),
                                     record.options.flags, AccessOf(record.options)));
  // The device is not being served yet, so any access to the mount would hang; read the kernel's
  // table instead.
  const auto mounts = ReadMountInfo();
  const MountInfo* there = mounts.ok() ? FindMountAt(*mounts, record.directory) : nullptr;
  record.mounts = {there == nullptr ? MountKey() : KeyOf(*there)};
  absl::Status status = chains_->Serve(chain, std::move(made.device), SessionName(record),
                                       record.mounts.back(), record.options.shown_as);
  if (status.ok()) status = records_.Put(record);
  if (!status.ok()) UserUnmount(record.directory, true).IgnoreError();
  return status;
}

// If it fails, the caller unmounts.
absl::Status MountTableImpl::ServeForCaller(const ChainRef& chain, MountCaller& caller,
                                            MountRecord& record) {
  IMAGEFS_ASSIGN_OR_RETURN(const FileId upper, MakeUserUpper(record));
  IMAGEFS_ASSIGN_OR_RETURN(MadeFuse made, caller.MakeFuse(SourceOrOwn(record), record.options.flags,
                                                          AccessOf(record.options)));
  record.mounts = {{0, made.major, made.minor}};
  IMAGEFS_RETURN_IF_ERROR(chains_->Serve(chain, std::move(made.device), SessionName(record),
                                         record.mounts.back(), record.options.shown_as));
  if (record.options.writable) {
    IMAGEFS_RETURN_IF_ERROR(caller.MakeOverlay(record.upper, upper));
  }
  return records_.Put(record);
}

// Makes the directory for what is written to a user's mount, if it is to be in the store.
absl::StatusOr<FileId> MountTableImpl::MakeUserUpper(MountRecord& record) const {
  if (!record.options.writable || record.keep_upper) return FileId();
  IMAGEFS_RETURN_IF_ERROR(MakeOwnDir(upper_dir_).status());
  record.upper = StrCat(upper_dir_, "/", RandomHex(8));
  IMAGEFS_ASSIGN_OR_RETURN(const Fd made, MakeOwnDir(record.upper));
  IMAGEFS_ASSIGN_OR_RETURN(const struct stat st, StatFd(made, record.upper));
  return FileId{0, st.st_ino};
}

// Restores the previous record after a failed mount.
absl::Status MountTableImpl::PutBackDirLocked(const std::string& place, const MountRecord* before) {
  return before != nullptr ? records_.Put(*before) : records_.Delete(place);
}

void MountTableImpl::AddMountedDirLocked(const ChainRef& chain, const MountRecord& record,
                                         std::string lease, const MountRecord* before) {
  {
    absl::MutexLock lock(&mu_);
    entries_[record.place()] = {record, std::nullopt, std::move(lease), chain};
  }
  if (before == nullptr || before->upper.empty() || before->upper == record.upper ||
      before->keep_upper) {
    return;
  }
  const absl::Status status = RemoveUpper(before->upper);
  if (!status.ok()) LogWarning("upper_not_removed error=", status.message());
}

absl::StatusOr<OverlayUpper> MountTableImpl::OpenUpper(const Chain& chain,
                                                       MountRecord& record) const {
  if (record.upper.empty()) record.upper = StrCat(upper_dir_, "/", RandomHex(8));
  IMAGEFS_ASSIGN_OR_RETURN(const ErofsImage::Stat root, chain.index->GetStat(chain.index->root()));
  struct stat shown = {};
  shown.st_uid = root.uid;
  shown.st_gid = root.gid;
  shown.st_mode = root.mode;
  record.options.shown_as.ApplyTo(&shown);
  IMAGEFS_ASSIGN_OR_RETURN(OverlayUpper upper,
                           OverlayUpper::Open(record.upper, record.upper_ids,
                                              {shown.st_uid,
                                               shown.st_gid,
                                               shown.st_mode & 07777,
                                               {root.mtime_seconds, root.mtime_nanoseconds}}));
  record.upper_ids = upper.ids();
  return upper;
}

// Removes the upper of a mount that goes away, but only below this daemon's own directory: if the
// store was moved, its records name directories of the original store.
absl::Status MountTableImpl::RemoveUpper(const std::string& upper) const {
  const size_t slash = upper.rfind('/');
  if (slash != std::string::npos && upper.substr(0, slash) == upper_dir_) {
    return RemoveTree(upper);
  }
  LogWarning("upper_not_removed directory=", upper, " not_below=", upper_dir_);
  return absl::OkStatus();
}

absl::Status MountTableImpl::Unmount(const std::string& path, bool lazy, uint64_t name_space) {
  IMAGEFS_RETURN_IF_ERROR(CheckPath(path, "the directory to unmount"));
  std::string place = name_space == 0 ? OwnPlace(path) : PlaceName(name_space, path);
  if (name_space == 0 && !Find(place).has_value()) place = OwnPlace(MountPointOf(path));
  const auto hold = HoldPlace(place);
  return UnmountDirLocked(place, lazy);
}

std::string MountTableImpl::OwnPlace(const std::string& directory) const {
  const std::string by_caller = PlaceName(own_namespace_, directory);
  return Find(by_caller).has_value() ? by_caller : directory;
}

absl::Status MountTableImpl::UnmountDirLocked(const std::string& place, bool lazy) {
  const std::optional<Entry> entry = Find(place);
  if (!entry.has_value()) {
    return absl::NotFoundError(StrCat(place.substr(place.find('/')),
                                      " is not a mount of imagefs; `imagefs ls` lists them"));
  }
  const MountRecord& record = entry->record;
  const std::string& directory = record.directory;
  absl::Status status;
  if (IsElsewhere(record)) {
    // The kernel may still be about to tell of the end of a session.
    if (record.unique_id == 0 && !record.mounts.empty()) {
      chains_->AwaitEnd(SessionName(record), record.mounts.back());
    }
    if (!IsGoneElsewhere(record)) {
      return absl::FailedPreconditionError(
          StrCat(directory, " is mounted in another mount namespace; unmount it there"));
    }
  } else if (entry->mounted()) {
    status = options_.as_root
                 ? UnmountExactly(record.mounts.back(), SourceOf(record.reference), directory, lazy)
                 : UserUnmount(directory, lazy);
  }
  // Not found: already unmounted by someone else, which is fine.
  if (!status.ok() && !absl::IsNotFound(status)) return status;
  UnmountOldDirLocked(record);
  IMAGEFS_RETURN_IF_ERROR(ForgetDirLocked(record, lazy));
  LogInfo("unmount.finished reference=", record.reference, " directory=", directory,
          " lazy=", lazy ? "yes" : "no");
  return absl::OkStatus();
}

// Unmounts dead mounts of earlier daemons that are on the directory, or were below its mount.
void MountTableImpl::UnmountOldDirLocked(const MountRecord& record) {
  if (record.by_caller) return;
  if (!options_.as_root) return UnmountDeadByUser(record.directory);
  const absl::Status status =
      UnmountOld(record.directory, [&](const MountInfo& mount) { return IsOld(&record, mount); });
  if (!status.ok() && !absl::IsNotFound(status)) {
    LogWarning("dead_unmount_failed error=", status.message());
  }
}

// Removes the entry from the table.
void MountTableImpl::DropDirLocked(const std::string& place, bool lazy) {
  std::string lease;
  {
    absl::MutexLock lock(&mu_);
    const auto found = entries_.find(place);
    if (found == entries_.end()) return;
    lease = std::move(found->second.lease);
    entries_.erase(found);
  }
  if (!lease.empty()) chains_->Release(lease, lazy);
}

absl::Status MountTableImpl::ForgetDirLocked(const MountRecord& record, bool lazy) {
  DropDirLocked(record.place(), lazy);
  absl::Status status;
  if (!record.upper.empty() && !record.keep_upper) status = RemoveUpper(record.upper);
  status.Update(records_.Delete(record.place()));
  return status;
}

std::vector<MountState> MountTableImpl::List() const {
  std::vector<MountState> out;
  absl::MutexLock lock(&mu_);
  for (const auto& [place, entry] : entries_) {
    out.push_back({entry.record, entry.not_mounted.value_or(""), entry.chain.lock()});
    if (!IsElsewhere(entry.record)) out.back().record.name_space = 0;
  }
  std::stable_partition(out.begin(), out.end(),
                        [](const MountState& one) { return one.mounted(); });
  return out;
}

// Unmounts dead mounts of earlier daemons.
void MountTableImpl::UnmountDeadByUser(const std::string& directory) {
  while (IsDeadAt(directory)) {
    const absl::Status status = UserUnmount(directory, /*lazy=*/true);
    if (status.ok()) continue;
    LogWarning("dead_unmount_failed error=", status.message());
    return;
  }
}

void MountTableImpl::UnmountAll() {
  for (const MountState& state : List()) {
    const MountRecord& record = state.record;
    const auto hold =
        HoldPlace(record.name_space != 0 ? record.place() : OwnPlace(record.directory));
    // Nobody can unmount it from here: what the daemon serves of it ends with the daemon.
    const absl::Status status = record.name_space != 0
                                    ? ForgetDirLocked(record, /*lazy=*/true)
                                    : UnmountDirLocked(OwnPlace(record.directory), /*lazy=*/true);
    if (!status.ok() && !absl::IsNotFound(status)) {
      LogWarning("unmount_failed error=", status.message());
    }
  }
}

absl::StatusOr<std::unique_ptr<MountTable>> MountTable::Create(Options options, FuseLoop& loop,
                                                               MountRecords& records) {
  auto table = std::make_unique<MountTableImpl>(std::move(options), loop, records);
  IMAGEFS_RETURN_IF_ERROR(table->Start());
  return table;
}

}  // namespace imagefs
