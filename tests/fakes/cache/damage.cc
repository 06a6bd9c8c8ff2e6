// SPDX-License-Identifier: Apache-2.0
#include "tests/fakes/cache/damage.h"

#include <leveldb/db.h>

#include <memory>

namespace imagefs {
namespace {

std::unique_ptr<leveldb::DB> Open(const std::string& dir) {
  leveldb::DB* db = nullptr;
  if (!leveldb::DB::Open({}, dir, &db).ok()) return nullptr;
  return std::unique_ptr<leveldb::DB>(db);
}

}  // namespace

std::vector<std::string> KeysOf(const std::string& dir, std::string_view prefix) {
  std::vector<std::string> keys;
  const std::unique_ptr<leveldb::DB> db = Open(dir);
  if (db == nullptr) return keys;
  const std::unique_ptr<leveldb::Iterator> it(db->NewIterator({}));
  for (it->SeekToFirst(); it->Valid(); it->Next()) {
    std::string key = it->key().ToString();
    if (key.starts_with(prefix)) keys.push_back(std::move(key));
  }
  return keys;
}

bool DamageRecord(const std::string& dir, std::string_view key) {
  const std::unique_ptr<leveldb::DB> db = Open(dir);
  if (db == nullptr) return false;
  const leveldb::Slice name(key.data(), key.size());
  std::string value;
  if (!db->Get({}, name, &value).ok() || value.empty()) return false;
  value[value.size() / 2] ^= 1;
  leveldb::WriteOptions options;
  options.sync = true;
  return db->Put(options, name, value).ok();
}

}  // namespace imagefs
