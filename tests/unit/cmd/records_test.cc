// SPDX-License-Identifier: Apache-2.0
#include "cmd/records.h"

#include <fcntl.h>
#include <sys/mount.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/text.h"
#include "cache/kv.h"
#include "gtest/gtest.h"
#include "tests/fakes/cache/damage.h"
#include "tests/fakes/fs/mount_records_contract.h"

namespace imagefs {
namespace {

MountRecord Record(std::string directory) {
  MountRecord record;
  record.directory = std::move(directory);
  record.reference = "docker.io/library/alpine:3";
  record.manifest_digest = Sha256Of("manifest");
  record.chain_id = Sha256Of("chain");
  record.mode = "fuse";
  record.options.writable = true;
  record.upper = "/store/upper/x";
  record.created_unix = 1700000000;
  record.keep_upper = true;
  record.made_in = 4026531841;
  record.unique_id = (uint64_t{1} << 31) + 7;
  record.options.flags = {true, false, true, "0:1:2"};
  record.options.context = "a,b";
  record.options.shown_as = {1000, std::nullopt, 022, 0777};
  record.options.allow_other = true;
  record.boot_id = "boot";
  record.covered = {64769, UINT64_MAX};  // xino of overlayfs uses every bit
  record.upper_ids = {{1, 2}, {3, 4}, {5, 6}};
  record.options.this_boot_only = true;
  record.unmounted = true;
  record.mounts = {{1, 0, 53}, {uint64_t{1} << 40, 259, UINT32_MAX}};
  return record;
}

TEST(MountRecordTest, RoundTrip) {
  // A name need not be text that JSON can hold as it is.
  const MountRecord record = Record("/mnt/with \"quotes\" and\nlines");
  absl::StatusOr<MountRecord> read = DecodeMountRecord(EncodeMountRecord(record));
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(read->directory, record.directory);
  EXPECT_EQ(read->reference, record.reference);
  EXPECT_EQ(read->manifest_digest, record.manifest_digest);
  EXPECT_EQ(read->chain_id, record.chain_id);
  EXPECT_EQ(read->mode, record.mode);
  EXPECT_EQ(read->options.writable, record.options.writable);
  EXPECT_EQ(read->upper, record.upper);
  EXPECT_EQ(read->created_unix, record.created_unix);
  EXPECT_EQ(read->keep_upper, record.keep_upper);
  EXPECT_EQ(read->made_in, record.made_in);
  EXPECT_EQ(read->unique_id, record.unique_id);
  EXPECT_EQ(read->options.flags, record.options.flags);
  EXPECT_EQ(read->options.context, record.options.context);
  EXPECT_EQ(read->options.shown_as, record.options.shown_as);
  EXPECT_EQ(read->options.allow_other, record.options.allow_other);
  EXPECT_EQ(read->boot_id, record.boot_id);
  EXPECT_EQ(read->covered, record.covered);
  EXPECT_EQ(read->upper_ids, record.upper_ids);
  EXPECT_EQ(read->options.this_boot_only, record.options.this_boot_only);
  EXPECT_EQ(read->unmounted, record.unmounted);
  EXPECT_EQ(read->mounts, record.mounts);
}

// As version 0.1 wrote them, when nobody had to ask for setuid programs.
TEST(MountRecordTest, OlderRecordsMeanWhatTheyMeantThen) {
  const std::string digest = Sha256Of("x").ToString();
  const absl::StatusOr<MountRecord> read = DecodeMountRecord(
      StrCat(R"({"version":1,"directory":"/mnt","reference":"a","manifest":")", digest,
             R"(","chain_id":")", digest,
             R"(","mode":"kernel","writable":true,"upper":"/u","keep_upper":true,"nosuid":false,)",
             R"("nodev":true,"noexec":false,"id_map":"","context":"","created":1,"boot":"b"})"));
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_FALSE(read->options.flags.nosuid);
  EXPECT_TRUE(read->options.flags.nodev);
  EXPECT_FALSE(read->covered.known());
  EXPECT_FALSE(read->upper_ids.upper.known());
}

TEST(MountRecordTest, RefusesWhatIsNoRecord) {
  EXPECT_FALSE(DecodeMountRecord("").ok());
  EXPECT_FALSE(DecodeMountRecord("{}").ok());
  EXPECT_FALSE(DecodeMountRecord("[1]").ok());
  std::string other_version = EncodeMountRecord(Record("/mnt"));
  other_version.replace(other_version.find("\"version\":1"), 11, "\"version\":2");
  EXPECT_FALSE(DecodeMountRecord(other_version).ok());
  std::string relative = EncodeMountRecord(Record("/mnt"));
  relative.replace(relative.find("/mnt"), 4, "mnt/");
  EXPECT_FALSE(DecodeMountRecord(relative).ok());
  for (const char* bad : {"1", "1:0", "1:2:3", "x:1", "1:-1", ":", "18446744073709551616:1"}) {
    std::string id = EncodeMountRecord(Record("/mnt"));
    id.replace(id.find("\"1:2\"") + 1, 3, bad);
    EXPECT_FALSE(DecodeMountRecord(id).ok()) << bad;
  }
}

class StoredMountRecordsTest : public testing::Test {
 protected:
  void SetUp() override {
    dir_ = StrCat(testing::TempDir(), "/records-", RandomHex(6));
    ASSERT_TRUE(MakeDirs(dir_).ok());
    Open();
  }
  void TearDown() override {
    kv_.reset();
    (void)RemoveTree(dir_);
  }
  void Open() {
    kv_.reset();
    auto kv = KeyValueStore::Open(dir_ + "/db");
    ASSERT_TRUE(kv.ok()) << kv.status();
    kv_ = *std::move(kv);
  }
  std::vector<std::string> Directories() {
    StoredMountRecords records(*kv_);
    const absl::StatusOr<MountRecords::Stored> list = records.List();
    EXPECT_TRUE(list.ok());
    std::vector<std::string> directories;
    for (const MountRecord& record : list->records) directories.push_back(record.directory);
    return directories;
  }
  std::string dir_;
  std::unique_ptr<KeyValueStore> kv_;
};

TEST_F(StoredMountRecordsTest, OutliveTheDatabase) {
  {
    StoredMountRecords records(*kv_);
    ASSERT_TRUE(records.Put(Record("/mnt/b")).ok());
    ASSERT_TRUE(records.Put(Record("/mnt/a")).ok());
    ASSERT_TRUE(records.Put(Record("/mnt/a")).ok());
    ASSERT_TRUE(records.Put(Record("/mnt/c")).ok());
    ASSERT_TRUE(records.Delete("/mnt/c").ok());
    ASSERT_TRUE(records.Delete("/mnt/never").ok());
  }
  Open();
  EXPECT_EQ(Directories(), (std::vector<std::string>{"/mnt/a", "/mnt/b"}));
}

TEST_F(StoredMountRecordsTest, OneBadRecordDoesNotHideTheOthers) {
  StoredMountRecords records(*kv_);
  ASSERT_TRUE(records.Put(Record("/mnt/a")).ok());
  WriteBatch batch;
  batch.Put("mount//mnt/0", "garbage");
  batch.Put("mounted/other", "not ours");
  ASSERT_TRUE(kv_->Write(batch, true).ok());
  EXPECT_EQ(Directories(), (std::vector<std::string>{"/mnt/a"}));
}

TEST_F(StoredMountRecordsTest, ADamagedRecordStillNamesItsDirectory) {
  {
    StoredMountRecords records(*kv_);
    ASSERT_TRUE(records.Put(Record("/mnt/a")).ok());
    ASSERT_TRUE(records.Put(Record("/mnt/b")).ok());
  }
  kv_.reset();
  ASSERT_TRUE(DamageRecord(dir_ + "/db", "mount//mnt/a"));
  Open();
  StoredMountRecords records(*kv_);
  const absl::StatusOr<MountRecords::Stored> list = records.List();
  ASSERT_TRUE(list.ok()) << list.status();
  EXPECT_EQ(Directories(), (std::vector<std::string>{"/mnt/b"}));
  EXPECT_EQ(list->damaged, (std::vector<std::string>{"/mnt/a"}));
  // It goes as any other, and is replaced by the next mount there.
  ASSERT_TRUE(records.Put(Record("/mnt/a")).ok());
  EXPECT_TRUE(records.List()->damaged.empty());
  ASSERT_TRUE(records.Delete("/mnt/a").ok());
  EXPECT_EQ(Directories(), (std::vector<std::string>{"/mnt/b"}));
}

// On a file system that can be filled to the last block, where one can be had.
class StoredHarness {
 public:
  StoredHarness() : dir_(StrCat(::testing::TempDir(), "/records-", RandomHex(8))) {
    EXPECT_TRUE(MakeDirs(dir_).ok());
    mounted_ = mount("tmpfs", dir_.c_str(), "tmpfs", 0, "size=24m") == 0;
    Open();
  }
  ~StoredHarness() {
    kv_.reset();
    if (mounted_) umount2(dir_.c_str(), MNT_DETACH);
    EXPECT_TRUE(RemoveTree(dir_).ok());
  }
  MountRecords& records() { return *records_; }
  void Damage(const std::string& directory) {
    Close();
    EXPECT_TRUE(DamageRecord(dir_ + "/db", "mount/" + directory));
    Open();
  }
  bool FillDisk() {
    if (!mounted_) return false;
    Close();
    EXPECT_EQ(unlink((dir_ + "/db/reserve").c_str()), 0);
    const Fd fd = *OpenFile(dir_ + "/hog", O_WRONLY | O_CREAT | O_APPEND);
    const std::string block(4096, 'x');
    while (WriteFull(fd.get(), block).ok()) {
    }
    Open();
    return true;
  }

 private:
  void Open() {
    auto kv = KeyValueStore::Open(dir_ + "/db");
    ASSERT_TRUE(kv.ok()) << kv.status();
    kv_ = *std::move(kv);
    records_ = std::make_unique<StoredMountRecords>(*kv_);
  }
  void Close() {
    records_.reset();
    kv_.reset();
  }

  const std::string dir_;
  bool mounted_ = false;
  std::unique_ptr<KeyValueStore> kv_;
  std::unique_ptr<StoredMountRecords> records_;
};

INSTANTIATE_TYPED_TEST_SUITE_P(Stored, MountRecordsContractTest, StoredHarness);

}  // namespace
}  // namespace imagefs
