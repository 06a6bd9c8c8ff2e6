// SPDX-License-Identifier: Apache-2.0
// The snapshots by name: durable in the store's database (docs/formats/store.md, "snapshot/"), with
// a full copy in memory. Acknowledged changes survive a crash of the machine. This class knows
// nothing of files, mounts or images.
//
// Changes of different names run concurrently; changes of one name are serialized. The lock is
// never held during a write, so reads never wait for the disk. Thread-safe. Methods marked "Writes"
// block on local disk.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "base/digest.h"
#include "cache/kv.h"
#include "snap/snapshot.h"

namespace imagefs {

struct SnapshotRecord {
  SnapshotInfo info;
  // The number of an ordinary snapshot's directory; 0 = a lazily presented layer of an image.
  uint64_t id = 0;
  // Lazy snapshots only: the image, and how many of its layers are below this one.
  std::string reference;
  Digest manifest;
  uint32_t level = 0;

  bool lazy() const { return id == 0; }
};

std::string EncodeSnapshotRecord(const SnapshotRecord& record);
// The encoding has everything except the name, which is the key.
absl::StatusOr<SnapshotRecord> DecodeSnapshotRecord(std::string_view text);

class SnapshotTable {
 public:
  // Reads all records. Skips an unreadable one with a warning; its name becomes free.
  static absl::StatusOr<std::unique_ptr<SnapshotTable>> Open(KeyValueStore& kv);

  // A free name reserved for its holder, along with its parent, which cannot be removed meanwhile.
  class Reservation {
   public:
    Reservation() = default;
    Reservation(Reservation&& other) noexcept { *this = std::move(other); }
    Reservation& operator=(Reservation&& other) noexcept;
    ~Reservation() { Drop(); }
    void Drop();

   private:
    friend class SnapshotTable;
    SnapshotTable* table_ = nullptr;
    std::string name_, parent_;
  };
  // Returns kAlreadyExists, kNotFound if the parent does not exist, or kInvalidArgument if the
  // parent is not committed.
  absl::StatusOr<Reservation> Reserve(const std::string& name, const std::string& parent);
  // Writes. Stores the record of a reserved name.
  absl::Status Insert(Reservation reservation, SnapshotRecord record);

  // Writes. An active snapshot becomes the committed one `name`, with exactly these labels. Returns
  // kNotFound, kFailedPrecondition (not active) or kAlreadyExists.
  absl::Status Commit(const std::string& key, const std::string& name, const SnapshotLabels& labels,
                      int64_t now_ns);
  // Writes. Changes the labels; `change` may return an error.
  absl::StatusOr<SnapshotInfo> Update(const std::string& name, int64_t now_ns,
                                      absl::FunctionRef<absl::Status(SnapshotLabels&)> change);
  // Writes. Returns kFailedPrecondition while it has children, including reserved ones.
  absl::StatusOr<SnapshotRecord> Remove(const std::string& name);

  absl::StatusOr<SnapshotRecord> Find(const std::string& name) const;
  // Returns the record and its ancestors, up to and including the first lazy one or one without a
  // parent.
  absl::StatusOr<std::vector<SnapshotRecord>> Lineage(const std::string& name) const;
  // Returns the lazy snapshot of that layer (a ChainID) on exactly that parent.
  absl::StatusOr<SnapshotRecord> FindLayer(const std::string& ref, const std::string& parent) const;
  std::vector<SnapshotRecord> List() const;  // by name
  size_t size() const;
  uint64_t NextId();

 private:
  struct Entry {
    SnapshotRecord record;
    size_t children = 0;  // including reserved ones
    bool busy = false;    // a change is being written
  };
  explicit SnapshotTable(KeyValueStore& kv) : kv_(kv) {}
  absl::Status Load();
  // Waits until no change of `name` is being written. Returns null if it does not exist then.
  Entry* AwaitLocked(const std::string& name) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void AddLocked(SnapshotRecord record) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void TakeLocked(const std::string& name) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void ReleaseParentLocked(const std::string& parent) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  KeyValueStore& kv_;
  mutable absl::Mutex mu_;
  absl::flat_hash_map<std::string, std::unique_ptr<Entry>> entries_ ABSL_GUARDED_BY(mu_);
  absl::flat_hash_set<std::string> reserved_ ABSL_GUARDED_BY(mu_);
  // Names of lazy snapshots, by ref label and parent.
  absl::flat_hash_map<std::pair<std::string, std::string>, std::string> layers_
      ABSL_GUARDED_BY(mu_);
  uint64_t next_id_ ABSL_GUARDED_BY(mu_) = 1;
};

}  // namespace imagefs
