#include "cache/kv.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <map>
#include <string>

#include "base/fd.h"
#include "base/text.h"

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

// What a crash of the machine does to writes that were not synced.
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
  const absl::StatusOr<std::optional<std::string>> damaged = store->Get("second");
  EXPECT_TRUE(!damaged.ok() || !damaged->has_value()) << "a wrong value is never given out";
  Put(*store, "after", "1");
}

class KvCurrentTest : public KvTest, public ::testing::WithParamInterface<const char*> {};

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
  if (std::string_view(GetParam()) != "(missing)") {
    ASSERT_TRUE(WriteFileDurably(current, GetParam()).ok());
  }
  std::unique_ptr<KeyValueStore> store = Open();
  ASSERT_NE(store, nullptr);
  EXPECT_EQ(Get(*store, "a"), "1");
  EXPECT_EQ(Get(*store, "b"), "2");
}

INSTANTIATE_TEST_SUITE_P(Kinds, KvCurrentTest,
                         ::testing::Values("", "rubbish", "MANIFEST-999999\n", "../x\n",
                                           "(missing)"));

TEST_F(KvTest, FolderThatCannotBeIsAnError) {
  ASSERT_TRUE(WriteFileDurably(dir_ + "/kv", "a file").ok());
  const absl::Status status = KeyValueStore::Open(dir_ + "/kv").status();
  EXPECT_FALSE(status.ok());
  EXPECT_NE(ToStd(status.message()).find(dir_), std::string_view::npos) << status;
}

}  // namespace
}  // namespace imagefs
