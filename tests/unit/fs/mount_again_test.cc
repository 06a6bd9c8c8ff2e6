// SPDX-License-Identifier: Apache-2.0
// What happens to mounts whose daemon is gone.
#include <errno.h>
#include <fcntl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <thread>

#include "gtest/gtest.h"
#include "tests/fakes/fs/mount_fixture.h"

namespace imagefs {
namespace {

absl::StatusOr<ChainRef> Nothing(const Digest&) { return absl::NotFoundError("no such chain"); }

class MountAgainTest : public MountTest {
 protected:
  void SetUp() override {
    MountTest::SetUp();
    if (!IsSkipped()) chain_ = Build(Sample());
  }
  std::string UpperOf(const std::string& target) {
    for (const MountState& mount : table_->List()) {
      if (mount.record.directory == target) return mount.record.upper;
    }
    return "none";
  }
  absl::Status MountWritable(const std::string& target, const std::string& reference) {
    MountRequest request;
    request.directory = target;
    request.reference = reference;
    request.mode = mode_;
    request.options.writable = true;
    return Mount(chain_, request, Sha256Of("manifest"));
  }
  static bool Exists(const std::string& path) { return access(path.c_str(), F_OK) == 0; }

  ChainRef chain_;
};

// Reads and writes a directory continuously, and records anything that must not happen.
class Watcher {
 public:
  Watcher(std::string directory, bool writable)
      : directory_(std::move(directory)), writable_(writable), thread_([this] { Look(); }) {}
  ~Watcher() { Stop(); }
  void Stop() {
    stop_ = true;
    if (thread_.joinable()) thread_.join();
  }
  int bare() const { return bare_; }
  int good() const { return good_; }

 private:
  void Look() {
    const std::string file = directory_ + "/etc/os-release", other = directory_ + "/written";
    while (!stop_) {
      struct stat st;
      if (stat(file.c_str(), &st) == 0) {
        ++good_;
      } else if (errno != ENOTCONN && errno != ECONNABORTED && errno != EIO) {
        ++bare_;
      }
      const int fd = open(other.c_str(), O_CREAT | O_WRONLY | O_CLOEXEC, 0644);
      if (fd < 0) continue;
      close(fd);
      bare_ += writable_ ? 0 : 1;
    }
  }

  const std::string directory_;
  const bool writable_;
  std::atomic<bool> stop_{false};
  std::atomic<int> bare_{0}, good_{0};
  std::thread thread_;
};

TEST_F(MountAgainTest, TheDirectoryBelowIsNeverSeen) {
  for (const bool beneath : {true, false}) {
    for (const bool writable : {false, true}) {
      options_.beneath = beneath;
      KillDaemon();
      StartDaemon();
      const std::string target = Target(StrCat("mnt", beneath, writable));
      ASSERT_EQ(Mount(chain_, target, writable), absl::OkStatus());
      Watcher watcher(target, writable);
      for (int round = 0; round < 10; ++round) {
        KillDaemon();
        StartDaemon();
        ASSERT_EQ(Recover(Finder(chain_)), std::vector<std::string>{target});
        ASSERT_EQ(*ReadFile(target + "/etc/os-release", 100), "NAME=test\n");
        EXPECT_LE(MountsBelow(directory_), beneath ? 2u : 3u) << "dead ones do not pile up";
      }
      ASSERT_TRUE(Eventually([&] { return watcher.good() > 0; }));
      watcher.Stop();
      EXPECT_EQ(watcher.bare(), 0) << beneath << writable;
      ASSERT_EQ(table_->Unmount(target, false), absl::OkStatus());
      EXPECT_EQ(MountsBelow(directory_), 0u);
      EXPECT_EQ(rmdir(target.c_str()), 0) << "nothing was written there";
    }
  }
}

// Another file system is already mounted on the directory.
TEST_F(MountAgainTest, ADirectoryThatIsAMountPoint) {
  const std::string target = Target("mnt");
  ASSERT_EQ(mount("tmpfs", target.c_str(), "tmpfs", 0, nullptr), 0);
  ASSERT_EQ(Mount(chain_, target), absl::OkStatus());
  {
    Watcher watcher(target, false);
    for (int round = 0; round < 3; ++round) {
      KillDaemon();
      StartDaemon();
      ASSERT_EQ(Recover(Finder(chain_)), std::vector<std::string>{target});
    }
    ASSERT_TRUE(Eventually([&] { return watcher.good() > 0; }));
    watcher.Stop();
    EXPECT_EQ(watcher.bare(), 0);
  }
  KillDaemon();
  // Another one in its place is not the one that was covered.
  ASSERT_EQ(umount2(target.c_str(), MNT_DETACH), 0);
  ASSERT_EQ(umount2(target.c_str(), MNT_DETACH), 0);
  StartDaemon();
  EXPECT_TRUE(Recover(Finder(chain_)).empty());
  EXPECT_NE(NotMounted(target).find("another directory"), std::string::npos) << NotMounted(target);
  ASSERT_EQ(table_->Unmount(target, false), absl::OkStatus());
  EXPECT_EQ(MountsBelow(directory_), 0u);
}

TEST_F(MountAgainTest, WhatCannotComeBackStaysDeadUntilItCan) {
  const std::string target = Target("mnt");
  ASSERT_EQ(Mount(chain_, target), absl::OkStatus());
  KillDaemon();
  StartDaemon();
  EXPECT_TRUE(Recover(Nothing).empty());
  EXPECT_EQ(NotMounted(target), "no such chain");
  EXPECT_EQ(records_.size(), 1u);
  EXPECT_FALSE(Exists(target + "/absent"));
  EXPECT_EQ(errno, ENOTCONN);
  table_->SetNotMounted(target, "the network is away");
  EXPECT_EQ(NotMounted(target), "the network is away");
  EXPECT_FALSE(table_->NeedProcess());
  EXPECT_EQ(table_->MountAgain(target, chain_).status(), absl::OkStatus());
  EXPECT_EQ(NotMounted(target), "");
  EXPECT_TRUE(Exists(target + "/etc/os-release"));
  table_->SetNotMounted(target, "too late");
  EXPECT_EQ(NotMounted(target), "");
}

TEST_F(MountAgainTest, AbsentDirectoriesAreWaitedFor) {
  const std::string target = Target("disk/mnt");
  ASSERT_EQ(Mount(chain_, target, true), absl::OkStatus());
  ASSERT_TRUE(WriteFileDurably(target + "/new", "kept").ok());
  KillDaemon();
  ASSERT_EQ(umount2(target.c_str(), MNT_DETACH), 0);
  ASSERT_EQ(rename((directory_ + "/disk").c_str(), (directory_ + "/away").c_str()), 0);
  StartDaemon();
  EXPECT_TRUE(Recover(Finder(chain_)).empty());
  EXPECT_NE(NotMounted(target).find("does not exist"), std::string::npos);
  EXPECT_FALSE(table_->MountAgain(target, chain_).ok());
  ASSERT_EQ(rename((directory_ + "/away").c_str(), (directory_ + "/disk").c_str()), 0);
  EXPECT_EQ(table_->MountAgain(target, chain_).status(), absl::OkStatus());
  EXPECT_EQ(*ReadFile(target + "/new", 10), "kept");
}

// Its disk may not be mounted yet: nothing is created in its place.
TEST_F(MountAgainTest, AnAbsentUpperIsWaitedFor) {
  MountRequest request;
  request.directory = Target("rw");
  request.mode = mode_;
  request.options.writable = true;
  request.upper = Target("disk") + "/up";
  ASSERT_EQ(Mount(chain_, request), absl::OkStatus());
  ASSERT_TRUE(WriteFileDurably(request.directory + "/new", "kept").ok());
  KillDaemon();
  ASSERT_EQ(rename((directory_ + "/disk").c_str(), (directory_ + "/away").c_str()), 0);
  StartDaemon();
  EXPECT_TRUE(Recover(Finder(chain_)).empty());
  EXPECT_NE(NotMounted(request.directory).find("does not exist"), std::string::npos);
  EXPECT_FALSE(Exists(directory_ + "/disk"));
  ASSERT_EQ(rename((directory_ + "/away").c_str(), (directory_ + "/disk").c_str()), 0);
  EXPECT_EQ(table_->MountAgain(request.directory, chain_).status(), absl::OkStatus());
  EXPECT_EQ(*ReadFile(request.directory + "/new", 10), "kept");
}

TEST_F(MountAgainTest, WhatIsMountedAnewGoesOnWithWhatWasWritten) {
  const std::string target = Target("rw");
  ASSERT_EQ(MountWritable(target, "example.org/a:1"), absl::OkStatus());
  ASSERT_TRUE(WriteFileDurably(target + "/new", "kept").ok());
  const std::string upper = UpperOf(target);
  KillDaemon();
  StartDaemon();
  EXPECT_TRUE(Recover(Nothing).empty());
  EXPECT_EQ(UpperOf(target), upper) << "it is listed";
  EXPECT_TRUE(absl::IsFailedPrecondition(Mount(chain_, target)))
      << "it would hide what was written";
  EXPECT_TRUE(absl::IsFailedPrecondition(MountWritable(target, "example.org/b:1")));
  EXPECT_EQ(MountWritable(target, "example.org/a:1"), absl::OkStatus());
  EXPECT_EQ(UpperOf(target), upper);
  EXPECT_EQ(*ReadFile(target + "/new", 10), "kept");
  EXPECT_EQ(NotMounted(target), "");
  KillDaemon();
  StartDaemon();
  EXPECT_TRUE(Recover(Nothing).empty());
  EXPECT_EQ(table_->Unmount(target, false), absl::OkStatus()) << "gives it up";
  EXPECT_FALSE(Exists(upper));
  EXPECT_EQ(records_.size(), 0u);
  EXPECT_EQ(MountsBelow(directory_), 0u);
}

// All that is known about it is its location.
TEST_F(MountAgainTest, ADirectoryWhoseRecordIsDamagedIsMountedAnewOrForgotten) {
  const std::string target = Target("mnt");
  for (const bool anew : {true, false}) {
    ASSERT_EQ(Mount(chain_, target), absl::OkStatus());
    KillDaemon();
    records_.Damage(target);
    StartDaemon();
    EXPECT_TRUE(Recover(Finder(chain_)).empty());
    EXPECT_NE(NotMounted(target).find("damaged"), std::string::npos) << NotMounted(target);
    EXPECT_FALSE(Exists(target + "/absent"));
    EXPECT_EQ(errno, ENOTCONN) << "what died there is left there";
    if (anew) {
      EXPECT_EQ(Mount(chain_, target), absl::OkStatus());
      EXPECT_EQ(NotMounted(target), "");
      EXPECT_TRUE(Exists(target + "/etc/os-release"));
    }
    EXPECT_EQ(table_->Unmount(target, false), absl::OkStatus());
    EXPECT_EQ(records_.size(), 0u);
    EXPECT_EQ(MountsBelow(directory_), 0u);
  }
}

// With other layers below, the written data would belong to another tree.
TEST_F(MountAgainTest, WhatWasWrittenBelongsToOneImage) {
  const std::string target = Target("rw");
  ASSERT_EQ(MountWritable(target, "example.org/a:1"), absl::OkStatus());
  KillDaemon();
  StartDaemon();
  EXPECT_TRUE(Recover(Nothing).empty());
  TestChain tree;
  tree.File("other", "x");
  MountRequest request;
  request.directory = target;
  request.reference = "example.org/a:1";
  request.mode = mode_;
  request.options.writable = true;
  const absl::Status status = Mount(Build(tree, "other"), request, Sha256Of("another manifest"));
  EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status;
  EXPECT_NE(status.message().find(Sha256Of("manifest").ToString()), absl::string_view::npos);
}

class UnmountedElsewhereTest : public MountAgainTest, public testing::WithParamInterface<bool> {
 protected:
  // Whether no daemon is running during the unmount; FUSE mounts are then mounted again.
  bool unseen() const { return GetParam(); }
  UnmountedElsewhereTest() { mode_ = unseen() ? "kernel" : "fuse"; }
};
INSTANTIATE_TEST_SUITE_P(Seen, UnmountedElsewhereTest, testing::Bool());

TEST_P(UnmountedElsewhereTest, WhatWasWrittenIsListedUntilItIsGivenUp) {
  const std::string target = Target("rw");
  for (const bool anew : {false, true}) {
    ASSERT_EQ(Mount(chain_, target, true), absl::OkStatus());
    ASSERT_TRUE(WriteFileDurably(target + "/new", "written").ok());
    const std::string upper = UpperOf(target);
    if (unseen()) KillDaemon();
    ASSERT_EQ(umount2(target.c_str(), 0), 0);
    if (!unseen()) {
      ASSERT_TRUE(Eventually([&] { return NotMounted(target) != ""; }));
      KillDaemon();
    }
    StartDaemon();
    EXPECT_TRUE(Recover(Finder(chain_)).empty());
    EXPECT_NE(NotMounted(target).find("another program"), std::string::npos);
    EXPECT_EQ(UpperOf(target), upper);
    EXPECT_EQ(*ReadFile(upper + "/upper/new", 10), "written");
    EXPECT_TRUE(absl::IsNotFound(table_->MountAgain(target, chain_).status()));
    EXPECT_FALSE(table_->InUse(chain_->chain_id));
    if (anew) {
      EXPECT_EQ(Mount(chain_, target, true), absl::OkStatus());
      EXPECT_FALSE(Exists(target + "/new")) << "what was written went with the unmount";
    }
    EXPECT_EQ(table_->Unmount(target, false), absl::OkStatus());
    EXPECT_FALSE(Exists(upper));
    EXPECT_EQ(records_.size(), 0u);
  }
}

}  // namespace
}  // namespace imagefs
