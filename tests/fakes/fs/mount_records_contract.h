// SPDX-License-Identifier: Apache-2.0
// The contract of MountRecords (fs/mount_record.h), as tests that every implementation must pass. A
// harness provides an empty one:
//
//   struct Harness {
//     MountRecords& records();  // reopened after each of these
//     void Damage(const std::string& directory);  // makes its record unreadable
//     bool FillDisk();          // accepts no more records; false if not possible
//   };
//   INSTANTIATE_TYPED_TEST_SUITE_P(Name, MountRecordsContractTest, Harness);
#pragma once

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "base/text.h"
#include "fs/mount_record.h"

namespace imagefs {

// No field has its default value.
inline MountRecord FullMountRecord(std::string directory) {
  MountRecord record;
  record.directory = std::move(directory);
  record.reference = "docker.io/library/alpine:3";
  record.manifest_digest = Sha256Of("manifest");
  record.chain_id = Sha256Of("chain");
  record.mode = std::string(kKernelMode);
  record.options.writable = true;
  record.options.flags = {true, true, true, "0:1:2"};
  record.options.context = "system_u:object_r:container_file_t:s0:c1,c2";
  record.options.deadline_seconds = 77;
  record.options.plain_http = true;
  record.options.skip_tls_verify = true;
  record.options.this_boot_only = true;
  record.covered = {64769, UINT64_MAX};
  record.upper = "/store/upper/\"x\"";
  record.upper_ids = {{1, 2}, {3, 4}, {5, 6}};
  record.keep_upper = true;
  record.created_unix = 1700000000;
  record.boot_id = "boot";
  record.mounts = {{1, 0, 53}, {uint64_t{1} << 40, 259, UINT32_MAX}};
  record.filling = true;
  record.unmounted = true;
  return record;
}

// All of its fields, for comparison.
inline std::string ShownMountRecord(const MountRecord& record) {
  const MountOptions& options = record.options;
  const auto id = [](const FileId& file) { return StrCat(file.device, ":", file.inode); };
  std::string out =
      StrCat(record.directory, "|", record.reference, "|", record.manifest_digest.ToString(), "|",
             record.chain_id.ToString(), "|", record.mode, "|", record.upper, "|", record.boot_id);
  StrAppend(&out, "|", options.writable, options.flags.nosuid, options.flags.nodev,
            options.flags.noexec, options.plain_http, options.skip_tls_verify,
            options.this_boot_only, record.keep_upper, record.filling, record.unmounted);
  StrAppend(&out, "|", options.flags.id_map, "|", options.context, "|", options.deadline_seconds,
            "|", record.created_unix, "|", id(record.covered), "|", id(record.upper_ids.directory));
  StrAppend(&out, "|", id(record.upper_ids.upper), "|", id(record.upper_ids.work));
  for (const MountKey& key : record.mounts) {
    StrAppend(&out, "|", key.id, ":", key.major, ":", key.minor);
  }
  return out;
}

template <typename Harness>
class MountRecordsContractTest : public ::testing::Test {
 protected:
  using Names = std::vector<std::string>;

  MountRecords::Stored List() {
    absl::StatusOr<MountRecords::Stored> list = harness_.records().List();
    EXPECT_TRUE(list.ok()) << list.status();
    return list.ok() ? *std::move(list) : MountRecords::Stored();
  }
  Names Directories() {
    Names out;
    for (const MountRecord& record : List().records) out.push_back(record.directory);
    return out;
  }
  absl::Status Put(const std::string& directory) {
    return harness_.records().Put(FullMountRecord(directory));
  }

  Harness harness_;
};
TYPED_TEST_SUITE_P(MountRecordsContractTest);

TYPED_TEST_P(MountRecordsContractTest, EveryFieldComesBack) {
  const MountRecord record = FullMountRecord("/mnt/with \"quotes\" and\nlines");
  ASSERT_TRUE(this->harness_.records().Put(record).ok());
  const MountRecords::Stored list = this->List();
  ASSERT_EQ(list.records.size(), 1U);
  EXPECT_EQ(ShownMountRecord(list.records[0]), ShownMountRecord(record));
}

TYPED_TEST_P(MountRecordsContractTest, OneForEachDirectoryInOrder) {
  using Names = std::vector<std::string>;
  EXPECT_TRUE(this->List().records.empty());
  for (const char* directory : {"/mnt/b", "/mnt/a/c", "/mnt/a", "/mnt/a-b", "/mnt/b"}) {
    ASSERT_TRUE(this->Put(directory).ok());
  }
  EXPECT_EQ(this->Directories(), (Names{"/mnt/a", "/mnt/a-b", "/mnt/a/c", "/mnt/b"}));
  MountRecord other = FullMountRecord("/mnt/a");
  other.options.deadline_seconds = 78;
  ASSERT_TRUE(this->harness_.records().Put(other).ok());
  EXPECT_EQ(ShownMountRecord(this->List().records.at(0)), ShownMountRecord(other));
}

TYPED_TEST_P(MountRecordsContractTest, DeletesOneAndWhatIsNotThere) {
  using Names = std::vector<std::string>;
  ASSERT_TRUE(this->Put("/mnt/a").ok());
  ASSERT_TRUE(this->Put("/mnt/a/b").ok());
  EXPECT_TRUE(this->harness_.records().Delete("/mnt/a").ok());
  EXPECT_TRUE(this->harness_.records().Delete("/mnt/a").ok());
  EXPECT_TRUE(this->harness_.records().Delete("/mnt/never").ok());
  EXPECT_EQ(this->Directories(), (Names{"/mnt/a/b"}));
}

TYPED_TEST_P(MountRecordsContractTest, DamagedOnesStillNameTheirDirectories) {
  using Names = std::vector<std::string>;
  for (const char* directory : {"/mnt/a", "/mnt/b", "/mnt/c"}) {
    ASSERT_TRUE(this->Put(directory).ok());
  }
  this->harness_.Damage("/mnt/a");
  this->harness_.Damage("/mnt/c");
  EXPECT_EQ(this->Directories(), (Names{"/mnt/b"}));
  EXPECT_EQ(this->List().damaged, (Names{"/mnt/a", "/mnt/c"}));
  // The next mount there replaces the record, which can then be deleted like any other.
  ASSERT_TRUE(this->Put("/mnt/a").ok());
  EXPECT_EQ(this->Directories(), (Names{"/mnt/a", "/mnt/b"}));
  EXPECT_EQ(this->List().damaged, (Names{"/mnt/c"}));
  ASSERT_TRUE(this->harness_.records().Delete("/mnt/c").ok());
  EXPECT_TRUE(this->List().damaged.empty());
}

TYPED_TEST_P(MountRecordsContractTest, AFullDiskRefusesNewOnesOnly) {
  using Names = std::vector<std::string>;
  for (const char* directory : {"/mnt/a", "/mnt/b", "/mnt/c"}) {
    ASSERT_TRUE(this->Put(directory).ok());
  }
  this->harness_.Damage("/mnt/c");
  if (!this->harness_.FillDisk()) GTEST_SKIP() << "SKIPPED: a small file system needs root";
  const absl::Status refused = this->Put("/mnt/new");
  EXPECT_TRUE(absl::IsResourceExhausted(refused)) << refused;
  const absl::Status as_new = this->Put("/mnt/c");
  EXPECT_TRUE(absl::IsResourceExhausted(as_new)) << as_new;
  MountRecord other = FullMountRecord("/mnt/a");
  other.options.deadline_seconds = 78;
  const absl::Status known = this->harness_.records().Put(other);
  EXPECT_TRUE(known.ok()) << known;
  EXPECT_TRUE(this->harness_.records().Delete("/mnt/b").ok());
  EXPECT_EQ(this->Directories(), (Names{"/mnt/a"}));
  EXPECT_EQ(ShownMountRecord(this->List().records.at(0)), ShownMountRecord(other));
}

REGISTER_TYPED_TEST_SUITE_P(MountRecordsContractTest, EveryFieldComesBack,
                            OneForEachDirectoryInOrder, DeletesOneAndWhatIsNotThere,
                            DamagedOnesStillNameTheirDirectories, AFullDiskRefusesNewOnesOnly);

}  // namespace imagefs
