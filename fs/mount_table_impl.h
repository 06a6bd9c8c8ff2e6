// SPDX-License-Identifier: Apache-2.0
// The implementation of MountTable, split over two files: mount_table.cc mounts and unmounts;
// mount_table_recovery.cc handles mounts that changed without the table.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "base/directory.h"
#include "fs/chain_mounts.h"
#include "fs/key_gate.h"
#include "fs/mount_syscalls.h"
#include "fs/mount_table.h"
#include "fs/mount_target.h"
#include "fs/mount_view.h"
#include "fs/mount_watch.h"

namespace imagefs {

class MountTableImpl : public MountTable {
 public:
  MountTableImpl(Options options, FuseLoop& loop, MountRecords& records)
      : options_(std::move(options)),
        chains_dir_(options_.run_dir + "/chains"),
        upper_dir_(options_.root_dir + "/upper"),
        loop_(loop),
        records_(records) {}

  ~MountTableImpl() override {
    watch_.reset();
    chains_.reset();
    if (own_parent_ && !HasMountsBelow()) UnmountPath(chains_dir_, true).IgnoreError();
  }

  absl::Status Start();

  absl::StatusOr<SharedMount> MountShared(ChainRef chain) override;
  std::optional<SharedMount> Readopt(const Digest& chain_id, ChainRef chain) override;
  void Release(const std::string& lease) override { chains_->Release(lease, /*lazy=*/true); }
  absl::StatusOr<CheckedMount> Check(MountRequest request) override;
  absl::StatusOr<MountRecord> Mount(ChainRef chain, const Digest& manifest,
                                    const CheckedMount& mount) override;
  absl::Status Unmount(const std::string& directory, bool lazy, uint64_t name_space) override;
  std::vector<MountState> List() const override ABSL_LOCKS_EXCLUDED(mu_);
  bool InUse(const Digest& chain_id) const override { return chains_->InUse(chain_id); }
  bool NeedProcess() const override { return chains_->NeedProcess(); }
  Counters counters() const override { return {kernel_unavailable_.load(), kernel_failed_.load()}; }
  std::vector<std::string> Recover(const FindChain& find_chain) override;
  absl::StatusOr<MountRecord> MountAgain(const std::string& directory, ChainRef chain) override;
  void SetNotMounted(const std::string& directory, const std::string& why) override
      ABSL_LOCKS_EXCLUDED(mu_);
  void RemoveLeftovers() override {
    if (options_.as_root) chains_->RemoveOrphans();
  }
  void UnmountAll() override;
  bool AnyElsewhere() const override ABSL_LOCKS_EXCLUDED(mu_);
  void Refresh() override;

 private:
  // One place, with or without its mount.
  struct Entry {
    MountRecord record;
    std::optional<std::string> not_mounted;  // why; nullopt = it is mounted
    std::string lease;                       // of its private mount; "" = none
    std::weak_ptr<const Chain> chain;
    bool mounted() const { return !not_mounted.has_value(); }
  };

  // The fate of a mount that needed no daemon. kHere: it is in the table now.
  enum class Outlived { kHere, kUnmounted, kUnknown };

  // The presentation chosen for a request.
  struct Choice {
    std::string mode;
    bool or_fuse = false;    // fall back to FUSE if that one fails
    bool no_kernel = false;  // FUSE, because the kernel cannot present that chain
  };

  // Returns true if `mount`, on the directory of `record` or listed in it, can be the daemon's.
  bool IsOf(const MountRecord& record, const MountInfo& mount) const;
  // Returns true if `before`, the record of the directory, lists `mount`, which is then to be
  // removed or replaced. `before` may be null.
  bool IsOld(const MountRecord* before, const MountInfo& mount) const;
  std::optional<Entry> Find(const std::string& place) const ABSL_LOCKS_EXCLUDED(mu_);
  // Returns the entry only if it is not mounted.
  std::optional<Entry> FindNotMounted(const std::string& place) const;
  absl::Status Continue(const Entry& entry, const MountRequest& request, CheckedMount& out) const;
  // REQUIRES for all functions named ...DirLocked: the caller holds the key of the place.
  absl::StatusOr<MountTarget> OpenTargetDirLocked(const std::string& directory,
                                                  const FileId& expected,
                                                  const MountRecord* before);
  // Fills in what `record` lacks.
  absl::StatusOr<MountRecord> MountAtDirLocked(const ChainRef& chain, const MountRequest& request,
                                               MountRecord record, const MountRecord* before);
  struct MountWork {
    const MountTarget& target;  // unless there is a caller
    MountCaller* caller;        // null: this process mounts
    OverlayUpper* upper;        // null: not writable
    const MountRecord* before;
  };
  absl::Status MountByRootDirLocked(const ChainRef& chain, const Choice& choice,
                                    const MountWork& work, MountRecord& record);
  absl::Status MountByUserDirLocked(const ChainRef& chain, const MountWork& work,
                                    MountRecord& record);
  // For a caller in another namespace about which the kernel does not tell: the end of a session of
  // its own tells.
  absl::Status MountSessionDirLocked(const ChainRef& chain, const MountWork& work,
                                     MountRecord& record);
  absl::Status MountHereByUser(const ChainRef& chain, const MountTarget& target,
                               MountRecord& record);
  absl::StatusOr<FileId> MakeUserUpper(MountRecord& record) const;
  absl::Status ServeForCaller(const ChainRef& chain, MountCaller& caller, MountRecord& record);
  // The place of a directory of this namespace: a caller may have mounted there while the daemon
  // was in another one.
  std::string OwnPlace(const std::string& directory) const;
  // Whether the mount is where this process cannot unmount it.
  bool IsElsewhere(const MountRecord& record) const {
    return record.name_space != 0 && record.name_space != own_namespace_;
  }
  // Of a session that is no private mount's. It stays the same wherever the next daemon is.
  static std::string SessionName(const MountRecord& record) {
    return record.by_caller ? record.place() : record.directory;
  }
  // Where a mount of an earlier daemon is (MountRecord::name_space). 0 also if its namespace is
  // gone, or is not known to be there.
  uint64_t HomeOf(const MountRecord& record) const;
  // Names the record after the place where its mount is, which depends on where this daemon is.
  // Returns false if there is another mount of that name.
  bool MoveRecord(MountRecord& record, uint64_t name_space);
  // Returns the mount of a record of another namespace, as far as it is known, without its place;
  // kNotFound: it is gone. One of which the kernel does not tell counts as present.
  absl::StatusOr<MountInfo> FindElsewhere(const MountRecord& record) const;
  bool IsGoneElsewhere(const MountRecord& record) const {
    return absl::IsNotFound(FindElsewhere(record).status());
  }
  Outlived AdoptElsewhereDirLocked(const MountRecord& record, const FindChain& find_chain);
  // Forgets the mount of another namespace if it is gone.
  void RefreshPlaceLocked(const std::string& place);
  void AddMountedDirLocked(const ChainRef& chain, const MountRecord& record, std::string lease,
                           const MountRecord* before) ABSL_LOCKS_EXCLUDED(mu_);
  absl::Status PutBackDirLocked(const std::string& place, const MountRecord* before);
  absl::Status UnmountDirLocked(const std::string& place, bool lazy);
  void UnmountOldDirLocked(const MountRecord& record);
  void DropDirLocked(const std::string& place, bool lazy) ABSL_LOCKS_EXCLUDED(mu_);
  absl::Status ForgetDirLocked(const MountRecord& record, bool lazy);
  void ForgetOtherDirLocked(const MountRecord& record);
  // For a mount that another program has unmounted.
  void DropUnmountedDirLocked(const MountRecord& record);
  void SetNotMountedDirLocked(MountRecord record, std::string why) ABSL_LOCKS_EXCLUDED(mu_);
  // Returns true if it is mounted afterwards.
  bool RecoverDirLocked(MountRecord& record, const MountView& mounts, const FindChain& find_chain);
  Outlived AdoptDirLocked(const MountRecord& record, const MountView& mounts,
                          const FindChain& find_chain);
  std::optional<std::string> AdoptLeaseDirLocked(const MountRecord& record, const MountInfo& there,
                                                 const FindChain& find_chain, ChainRef* shown);
  absl::StatusOr<MountRecord> MountAgainDirLocked(const MountRecord& record, const ChainRef& chain);
  absl::Status CheckRequest(const MountRequest& request) const ABSL_LOCKS_EXCLUDED(mu_);
  absl::Status CheckOwn(const std::string& directory, std::string_view what) const;
  absl::StatusOr<Choice> ChooseMode(const MountRequest& request, const Chain& chain) const;
  // The chain's private mount.
  struct Presented {
    ChainMounts::Lease lease;
    std::string mode;
  };
  absl::StatusOr<Presented> AcquireChain(const ChainRef& chain, const Choice& choice,
                                         const MountOptions& options, const std::string& source);
  absl::StatusOr<OverlayUpper> OpenUpper(const Chain& chain, MountRecord& record) const;
  absl::Status RemoveUpper(const std::string& upper) const;
  void UnmountDeadByUser(const std::string& directory);
  void Prune();

  KeyGate::Hold HoldPlace(const std::string& place) { return KeyGate::Hold(gate_, place); }

  // Private mounts of the kernel alone, or of FUSE sessions that the next daemon continues.
  bool HasMountsBelow() const {
    const auto mounts = ReadMountInfo();
    return !mounts.ok() || std::any_of(mounts->begin(), mounts->end(), [this](const MountInfo& m) {
      return m.mount_point != chains_dir_ && LiesIn(m.mount_point, chains_dir_);
    });
  }

  Options options_;
  std::string chains_dir_, upper_dir_;
  FuseLoop& loop_;
  MountRecords& records_;
  std::unique_ptr<ChainMounts> chains_;
  std::string boot_id_;
  // Which kernel presentation works, or why none does.
  absl::StatusOr<ErofsWay> kernel_ = absl::UnknownError("");
  std::atomic<uint64_t> kernel_unavailable_{0}, kernel_failed_{0};
  KeyGate gate_;                  // by place
  uint64_t own_namespace_ = 0;    // OwnMountNamespace; 0 = not known
  bool asks_namespaces_ = false;  // FindMountIn works; root only
  bool own_parent_ = false;       // chains_dir_ is a private bind mount of itself
  std::unique_ptr<MountWatch> watch_;

  mutable absl::Mutex mu_;
  std::map<std::string, Entry> entries_ ABSL_GUARDED_BY(mu_);  // by place (PlaceName)

  // The mounts that the kernel lists and that can be ours.
  struct Present {
    std::map<MountKey, MountInfo> mounts;
    std::set<std::string> directories;  // of those that are
  };
  static absl::StatusOr<Present> FindPresent();
  bool IsLost(const Entry& entry, const Present& present) const;
};

}  // namespace imagefs
