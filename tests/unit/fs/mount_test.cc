// SPDX-License-Identifier: Apache-2.0
// Real mounts, in the test's own mount namespace. Skipped if the process may not mount.
#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <set>
#include <string>
#include <thread>

#include "absl/synchronization/notification.h"
#include "base/text.h"
#include "fs/mount_syscalls.h"
#include "fs/mount_table.h"
#include "gtest/gtest.h"
#include "tests/fakes/fs/mount_fixture.h"
#include "tests/fakes/fs/test_chain.h"

namespace imagefs {
namespace {

INSTANTIATE_TEST_SUITE_P(Modes, BothModesTest,
                         testing::Values(kFuseMode, kKernelMode, kLoopDevices),
                         [](const auto& info) { return std::string(info.param); });

TEST_P(BothModesTest, TheKernelSeesTheTree) {
  const ChainRef chain = Build(Sample());
  const std::string target = Target("mnt");
  ASSERT_EQ(Mount(chain, target), absl::OkStatus());
  struct stat found;
  ASSERT_EQ(lstat((target + "/etc/os-release").c_str(), &found), 0);
  EXPECT_EQ(found.st_mode, mode_t{S_IFREG | 0644});
  EXPECT_EQ(found.st_uid, 1234u);
  EXPECT_EQ(found.st_gid, 70'000u);
  EXPECT_EQ(found.st_mtim.tv_sec, 1'600'000'000);
  EXPECT_EQ(found.st_mtim.tv_nsec, 123'456'789);
  EXPECT_EQ(*ReadFile(target + "/etc/link", 100), "NAME=test\n");
  EXPECT_EQ(*ReadFile(target + "/bin/tool2", 1 << 20), PatternBytes(300'000, 1));
  struct stat tool, tool2;
  ASSERT_EQ(stat((target + "/bin/tool").c_str(), &tool), 0);
  ASSERT_EQ(stat((target + "/bin/tool2").c_str(), &tool2), 0);
  EXPECT_EQ(tool.st_mode, mode_t{S_IFREG | 04755});
  EXPECT_EQ(tool.st_ino, tool2.st_ino);
  EXPECT_EQ(tool.st_nlink, 2u);
  ASSERT_EQ(stat((target + "/null").c_str(), &found), 0);
  EXPECT_EQ(found.st_rdev, makedev(1, 3));
  EXPECT_EQ(Describe(target).size(), 12u);
  EXPECT_EQ(open((target + "/etc/new").c_str(), O_CREAT | O_WRONLY, 0644), -1);
  EXPECT_EQ(errno, EROFS);
  const std::vector<MountState> listed = table_->List();
  ASSERT_EQ(listed.size(), 1u);
  EXPECT_EQ(listed[0].record.directory, target);
  EXPECT_EQ(listed[0].record.mode, mode_);
  EXPECT_EQ(listed[0].record.chain_id, chain->chain_id);
  EXPECT_GT(listed[0].record.created_unix, 1'000'000'000);
  EXPECT_EQ(records_.size(), 1u);
  EXPECT_TRUE(table_->InUse(chain->chain_id));
  ASSERT_TRUE(table_->Unmount(target, false).ok());
  EXPECT_FALSE(table_->InUse(chain->chain_id));
  EXPECT_EQ(records_.size(), 0u);
  EXPECT_EQ(MountsBelow(directory_), 0u);
  EXPECT_EQ(access((target + "/etc").c_str(), F_OK), -1);
}

TEST_P(BothModesTest, LargeFilesAndMaps) {
  TestChain tree(2);
  const std::string content = PatternBytes(9'000'001, 5);
  tree.File("big", content, 0644, 2);
  tree.Sparse("sparse", uint64_t{96} << 20, {{uint64_t{64} << 20, "middle", 1}});
  const std::string target = Target("mnt");
  ASSERT_TRUE(Mount(Build(tree), target).ok());
  EXPECT_TRUE(*ReadFile(target + "/big", 10 << 20) == content);
  auto file = OpenFile(target + "/sparse", O_RDONLY);
  ASSERT_TRUE(file.ok());
  char bytes[6];
  ASSERT_EQ(pread(file->get(), bytes, 6, off_t{64} << 20), 6);
  EXPECT_EQ(std::string(bytes, 6), "middle");
  auto big = OpenFile(target + "/big", O_RDONLY);
  void* map = mmap(nullptr, content.size(), PROT_READ, MAP_PRIVATE, big->get(), 0);
  ASSERT_NE(map, MAP_FAILED);
  EXPECT_EQ(memcmp(map, content.data(), content.size()), 0);
  munmap(map, content.size());
}

// In the second pass, the kernel's caches answer every stat, listing, link and read.
TEST_P(BothModesTest, AWarmTreeAsksNothing) {
  TestChain tree = Sample();
  for (int i = 0; i < 300; ++i) tree.File(StrCat("etc/file", i), PatternBytes(5000, i));
  const std::string target = Target("mnt");
  ASSERT_TRUE(Mount(Build(tree), target).ok());
  const auto absent = [&] { return access((target + "/usr/absent").c_str(), F_OK); };
  absent();
  const auto first = Describe(target);
  // Completes the listings of directories whose cache the first pass filled out of order.
  const auto second = Describe(target);
  const FuseCounters before = loop_->counters();
  EXPECT_EQ(Describe(target), first);
  EXPECT_EQ(second, first);
  EXPECT_EQ(absent(), -1);
  const FuseCounters after = loop_->counters();
  EXPECT_EQ(after.lookups, before.lookups);
  EXPECT_EQ(after.getattrs, before.getattrs);
  EXPECT_EQ(after.readdirs, before.readdirs);
  EXPECT_EQ(after.reads, before.reads);
  EXPECT_EQ(after.requests, before.requests);
  EXPECT_EQ(after.errors, 0u);
}

TEST_P(BothModesTest, Xattrs) {
  TestChain tree = Sample();
  const std::string capability(
      "\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"
      "\x00\x00\x00\x00",
      20);
  tree.Xattrs("usr/bin/tool", {{"security.capability", capability}, {"user.note", "hello"}});
  const std::string target = Target("mnt");
  ASSERT_TRUE(Mount(Build(tree), target).ok());
  const std::string path = target + "/usr/bin/tool";
  char value[64];
  ASSERT_EQ(getxattr(path.c_str(), "user.note", value, sizeof(value)), 5);
  EXPECT_EQ(std::string(value, 5), "hello");
  ASSERT_EQ(getxattr(path.c_str(), "security.capability", value, sizeof(value)), 20);
  EXPECT_EQ(std::string(value, 20), capability);
  EXPECT_EQ(getxattr(path.c_str(), "user.note", value, 2), -1);
  EXPECT_EQ(errno, ERANGE);
  EXPECT_EQ(getxattr((target + "/etc").c_str(), "user.note", value, sizeof(value)), -1);
  EXPECT_EQ(errno, ENODATA);
  EXPECT_EQ(listxattr(path.c_str(), nullptr, 0), 30);
}

TEST_P(BothModesTest, TwoHundredMountsOfOneChain) {
  const ChainRef chain = Build(Sample());
  for (int i = 0; i < 200; ++i) {
    ASSERT_EQ(Mount(chain, Target(StrCat("many/", i))), absl::OkStatus());
  }
  EXPECT_EQ(MountsBelow(options_.run_dir), 1u);
  for (int i = 0; i < 200; i += 17) {
    EXPECT_EQ(*ReadFile(StrCat(directory_, "/many/", i, "/etc/os-release"), 100), "NAME=test\n");
  }
  for (int i = 0; i < 199; ++i) {
    ASSERT_TRUE(table_->Unmount(StrCat(directory_, "/many/", i), false).ok());
  }
  EXPECT_EQ(*ReadFile(directory_ + "/many/199/etc/os-release", 100), "NAME=test\n");
  ASSERT_TRUE(table_->Unmount(directory_ + "/many/199", false).ok());
  EXPECT_EQ(MountsBelow(directory_), 0u);
  EXPECT_TRUE(Eventually([&] { return chain.use_count() == 1; }));
}

// However many callers request it concurrently, the chain's private mount is made once: all their
// mounts are of one file system and share one page cache.
TEST_P(BothModesTest, MountsOfOneMomentShareOneFileSystem) {
  constexpr int kMounts = 32;
  const ChainRef chain = Build(Sample());
  std::vector<std::string> targets;
  for (int i = 0; i < kMounts; ++i) targets.push_back(Target(StrCat("many/", i)));
  absl::Notification go;
  std::vector<std::thread> threads;
  threads.reserve(kMounts);
  for (const std::string& target : targets) {
    threads.emplace_back([&] {
      go.WaitForNotification();
      EXPECT_EQ(Mount(chain, target), absl::OkStatus());
    });
  }
  go.Notify();
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(MountsBelow(options_.run_dir), 1u);
  std::set<dev_t> file_systems;
  for (const std::string& target : targets) {
    struct stat found;
    ASSERT_EQ(stat(target.c_str(), &found), 0);
    file_systems.insert(found.st_dev);
  }
  EXPECT_EQ(file_systems.size(), 1u);
  table_->UnmountAll();
  EXPECT_EQ(MountsBelow(directory_), 0u) << "the last of them takes it along";
  EXPECT_TRUE(Eventually([&] { return !table_->InUse(chain->chain_id); }));
}

TEST_P(BothModesTest, PrivateMountsAreForTheDaemonOnly) {
  const mode_t before = umask(0777);
  TearDown();
  SetUp();
  const ChainRef chain = Build(Sample());
  const std::string target = directory_ + "/mnt";
  ASSERT_EQ(mkdir(target.c_str(), 0), 0);
  ASSERT_EQ(chmod(target.c_str(), 0755), 0);
  EXPECT_TRUE(Mount(chain, target).ok());
  EXPECT_TRUE(Mount(chain, Target("rw"), true).ok());
  umask(before);
  struct stat found;
  ASSERT_EQ(stat((options_.run_dir + "/chains").c_str(), &found), 0);
  EXPECT_EQ(found.st_mode & 07777, 0700u);
  ASSERT_EQ(stat((options_.root_dir + "/upper").c_str(), &found), 0);
  EXPECT_EQ(found.st_mode & 07777, 0700u);
  EXPECT_EQ(*ReadFile(target + "/etc/os-release", 100), "NAME=test\n");
}

TEST_P(BothModesTest, ABusyMountIsNamedAndLazyTakesItAway) {
  const ChainRef chain = Build(Sample());
  const std::string target = Target("mnt");
  ASSERT_EQ(Mount(chain, target), absl::OkStatus());
  auto file = OpenFile(target + "/usr/bin/tool", O_RDONLY);
  ASSERT_TRUE(file.ok());
  const absl::Status busy = table_->Unmount(target, false);
  EXPECT_EQ(busy.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_NE(busy.message().find(ToAbsl(target)), absl::string_view::npos) << busy;
  EXPECT_NE(busy.message().find("--lazy"), absl::string_view::npos) << busy;
  EXPECT_EQ(table_->List().size(), 1u);
  EXPECT_EQ(records_.size(), 1u);
  ASSERT_TRUE(table_->Unmount(target, true).ok());
  EXPECT_EQ(MountsBelow(directory_), 0u);
  // A process that has the file open can still read, and protects the chain from collection.
  std::string content(300'000, '\0');
  EXPECT_EQ(*PreadFull(file->get(), absl::MakeSpan(content), 0), content.size());
  EXPECT_EQ(content, PatternBytes(300'000, 1));
  // The kernel itself has the files open and needs nobody to keep them.
  EXPECT_EQ(table_->InUse(chain->chain_id), mode_ == kFuseMode);
  // When mounted again in the meantime, the chain gets a new private mount.
  ASSERT_EQ(Mount(chain, target), absl::OkStatus());
  EXPECT_EQ(*ReadFile(target + "/etc/os-release", 100), "NAME=test\n");
  ASSERT_TRUE(table_->Unmount(target, false).ok());
  EXPECT_EQ(table_->InUse(chain->chain_id), mode_ == kFuseMode);
  file->Reset();
  EXPECT_TRUE(Eventually([&] { return !table_->InUse(chain->chain_id); }));
  EXPECT_TRUE(Eventually([&] { return chain.use_count() == 1; }));
}

TEST_P(BothModesTest, WritableMountsHaveTheirOwnChanges) {
  TestChain tree = Sample();
  tree.inode("").mode = S_IFDIR | 0750;
  tree.inode("").uid = 42;
  tree.inode("").mtime_seconds = 1'500'000'000;
  const ChainRef chain = Build(tree);
  const std::string one = Target("one"), two = Target("two"), plain = Target("plain");
  ASSERT_EQ(Mount(chain, plain), absl::OkStatus());
  ASSERT_EQ(Mount(chain, one, true), absl::OkStatus());
  ASSERT_EQ(Mount(chain, two, true), absl::OkStatus());
  struct stat found;
  ASSERT_EQ(stat(one.c_str(), &found), 0);
  EXPECT_EQ(found.st_mode, mode_t{S_IFDIR | 0750});
  EXPECT_EQ(found.st_uid, 42u);
  EXPECT_EQ(found.st_mtim.tv_sec, 1'500'000'000);
  const auto before = Describe(plain);
  ASSERT_TRUE(WriteFileDurably(one + "/etc/os-release", "CHANGED\n").ok());
  ASSERT_EQ(unlink((one + "/usr/bin/tool2").c_str()), 0);
  ASSERT_EQ(mkdir((one + "/new").c_str(), 0755), 0);
  EXPECT_EQ(*ReadFile(one + "/etc/os-release", 100), "CHANGED\n");
  EXPECT_EQ(access((one + "/usr/bin/tool2").c_str(), F_OK), -1);
  EXPECT_EQ(*ReadFile(two + "/etc/os-release", 100), "NAME=test\n");
  EXPECT_EQ(access((two + "/new").c_str(), F_OK), -1);
  EXPECT_EQ(Describe(plain), before);
  const std::vector<MountState> listed = table_->List();
  const auto mounted = std::find_if(listed.begin(), listed.end(),
                                    [&](const MountState& m) { return m.record.directory == one; });
  ASSERT_NE(mounted, listed.end());
  const MountRecord* record = &mounted->record;
  EXPECT_TRUE(record->options.writable);
  EXPECT_TRUE(record->upper.starts_with(options_.root_dir + "/upper/"));
  EXPECT_EQ(access(record->upper.c_str(), F_OK), 0);
  ASSERT_TRUE(table_->Unmount(one, false).ok());
  EXPECT_EQ(access(record->upper.c_str(), F_OK), -1);
  ASSERT_TRUE(table_->Unmount(two, false).ok());
  EXPECT_EQ(Describe(plain), before);
}

TEST_P(BothModesTest, OddPathsNeedNoCare) {
  TearDown();
  SetUp();
  KillDaemon();
  options_ = {directory_ + "/r,u:n\\ 1\n2", directory_ + "/up,p:e\\r", true};
  StartDaemon();
  const ChainRef chain = Build(Sample());
  const std::string target = Target("m n,t:\\x");
  ASSERT_EQ(Mount(chain, target, true), absl::OkStatus());
  ASSERT_TRUE(WriteFileDurably(target + "/etc/os-release", "CHANGED\n").ok());
  EXPECT_EQ(*ReadFile(target + "/etc/os-release", 100), "CHANGED\n");
  EXPECT_EQ(MountsBelow(options_.run_dir), 1u);
  ASSERT_TRUE(table_->Unmount(target, false).ok());
}

TEST_F(MountTest, AKilledDaemonsMountsComeBack) {
  const ChainRef chain = Build(Sample());
  TestChain other_tree;
  other_tree.File("other", "x");
  const ChainRef other = Build(other_tree, "other");
  const std::string plain = Target("plain"), rw = Target("rw"), lost = Target("lost"),
                    removed = Target("removed");
  for (const std::string& target : {plain, removed})
    ASSERT_EQ(Mount(chain, target), absl::OkStatus());
  ASSERT_EQ(Mount(chain, rw, true), absl::OkStatus());
  ASSERT_TRUE(Mount(other, lost).ok());
  const auto before = Describe(plain);
  ASSERT_TRUE(WriteFileDurably(rw + "/etc/os-release", "CHANGED\n").ok());
  KillDaemon();
  EXPECT_EQ(chain.use_count(), 1);
  EXPECT_EQ(access((plain + "/usr/bin/absent").c_str(), F_OK), -1);
  EXPECT_EQ(errno, ENOTCONN);
  ASSERT_EQ(umount2(removed.c_str(), MNT_DETACH), 0);
  ASSERT_EQ(rmdir(removed.c_str()), 0);

  StartDaemon();
  EXPECT_TRUE(table_->List().empty());
  std::vector<std::string> recovered = Recover(Finder(chain));
  std::sort(recovered.begin(), recovered.end());
  EXPECT_EQ(recovered, (std::vector<std::string>{plain, rw}));
  EXPECT_EQ(records_.size(), 4u);
  EXPECT_EQ(NotMounted(plain), "");
  EXPECT_EQ(NotMounted(lost), "no such chain");
  EXPECT_NE(NotMounted(removed).find("does not exist"), std::string::npos);
  EXPECT_EQ(Describe(plain), before);
  EXPECT_EQ(*ReadFile(rw + "/etc/os-release", 100), "CHANGED\n");
  EXPECT_EQ(access((lost + "/other").c_str(), F_OK), -1);
  EXPECT_EQ(errno, ENOTCONN) << "nobody takes it for an empty directory";
  EXPECT_EQ(MountsBelow(options_.run_dir), 1u);
  EXPECT_TRUE(Recover(Finder(chain)).empty());
  for (const std::string& target : {lost, removed}) {
    EXPECT_EQ(table_->Unmount(target, false), absl::OkStatus());
  }
  EXPECT_EQ(access((lost + "/other").c_str(), F_OK), -1);
  EXPECT_EQ(errno, ENOENT);
  EXPECT_EQ(records_.size(), 2u);
}

TEST_F(MountTest, ADeadMountMayBeMountedOver) {
  const ChainRef chain = Build(Sample());
  const std::string target = Target("mnt");
  ASSERT_EQ(Mount(chain, target), absl::OkStatus());
  KillDaemon();
  ASSERT_TRUE(records_.Delete(target).ok());
  StartDaemon();
  const absl::Status status = Mount(chain, target);
  ASSERT_TRUE(status.ok()) << status;
  EXPECT_EQ(*ReadFile(target + "/etc/os-release", 100), "NAME=test\n");
  ASSERT_TRUE(table_->Unmount(target, false).ok());
  EXPECT_EQ(access((target + "/etc").c_str(), F_OK), -1);
  EXPECT_EQ(errno, ENOENT);
}

TEST_F(MountTest, UnmountAllForgetsEverything) {
  const ChainRef chain = Build(Sample());
  const std::string plain = Target("plain"), rw = Target("rw");
  ASSERT_EQ(Mount(chain, plain), absl::OkStatus());
  ASSERT_EQ(Mount(chain, rw, true), absl::OkStatus());
  table_->UnmountAll();
  EXPECT_EQ(records_.size(), 0u);
  EXPECT_TRUE(table_->List().empty());
  EXPECT_EQ(MountsBelow(directory_), 0u);
}

TEST_P(BothModesTest, PlainUmountIsNoticed) {
  const ChainRef chain = Build(Sample());
  const std::string one = Target("one"), two = Target("two");
  ASSERT_EQ(Mount(chain, one), absl::OkStatus());
  ASSERT_EQ(Mount(chain, two), absl::OkStatus());
  ASSERT_EQ(umount2(one.c_str(), 0), 0);
  EXPECT_TRUE(Eventually([&] { return table_->List().size() == 1; }));
  ASSERT_EQ(umount2(two.c_str(), 0), 0);
  EXPECT_TRUE(Eventually([&] { return !table_->InUse(chain->chain_id); }));
  EXPECT_TRUE(Eventually([&] { return records_.size() == 0; }));
  EXPECT_EQ(MountsBelow(directory_), 0u);
  EXPECT_TRUE(absl::IsNotFound(table_->Unmount(one, false)));
  // Unmount the private mount as well: the next mount must not be of its empty directory.
  ASSERT_EQ(Mount(chain, one), absl::OkStatus());
  ASSERT_EQ(umount2(PrivatePath(chain).c_str(), MNT_DETACH), 0);
  EXPECT_EQ(*ReadFile(one + "/etc/os-release", 100), "NAME=test\n");
  EXPECT_TRUE(Eventually([&] {
    const std::string fresh = Target(StrCat("fresh", RandomHex(4)));
    EXPECT_TRUE(Mount(chain, fresh).ok());
    return ReadFile(fresh + "/etc/os-release", 100).ok();
  }));
}

TEST_P(BothModesTest, MistakesAreNamed) {
  const ChainRef chain = Build(Sample());
  const auto expect = [](const absl::Status& status, absl::StatusCode code,
                         absl::string_view text) {
    EXPECT_EQ(status.code(), code) << status;
    EXPECT_NE(status.message().find(text), absl::string_view::npos) << status;
  };
  using Code = absl::StatusCode;
  expect(Mount(chain, directory_ + "/absent"), Code::kNotFound, "mkdir -p");
  ASSERT_TRUE(WriteFileDurably(directory_ + "/file", "x").ok());
  expect(Mount(chain, directory_ + "/file"), Code::kFailedPrecondition, "not a directory");
  expect(Mount(chain, "relative"), Code::kInvalidArgument, "absolute");
  expect(Mount(chain, directory_), Code::kInvalidArgument, "would hide");
  expect(Mount(chain, "/"), Code::kInvalidArgument, "would hide");
  expect(Mount(chain, options_.run_dir), Code::kInvalidArgument, "would hide");
  ASSERT_TRUE(MakeDirs(options_.root_dir + "/layers").ok());
  expect(Mount(chain, options_.root_dir + "/layers"), Code::kInvalidArgument, "lies in");
  expect(Mount(chain, ""), Code::kInvalidArgument, "empty");
  expect(Mount(chain, std::string("/a\0b", 4)), Code::kInvalidArgument, "control characters");
  expect(Mount(chain, Target("a\nb")), Code::kInvalidArgument, "control characters");
  expect(Mount(chain, "/\xff"), Code::kInvalidArgument, "UTF-8");
  for (const char* place : {"/proc", "/proc/sys/kernel", "/sys", "/sys/kernel"}) {
    expect(Mount(chain, place), Code::kFailedPrecondition,
           "proc, sysfs or another kernel file system");
  }
  expect(Mount(chain, "/proc/self"), Code::kFailedPrecondition, "link of proc");
  expect(Mount(chain, "/dev"), Code::kInvalidArgument, "/dev");
  const std::string target = Target("mnt");
  ASSERT_EQ(Mount(chain, target), absl::OkStatus());
  expect(Mount(chain, target), Code::kAlreadyExists, "imagefs umount");
  expect(Mount(chain, target + "//"), Code::kAlreadyExists, "imagefs umount");
  ASSERT_EQ(symlink("mnt", (directory_ + "/link").c_str()), 0);
  expect(Mount(chain, directory_ + "/link"), Code::kAlreadyExists, "imagefs umount");
  expect(table_->Unmount(directory_ + "/other", false), Code::kNotFound, "imagefs ls");
  records_.FailPuts(true);
  expect(Mount(chain, Target("unrecorded")), Code::kResourceExhausted, "disk full");
  records_.FailPuts(false);
  EXPECT_EQ(MountsBelow(directory_), 2u);
  EXPECT_EQ(records_.size(), 1u);
}

TEST_P(BothModesTest, SharedParentsDoNotSpreadThePrivateMounts) {
  KillDaemon();
  const std::string shared = Target("shared"), peer = Target("peer");
  ASSERT_EQ(mount("tmpfs", shared.c_str(), "tmpfs", 0, nullptr), 0);
  ASSERT_EQ(mount(nullptr, shared.c_str(), nullptr, MS_SHARED, nullptr), 0);
  ASSERT_EQ(mount(shared.c_str(), peer.c_str(), nullptr, MS_BIND, nullptr), 0);
  options_.run_dir = shared + "/run";
  for (int round = 0; round < 2; ++round) {
    StartDaemon();
    const ChainRef chain = Build(Sample());
    const std::string target = Target("shared/mnt");
    ASSERT_EQ(Mount(chain, target), absl::OkStatus());
    EXPECT_EQ(MountsBelow(peer + "/run/chains"), 0u);
    // A mount that the user requested is as visible as any other mount.
    EXPECT_EQ(*ReadFile(peer + "/mnt/etc/os-release", 100), "NAME=test\n");
    ASSERT_TRUE(table_->Unmount(target, false).ok());
    KillDaemon();
  }
  EXPECT_EQ(MountsBelow(shared), 0u);
  EXPECT_EQ(umount2(peer.c_str(), 0), 0);
  EXPECT_EQ(umount2(shared.c_str(), 0), 0);
}
TEST_F(MountTest, UsersMountThroughFusermount) {
  KillDaemon();
  options_.as_root = false;
  StartDaemon();
  const ChainRef chain = Build(Sample());
  const std::string one = Target("one"), two = Target("two");
  const absl::Status first = Mount(chain, one);
  ASSERT_TRUE(first.ok()) << first;
  ASSERT_EQ(Mount(chain, two), absl::OkStatus());
  EXPECT_EQ(*ReadFile(one + "/etc/os-release", 100), "NAME=test\n");
  EXPECT_EQ(Describe(one), Describe(two));
  EXPECT_TRUE(absl::IsFailedPrecondition(Mount(chain, Target("rw"), true)));
  auto file = OpenFile(one + "/etc/os-release", O_RDONLY);
  EXPECT_TRUE(absl::IsFailedPrecondition(table_->Unmount(one, false)));
  file->Reset();
  const absl::Status unmounted = table_->Unmount(one, false);
  EXPECT_TRUE(unmounted.ok()) << unmounted;
  KillDaemon();
  StartDaemon();
  EXPECT_EQ(Recover(Finder(chain)), std::vector<std::string>{two});
  EXPECT_EQ(*ReadFile(two + "/etc/os-release", 100), "NAME=test\n");
  EXPECT_TRUE(table_->Unmount(two, true).ok());
  EXPECT_EQ(MountsBelow(directory_), 0u);
  EXPECT_TRUE(Eventually([&] { return !table_->InUse(chain->chain_id); }));
}

TEST_P(BothModesTest, ManyThreadsMountAndUnmount) {
  const ChainRef chain = Build(Sample());
  TestChain other_tree;
  other_tree.Dir("etc");
  other_tree.File("etc/os-release", "NAME=test\n");
  const ChainRef other = Build(other_tree, "other");
  const std::string contended = Target("contended");
  std::vector<std::string> targets;
  for (int i = 0; i < 16; ++i) targets.push_back(Target(StrCat("own", i)));
  std::atomic<int> won{0};
  std::vector<std::thread> threads;
  for (int i = 0; i < 16; ++i) {
    threads.emplace_back([&, i] {
      for (int round = 0; round < 12; ++round) {
        EXPECT_TRUE(Mount(i % 2 ? chain : other, targets[i], i % 4 == 0).ok());
        EXPECT_EQ(*ReadFile(targets[i] + "/etc/os-release", 100), "NAME=test\n");
        const absl::Status status = Mount(chain, contended);
        EXPECT_TRUE(status.ok() || absl::IsAlreadyExists(status)) << status;
        if (status.ok()) {
          ++won;
          EXPECT_EQ(*ReadFile(contended + "/etc/os-release", 100), "NAME=test\n");
          EXPECT_TRUE(table_->Unmount(contended, true).ok());
        }
        EXPECT_TRUE(table_->Unmount(targets[i], false).ok());
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_GE(won, 1);
  EXPECT_TRUE(table_->List().empty());
  EXPECT_EQ(records_.size(), 0u);
  EXPECT_EQ(MountsBelow(directory_), 0u);
  EXPECT_TRUE(Eventually(
      [&] { return !table_->InUse(chain->chain_id) && !table_->InUse(other->chain_id); }));
}

TEST(MountInfoTest, ParsesWhatTheKernelWrites) {
  const auto mounts = ParseMountInfo(
      "36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 shared:7 - ext3 /dev/root rw\n"
      "37 36 0:53 / /a\\040b\\134c ro - fuse.imagefs imagefs ro,user_id=0\n"
      "38 36 0:53 / /mnt2 ro - overlay imagefs ro\n"
      "garbage\n"
      "39 36 x:y / /bad ro - t s o\n"
      "40 36 0:1 / /short ro -\n");
  ASSERT_EQ(mounts.size(), 3u);
  EXPECT_EQ(mounts[0].major, 98u);
  EXPECT_TRUE(mounts[0].shared);
  EXPECT_EQ(mounts[0].peer_group, 7u);
  EXPECT_FALSE(IsOurs(mounts[0]));
  EXPECT_EQ(mounts[1].mount_point, "/a b\\c");
  EXPECT_EQ(mounts[1].minor, 53u);
  EXPECT_FALSE(mounts[1].shared);
  EXPECT_TRUE(IsOurs(mounts[1]));
  EXPECT_TRUE(IsOurs(mounts[2]));
  EXPECT_EQ(mounts[1].parent, 36u);
  EXPECT_EQ(FindMountAt(mounts, "/mnt2"), &mounts[2]);
  EXPECT_EQ(StackAt(mounts, "/mnt2"), (std::vector<const MountInfo*>{&mounts[0], &mounts[2]}));
  EXPECT_TRUE(StackAt(mounts, "/none").empty());
  EXPECT_EQ(FindMountOf(mounts, "/mnt2/x/y"), &mounts[2]);
  EXPECT_EQ(FindMountOf(mounts, "/none"), nullptr);
}

// Newer kernels list mounts in order of creation.
TEST(MountInfoTest, TheTopIsTheOneOnWhichNoOtherLies) {
  const auto mounts = ParseMountInfo(
      "40 30 0:1 / / rw - ext4 /dev/root rw\n"
      "51 52 0:53 / /m ro - fuse.imagefs imagefs ro\n"
      "52 40 0:54 / /m ro - fuse.imagefs imagefs ro\n"
      "1 1 0:2 / /self rw - rootfs rootfs rw\n");
  ASSERT_EQ(mounts.size(), 4u);
  EXPECT_EQ(FindMountAt(mounts, "/m"), &mounts[1]);
  EXPECT_EQ(StackAt(mounts, "/m"), (std::vector<const MountInfo*>{&mounts[2], &mounts[1]}));
  EXPECT_LE(StackAt(mounts, "/self").size(), 1u);
}

}  // namespace
}  // namespace imagefs
