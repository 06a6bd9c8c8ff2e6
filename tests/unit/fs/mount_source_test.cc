// SPDX-License-Identifier: Apache-2.0
// The source of a mount is the reference of its image, and the next daemon recognizes such mounts
// without taking those of others for its own.
#include <fcntl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include <optional>
#include <string>
#include <vector>

#include "base/text.h"
#include "fs/erofs_mount.h"
#include "fs/mount_syscalls.h"
#include "fs/mount_table.h"
#include "gtest/gtest.h"
#include "tests/fakes/fs/fake_fill.h"
#include "tests/fakes/fs/mount_fixture.h"
#include "tests/fakes/fs/test_chain.h"

namespace imagefs {
namespace {

TEST(SourceOfTest, IsTheReference) {
  for (const char* reference :
       {"docker.io/library/debian:12", "[::1]:5000/a@sha256:0123", "oci:/a b/x,y\\z:tag",
        "docker-archive:/images/one.tar", "oci:/..a/b..", "oci:/"}) {
    EXPECT_EQ(SourceOf(reference), std::string_view(reference) == "oci:/" ? "" : reference);
  }
  EXPECT_EQ(SourceOf(""), "");
  EXPECT_EQ(SourceOf("oci:/a/../b"), "") << "not the name of a link";
  EXPECT_EQ(SourceOf(std::string(255, 'a')).size(), 255u);
  EXPECT_EQ(SourceOf(std::string(256, 'a')), "") << "fsconfig(2) takes no more";
}

TEST(IsOursTest, AnotherSourceTakesACallerThatKnowsIt) {
  const auto mounts = ParseMountInfo(
      "37 36 0:53 / /a ro - fuse.imagefs docker.io/library/debian:12 ro\n"
      "38 36 0:54 / /b ro - erofs docker.io/library/debian:12 ro\n"
      "39 36 0:55 / /c rw - overlay docker.io/library/debian:12 rw\n"
      "40 36 0:56 / /d rw - ext4 docker.io/library/debian:12 rw\n"
      "41 36 0:57 / /e rw - overlay overlay rw\n");
  ASSERT_EQ(mounts.size(), 5u);
  std::vector<bool> alone, named, other;
  for (const MountInfo& mount : mounts) {
    alone.push_back(IsOurs(mount));
    named.push_back(IsOurs(mount, "docker.io/library/debian:12"));
    other.push_back(IsOurs(mount, "docker.io/library/debian:13"));
  }
  EXPECT_EQ(alone, (std::vector<bool>{true, false, false, false, false}));
  EXPECT_EQ(named, (std::vector<bool>{true, true, true, false, false}));
  EXPECT_EQ(other, alone);
}

class MountSourceTest : public BothModesTest {
 protected:
  static std::optional<MountInfo> At(const std::string& directory) {
    const auto mounts = ReadMountInfo();
    EXPECT_TRUE(mounts.ok());
    const MountInfo* mount = FindMountAt(*mounts, directory);
    return mount == nullptr ? std::nullopt : std::optional(*mount);
  }
  static std::string SourceAt(const std::string& directory) {
    const auto mount = At(directory);
    return mount.has_value() ? mount->source : "nothing is mounted";
  }
  absl::Status MountAs(const ChainRef& chain, const std::string& reference,
                       const std::string& target, bool writable = false) {
    MountRequest request;
    request.directory = target;
    request.reference = reference;
    request.options.writable = writable;
    request.mode = mode_;
    return Mount(chain, request);
  }
  MountRecord RecordOf(const std::string& target) {
    const std::vector<MountRecord> records = records_.List()->records;
    for (const MountRecord& record : records) {
      if (record.directory == target) return record;
    }
    ADD_FAILURE() << "no record of " << target;
    return {};
  }
};

INSTANTIATE_TEST_SUITE_P(Modes, MountSourceTest,
                         testing::Values(kFuseMode, kKernelMode, kLoopDevices),
                         [](const auto& info) { return std::string(info.param); });

TEST_P(MountSourceTest, EveryMountHasItsOwn) {
  TestChain changed = Sample();
  changed.File("new", "");
  const ChainRef chain = Build(Sample()), second = Build(changed, "second");
  const std::vector<std::string> references = {
      "docker.io/library/debian:12", "docker.io/library/debian@sha256:0123", "oci:/a b/x,y\\z:tag",
      // A link in one of them is a directory in the other.
      "oci:/a", "oci:/a/b"};
  for (size_t i = 0; i < references.size(); ++i) {
    ASSERT_EQ(MountAs(chain, references[i], Target(StrCat("ro", i))), absl::OkStatus());
    ASSERT_EQ(MountAs(chain, references[i], Target(StrCat("rw", i)), true), absl::OkStatus());
  }
  // Two images of one name: the tag has moved.
  ASSERT_EQ(MountAs(second, references[0], Target("moved")), absl::OkStatus());
  for (int round = 0; round < 2; ++round) {
    for (size_t i = 0; i < references.size(); ++i) {
      for (const char* kind : {"ro", "rw"}) {
        const std::string target = StrCat(directory_, "/", kind, i);
        EXPECT_EQ(SourceAt(target), references[i]) << kind << " in round " << round;
        EXPECT_EQ(*ReadFile(target + "/etc/os-release", 100), "NAME=test\n");
      }
    }
    EXPECT_EQ(SourceAt(directory_ + "/moved"), references[0]);
    KillDaemon();
    StartDaemon();
    const auto find = [&](const Digest& id) -> absl::StatusOr<ChainRef> {
      return id == chain->chain_id ? chain : second;
    };
    EXPECT_EQ(Recover(find).size(), 2 * references.size() + 1);
  }
  // One file system for each chain and reference.
  EXPECT_EQ(MountsBelow(options_.run_dir), references.size() + 1);
  const std::string more = Target("more");
  ASSERT_EQ(MountAs(chain, references[1], more), absl::OkStatus());
  EXPECT_EQ(StatPath(more)->st_dev, StatPath(directory_ + "/ro1")->st_dev);
}

TEST_P(MountSourceTest, AReferenceThatCannotBeOneIsMountedAsWell) {
  const ChainRef chain = Build(Sample());
  const std::string target = Target("mnt"), rw = Target("rw");
  ASSERT_EQ(MountAs(chain, "oci:/a/../b", target), absl::OkStatus());
  ASSERT_EQ(MountAs(chain, "oci:/" + std::string(300, 'a'), rw, true), absl::OkStatus());
  EXPECT_EQ(*ReadFile(target + "/etc/os-release", 100), "NAME=test\n");
  EXPECT_TRUE(IsOurs(*At(target))) << SourceAt(target);
  EXPECT_EQ(SourceAt(rw), kOwnSource);
}

// Mounts of earlier versions have such sources.
TEST_P(MountSourceTest, MountsOfEarlierVersionsAreTakenOver) {
  const ChainRef chain = Build(Sample());
  const std::string ro = Target("ro"), rw = Target("rw");
  for (const std::string& target : {ro, rw}) {
    ASSERT_EQ(MountAs(chain, "oci:/not/../named", target, target == rw), absl::OkStatus());
    MountRecord record = RecordOf(target);
    record.reference = kReference;
    ASSERT_TRUE(records_.Put(record).ok());
  }
  const uint64_t ro_id = MountIdAt(ro), rw_id = MountIdAt(rw);
  const std::string source = SourceAt(ro);
  KillDaemon();
  StartDaemon();
  ASSERT_EQ(Recover(Finder(chain)).size(), 2u);
  if (mode_ == kKernelMode) {
    EXPECT_EQ(MountIdAt(ro), ro_id);
    EXPECT_EQ(MountIdAt(rw), rw_id);
    EXPECT_EQ(SourceAt(ro), source);
    EXPECT_EQ(MountsBelow(options_.run_dir), 1u);
  } else {
    EXPECT_EQ(SourceAt(ro), kReference) << "its server died, so that it is mounted again";
    EXPECT_EQ(SourceAt(rw), kReference);
  }
  ASSERT_EQ(Mount(chain, Target("new")), absl::OkStatus());
  EXPECT_EQ(SourceAt(directory_ + "/new"), kReference);
  EXPECT_EQ(table_->Unmount(ro, false), absl::OkStatus());
  EXPECT_EQ(table_->Unmount(rw, false), absl::OkStatus());
}

// It has the same source and type, and is on the directory of a record.
TEST_P(MountSourceTest, AnotherProgramsMountIsLeftAlone) {
  if (mode_ != kKernelMode) GTEST_SKIP() << "FUSE mounts are known by their type";
  const ChainRef chain = Build(Sample());
  const std::string ro = Target("ro"), rw = Target("rw");
  ASSERT_EQ(Mount(chain, ro), absl::OkStatus());
  ASSERT_EQ(Mount(chain, rw, true), absl::OkStatus());
  // Keeps the file system, and so its device number.
  const auto opened = OpenFile(rw, O_RDONLY | O_DIRECTORY);
  ASSERT_TRUE(opened.ok());
  KillDaemon();
  ASSERT_EQ(umount2(ro.c_str(), 0), 0);
  ASSERT_EQ(umount2(rw.c_str(), MNT_DETACH), 0);
  ErofsSource theirs{chain->index_path, {}, "", directory_ + "/link", kReference};
  for (const LayerRef& layer : chain->layers) theirs.devices.push_back(layer->directory + "/data");
  auto erofs = MountErofs(theirs, files_ ? ErofsWay::kFiles : ErofsWay::kLoopDevices);
  ASSERT_TRUE(erofs.ok()) << erofs.status();
  ASSERT_TRUE(AttachMount(*erofs, *OpenFile(ro, O_PATH), ro).ok());
  erofs->Reset();
  const std::string options = StrCat("lowerdir=", Target("lower"), ",upperdir=", Target("d/upper"),
                                     ",workdir=", Target("d/work"));
  ASSERT_EQ(mount(kReference, rw.c_str(), "overlay", 0, options.c_str()), 0);
  ASSERT_EQ(SourceAt(ro), kReference);
  ASSERT_EQ(SourceAt(rw), kReference);
  const uint64_t ro_id = MountIdAt(ro), rw_id = MountIdAt(rw);
  StartDaemon();
  EXPECT_TRUE(Recover(Finder(chain)).empty());
  EXPECT_EQ(NotMounted(ro), "none") << "was unmounted by somebody";
  EXPECT_NE(NotMounted(rw), "") << "what was written is kept";
  EXPECT_TRUE(absl::IsNotFound(table_->Unmount(ro, true)));
  EXPECT_EQ(table_->Unmount(rw, true), absl::OkStatus()) << "forgets what was written";
  EXPECT_EQ(MountIdAt(ro), ro_id);
  EXPECT_EQ(MountIdAt(rw), rw_id);
  ASSERT_EQ(umount2(ro.c_str(), 0), 0);
  ASSERT_EQ(umount2(rw.c_str(), 0), 0);
}

TEST_P(MountSourceTest, AMountThatWasMovedIsUnmounted) {
  const ChainRef chain = Build(Sample());
  for (const bool writable : {false, true}) {
    const std::string target = Target(StrCat("above", writable, "/mnt"));
    ASSERT_EQ(Mount(chain, target, writable), absl::OkStatus());
    ASSERT_EQ(rename(ParentOf(target).c_str(), (ParentOf(target) + ".moved").c_str()), 0);
    EXPECT_EQ(table_->Unmount(target, false), absl::OkStatus());
  }
  EXPECT_EQ(MountsBelow(directory_), 0u);
}

TEST_P(MountSourceTest, AFillingMountIsTakenForTheReference) {
  const ChainRef chain = Build(Sample());
  const auto fill = FakeFill::Empty(chain->layers[1]);
  if (!files_) return;  // needs complete layers
  ASSERT_EQ(Mount(chain, Target("mnt")), absl::OkStatus());
  EXPECT_EQ(SourceAt(directory_ + "/mnt"), kReference);
  ASSERT_EQ(MountAs(chain, "docker.io/library/debian:12", Target("other")), absl::OkStatus());
  EXPECT_EQ(SourceAt(directory_ + "/other"), "docker.io/library/debian:12");
  EXPECT_EQ(*ReadFile(directory_ + "/other/etc/os-release", 100), "NAME=test\n");
}

}  // namespace
}  // namespace imagefs
