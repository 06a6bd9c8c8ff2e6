// The snapshots by name: durable in the store's database (docs/formats/store.md, "snapshot/"), and
// in memory whole. What a method has acknowledged outlives a crash of the machine. Nothing here
// knows of files, mounts or images.
//
// Changes of different names go on at the same time; those of one name, one after the other. The
// lock is never held over a write, so that reading never waits for the disk. Thread-safe; methods
// block on local disk where they say that they write.
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
  // An ordinary snapshot is the directory of that number; 0 = a layer of an image, shown lazily.
  uint64_t id = 0;
  // Of a lazy one: the image, and how many of its layers lie below this one.
  std::string reference;
  Digest manifest;
  uint32_t level = 0;

  bool lazy() const { return id == 0; }
};

std::string EncodeSnapshotRecord(const SnapshotRecord& record);
// Everything but the name, which is the key.
absl::StatusOr<SnapshotRecord> DecodeSnapshotRecord(std::string_view text);

class SnapshotTable {
 public:
  // Reads all records. One that cannot be read is passed over with a warning: its name is free.
  static absl::StatusOr<std::unique_ptr<SnapshotTable>> Open(KeyValueStore& kv);

  // A name that is nobody's yet, kept for its holder, and its parent, which can meanwhile not be
  // removed.
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
  // kAlreadyExists; kNotFound where there is no such parent; kInvalidArgument where it is not
  // committed.
  absl::StatusOr<Reservation> Reserve(const std::string& name, const std::string& parent);
  // Writes the record of a reserved name.
  absl::Status Insert(Reservation reservation, SnapshotRecord record);

  // Writes: an active snapshot becomes the committed one `name`, with these labels and no others.
  // kNotFound, kFailedPrecondition (not active), kAlreadyExists.
  absl::Status Commit(const std::string& key, const std::string& name, const SnapshotLabels& labels,
                      int64_t now_ns);
  // Writes: changes the labels. `change` may refuse.
  absl::StatusOr<SnapshotInfo> Update(const std::string& name, int64_t now_ns,
                                      absl::FunctionRef<absl::Status(SnapshotLabels&)> change);
  // Writes: forgets. kFailedPrecondition while it has children, also reserved ones.
  absl::StatusOr<SnapshotRecord> Remove(const std::string& name);

  absl::StatusOr<SnapshotRecord> Find(const std::string& name) const;
  // The record and its ancestors, up to the first lazy one (included) or one without a parent.
  absl::StatusOr<std::vector<SnapshotRecord>> Lineage(const std::string& name) const;
  // The lazy snapshot of that layer (a ChainID) over that very parent.
  absl::StatusOr<SnapshotRecord> FindLayer(const std::string& ref, const std::string& parent) const;
  std::vector<SnapshotRecord> List() const;  // by name
  size_t size() const;
  uint64_t NextId();

 private:
  struct Entry {
    SnapshotRecord record;
    size_t children = 0;  // also reserved ones
    bool busy = false;    // a change is being written
  };
  explicit SnapshotTable(KeyValueStore& kv) : kv_(kv) {}
  absl::Status Load();
  // Waits until nobody changes `name`; null where there is none then.
  Entry* AwaitLocked(const std::string& name) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void AddLocked(SnapshotRecord record) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void TakeLocked(const std::string& name) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void ReleaseParentLocked(const std::string& parent) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  KeyValueStore& kv_;
  mutable absl::Mutex mu_;
  absl::flat_hash_map<std::string, std::unique_ptr<Entry>> entries_ ABSL_GUARDED_BY(mu_);
  absl::flat_hash_set<std::string> reserved_ ABSL_GUARDED_BY(mu_);
  // By ref label and parent: the names of lazy snapshots.
  absl::flat_hash_map<std::pair<std::string, std::string>, std::string> layers_
      ABSL_GUARDED_BY(mu_);
  uint64_t next_id_ ABSL_GUARDED_BY(mu_) = 1;
};

}  // namespace imagefs
