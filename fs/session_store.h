// SPDX-License-Identifier: Apache-2.0
// The FUSE sessions that outlive this process (docs/survival.md). A DescriptorKeeper has their
// descriptors, and the database has what the next daemon must know about them. Those records are
// written without fsync, because neither outlives the boot. A descriptor without a record, or a
// record without a descriptor, is dropped.
//
//   session/<id>               what a session serves (SessionRecord)
//   session-node/<id>/<node>   of the data mount: which layer's data the kernel knows as that node
//
// Thread-safe.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_set.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "base/digest.h"
#include "base/executor.h"
#include "base/fd.h"
#include "fs/data_files.h"
#include "fs/descriptor_keeper.h"
#include "fs/fuse_loop.h"

namespace imagefs {

class KeyValueStore;

struct SessionRecord {
  std::string id;                 // 16 hex digits
  bool data = false;              // the data mount, otherwise a chain
  std::string path;               // where the daemon mounted it
  uint32_t major = 0, minor = 0;  // the kernel's device number of the file system
  Digest chain_id;                // chains only
  uint32_t index_sum = 0;         // of its index: the kernel's nids are valid only for this one
  ShownAs shown_as;               // chains only
  FuseAgreement agreed;
};

class SessionStore {
 public:
  // `keeper` may be null: no session outlives the process. Both must outlive this.
  SessionStore(KeyValueStore& kv, DescriptorKeeper* keeper, std::string boot_id);

  struct Node {
    uint64_t number = 0;
    Digest layer, chain_id;  // a chain that has the layer
  };
  struct Inherited {
    SessionRecord record;
    Fd device;
    std::vector<Node> nodes;
  };
  // Call once, at startup. The sessions remain kept until Forget.
  std::vector<Inherited> Inherit();
  // Returns what an earlier process kept under a name that is no session's; invalid if there is
  // nothing. Call after Inherit.
  Fd TakeOther(const std::string& name);
  // Whether any session is kept.
  bool any() const ABSL_LOCKS_EXCLUDED(kept_->mu);

  static std::string NewId();
  static bool IsId(std::string_view name);
  // Keeps `device` under record.id. A failure is logged; the session then ends with this process.
  void Keep(const SessionRecord& record, const Fd& device);
  // For a session that has ended or cannot be continued. Does not block.
  void Forget(const std::string& id);
  // Lets all sessions end with this process.
  void ForgetAll();
  // Returns the journal for the session's DataFiles, effective once the session is kept; null if
  // sessions do not outlive this process.
  std::shared_ptr<DataFiles::Journal> JournalOf(const std::string& id);

 private:
  class Journal;
  // The ids of the kept sessions.
  struct Kept {
    bool Contains(const std::string& id) ABSL_LOCKS_EXCLUDED(mu) {
      absl::MutexLock lock(&mu);
      return ids.contains(id);
    }
    absl::Mutex mu;
    absl::flat_hash_set<std::string> ids ABSL_GUARDED_BY(mu);
  };

  absl::StatusOr<SessionRecord> ReadRecord(const std::string& id) const;
  std::vector<Node> ReadNodes(const std::string& id) const;
  void Erase(const std::string& id);
  void Drop(const std::string& id);

  KeyValueStore& kv_;
  DescriptorKeeper* const keeper_;
  const std::string boot_id_;
  const std::shared_ptr<Kept> kept_ = std::make_shared<Kept>();  // shared with journals
  std::map<std::string, Fd> others_;                             // by name
  // For callers that must not block. Last: its tasks use the members above.
  std::shared_ptr<Executor> forgetting_;
};

}  // namespace imagefs
