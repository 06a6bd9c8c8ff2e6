// SPDX-License-Identifier: Apache-2.0
// Directories that are replaced between one check and the next.
#include <errno.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "fs/mount_target.h"
#include "fs/overlay_upper.h"
#include "gtest/gtest.h"
#include "tests/fakes/fs/mount_fixture.h"

namespace imagefs {
namespace {

constexpr uid_t kUser = 1234;

class MountPathsTest : public BothModesTest {
 protected:
  void SetUp() override {
    BothModesTest::SetUp();
    if (IsSkipped()) return;
    chain_ = Build(Sample());
  }

  MountRequest Wanted(const std::string& target) {
    MountRequest request;
    request.directory = target;
    request.mode = mode_;
    return request;
  }
  MountRequest WantedWithUpper(const std::string& target, const std::string& upper) {
    MountRequest request = Wanted(target);
    request.options.writable = true;
    request.upper = upper;
    return request;
  }
  // Kills the daemon and removes its mounts, as a reboot does in kernel mode.
  void LoseMounts() {
    KillDaemon();
    auto mounts = ReadMountInfo();
    for (auto mount = mounts->rbegin(); mount != mounts->rend(); ++mount) {
      if (mount->mount_point.starts_with(directory_ + "/")) {
        umount2(mount->mount_point.c_str(), MNT_DETACH);
      }
    }
    if (mode_ != kKernelMode) return;
    const std::vector<MountRecord> records = records_.List()->records;
    for (MountRecord record : records) {
      record.boot_id = "another";
      ASSERT_TRUE(records_.Put(record).ok());
    }
  }
  static mode_t ModeOf(const std::string& path) { return StatPath(path)->st_mode & 07777; }
  void Rename(const std::string& from, const std::string& to) {
    ASSERT_EQ(rename((directory_ + from).c_str(), (directory_ + to).c_str()), 0);
  }

  ChainRef chain_;
};
INSTANTIATE_TEST_SUITE_P(Mode, MountPathsTest,
                         testing::Values(kFuseMode, kKernelMode, kLoopDevices));

TEST_P(MountPathsTest, TheRecordNamesTheDirectoryThatIsCovered) {
  const std::string target = Target("mnt");
  const struct stat below = *StatPath(target);
  ASSERT_EQ(Mount(chain_, target), absl::OkStatus());
  EXPECT_NE(StatPath(target)->st_ino, below.st_ino);
  EXPECT_EQ(records_.List()->records.front().covered, IdOf(below));
  LoseMounts();
  StartDaemon();
  EXPECT_EQ(Recover(Finder(chain_)), std::vector<std::string>{target});
  EXPECT_EQ(records_.List()->records.front().covered, IdOf(below));
}

TEST_P(MountPathsTest, AMountDoesNotComeBackThroughALink) {
  const std::string target = Target("home/apps/lib"), victim = Target("victim/lib");
  ASSERT_TRUE(WriteFileDurably(victim + "/precious", "x").ok());
  for (const bool old_record : {false, true}) {
    ASSERT_EQ(Mount(chain_, target), absl::OkStatus());
    LoseMounts();
    if (old_record) {
      MountRecord record = records_.List()->records.front();
      record.covered = {};
      ASSERT_TRUE(records_.Put(record).ok());
    }
    Rename("/home/apps", "/home/old");
    ASSERT_EQ(symlink((directory_ + "/victim").c_str(), (directory_ + "/home/apps").c_str()), 0);
    StartDaemon();
    EXPECT_TRUE(Recover(Finder(chain_)).empty());
    EXPECT_NE(NotMounted(target), "");
    EXPECT_FALSE(table_->MountAgain(target, chain_).ok());
    EXPECT_EQ(MountsBelow(directory_ + "/victim"), 0u);
    EXPECT_TRUE(StatPath(victim + "/precious").ok());
    ASSERT_EQ(unlink((directory_ + "/home/apps").c_str()), 0);
    Rename("/home/old", "/home/apps");
  }
}

TEST_P(MountPathsTest, AMountDoesNotComeBackOnAnotherDirectory) {
  const std::string target = Target("home/lib");
  ASSERT_EQ(Mount(chain_, target), absl::OkStatus());
  LoseMounts();
  Rename("/home/lib", "/home/old");
  Target("home/lib");
  StartDaemon();
  EXPECT_TRUE(Recover(Finder(chain_)).empty());
  EXPECT_EQ(MountsBelow(directory_ + "/home"), 0u);
  EXPECT_NE(NotMounted(target).find("another directory"), std::string::npos);
  // Once the right one is back, it is mounted.
  ASSERT_EQ(rmdir(target.c_str()), 0);
  Rename("/home/old", "/home/lib");
  EXPECT_EQ(table_->MountAgain(target, chain_).status(), absl::OkStatus());
  EXPECT_EQ(NotMounted(target), "");
  EXPECT_TRUE(absl::IsNotFound(table_->MountAgain(target, chain_).status()));
}

// The mounts died in place and their directories were swapped: neither is mounted again.
TEST_P(MountPathsTest, DirectoriesThatChangedPlacesUnderDeadMounts) {
  if (mode_ == kKernelMode) return;  // does not die
  const std::string one = Target("a/lib"), two = Target("b/lib");
  ASSERT_EQ(Mount(chain_, one), absl::OkStatus());
  ASSERT_EQ(Mount(chain_, two), absl::OkStatus());
  KillDaemon();
  Rename("/a", "/c");
  Rename("/b", "/a");
  Rename("/c", "/b");
  StartDaemon();
  EXPECT_TRUE(Recover(Finder(chain_)).empty());
  EXPECT_NE(NotMounted(one), "");
  EXPECT_NE(NotMounted(two), "");
  EXPECT_EQ(MountsBelow(directory_ + "/a") + MountsBelow(directory_ + "/b"), 2u) << "dead ones";
  Rename("/a", "/c");
  Rename("/b", "/a");
  Rename("/c", "/b");
  EXPECT_EQ(table_->MountAgain(one, chain_).status(), absl::OkStatus());
  EXPECT_EQ(table_->MountAgain(two, chain_).status(), absl::OkStatus());
  EXPECT_EQ(*ReadFile(one + "/etc/os-release", 100), "NAME=test\n");
}

TEST_P(MountPathsTest, ARecordOfAnOlderVersionComesBackAsItWas) {
  MountRequest wanted = Wanted(Target("mnt"));
  wanted.options.flags = {};
  ASSERT_EQ(Mount(chain_, wanted), absl::OkStatus());
  LoseMounts();
  MountRecord record = records_.List()->records.front();
  record.covered = {};
  ASSERT_TRUE(records_.Put(record).ok());
  StartDaemon();
  EXPECT_EQ(Recover(Finder(chain_)).size(), 1u);
  struct statvfs found;
  ASSERT_EQ(statvfs(wanted.directory.c_str(), &found), 0);
  EXPECT_EQ(found.f_flag & (ST_NOSUID | ST_NODEV), 0u);
  EXPECT_TRUE(records_.List()->records.front().covered.known()) << "from now on it is known";
}

// The path is resolved when the mount is requested; the bytes arrive later.
TEST_P(MountPathsTest, WhatWasCheckedIsWhatIsMounted) {
  Target("home/lib");
  Target("victim/lib");
  ASSERT_EQ(symlink("home", (directory_ + "/link").c_str()), 0);
  const absl::StatusOr<CheckedMount> mount = table_->Check(Wanted(directory_ + "/link/lib"));
  ASSERT_TRUE(mount.ok()) << mount.status();
  EXPECT_EQ(mount->request.directory, directory_ + "/home/lib");
  Rename("/home", "/old");
  ASSERT_EQ(symlink("victim", (directory_ + "/home").c_str()), 0);
  EXPECT_TRUE(absl::IsFailedPrecondition(table_->Mount(chain_, {}, *mount).status()));
  ASSERT_EQ(unlink((directory_ + "/home").c_str()), 0);
  Rename("/victim", "/home");
  EXPECT_TRUE(absl::IsFailedPrecondition(table_->Mount(chain_, {}, *mount).status()));
  EXPECT_EQ(MountsBelow(directory_), 0u);
  EXPECT_EQ(records_.size(), 0u);
}

TEST_P(MountPathsTest, PlacesThatAreNone) {
  for (const char* path :
       {"", "/proc", "/proc/self", "/proc/self/cwd", "/dev/fd/0", "/sys/kernel"}) {
    EXPECT_FALSE(table_->Check(Wanted(path)).ok()) << path;
    EXPECT_FALSE(table_->Unmount(path, false).ok()) << path;
    if (*path == '\0') continue;
    EXPECT_FALSE(table_->Check(WantedWithUpper(Target("rw"), path)).ok()) << path;
  }
  const absl::Status longer = table_->Unmount(std::string(100'000, '/'), false);
  EXPECT_LT(longer.message().size(), 300u);
  EXPECT_TRUE(table_->List().empty());
}

TEST_P(MountPathsTest, OnlyTheMountItselfIsUnmounted) {
  const std::string target = Target("home/lib");
  ASSERT_EQ(Mount(chain_, target), absl::OkStatus());
  ASSERT_EQ(mount("tmpfs", target.c_str(), "tmpfs", 0, nullptr), 0);
  EXPECT_TRUE(absl::IsFailedPrecondition(table_->Unmount(target, true)));
  ASSERT_TRUE(WriteFileDurably(target + "/here", "x").ok()) << "the other mount is still there";
  ASSERT_EQ(umount2(target.c_str(), 0), 0);
  // Renaming a parent moves the mount along, and something else gets its name.
  Rename("/home", "/old");
  const std::string other = Target("home/lib");
  ASSERT_EQ(mount("tmpfs", other.c_str(), "tmpfs", 0, nullptr), 0);
  EXPECT_EQ(table_->Unmount(target, false), absl::OkStatus());
  EXPECT_EQ(MountsBelow(directory_ + "/old"), 0u);
  EXPECT_EQ(umount2(other.c_str(), 0), 0) << "the other mount is still there";
  EXPECT_EQ(records_.size(), 0u);
}

TEST_P(MountPathsTest, AnUppersDirectoryIsLeftAsItIs) {
  const std::string target = Target("rw"), upper = Target("changes");
  ASSERT_EQ(chmod(upper.c_str(), 01755), 0);
  ASSERT_EQ(Mount(chain_, WantedWithUpper(target, upper)), absl::OkStatus());
  EXPECT_EQ(ModeOf(upper), 01755u);
  EXPECT_EQ(ModeOf(upper + "/work"), 0700u);
  EXPECT_EQ(ModeOf(upper + "/upper"), ModeOf(target));
  ASSERT_EQ(table_->Unmount(target, false), absl::OkStatus());
  // Missing directories are created, accessible only to root.
  ASSERT_EQ(Mount(chain_, WantedWithUpper(target, upper + "/new/one")), absl::OkStatus());
  EXPECT_EQ(ModeOf(upper + "/new"), 0700u);
  ASSERT_EQ(table_->Unmount(target, false), absl::OkStatus());
  EXPECT_TRUE(StatPath(upper + "/new/one/upper").ok());
}

TEST_P(MountPathsTest, AFailureTakesBackWhatItMadeAndNothingElse) {
  const std::string upper = Target("changes");
  ASSERT_TRUE(WriteFileDurably(upper + "/kept", "x").ok());
  records_.FailPuts(true);
  for (const char* below : {"", "/a/b"}) {
    EXPECT_FALSE(Mount(chain_, WantedWithUpper(Target("rw"), upper + below)).ok());
  }
  records_.FailPuts(false);
  EXPECT_EQ(Describe(upper).size(), 2u);
  EXPECT_TRUE(StatPath(upper + "/kept").ok());
}

TEST_P(MountPathsTest, LinksPlantedInAnUpperAreRefused) {
  const std::string secret = Target("secret");
  ASSERT_EQ(chmod(secret.c_str(), 0700), 0);
  ASSERT_TRUE(WriteFileDurably(secret + "/file", "x").ok());
  const auto before = Describe(secret);
  const std::string target = Target("rw");
  for (const char* name : {"upper", "work"}) {
    for (const std::string& to : {secret, secret + "/file", directory_ + "/absent"}) {
      const std::string upper = Target(StrCat("up-", name, RandomHex(4)));
      ASSERT_EQ(symlink(to.c_str(), StrCat(upper, "/", name).c_str()), 0);
      ASSERT_EQ(chown(upper.c_str(), kUser, kUser), 0);
      const absl::Status status = Mount(chain_, WantedWithUpper(target, upper));
      EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status;
      EXPECT_EQ(Describe(secret), before);
      EXPECT_EQ(Describe(upper).size(), 2u) << "nothing is left";
    }
  }
  // For the directory itself, a link that existed at the time of the request is followed, a later
  // one is not.
  Target("real");
  ASSERT_EQ(symlink("real", (directory_ + "/link").c_str()), 0);
  const absl::StatusOr<CheckedMount> checked =
      table_->Check(WantedWithUpper(target, directory_ + "/link/new"));
  ASSERT_TRUE(checked.ok()) << checked.status();
  EXPECT_EQ(checked->request.upper, directory_ + "/real/new");
  ASSERT_EQ(symlink(secret.c_str(), (directory_ + "/real/new").c_str()), 0);
  EXPECT_TRUE(absl::IsFailedPrecondition(table_->Mount(chain_, {}, *checked).status()));
  EXPECT_EQ(Describe(secret), before);
  EXPECT_EQ(MountsBelow(directory_), 0u);
}

TEST_P(MountPathsTest, DirectoriesOfSomebodyElseAreNoUpper) {
  const std::string target = Target("rw");
  for (const char* name : {"upper", "work"}) {
    const std::string upper = Target(StrCat("up-", name));
    const std::string part = Target(StrCat("up-", name, "/", name));
    ASSERT_EQ(chown(part.c_str(), kUser, kUser), 0);
    // Only root could have created it there.
    ASSERT_EQ(Mount(chain_, WantedWithUpper(target, upper)), absl::OkStatus());
    ASSERT_EQ(table_->Unmount(target, false), absl::OkStatus());
    for (const bool shared : {false, true}) {
      ASSERT_EQ(chown(upper.c_str(), shared ? 0 : kUser, 0), 0);
      ASSERT_EQ(chmod(upper.c_str(), shared ? 01777 : 0755), 0);
      const absl::Status status = Mount(chain_, WantedWithUpper(target, upper));
      EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status;
    }
  }
}

TEST_P(MountPathsTest, AWritableMountComesBackWithItsUpperOnly) {
  const std::string target = Target("rw"), upper = Target("home/up"), victim = Target("victim");
  ASSERT_TRUE(MakeDirs(victim + "/upper").ok());
  for (const char* part : {"/home/up", "/home/up/upper", "/home/up/work"}) {
    ASSERT_EQ(Mount(chain_, WantedWithUpper(target, upper)), absl::OkStatus());
    ASSERT_TRUE(WriteFileDurably(target + "/new", "x").ok());
    LoseMounts();
    Rename(part, "/home/away");
    for (const bool link : {true, false}) {
      if (link) {
        ASSERT_EQ(symlink(victim.c_str(), (directory_ + part).c_str()), 0);
      } else {
        ASSERT_EQ(unlink((directory_ + part).c_str()), 0);
        Target(std::string(part).substr(1));
      }
      const MountRecord record = records_.List()->records.front();
      StartDaemon();
      EXPECT_TRUE(Recover(Finder(chain_)).empty()) << part << link;
      EXPECT_EQ(Describe(victim).size(), 2u);
      KillDaemon();
      ASSERT_TRUE(records_.Put(record).ok());
    }
    ASSERT_TRUE(RemoveTree(directory_ + part).ok());
    Rename("/home/away", part);
    StartDaemon();
    ASSERT_EQ(Recover(Finder(chain_)).size(), 1u) << part;
    EXPECT_EQ(*ReadFile(target + "/new", 10), "x");
    ASSERT_EQ(table_->Unmount(target, false), absl::OkStatus());
  }
}

// The record of a copied store names the directories of the original.
TEST_P(MountPathsTest, ChangesOfAnotherStoreAreNotRemoved) {
  const std::string target = Target("rw"), other = Target("other/upper/0123");
  ASSERT_EQ(Mount(chain_, WantedWithUpper(target, other)), absl::OkStatus());
  ASSERT_TRUE(WriteFileDurably(target + "/new", "x").ok());
  LoseMounts();
  MountRecord record = records_.List()->records.front();
  record.keep_upper = false;
  ASSERT_TRUE(records_.Put(record).ok());
  StartDaemon();
  ASSERT_EQ(Recover(Finder(chain_)).size(), 1u);
  ASSERT_EQ(table_->Unmount(target, false), absl::OkStatus());
  EXPECT_EQ(*ReadFile(other + "/upper/new", 10), "x");
}

}  // namespace
}  // namespace imagefs
