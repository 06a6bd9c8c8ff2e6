// SPDX-License-Identifier: Apache-2.0
// The store's small durable facts: a sorted map of byte strings in LevelDB. Thread-safe.
//
// A corrupted record counts as absent everywhere: it is logged once, counted, and replaced by the
// next Put of its key. Before removing anything because no record names it, check `lost_records()`.
//
// A disk that takes no writes (full, over quota, read-only) does not close the store. First the
// reserve file is released to free space. If that is not enough, a copy in memory serves reads, and
// each write tries to return to the disk.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_set.h"
#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"

namespace imagefs {

// Changes that are applied atomically. A value type.
class WriteBatch {
 public:
  void Put(std::string_view key, std::string_view value) {
    changes_.push_back({std::string(key), std::string(value)});
  }
  void Delete(std::string_view key) { changes_.push_back({std::string(key), std::nullopt}); }
  bool empty() const { return changes_.empty(); }

 private:
  friend class KeyValueStore;
  std::vector<std::pair<std::string, std::optional<std::string>>> changes_;
};

class KeyValueStore {
 public:
  // Opens or creates the database in `dir`. Repairs a damaged one; unreadable data is lost, with a
  // warning.
  static absl::StatusOr<std::unique_ptr<KeyValueStore>> Open(const std::string& dir);
  ~KeyValueStore();
  KeyValueStore(const KeyValueStore&) = delete;
  KeyValueStore& operator=(const KeyValueStore&) = delete;

  absl::StatusOr<std::optional<std::string>> Get(std::string_view key) const;
  // With `sync`, the batch is on disk before this returns (survives a crash of the machine);
  // without, it survives this process. An empty batch is allowed. While the disk takes no writes, a
  // batch that puts anything with `sync` fails with the cause and changes nothing. Any other batch
  // takes effect now and is written as soon as possible; until then it exists only in this process.
  absl::Status Write(const WriteBatch& batch, bool sync);
  // Visits records in key order, over a snapshot, until `visit` returns false. `visit` may read and
  // write.
  absl::Status ForEachWithPrefix(
      std::string_view prefix,
      absl::FunctionRef<bool(std::string_view key, std::string_view value)> visit) const;
  // In key order, including damaged records.
  absl::StatusOr<std::vector<std::string>> KeysWithPrefix(std::string_view prefix) const;
  // Returns only the keys of damaged records.
  absl::StatusOr<std::vector<std::string>> DamagedKeys(std::string_view prefix) const;

  // True once a record of this database was damaged or may have been lost, in any process: a file
  // that no record names may then be one whose record was lost.
  bool lost_records() const { return lost_; }
  // To be called by whoever knows that records are missing.
  void NoteLost(std::string_view why);
  // To be called by whoever finds that a record's value is invalid. Logs each key once.
  void NoteDamaged(std::string_view key, std::string_view why) const;

  // Writes what could not be written before and restores the reserve if there is space. Returns OK
  // if nothing is left to write. To be called periodically.
  absl::Status Settle();
  void AppendCounters(std::vector<std::pair<std::string, uint64_t>>& out) const;

 private:
  struct Database;

  explicit KeyValueStore(std::string dir);
  // `*may_read`: the disk takes no writes, but may be readable.
  absl::StatusOr<std::unique_ptr<Database>> OpenOnDisk(bool* may_read) const;
  absl::Status OpenLocked() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  absl::Status ReopenLocked() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  absl::Status OpenInMemoryLocked(const absl::Status& why) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  absl::Status WriteAgainLocked(const WriteBatch& batch, bool sync)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  absl::Status CheckLocked() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // Visits records until `visit` returns false; a damaged record has no value.
  absl::Status Scan(
      std::string_view prefix,
      absl::FunctionRef<bool(std::string&& key, std::optional<std::string_view> value)> visit)
      const;

  const std::string dir_;
  mutable absl::Mutex mu_;                                   // exclusive: the database is replaced
  std::unique_ptr<Database> database_ ABSL_GUARDED_BY(mu_);  // null: it cannot even be read
  bool in_memory_ ABSL_GUARDED_BY(mu_) = false;
  absl::Status why_ ABSL_GUARDED_BY(mu_);                 // the reason for in_memory_
  std::vector<WriteBatch> unsaved_ ABSL_GUARDED_BY(mu_);  // in memory only, in order
  uint64_t generation_ ABSL_GUARDED_BY(mu_) = 0;          // of the database
  std::atomic<bool> lost_{false};
  mutable absl::Mutex damaged_mu_;
  mutable absl::flat_hash_set<std::string> damaged_ ABSL_GUARDED_BY(damaged_mu_);
};

}  // namespace imagefs
