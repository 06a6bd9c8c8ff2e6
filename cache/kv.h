// The small durable facts of the store: a sorted map of byte strings in LevelDB. Thread-safe.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace leveldb {
class Cache;
class DB;
}  // namespace leveldb

namespace imagefs {

// Changes that happen together or not at all. A value.
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
  // Opens or creates the database in `dir`; a damaged one is repaired once (what cannot be read is
  // lost, and a warning says so). A value whose bytes turned is kDataLoss for Get and passed over,
  // with a warning, by ForEachWithPrefix.
  static absl::StatusOr<std::unique_ptr<KeyValueStore>> Open(const std::string& dir);
  ~KeyValueStore();
  KeyValueStore(const KeyValueStore&) = delete;
  KeyValueStore& operator=(const KeyValueStore&) = delete;

  absl::StatusOr<std::optional<std::string>> Get(std::string_view key) const;
  // With `sync`, the batch is on disk before this returns (it outlives a crash of the machine);
  // without, it outlives this process. An empty batch is fine.
  absl::Status Write(const WriteBatch& batch, bool sync);
  // In order of keys, over a snapshot, until `visit` returns false. `visit` may read and write.
  absl::Status ForEachWithPrefix(
      std::string_view prefix,
      absl::FunctionRef<bool(std::string_view key, std::string_view value)> visit) const;

 private:
  KeyValueStore() = default;
  std::unique_ptr<leveldb::Cache> cache_;
  std::unique_ptr<leveldb::DB> db_;
};

}  // namespace imagefs
