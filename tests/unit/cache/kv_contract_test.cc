// SPDX-License-Identifier: Apache-2.0
// The contract of the database, on the disk and while it is kept in memory because the disk takes
// no writes (cache/kv.h): the same for both, except for changes that must be on the disk.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mount.h>
#include <unistd.h>

#include <map>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "base/fd.h"
#include "base/text.h"
#include "cache/kv.h"

namespace imagefs {
namespace {

enum class Kept { kOnDisk, kInMemory };

class KvContractTest : public ::testing::TestWithParam<Kept> {
 protected:
  using Model = std::map<std::string, std::string>;

  void SetUp() override {
    ASSERT_TRUE(MakeDirs(dir_).ok());
    if (in_memory()) {
      if (geteuid() != 0) GTEST_SKIP() << "SKIPPED: a small file system needs root";
      ASSERT_EQ(mount("tmpfs", dir_.c_str(), "tmpfs", 0, "size=24m"), 0);
      mounted_ = true;
    }
    Open();
    if (in_memory()) FillDisk();
  }
  void TearDown() override {
    store_.reset();
    if (mounted_) umount2(dir_.c_str(), MNT_DETACH);
    EXPECT_TRUE(RemoveTree(dir_).ok());
  }
  bool in_memory() const { return GetParam() == Kept::kInMemory; }
  void Open() {
    store_.reset();
    auto store = KeyValueStore::Open(dir_ + "/kv");
    ASSERT_TRUE(store.ok()) << store.status();
    store_ = *std::move(store);
  }
  void FillDisk() {
    store_.reset();
    ASSERT_EQ(unlink((dir_ + "/kv/reserve").c_str()), 0);
    {
      const Fd fd = *OpenFile(dir_ + "/hog", O_WRONLY | O_CREAT | O_APPEND);
      const std::string block(4096, 'x');
      while (WriteFull(fd.get(), block).ok()) {
      }
    }
    Open();
    WriteBatch batch;
    batch.Put("durable", "x");
    ASSERT_TRUE(absl::IsResourceExhausted(store_->Write(batch, /*sync=*/true)));
  }
  // The next process, when the disk takes writes again.
  void NextProcess() {
    if (in_memory()) {
      ASSERT_EQ(unlink((dir_ + "/hog").c_str()), 0);
      ASSERT_TRUE(store_->Settle().ok());
    }
    Open();
  }
  void Write(const WriteBatch& batch) {
    const absl::Status status = store_->Write(batch, /*sync=*/false);
    ASSERT_TRUE(status.ok()) << status;
  }
  void Put(std::string_view key, std::string_view value) {
    WriteBatch batch;
    batch.Put(key, value);
    Write(batch);
  }
  std::optional<std::string> Get(std::string_view key) {
    const auto value = store_->Get(key);
    EXPECT_TRUE(value.ok()) << value.status();
    return value.value_or(std::nullopt);
  }
  std::vector<std::string> Keys(std::string_view prefix) {
    std::vector<std::string> keys;
    EXPECT_TRUE(store_
                    ->ForEachWithPrefix(prefix,
                                        [&](std::string_view key, std::string_view) {
                                          keys.emplace_back(key);
                                          return true;
                                        })
                    .ok());
    EXPECT_EQ(store_->KeysWithPrefix(prefix), absl::StatusOr<std::vector<std::string>>(keys));
    return keys;
  }
  Model All() {
    Model all;
    EXPECT_TRUE(store_
                    ->ForEachWithPrefix("",
                                        [&](std::string_view key, std::string_view value) {
                                          all.emplace(key, value);
                                          return true;
                                        })
                    .ok());
    return all;
  }

  const std::string dir_ = StrCat(::testing::TempDir(), "/kv-contract-", RandomHex(8));
  bool mounted_ = false;
  std::unique_ptr<KeyValueStore> store_;
};

TEST_P(KvContractTest, AnyBytesAreKeysAndValues) {
  const std::string binary("\0k\xff", 3);
  for (const std::string& key : {std::string("k"), binary, std::string(1000, 'k')}) {
    EXPECT_EQ(Get(key), std::nullopt);
    for (const std::string& value : {std::string(), binary, std::string(100'000, 'v')}) {
      Put(key, value);
      EXPECT_EQ(Get(key), value);
    }
  }
}

TEST_P(KvContractTest, ABatchHappensInItsOrder) {
  WriteBatch none;
  EXPECT_TRUE(store_->Write(none, /*sync=*/true).ok());
  WriteBatch batch;
  batch.Put("a", "1");
  batch.Put("b", "1");
  batch.Delete("a");
  batch.Delete("never");
  batch.Put("b", "2");
  batch.Delete("c");
  batch.Put("c", "3");
  Write(batch);
  EXPECT_EQ(All(), (Model{{"b", "2"}, {"c", "3"}}));
}

TEST_P(KvContractTest, PrefixesAreOfBytes) {
  const std::string last("a\xff", 2), beyond("a\xff\xff", 3);
  for (const std::string& key : {std::string("b"), beyond, std::string("a/2"), last,
                                 std::string("a"), std::string("a/10")}) {
    Put(key, "v");
  }
  EXPECT_EQ(Keys("a"), (std::vector<std::string>{"a", "a/10", "a/2", last, beyond}));
  EXPECT_EQ(Keys("a/"), (std::vector<std::string>{"a/10", "a/2"}));
  EXPECT_EQ(Keys(last), (std::vector<std::string>{last, beyond}));
  EXPECT_EQ(Keys("aa"), std::vector<std::string>());
  EXPECT_EQ(store_->DamagedKeys(""),
            absl::StatusOr<std::vector<std::string>>(std::vector<std::string>()));
}

TEST_P(KvContractTest, WhoVisitsSeesASnapshotAndMayWrite) {
  for (const char* key : {"a", "b", "c"}) Put(key, "before");
  std::string seen;
  const absl::Status status =
      store_->ForEachWithPrefix("", [&](std::string_view key, std::string_view value) {
        StrAppend(&seen, key, "=", value, " ");
        WriteBatch batch;
        batch.Put("c", "after");
        batch.Put("d", "after");
        batch.Delete("b");
        EXPECT_TRUE(store_->Write(batch, /*sync=*/false).ok());
        EXPECT_EQ(Get("d"), "after");
        return key != "b";
      });
  EXPECT_TRUE(status.ok()) << status;
  EXPECT_EQ(seen, "a=before b=before ");
  EXPECT_EQ(All(), (Model{{"a", "before"}, {"c", "after"}, {"d", "after"}}));
}

TEST_P(KvContractTest, TheNextProcessHasWhatThisOneWrote) {
  std::minstd_rand random(7);
  Model model;
  for (int step = 0; step < 300; ++step) {
    WriteBatch batch;
    for (uint32_t change = random() % 4; change > 0; --change) {
      const std::string key = StrCat("k", random() % 40);
      if (random() % 3 == 0) {
        batch.Delete(key);
        model.erase(key);
      } else {
        model[key] = StrCat("v", step, std::string(random() % 200, 'x'));
        batch.Put(key, model[key]);
      }
    }
    Write(batch);
  }
  EXPECT_EQ(All(), model);
  NextProcess();
  EXPECT_EQ(All(), model);
  EXPECT_FALSE(store_->lost_records());
  WriteBatch batch;
  batch.Put("durable", "x");
  EXPECT_TRUE(store_->Write(batch, /*sync=*/true).ok());
}

INSTANTIATE_TEST_SUITE_P(Places, KvContractTest, testing::Values(Kept::kOnDisk, Kept::kInMemory),
                         [](const auto& info) {
                           return std::string(info.param == Kept::kOnDisk ? "Disk" : "Memory");
                         });

}  // namespace
}  // namespace imagefs
