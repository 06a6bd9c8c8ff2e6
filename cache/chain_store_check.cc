// SPDX-License-Identifier: Apache-2.0
// The part of ChainStore that handles damaged files. A chain in use is rewritten in its existing
// file, so that all users, including the kernel, get the right bytes; until then the daemon reads
// nothing from it.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "base/directory.h"
#include "base/log.h"
#include "base/status.h"
#include "base/text.h"
#include "cache/chain_store.h"
#include "cache/layer_files.h"

namespace imagefs {
namespace {

// Attempts to repair a file that somebody may still be writing to: ten seconds in total.
constexpr int kTries = 10;
constexpr absl::Duration kFirstPause = absl::Milliseconds(10);

// Returns kDataLoss if the file is not `bytes` long or does not match the checksum.
absl::Status CheckFile(const Fd& fd, const std::string& path, uint64_t bytes,
                       std::optional<uint32_t> sum) {
  struct stat st;
  if (fstat(fd.get(), &st) != 0) return ErrnoStatus(errno, path);
  if (static_cast<uint64_t>(st.st_size) != bytes) return absl::DataLossError("it has another size");
  if (!sum.has_value()) return absl::DataLossError("an earlier version recorded no checksum of it");
  IMAGEFS_ASSIGN_OR_RETURN(const uint32_t has, Crc32cOfFile(fd.get()));
  return has == *sum ? absl::OkStatus() : absl::DataLossError("it is not as it was written");
}

}  // namespace

bool ChainStore::IsDamaged(const Digest& chain_id) const {
  ChainRef open;  // its last reference must not be dropped under the lock
  absl::MutexLock lock(&mu_);
  const auto it = chains_.find(chain_id);
  if (it != chains_.end()) open = it->second.open.lock();
  return open != nullptr && open->index->damaged();
}

void ChainStore::Watch(const Digest& chain_id) {
  watch_->Add(PathOf(chain_id), [this, chain_id] { OnWritten(chain_id); });
}

// From now on nothing is read from the index until it is checked.
void ChainStore::OnWritten(const Digest& chain_id) {
  ChainRef open;
  {
    absl::MutexLock lock(&mu_);
    const auto it = chains_.find(chain_id);
    // An index that is not open is verified by its checksum when it is next opened.
    if (it != chains_.end()) open = it->second.open.lock();
    if (open == nullptr) return;
    open->index->Distrust();
    if (std::exchange(it->second.repair_queued, true)) return;
  }
  LogWarning("chain.written_to chain=", chain_id.Short());
  work_->Submit(std::make_shared<LivePriority>(Priority::kOnDemand), [this, chain_id] {
    bool repaired = false;
    Repair(chain_id, &repaired).IgnoreError();  // it has logged the outcome
  });
}

absl::Status ChainStore::Repair(const Digest& chain_id, bool* repaired) {
  absl::MutexLock one_at_a_time(&repairs_mu_);
  Entry entry;
  ChainRef chain;
  {
    absl::MutexLock lock(&mu_);
    const auto it = chains_.find(chain_id);
    if (it == chains_.end()) return absl::NotFoundError("the chain was just removed");
    it->second.repair_queued = false;
    entry = it->second;
    chain = entry.open.lock();
  }
  const std::string path = PathOf(chain_id);
  absl::Status why, status;
  absl::Duration pause = kFirstPause;
  for (int i = 0; i < kTries; ++i, pause *= 2) {
    watch_->Remove(path);  // the following writes are our own
    absl::StatusOr<Fd> fd = OpenFile(path, O_RDONLY);
    status = fd.ok() ? CheckFile(*fd, path, entry.bytes, entry.sum) : fd.status();
    why.Update(status);
    if (!status.ok() && chain != nullptr) status = Rewrite(entry, *chain);
    if (chain != nullptr) Watch(chain_id);
    if (!status.ok()) break;
    // Check after the watch was set, so that later writes are noticed. A concurrent writer may have
    // written in between.
    fd = OpenFile(path, O_RDONLY);
    status = fd.ok() ? CheckFile(*fd, path, entry.bytes, entry.sum) : fd.status();
    if (status.ok() && chain != nullptr) status = GoOnWith(chain_id, *chain, *fd);
    if (status.ok() || chain == nullptr) break;
    absl::SleepFor(pause);
  }
  *repaired = status.ok();
  if (!why.ok() && status.ok()) {
    repaired_++;
    LogWarning("chain.repaired chain=", chain_id.Short(), " cause=", why.message());
  } else if (!status.ok() && chain != nullptr) {
    LogError("chain.not_mended chain=", chain_id.Short(), " error=", status.message());
  }
  if (why.ok()) return status;
  return absl::DataLossError(why.message());
}

// The file was verified after the watch was set; a write noticed since makes it untrusted again.
absl::Status ChainStore::GoOnWith(const Digest& chain_id, const Chain& chain, const Fd& fd) {
  if (!chain.index->damaged()) return absl::OkStatus();
  IMAGEFS_RETURN_IF_ERROR(chain.index->MapAgain(fd.get()));
  absl::MutexLock lock(&mu_);
  const auto it = chains_.find(chain_id);
  if (it != chains_.end() && it->second.repair_queued) chain.index->Distrust();
  return absl::OkStatus();
}

// Equal layers give equal bytes.
absl::Status ChainStore::Rewrite(const Entry& entry, const Chain& chain) const {
  const std::string temporary = StrCat(root_, "/chains/tmp-", RandomHex(8));
  const absl::Cleanup remove = [&] { unlink(temporary.c_str()); };
  Entry made;
  IMAGEFS_RETURN_IF_ERROR(Merge(chain.layers, temporary, made));
  if (made.bytes != entry.bytes || made.sum != entry.sum) {
    return absl::DataLossError("merging its layers gives another index");
  }
  IMAGEFS_ASSIGN_OR_RETURN(const Fd from, OpenFile(temporary, O_RDONLY));
  IMAGEFS_ASSIGN_OR_RETURN(const Fd to, OpenFile(chain.index_path, O_RDWR | O_CREAT));
  IMAGEFS_RETURN_IF_ERROR(CopyDifferences(from.get(), to.get()));
  IMAGEFS_RETURN_IF_ERROR(FsyncFd(to.get(), chain.index_path));
  return FsyncDir(root_ + "/chains");
}

std::vector<CheckFinding> ChainStore::Check(const absl::flat_hash_set<Digest>& chains,
                                            bool repair) {
  std::vector<std::pair<Digest, bool>> wanted;  // and whether it is open
  {
    absl::MutexLock lock(&mu_);
    for (const auto& [id, entry] : chains_) {
      if (chains.empty() || chains.contains(id)) wanted.emplace_back(id, !entry.open.expired());
    }
  }
  std::sort(wanted.begin(), wanted.end());
  std::vector<CheckFinding> findings;
  for (const auto& [id, open] : wanted) {
    bool repaired = false;
    const absl::Status status = Repair(id, &repaired);
    if (status.ok() || absl::IsNotFound(status)) continue;
    CheckFinding& found = findings.emplace_back();
    found.kind = "tree";
    found.name = id.ToString();
    found.problem = std::string(status.message());
    if (repaired) {
      found.action = "merged again";
    } else if (repair) {
      const absl::StatusOr<ChainRef> again = Find(id);
      found.action =
          again.ok() ? "merged again" : StrCat("not merged again: ", again.status().message());
    }
  }
  return findings;
}

std::vector<std::string> ChainStore::Strays() const {
  std::vector<std::string> strays = ListDirOrWarn(root_ + "/chains");
  // Temporary files of this process are still being written.
  std::erase_if(strays, [](const std::string& name) { return name.starts_with("tmp-"); });
  absl::flat_hash_set<std::string> running;
  for (const auto& [key, callers] : merges_.Running()) running.insert(key);
  // After listing the running merges: a merge records its chain before it ends.
  absl::MutexLock lock(&mu_);
  std::erase_if(strays, [&](const std::string& name) {
    mu_.AssertHeld();
    const absl::StatusOr<Digest> id = Digest::Parse(StrCat("sha256:", name));
    return id.ok() && (chains_.contains(*id) || running.contains(id->ToString()));
  });
  for (std::string& name : strays) name.insert(0, "chains/");
  return strays;
}

}  // namespace imagefs
