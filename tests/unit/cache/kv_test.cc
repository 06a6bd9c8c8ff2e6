// SPDX-License-Identifier: Apache-2.0
#include "cache/kv.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mount.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <functional>
#include <map>
#include <string>

#include "base/fd.h"
#include "base/text.h"
#include "base/thread_role.h"
#include "tests/fakes/cache/damage.h"

namespace imagefs {
namespace {

class KvTest : public ::testing::Test {
 protected:
  KvTest() : dir_(StrCat(::testing::TempDir(), "/kv-", RandomHex(8))) {
    std::filesystem::create_directories(dir_);
  }
  ~KvTest() override { std::filesystem::remove_all(dir_); }

  std::unique_ptr<KeyValueStore> Open() {
    absl::StatusOr<std::unique_ptr<KeyValueStore>> store = KeyValueStore::Open(dir_ + "/kv");
    EXPECT_TRUE(store.ok()) << store.status();
    return store.ok() ? *std::move(store) : nullptr;
  }
  static void Put(KeyValueStore& store, std::string_view key, std::string_view value) {
    WriteBatch batch;
    batch.Put(key, value);
    ASSERT_TRUE(store.Write(batch, true).ok());
  }
  static std::string Get(const KeyValueStore& store, std::string_view key) {
    absl::StatusOr<std::optional<std::string>> value = store.Get(key);
    EXPECT_TRUE(value.ok()) << value.status();
    return value.ok() ? value->value_or("(absent)") : "(error)";
  }
  std::filesystem::path FileWith(const std::string& extension) const {
    for (const auto& entry : std::filesystem::directory_iterator(dir_ + "/kv")) {
      if (entry.path().extension() == extension) return entry.path();
    }
    return {};
  }
  const std::string dir_;
};

TEST_F(KvTest, WritesReadsDeletesAndKeeps) {
  const std::string binary("\0k\xff", 3);
  {
    std::unique_ptr<KeyValueStore> store = Open();
    ASSERT_NE(store, nullptr);
    EXPECT_EQ(Get(*store, "a"), "(absent)");
    WriteBatch batch;
    EXPECT_TRUE(batch.empty());
    EXPECT_TRUE(store->Write(batch, true).ok());
    batch.Put("a", "1");
    batch.Put(binary, binary);
    batch.Put("gone", "x");
    batch.Delete("gone");
    ASSERT_TRUE(store->Write(batch, false).ok());
  }
  std::unique_ptr<KeyValueStore> store = Open();
  ASSERT_NE(store, nullptr);
  EXPECT_EQ(Get(*store, "a"), "1");
  EXPECT_EQ(Get(*store, binary), binary);
  EXPECT_EQ(Get(*store, "gone"), "(absent)");
}

TEST_F(KvTest, PrefixesInOrderOverASnapshot) {
  std::unique_ptr<KeyValueStore> store = Open();
  ASSERT_NE(store, nullptr);
  for (const std::string_view key : {"b/2", "b/1", "a/9", "b", "c/1", "b/3"}) Put(*store, key, key);
  std::string seen;
  ASSERT_TRUE(store
                  ->ForEachWithPrefix("b/",
                                      [&](std::string_view key, std::string_view value) {
                                        EXPECT_EQ(key, value);
                                        StrAppend(&seen, key, " ");
                                        Put(*store, StrCat(key, "+"), "late");
                                        return true;
                                      })
                  .ok());
  EXPECT_EQ(seen, "b/1 b/2 b/3 ");
  EXPECT_EQ(Get(*store, "b/1+"), "late");
  int visits = 0;
  ASSERT_TRUE(
      store->ForEachWithPrefix("", [&](std::string_view, std::string_view) { return ++visits < 2; })
          .ok());
  EXPECT_EQ(visits, 2);
}

TEST_F(KvTest, SecondOpenIsRefused) {
  std::unique_ptr<KeyValueStore> store = Open();
  ASSERT_NE(store, nullptr);
  EXPECT_FALSE(KeyValueStore::Open(dir_ + "/kv").ok());
  Put(*store, "still", "works");
}

// The effect of a crash of the machine on writes that were not synced.
TEST_F(KvTest, LostTailOfTheLogLosesWholeBatchesOfTheEnd) {
  {
    std::unique_ptr<KeyValueStore> store = Open();
    ASSERT_NE(store, nullptr);
    Put(*store, "synced", "1");
    WriteBatch batch;
    batch.Put("tail/1", std::string(1000, 'x'));
    batch.Put("tail/2", "x");
    ASSERT_TRUE(store->Write(batch, false).ok());
  }
  const std::filesystem::path log = FileWith(".log");
  ASSERT_FALSE(log.empty());
  std::filesystem::resize_file(log, std::filesystem::file_size(log) - 3);
  std::unique_ptr<KeyValueStore> store = Open();
  ASSERT_NE(store, nullptr);
  EXPECT_EQ(Get(*store, "synced"), "1");
  EXPECT_EQ(Get(*store, "tail/1"), "(absent)") << "a batch is there in full or not at all";
  EXPECT_EQ(Get(*store, "tail/2"), "(absent)");
  Put(*store, "after", "1");
}

TEST_F(KvTest, BytesTurnedInTheLogAreRepairedAround) {
  {
    std::unique_ptr<KeyValueStore> store = Open();
    ASSERT_NE(store, nullptr);
    Put(*store, "first", "1");
    Put(*store, "second", std::string(100, 'x'));
  }
  const std::filesystem::path log = FileWith(".log");
  std::string bytes = *ReadFile(log, 1 << 20);
  bytes[bytes.size() - 10] ^= 1;
  ASSERT_TRUE(WriteFileDurably(log, bytes).ok());
  std::unique_ptr<KeyValueStore> store = Open();
  ASSERT_NE(store, nullptr);
  EXPECT_EQ(Get(*store, "first"), "1") << "what is whole stays";
  EXPECT_EQ(Get(*store, "second"), "(absent)") << "a wrong value is never given out";
  EXPECT_TRUE(store->lost_records());
  Put(*store, "after", "1");
}

TEST_F(KvTest, ADamagedRecordCountsAsAbsentUntilItIsWritten) {
  {
    std::unique_ptr<KeyValueStore> store = Open();
    ASSERT_NE(store, nullptr);
    for (const char* key : {"a/1", "a/2", "a/3"}) Put(*store, key, "value");
    EXPECT_FALSE(store->lost_records());
  }
  ASSERT_TRUE(DamageRecord(dir_ + "/kv", "a/2"));
  std::unique_ptr<KeyValueStore> store = Open();
  ASSERT_NE(store, nullptr);
  EXPECT_EQ(Get(*store, "a/2"), "(absent)");
  std::string seen;
  const auto add = [&](std::string_view key, std::string_view) {
    StrAppend(&seen, key, " ");
    return true;
  };
  ASSERT_TRUE(store->ForEachWithPrefix("a/", add).ok());
  EXPECT_EQ(seen, "a/1 a/3 ");
  EXPECT_EQ(store->KeysWithPrefix("a/")->size(), 3u);
  EXPECT_EQ(*store->DamagedKeys("a/"), std::vector<std::string>{"a/2"});
  std::vector<std::pair<std::string, uint64_t>> counters;
  store->AppendCounters(counters);
  EXPECT_EQ((std::map<std::string, uint64_t>(counters.begin(), counters.end())
                 .at("store_records_damaged")),
            1u);
  Put(*store, "a/2", "new");
  EXPECT_EQ(Get(*store, "a/2"), "new");
  EXPECT_TRUE(store->DamagedKeys("a/")->empty());
  store.reset();
  store = Open();
  EXPECT_EQ(Get(*store, "a/2"), "new");
  EXPECT_TRUE(store->lost_records()) << "for good: others may have gone with it";
}

// Tables are not read as a whole on opening: damage is detected when it is read.
TEST_F(KvTest, BytesTurnedInATableLoseWhatWasInThem) {
  {
    std::unique_ptr<KeyValueStore> store = Open();
    ASSERT_NE(store, nullptr);
    for (int i = 0; i < 100; ++i) Put(*store, StrCat("k/", i), std::string(500, 'x'));
  }
  Open().reset();  // moves the content of the log to a table
  const std::filesystem::path table = FileWith(".ldb");
  ASSERT_FALSE(table.empty());
  std::string bytes = *ReadFile(table, 1 << 20);
  bytes[100] ^= 1;
  ASSERT_TRUE(WriteFileDurably(table, bytes).ok());
  std::unique_ptr<KeyValueStore> store = Open();
  ASSERT_NE(store, nullptr);
  const size_t left = store->KeysWithPrefix("k/")->size();
  EXPECT_GT(left, 50u) << "the other blocks stay";
  EXPECT_LT(left, 100u);
  EXPECT_TRUE(store->lost_records());
  Put(*store, "k/0", "again");
  EXPECT_EQ(Get(*store, "k/0"), "again");
}

TEST_F(KvTest, RubbishInEveryFileIsANewDatabase) {
  {
    std::unique_ptr<KeyValueStore> store = Open();
    ASSERT_NE(store, nullptr);
    Put(*store, "a", "1");
  }
  for (const auto& entry : std::filesystem::directory_iterator(dir_ + "/kv")) {
    ASSERT_TRUE(WriteFileDurably(entry.path(), std::string(5000, '\x5a')).ok());
  }
  std::unique_ptr<KeyValueStore> store = Open();
  ASSERT_NE(store, nullptr);
  EXPECT_EQ(Get(*store, "a"), "(absent)");
  EXPECT_TRUE(store->lost_records());
  Put(*store, "a", "2");
  store.reset();
  EXPECT_EQ(Get(*Open(), "a"), "2");
}

// A file system that can be filled to the last block.
class KvFullTest : public KvTest {
 protected:
  void SetUp() override {
    if (geteuid() != 0) GTEST_SKIP() << "SKIPPED: a small file system needs root";
    ASSERT_EQ(mount("tmpfs", dir_.c_str(), "tmpfs", 0, "size=24m"), 0) << strerror(errno);
    mounted_ = true;
  }
  void TearDown() override {
    if (mounted_) umount2(dir_.c_str(), MNT_DETACH);
  }
  // Leaves no free space.
  void Fill() {
    const Fd fd = *OpenFile(dir_ + "/hog", O_WRONLY | O_CREAT | O_APPEND);
    const std::string block(4096, 'x');
    while (WriteFull(fd.get(), block).ok()) {
    }
  }
  void Free() { ASSERT_EQ(unlink((dir_ + "/hog").c_str()), 0); }
  static absl::Status TryPut(KeyValueStore& store, const std::string& key, size_t bytes) {
    WriteBatch batch;
    batch.Put(key, std::string(bytes, 'v'));
    return store.Write(batch, true);
  }
  static absl::Status Delete(KeyValueStore& store, const std::string& key) {
    WriteBatch batch;
    batch.Delete(key);
    return store.Write(batch, true);
  }

 private:
  bool mounted_ = false;
};

TEST_F(KvFullTest, OpensAndWritesWithTheReserve) {
  {
    std::unique_ptr<KeyValueStore> store = Open();
    ASSERT_NE(store, nullptr);
    Put(*store, "a", "1");
    EXPECT_TRUE(std::filesystem::exists(dir_ + "/kv/reserve"));
  }
  Fill();
  std::unique_ptr<KeyValueStore> store = Open();
  ASSERT_NE(store, nullptr);
  EXPECT_EQ(Get(*store, "a"), "1");
  EXPECT_TRUE(TryPut(*store, "b", 100).ok());
  EXPECT_FALSE(std::filesystem::exists(dir_ + "/kv/reserve"));
  Free();
  EXPECT_TRUE(store->Settle().ok());
  EXPECT_TRUE(std::filesystem::exists(dir_ + "/kv/reserve")) << "made again where there is room";
  store.reset();
  EXPECT_EQ(Get(*Open(), "b").size(), 100u);
}

TEST_F(KvFullTest, WithoutAReserveItIsReadFromMemory) {
  {
    std::unique_ptr<KeyValueStore> store = Open();
    ASSERT_NE(store, nullptr);
    Put(*store, "a", "1");
    Put(*store, "b", "1");
  }
  ASSERT_EQ(unlink((dir_ + "/kv/reserve").c_str()), 0);
  Fill();
  std::unique_ptr<KeyValueStore> store = Open();
  ASSERT_NE(store, nullptr);
  EXPECT_EQ(Get(*store, "a"), "1");
  const absl::Status refused = TryPut(*store, "c", 100);
  EXPECT_EQ(refused.code(), absl::StatusCode::kResourceExhausted) << refused;
  EXPECT_EQ(Get(*store, "c"), "(absent)") << "a change that was refused is none";
  EXPECT_TRUE(Delete(*store, "b").ok()) << "what makes room is not in the way of itself";
  EXPECT_EQ(Get(*store, "b"), "(absent)");
  EXPECT_FALSE(store->Settle().ok());
  Free();
  EXPECT_TRUE(TryPut(*store, "c", 100).ok()) << "the same process goes on when there is room";
  EXPECT_EQ(Get(*store, "b"), "(absent)");
  store.reset();
  store = Open();
  EXPECT_EQ(Get(*store, "a"), "1");
  EXPECT_EQ(Get(*store, "b"), "(absent)") << "what was kept in memory was written";
  EXPECT_EQ(Get(*store, "c").size(), 100u);
}

// Every acknowledged write survives a kill, whatever failed in between.
TEST_F(KvFullTest, NothingAcknowledgedIsLostWhenTheDiskFillsUnderIt) {
  std::map<std::string, size_t> acknowledged;
  {
    std::unique_ptr<KeyValueStore> store = Open();
    ASSERT_NE(store, nullptr);
    int refused = 0;
    for (int round = 0; round < 3; ++round) {
      Fill();
      for (int i = 0; i < 400; ++i) {
        const std::string key = StrCat("r", round, "/", i);
        const size_t bytes = 20'000 + static_cast<size_t>(i);
        const absl::Status status = TryPut(*store, key, bytes);
        if (status.ok()) {
          acknowledged[key] = bytes;
        } else {
          EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted) << status;
          ++refused;
        }
      }
      Free();
      EXPECT_TRUE(store->Settle().ok());
      ASSERT_TRUE(TryPut(*store, StrCat("between/", round), 10).ok());
      acknowledged[StrCat("between/", round)] = 10;
      for (int i = 0; i < 400; i += 2) {
        const std::string key = StrCat("r", round, "/", i);
        if (acknowledged.erase(key) == 0) continue;
        ASSERT_TRUE(Delete(*store, key).ok());
      }
    }
    EXPECT_GT(refused, 0);
    for (const auto& [key, bytes] : acknowledged) EXPECT_EQ(Get(*store, key).size(), bytes) << key;
  }
  std::unique_ptr<KeyValueStore> store = Open();
  ASSERT_NE(store, nullptr);
  EXPECT_FALSE(store->lost_records()) << "a full disk is no damage";
  for (const auto& [key, bytes] : acknowledged) EXPECT_EQ(Get(*store, key).size(), bytes) << key;
  EXPECT_EQ(store->KeysWithPrefix("")->size(), acknowledged.size());
}

TEST_F(KvFullTest, NoInodesAreAFullDiskToo) {
  Put(*Open(), "a", "1");
  ASSERT_EQ(mount(nullptr, dir_.c_str(), nullptr, MS_REMOUNT, "size=24m,nr_inodes=40"), 0);
  std::vector<std::string> files;
  while (true) {
    const std::string path = StrCat(dir_, "/inode-", files.size());
    if (!OpenFile(path, O_WRONLY | O_CREAT).ok()) break;
    files.push_back(path);
  }
  std::unique_ptr<KeyValueStore> store = Open();
  ASSERT_NE(store, nullptr);
  EXPECT_EQ(Get(*store, "a"), "1");
  EXPECT_TRUE(Delete(*store, "a").ok());
  for (const std::string& path : files) unlink(path.c_str());
  EXPECT_TRUE(store->Settle().ok());
  EXPECT_TRUE(TryPut(*store, "b", 10).ok());
  store.reset();
  store = Open();
  EXPECT_EQ(Get(*store, "a"), "(absent)");
  EXPECT_EQ(Get(*store, "b").size(), 10u);
}

TEST_F(KvFullTest, AReadOnlyFileSystemIsReadFromMemory) {
  Put(*Open(), "a", "1");
  ASSERT_EQ(mount(nullptr, dir_.c_str(), nullptr, MS_REMOUNT | MS_RDONLY, nullptr), 0);
  std::unique_ptr<KeyValueStore> store = Open();
  ASSERT_NE(store, nullptr);
  EXPECT_EQ(Get(*store, "a"), "1");
  EXPECT_FALSE(TryPut(*store, "b", 10).ok());
  ASSERT_EQ(mount(nullptr, dir_.c_str(), nullptr, MS_REMOUNT, "size=24m"), 0);
  EXPECT_TRUE(TryPut(*store, "b", 10).ok());
}

class KvCurrentTest : public KvTest, public ::testing::WithParamInterface<std::string> {};

TEST_P(KvCurrentTest, DamagedCurrentFileIsRepaired) {
  {
    std::unique_ptr<KeyValueStore> store = Open();
    ASSERT_NE(store, nullptr);
    Put(*store, "a", "1");
  }
  {
    // Once more, so that the first value is in a table and the second in the log.
    std::unique_ptr<KeyValueStore> store = Open();
    ASSERT_NE(store, nullptr);
    Put(*store, "b", "2");
  }
  const std::string current = dir_ + "/kv/CURRENT";
  ASSERT_TRUE(RemoveTree(current).ok());
  if (GetParam() != "(missing)") {
    ASSERT_TRUE(WriteFileDurably(current, GetParam()).ok());
  }
  std::unique_ptr<KeyValueStore> store = Open();
  ASSERT_NE(store, nullptr);
  EXPECT_EQ(Get(*store, "a"), "1");
  EXPECT_EQ(Get(*store, "b"), "2");
}

INSTANTIATE_TEST_SUITE_P(Kinds, KvCurrentTest,
                         ::testing::Values("", "rubbish", "MANIFEST-999999\n", "../x\n", "LOCK\n",
                                           ".\n", "LOCK/x\n", "MANIFEST-\n",
                                           std::string("MANIFEST-000002\0\n", 17),
                                           std::string(3000, '\xfe') + "\n", "(missing)"));

TEST_F(KvTest, FolderThatCannotBeIsAnError) {
  ASSERT_TRUE(WriteFileDurably(dir_ + "/kv", "a file").ok());
  const absl::Status status = KeyValueStore::Open(dir_ + "/kv").status();
  EXPECT_FALSE(status.ok());
  EXPECT_NE(ToStd(status.message()).find(dir_), std::string_view::npos) << status;
}

using KvDeathTest = KvTest;

TEST_F(KvDeathTest, NobodyAsksItWhereNothingMayBlock) {
  const std::unique_ptr<KeyValueStore> store = Open();
  ASSERT_NE(store, nullptr);
  Put(*store, "a", "1");
  WriteBatch batch;
  batch.Put("a", "2");
  const char* const reads = "reading the database, where this thread may not block";
  const char* const writes = "writing the database, where this thread may not block";
  const auto blocked = [](const std::function<void()>& call) {
    const NeverBlocks here("this thread");
    call();
  };
  EXPECT_DEATH(blocked([&] { (void)store->Write(batch, /*sync=*/true); }), writes);
  EXPECT_DEATH(blocked([&] { (void)store->Write(batch, /*sync=*/false); }), writes);
  EXPECT_DEATH(blocked([&] { (void)store->Get("a"); }), reads);
  EXPECT_DEATH(blocked([&] { (void)store->KeysWithPrefix("a"); }), reads);
  EXPECT_DEATH(blocked([&] { (void)store->DamagedKeys("a"); }), reads);
  EXPECT_DEATH(blocked([&] {
                 (void)store->ForEachWithPrefix(
                     "a", [](std::string_view, std::string_view) { return true; });
               }),
               reads);
  EXPECT_EQ(Get(*store, "a"), "1");
}

}  // namespace
}  // namespace imagefs
