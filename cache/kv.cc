#include "cache/kv.h"

#include <leveldb/cache.h>
#include <leveldb/db.h>
#include <leveldb/env.h>
#include <leveldb/write_batch.h>

#include "base/digest.h"
#include "base/fd.h"
#include "base/log.h"
#include "base/status.h"
#include "base/text.h"
#include "base/thread_role.h"

namespace imagefs {
namespace {

leveldb::Slice ToSlice(std::string_view text) { return {text.data(), text.size()}; }
std::string_view FromSlice(const leveldb::Slice& slice) { return {slice.data(), slice.size()}; }

// LevelDB's repair takes what it finds in a log without looking at its sums, so every value carries
// one of its own, over the key as well.
std::string Seal(std::string_view key, std::string_view value) {
  const uint32_t sum = Crc32c(Crc32c(~0u, key), value);
  std::string sealed(value);
  for (int shift = 0; shift < 32; shift += 8) sealed.push_back(static_cast<char>(sum >> shift));
  return sealed;
}

absl::StatusOr<std::string_view> Unseal(std::string_view key, std::string_view sealed) {
  if (sealed.size() >= 4) {
    const std::string_view value = sealed.substr(0, sealed.size() - 4);
    if (Seal(key, value) == sealed) return value;
  }
  return absl::DataLossError(StrCat("the store's record ", Printable(key), " is damaged"));
}

absl::Status FromLevelDb(const leveldb::Status& status, std::string_view what) {
  if (status.ok()) return absl::OkStatus();
  const std::string message = StrCat(what, ": ", status.ToString());
  if (status.IsCorruption()) return absl::DataLossError(message);
  // LevelDB tells the cause of an I/O error in words only.
  if (message.find("No space left") != std::string::npos) {
    return absl::ResourceExhaustedError(message);
  }
  return absl::InternalError(message);
}

// LevelDB takes a folder without a CURRENT file for a new database and then removes the tables and
// logs that it does not know. A folder that has some is damaged instead, and repair finds them.
bool LostCurrent(const std::string& dir) {
  std::vector<std::string> names;
  if (!leveldb::Env::Default()->GetChildren(dir, &names).ok()) return false;
  bool content = false;
  for (const std::string& name : names) {
    if (name == "CURRENT") return false;
    content |= name.ends_with(".ldb") || name.ends_with(".log");
  }
  return content;
}

}  // namespace

absl::StatusOr<std::unique_ptr<KeyValueStore>> KeyValueStore::Open(const std::string& dir) {
  std::unique_ptr<KeyValueStore> store(new KeyValueStore());
  // Small, since the daemon's memory is: the facts of a thousand images are a few MiB.
  store->cache_.reset(leveldb::NewLRUCache(1 << 20));
  leveldb::Options options;
  options.create_if_missing = true;
  options.paranoid_checks = true;
  options.write_buffer_size = 1 << 20;
  options.max_open_files = 64;
  options.block_cache = store->cache_.get();
  options.compression = leveldb::kNoCompression;
  leveldb::DB* db = nullptr;
  leveldb::Status status = LostCurrent(dir)
                               ? leveldb::Status::Corruption("the CURRENT file is missing")
                               : leveldb::DB::Open(options, dir, &db);
  if (!status.ok() && (status.IsCorruption() || status.IsInvalidArgument())) {
    LogWarning("kv.repair dir=", dir, " reason=", status.ToString());
    status = leveldb::RepairDB(dir, options);
    if (status.ok()) status = leveldb::DB::Open(options, dir, &db);
  }
  IMAGEFS_RETURN_IF_ERROR(FromLevelDb(status, StrCat("opening the store's database ", dir)));
  store->db_.reset(db);
  return store;
}

KeyValueStore::~KeyValueStore() = default;

absl::StatusOr<std::optional<std::string>> KeyValueStore::Get(std::string_view key) const {
  MayBlock("reading the database");
  leveldb::ReadOptions options;
  options.verify_checksums = true;
  std::string value;
  const leveldb::Status status = db_->Get(options, ToSlice(key), &value);
  if (status.IsNotFound()) return std::nullopt;
  IMAGEFS_RETURN_IF_ERROR(FromLevelDb(status, "reading the store's database"));
  IMAGEFS_ASSIGN_OR_RETURN(const std::string_view unsealed, Unseal(key, value));
  return std::string(unsealed);
}

absl::Status KeyValueStore::Write(const WriteBatch& batch, bool sync) {
  if (batch.empty()) return absl::OkStatus();
  MayBlock("writing the database");
  leveldb::WriteBatch updates;
  for (const auto& [key, value] : batch.changes_) {
    if (value.has_value()) {
      updates.Put(ToSlice(key), Seal(key, *value));
    } else {
      updates.Delete(ToSlice(key));
    }
  }
  leveldb::WriteOptions options;
  options.sync = sync;
  return FromLevelDb(db_->Write(options, &updates), "writing the store's database");
}

absl::Status KeyValueStore::ForEachWithPrefix(
    std::string_view prefix,
    absl::FunctionRef<bool(std::string_view key, std::string_view value)> visit) const {
  MayBlock("reading the database");
  leveldb::ReadOptions options;
  options.verify_checksums = true;
  const std::unique_ptr<leveldb::Iterator> it(db_->NewIterator(options));
  for (it->Seek(ToSlice(prefix)); it->Valid(); it->Next()) {
    const std::string_view key = FromSlice(it->key());
    if (!key.starts_with(prefix)) break;
    const absl::StatusOr<std::string_view> value = Unseal(key, FromSlice(it->value()));
    if (!value.ok()) {
      // One damaged record must not hide the others; what it named is fetched again.
      LogWarning("kv.damaged error=", value.status().message());
      continue;
    }
    if (!visit(key, *value)) break;
  }
  return FromLevelDb(it->status(), "reading the store's database");
}

}  // namespace imagefs
