// SPDX-License-Identifier: Apache-2.0
// The contract of MountTable with its callers (fs/mount_table.h), tested on the real one and on the
// fake used in tests of snap/ and cmd/.
#include <string>
#include <vector>

#include "tests/fakes/fs/fake_store.h"
#include "tests/fakes/fs/mount_fixture.h"

namespace imagefs {
namespace {

constexpr std::string_view kFake = "fake";

class MountTableContractTest : public MountTest,
                               public testing::WithParamInterface<std::string_view> {
 protected:
  MountTableContractTest() {
    if (GetParam() != kFake) mode_ = GetParam();
  }
  void SetUp() override {
    MountTest::SetUp();
    if (IsSkipped() || HasFatalFailure()) return;
    chain_ = Build(Sample());
    ASSERT_NE(chain_, nullptr);
    target_ = Target("mnt");
  }
  MountTable& table() { return GetParam() == kFake ? static_cast<MountTable&>(fake_) : *table_; }
  MountRequest RequestFor(const std::string& directory) const {
    MountRequest request;
    request.directory = directory;
    request.reference = "example.org/test:1";
    request.mode = mode_;
    request.options.flags.nosuid = true;
    request.options.deadline_seconds = 77;
    return request;
  }
  absl::StatusOr<MountRecord> MountAt(const std::string& directory) {
    absl::StatusOr<CheckedMount> checked = table().Check(RequestFor(directory));
    if (!checked.ok()) return checked.status();
    return table().Mount(chain_, manifest_, *checked);
  }
  std::vector<std::string> Listed() {
    std::vector<std::string> out;
    for (const MountState& mount : table().List()) {
      EXPECT_TRUE(mount.mounted()) << mount.not_mounted;
      out.push_back(mount.record.directory);
    }
    return out;
  }
  bool answers_itself() const { return mode_ == kFuseMode; }

  const Digest manifest_ = Sha256Of("manifest");
  ChainRef chain_;
  std::string target_;
  FakeMountTable fake_;
};

TEST_P(MountTableContractTest, WhatIsMountedIsListedUntilItIsUnmounted) {
  EXPECT_TRUE(table().List().empty());
  EXPECT_FALSE(table().InUse(chain_->chain_id));
  EXPECT_FALSE(table().NeedProcess());
  const auto record = MountAt(target_);
  ASSERT_TRUE(record.ok()) << record.status();
  EXPECT_EQ(record->directory, target_);
  EXPECT_EQ(record->reference, "example.org/test:1");
  EXPECT_EQ(record->manifest_digest, manifest_);
  EXPECT_EQ(record->chain_id, chain_->chain_id);
  EXPECT_EQ(record->mode, mode_);
  EXPECT_TRUE(record->options.flags.nosuid);
  EXPECT_EQ(record->options.deadline_seconds, 77);
  EXPECT_TRUE(record->covered.known());
  EXPECT_GT(record->created_unix, 0);
  EXPECT_EQ(Listed(), std::vector<std::string>{target_});
  EXPECT_EQ(table().List()[0].chain, chain_);
  EXPECT_EQ(table().List()[0].needs_daemon(), answers_itself());
  EXPECT_TRUE(table().InUse(chain_->chain_id));
  EXPECT_FALSE(table().InUse(manifest_));
  EXPECT_EQ(table().NeedProcess(), answers_itself());
  EXPECT_EQ(table().Unmount(target_, /*lazy=*/false), absl::OkStatus());
  EXPECT_TRUE(table().List().empty());
  EXPECT_FALSE(table().InUse(chain_->chain_id));
  EXPECT_FALSE(table().NeedProcess());
  EXPECT_TRUE(absl::IsNotFound(table().Unmount(target_, /*lazy=*/false)));
}

TEST_P(MountTableContractTest, ADirectoryHasOneMount) {
  const auto first = table().Check(RequestFor(target_)),
             second = table().Check(RequestFor(target_));
  ASSERT_TRUE(first.ok()) << first.status();
  ASSERT_TRUE(second.ok()) << second.status();
  ASSERT_TRUE(table().Mount(chain_, manifest_, *first).ok());
  EXPECT_TRUE(absl::IsAlreadyExists(table().Mount(chain_, manifest_, *second).status()));
  EXPECT_TRUE(absl::IsAlreadyExists(table().Check(RequestFor(target_)).status()));
  EXPECT_EQ(Listed(), std::vector<std::string>{target_});
  EXPECT_EQ(table().Unmount(target_, /*lazy=*/false), absl::OkStatus());
  EXPECT_TRUE(table().Check(RequestFor(target_)).ok());
}

TEST_P(MountTableContractTest, WhatCannotBeMountedOnIsRefused) {
  ASSERT_TRUE(WriteFileDurably(directory_ + "/file", "x").ok());
  EXPECT_TRUE(absl::IsNotFound(table().Check(RequestFor(target_ + "/absent")).status()));
  for (const std::string& directory :
       {directory_ + "/file", std::string("relative"), std::string(), directory_ + "/a\nb"}) {
    const absl::Status status = table().Check(RequestFor(directory)).status();
    EXPECT_TRUE(absl::IsInvalidArgument(status) || absl::IsFailedPrecondition(status))
        << directory << ": " << status;
  }
  ASSERT_EQ(symlink("mnt", (directory_ + "/link").c_str()), 0);
  const auto linked = table().Check(RequestFor(directory_ + "/link"));
  ASSERT_TRUE(linked.ok()) << linked.status();
  EXPECT_EQ(linked->request.directory, target_);
}

TEST_P(MountTableContractTest, ListsByTheNamesOfDirectories) {
  for (const char* name : {"c", "a", "b"}) ASSERT_TRUE(MountAt(Target(name)).ok());
  EXPECT_EQ(Listed(),
            (std::vector<std::string>{directory_ + "/a", directory_ + "/b", directory_ + "/c"}));
  table().UnmountAll();
  EXPECT_TRUE(table().List().empty());
  EXPECT_FALSE(table().InUse(chain_->chain_id));
}

TEST_P(MountTableContractTest, WhatIsMountedIsNotMountedAgain) {
  ASSERT_TRUE(MountAt(target_).ok());
  EXPECT_TRUE(absl::IsNotFound(table().MountAgain(target_, chain_).status()));
  EXPECT_TRUE(absl::IsNotFound(table().MountAgain(Target("never"), chain_).status()));
  table().SetNotMounted(target_, "a rumour");
  table().SetNotMounted(Target("never"), "a rumour");
  EXPECT_EQ(Listed(), std::vector<std::string>{target_});
}

TEST_P(MountTableContractTest, ASharedMountStaysUntilItsLastRelease) {
  EXPECT_FALSE(table().Readopt(chain_->chain_id, chain_).has_value());
  const auto first = table().MountShared(chain_), second = table().MountShared(chain_);
  ASSERT_TRUE(first.ok()) << first.status();
  ASSERT_TRUE(second.ok()) << second.status();
  EXPECT_EQ(first->lease, second->lease);
  EXPECT_EQ(first->path, second->path);
  EXPECT_FALSE(first->filling);
  EXPECT_EQ(table().NeedProcess(), first->needs_process());
  EXPECT_TRUE(table().List().empty()) << "it is nobody's mount";
  table().Release(first->lease);
  EXPECT_TRUE(table().InUse(chain_->chain_id));
  table().Release(second->lease);
  EXPECT_FALSE(table().InUse(chain_->chain_id));
  EXPECT_FALSE(table().NeedProcess());
  const auto anew = table().MountShared(chain_);
  ASSERT_TRUE(anew.ok()) << anew.status();
  EXPECT_TRUE(table().InUse(chain_->chain_id));
  table().Release(anew->lease);
}

INSTANTIATE_TEST_SUITE_P(Tables, MountTableContractTest,
                         testing::Values(kFake, kFuseMode, kKernelMode),
                         [](const auto& info) { return std::string(info.param); });

}  // namespace
}  // namespace imagefs
