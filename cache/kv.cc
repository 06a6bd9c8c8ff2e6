// SPDX-License-Identifier: Apache-2.0
#include "cache/kv.h"

#include <leveldb/cache.h>
#include <leveldb/db.h>
#include <leveldb/env.h>
#include <leveldb/write_batch.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <system_error>

#include "base/digest.h"
#include "base/failure.h"
#include "base/fd.h"
#include "base/little_endian.h"
#include "base/log.h"
#include "base/status.h"
#include "base/text.h"
#include "base/thread_role.h"
#include "cache/kv_env.h"

namespace imagefs {
namespace {

constexpr std::string_view kLostKey = "meta/lost";
constexpr std::string_view kReserveName = "/reserve";
constexpr std::string_view kWrongSum = "its checksum is wrong";
constexpr std::string_view kReading = "reading the store's database";
constexpr std::string_view kWriting = "writing the store's database";
constexpr size_t kWriteBuffer = 1 << 20;
// A log ends soon after its content exceeds the buffer.
constexpr uint64_t kLogBytes = kWriteBuffer + (256 << 10);

leveldb::Slice ToSlice(std::string_view text) { return {text.data(), text.size()}; }
std::string_view FromSlice(const leveldb::Slice& slice) { return {slice.data(), slice.size()}; }

// LevelDB's repair accepts log records without verifying their checksums, so every value carries a
// checksum of its own, which also covers the key.
std::string AppendChecksum(std::string_view key, std::string_view value) {
  const uint32_t sum = Crc32c(Crc32c(~0u, key), value);
  std::string with_sum(value);
  PutLittleEndian(with_sum, sum);
  return with_sum;
}

std::optional<std::string_view> StripChecksum(std::string_view key, std::string_view with_sum) {
  if (with_sum.size() < 4) return std::nullopt;
  const std::string_view value = with_sum.substr(0, with_sum.size() - 4);
  if (AppendChecksum(key, value) != with_sum) return std::nullopt;
  return value;
}

// LevelDB reports the cause of an I/O error only as text.
bool SaysErrno(const leveldb::Status& status, int error_number) {
  return status.ToString().find(std::generic_category().message(error_number)) != std::string::npos;
}

// The disk takes no writes, which may be temporary; existing data may still be readable.
bool CannotWrite(const leveldb::Status& status) {
  constexpr std::array<int, 4> kCauses = {ENOSPC, EDQUOT, EROFS, EIO};
  return status.IsIOError() && std::any_of(kCauses.begin(), kCauses.end(),
                                           [&](int cause) { return SaysErrno(status, cause); });
}

absl::Status FromLevelDb(const leveldb::Status& status, std::string_view what) {
  if (status.ok()) return absl::OkStatus();
  const std::string message = StrCat(what, ": ", PrintableName(status.ToString(), 1000));
  if (status.IsCorruption()) return absl::DataLossError(message);
  if (SaysErrno(status, ENOSPC) || SaysErrno(status, EDQUOT)) {
    return WithKind(absl::ResourceExhaustedError(StrCat(
                        message, "; make room on its file system, with `imagefs rm` for example")),
                    FailureKind::kNoSpace);
  }
  if (SaysErrno(status, EROFS)) {
    return absl::FailedPreconditionError(StrCat(message, "; mount its file system writable"));
  }
  return absl::InternalError(message);
}

absl::Status Closed() {
  return WithKind(absl::UnavailableError("the store's database cannot be read"),
                  FailureKind::kOther);
}

// Damage of the files, which repair skips.
bool IsDamage(const leveldb::Status& status) {
  return status.IsCorruption() || status.IsInvalidArgument();
}

// Moves what repair could not use to where repair keeps the files it has read.
void SetAside(leveldb::Env& env, const std::string& dir) {
  std::vector<std::string> names;
  (void)env.GetChildren(dir, &names);
  (void)env.CreateDir(dir + "/lost");
  for (const std::string& name : names) {
    if (!IsDatabaseFile(name)) continue;
    (void)env.RenameFile(StrCat(dir, "/", name), StrCat(dir, "/lost/", name));
  }
}

// CURRENT holds the name of the newest manifest and a newline.
bool NamesAManifest(std::string_view current) {
  constexpr std::string_view kPrefix = "MANIFEST-";
  if (!current.starts_with(kPrefix) || !current.ends_with('\n')) return false;
  const std::string_view number =
      current.substr(kPrefix.size(), current.size() - kPrefix.size() - 1);
  return !number.empty() &&
         std::all_of(number.begin(), number.end(), [](char c) { return c >= '0' && c <= '9'; });
}

// LevelDB takes a directory without a CURRENT file for a new database and then removes the tables
// and logs that it does not know, and opens whatever path CURRENT holds. OK: CURRENT names a
// manifest, or the directory is a new database. Repair needs no CURRENT.
leveldb::Status CheckCurrent(leveldb::Env& env, const std::string& dir) {
  std::vector<std::string> names;
  if (!env.GetChildren(dir, &names).ok()) return leveldb::Status::OK();
  if (std::find(names.begin(), names.end(), "CURRENT") != names.end()) {
    std::string current;
    const leveldb::Status status = leveldb::ReadFileToString(&env, dir + "/CURRENT", &current);
    if (!status.ok() || NamesAManifest(current)) return status;
    return leveldb::Status::Corruption("the CURRENT file does not name a manifest");
  }
  const bool content = std::any_of(names.begin(), names.end(), [](const std::string& name) {
    return name.ends_with(".ldb") || name.ends_with(".log");
  });
  return content ? leveldb::Status::Corruption("the CURRENT file is missing")
                 : leveldb::Status::OK();
}

}  // namespace

struct KeyValueStore::Database {
  std::unique_ptr<leveldb::Env> env;
  // Small, to keep the daemon small: the facts of a thousand images are a few MiB.
  std::unique_ptr<leveldb::Cache> cache{leveldb::NewLRUCache(1 << 20)};
  std::unique_ptr<leveldb::DB> db;
  bool repaired = false;

  // Repairs what is damaged. OK: every table can be read.
  leveldb::Status Open(const std::string& dir);
  leveldb::Status Write(const std::vector<std::pair<std::string, std::optional<std::string>>>& all,
                        bool sync);

 private:
  leveldb::Status OpenOnce(const leveldb::Options& options, const std::string& dir);
};

leveldb::Status KeyValueStore::Database::OpenOnce(const leveldb::Options& options,
                                                  const std::string& dir) {
  leveldb::DB* opened = nullptr;
  const leveldb::Status status = leveldb::DB::Open(options, dir, &opened);
  db.reset(opened);
  if (!status.ok()) return status;
  // Damage of a table is detected only by reading it. The whole database is a few MiB.
  leveldb::ReadOptions read;
  read.verify_checksums = true;
  read.fill_cache = false;
  const std::unique_ptr<leveldb::Iterator> it(db->NewIterator(read));
  for (it->SeekToFirst(); it->Valid(); it->Next()) {
  }
  return it->status();
}

leveldb::Status KeyValueStore::Database::Open(const std::string& dir) {
  leveldb::Options options;
  options.env = env.get();
  options.create_if_missing = true;
  options.paranoid_checks = true;
  options.write_buffer_size = kWriteBuffer;
  options.max_open_files = 64;
  options.block_cache = cache.get();
  options.compression = leveldb::kNoCompression;
  leveldb::Status status = CheckCurrent(*env, dir);
  if (status.ok()) status = OpenOnce(options, dir);
  if (!IsDamage(status)) return status;
  LogWarning("kv.repair dir=", dir, " reason=", status.ToString());
  db.reset();
  repaired = true;
  status = leveldb::RepairDB(dir, options);
  if (status.ok()) status = OpenOnce(options, dir);
  if (!IsDamage(status)) return status;
  LogError("kv.not_repaired dir=", dir, " reason=", status.ToString(), " old_files=", dir, "/lost");
  db.reset();
  SetAside(*env, dir);
  return OpenOnce(options, dir);
}

leveldb::Status KeyValueStore::Database::Write(
    const std::vector<std::pair<std::string, std::optional<std::string>>>& all, bool sync) {
  leveldb::WriteBatch updates;
  for (const auto& [key, value] : all) {
    if (value.has_value()) {
      updates.Put(ToSlice(key), AppendChecksum(key, *value));
    } else {
      updates.Delete(ToSlice(key));
    }
  }
  leveldb::WriteOptions options;
  options.sync = sync;
  return db->Write(options, &updates);
}

absl::StatusOr<std::unique_ptr<KeyValueStore>> KeyValueStore::Open(const std::string& dir) {
  std::unique_ptr<KeyValueStore> store(new KeyValueStore(dir));
  absl::MutexLock lock(&store->mu_);
  IMAGEFS_RETURN_IF_ERROR(store->OpenLocked());
  if (!store->in_memory_) MakeReserve(StrCat(dir, kReserveName));
  return store;
}

KeyValueStore::KeyValueStore(std::string dir) : dir_(std::move(dir)) {}
KeyValueStore::~KeyValueStore() = default;

// Releases the reserve if there is no other space.
absl::StatusOr<std::unique_ptr<KeyValueStore::Database>> KeyValueStore::OpenOnDisk(
    bool* may_read) const {
  const auto open = [this](std::unique_ptr<Database>& database) {
    database = std::make_unique<Database>();
    database->env = MakeDiskEnv(kLogBytes);
    return database->Open(dir_);
  };
  std::unique_ptr<Database> database;
  leveldb::Status status = open(database);
  if (CannotWrite(status) && ReleaseReserve(StrCat(dir_, kReserveName))) {
    LogWarning("kv.reserve_used dir=", dir_, " cause=", status.ToString());
    status = open(database);
  }
  *may_read = CannotWrite(status);
  IMAGEFS_RETURN_IF_ERROR(FromLevelDb(status, StrCat("opening the store's database ", dir_)));
  return database;
}

absl::Status KeyValueStore::OpenLocked() {
  bool may_read = false;
  absl::StatusOr<std::unique_ptr<Database>> database = OpenOnDisk(&may_read);
  if (database.ok()) {
    database_ = *std::move(database);
    in_memory_ = false;
    ++generation_;
    return CheckLocked();
  }
  if (!may_read) return database.status();
  if (absl::Status read = OpenInMemoryLocked(database.status()); !read.ok()) {
    LogWarning("kv.not_read dir=", dir_, " error=", read.message());
    return database.status();
  }
  return CheckLocked();
}

absl::Status KeyValueStore::OpenInMemoryLocked(const absl::Status& why) {
  auto database = std::make_unique<Database>();
  IMAGEFS_ASSIGN_OR_RETURN(database->env, MakeMemoryEnv(dir_));
  IMAGEFS_RETURN_IF_ERROR(FromLevelDb(database->Open(dir_), kReading));
  LogWarning("kv.in_memory dir=", dir_, " cause=", why.message());
  database_ = std::move(database);
  in_memory_ = true;
  ++generation_;
  why_ = why;
  return absl::OkStatus();
}

// It is unknown how much of a failed write is in the log, and LevelDB accepts no more: reads the
// disk again. Returns from memory to the disk if all unsaved batches can be written.
absl::Status KeyValueStore::ReopenLocked() {
  if (!in_memory_) {
    database_.reset();
    return OpenLocked();
  }
  bool may_read = false;
  absl::StatusOr<std::unique_ptr<Database>> database = OpenOnDisk(&may_read);
  absl::Status status = database.status();
  for (const WriteBatch& batch : unsaved_) {
    if (status.ok()) status = FromLevelDb((*database)->Write(batch.changes_, true), kWriting);
  }
  if (!status.ok()) {
    why_ = status;
    return absl::OkStatus();
  }
  LogInfo("kv.on_disk_again dir=", dir_, " written=", unsaved_.size());
  unsaved_.clear();
  database_ = *std::move(database);
  in_memory_ = false;
  ++generation_;
  return absl::OkStatus();
}

// Finds damaged records, and whether any may be missing.
absl::Status KeyValueStore::CheckLocked() {
  size_t damaged = 0;
  bool marked = false;
  leveldb::ReadOptions read;
  const std::unique_ptr<leveldb::Iterator> it(database_->db->NewIterator(read));
  for (it->SeekToFirst(); it->Valid(); it->Next()) {
    const std::string_view key = FromSlice(it->key());
    const bool whole = StripChecksum(key, FromSlice(it->value())).has_value();
    if (!whole) NoteDamaged(key, kWrongSum);
    damaged += whole ? 0 : 1;
    marked |= key == kLostKey;
  }
  lost_ = lost_ || marked || damaged > 0 || database_->repaired;
  if (!lost_ || marked) return absl::OkStatus();
  const leveldb::Status status = database_->Write({{std::string(kLostKey), "1"}}, true);
  if (!status.ok()) LogWarning("kv.not_marked cause=", status.ToString());
  return absl::OkStatus();
}

void KeyValueStore::NoteLost(std::string_view why) {
  LogWarning("kv.records_lost dir=", dir_, " why=", why);
  lost_ = true;
  WriteBatch batch;
  batch.Put(kLostKey, "1");
  const absl::Status status = Write(batch, true);
  if (!status.ok()) LogWarning("kv.not_marked cause=", status.message());
}

void KeyValueStore::NoteDamaged(std::string_view key, std::string_view why) const {
  {
    absl::MutexLock lock(&damaged_mu_);
    if (!damaged_.insert(std::string(key)).second) return;
  }
  LogWarning("kv.damaged key=", Printable(key), " why=", why,
             " consequence=it counts as absent until it is written again");
}

absl::StatusOr<std::optional<std::string>> KeyValueStore::Get(std::string_view key) const {
  MayBlock("reading the database");
  leveldb::ReadOptions options;
  options.verify_checksums = true;
  std::string value;
  leveldb::Status status;
  {
    absl::ReaderMutexLock lock(&mu_);
    if (database_ == nullptr) return Closed();
    status = database_->db->Get(options, ToSlice(key), &value);
  }
  if (status.IsNotFound()) return std::nullopt;
  if (!status.IsCorruption()) {
    IMAGEFS_RETURN_IF_ERROR(FromLevelDb(status, kReading));
    if (const auto whole = StripChecksum(key, value)) return std::string(*whole);
  }
  NoteDamaged(key, status.ok() ? std::string(kWrongSum) : status.ToString());
  return std::nullopt;
}

absl::Status KeyValueStore::Write(const WriteBatch& batch, bool sync) {
  if (batch.empty()) return absl::OkStatus();
  MayBlock("writing the database");
  uint64_t generation = 0;
  {
    absl::ReaderMutexLock lock(&mu_);
    if (!in_memory_ && database_ != nullptr && database_->Write(batch.changes_, sync).ok()) {
      return absl::OkStatus();
    }
    generation = generation_;
  }
  absl::MutexLock lock(&mu_);
  if (generation == generation_) IMAGEFS_RETURN_IF_ERROR(ReopenLocked());
  return WriteAgainLocked(batch, sync);
}

absl::Status KeyValueStore::WriteAgainLocked(const WriteBatch& batch, bool sync) {
  if (database_ == nullptr) return Closed();
  if (!in_memory_) {
    const absl::Status status = FromLevelDb(database_->Write(batch.changes_, sync), kWriting);
    if (status.ok()) return status;
    IMAGEFS_RETURN_IF_ERROR(OpenInMemoryLocked(status));
  }
  const bool puts = std::any_of(batch.changes_.begin(), batch.changes_.end(),
                                [](const auto& change) { return change.second.has_value(); });
  if (sync && puts) return why_;
  IMAGEFS_RETURN_IF_ERROR(FromLevelDb(database_->Write(batch.changes_, false), kWriting));
  unsaved_.push_back(batch);
  LogWarning("kv.unsaved batches=", unsaved_.size(), " cause=", why_.message());
  return absl::OkStatus();
}

absl::Status KeyValueStore::Settle() {
  {
    absl::MutexLock lock(&mu_);
    if (in_memory_ || database_ == nullptr) IMAGEFS_RETURN_IF_ERROR(ReopenLocked());
    if (in_memory_) return why_;
  }
  MakeReserve(StrCat(dir_, kReserveName));
  return absl::OkStatus();
}

// Copies the records first: the visitor may write, which may replace the database.
absl::Status KeyValueStore::Scan(
    std::string_view prefix,
    absl::FunctionRef<bool(std::string&& key, std::optional<std::string_view> value)> visit) const {
  MayBlock("reading the database");
  absl::ReaderMutexLock lock(&mu_);
  if (database_ == nullptr) return Closed();
  leveldb::ReadOptions options;
  options.verify_checksums = true;
  const std::unique_ptr<leveldb::Iterator> it(database_->db->NewIterator(options));
  for (it->Seek(ToSlice(prefix)); it->Valid(); it->Next()) {
    const std::string_view key = FromSlice(it->key());
    if (!key.starts_with(prefix)) break;
    if (!visit(std::string(key), StripChecksum(key, FromSlice(it->value())))) break;
  }
  // The iterator continues after an unreadable block, whose records count as absent.
  if (it->status().IsCorruption()) {
    NoteDamaged(prefix, it->status().ToString());
    return absl::OkStatus();
  }
  return FromLevelDb(it->status(), kReading);
}

absl::Status KeyValueStore::ForEachWithPrefix(
    std::string_view prefix,
    absl::FunctionRef<bool(std::string_view key, std::string_view value)> visit) const {
  std::vector<std::pair<std::string, std::string>> found;
  IMAGEFS_RETURN_IF_ERROR(
      Scan(prefix, [&](std::string&& key, std::optional<std::string_view> value) {
        if (value.has_value()) {
          found.emplace_back(std::move(key), *value);
        } else {
          NoteDamaged(key, kWrongSum);
        }
        return true;
      }));
  for (const auto& [key, value] : found) {
    if (!visit(key, value)) break;
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<std::string>> KeyValueStore::KeysWithPrefix(
    std::string_view prefix) const {
  std::vector<std::string> keys;
  IMAGEFS_RETURN_IF_ERROR(Scan(prefix, [&](std::string&& key, std::optional<std::string_view>) {
    keys.push_back(std::move(key));
    return true;
  }));
  return keys;
}

absl::StatusOr<std::vector<std::string>> KeyValueStore::DamagedKeys(std::string_view prefix) const {
  std::vector<std::string> keys;
  IMAGEFS_RETURN_IF_ERROR(
      Scan(prefix, [&](std::string&& key, std::optional<std::string_view> value) {
        if (!value.has_value()) keys.push_back(std::move(key));
        return true;
      }));
  return keys;
}

void KeyValueStore::AppendCounters(std::vector<std::pair<std::string, uint64_t>>& out) const {
  {
    absl::ReaderMutexLock lock(&mu_);
    out.emplace_back("store_writes_waiting", unsaved_.size());
  }
  absl::MutexLock lock(&damaged_mu_);
  out.emplace_back("store_records_damaged", damaged_.size());
}

}  // namespace imagefs
