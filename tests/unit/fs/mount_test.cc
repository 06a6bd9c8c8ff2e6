// Real mounts, in a mount namespace of the test's own. Skipped where it may not mount.
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sched.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <filesystem>
#include <iostream>
#include <map>
#include <string>
#include <thread>
#include <utility>

#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "base/log.h"
#include "base/text.h"
#include "fs/mount_syscalls.h"
#include "fs/mount_table.h"
#include "gtest/gtest.h"
#include "tests/fakes/fs/fake_fill.h"
#include "tests/fakes/fs/test_chain.h"

namespace imagefs {
namespace {

// Once for the process, before any thread is started.
std::string EnterNamespace() {
  if (geteuid() != 0) return "not root";
  if (unshare(CLONE_NEWNS) < 0) return StrCat("unshare: ", strerror(errno));
  if (mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) < 0) {
    return StrCat("make-rprivate: ", strerror(errno));
  }
  if (access("/dev/fuse", R_OK | W_OK) < 0) return "no /dev/fuse";
  return "";
}

const std::string& WhyNot() {
  static const std::string why = EnterNamespace();
  return why;
}

class Environment : public ::testing::Environment {
 public:
  void SetUp() override { WhyNot(); }
};
[[maybe_unused]] const auto* const kEnvironment =
    ::testing::AddGlobalTestEnvironment(std::make_unique<Environment>().release());

class FakeRecords : public MountRecords {
 public:
  absl::Status Put(const MountRecord& record) override {
    absl::MutexLock lock(&mu_);
    if (fail_puts_) return absl::ResourceExhaustedError("disk full");
    records_[record.directory] = record;
    return absl::OkStatus();
  }
  absl::Status Delete(const std::string& directory) override {
    absl::MutexLock lock(&mu_);
    records_.erase(directory);
    return absl::OkStatus();
  }
  absl::StatusOr<std::vector<MountRecord>> List() override {
    absl::MutexLock lock(&mu_);
    std::vector<MountRecord> out;
    for (const auto& [directory, record] : records_) out.push_back(record);
    return out;
  }
  size_t size() const {
    absl::MutexLock lock(&mu_);
    return records_.size();
  }
  void FailPuts(bool fail) {
    absl::MutexLock lock(&mu_);
    fail_puts_ = fail;
  }

 private:
  mutable absl::Mutex mu_;
  bool fail_puts_ ABSL_GUARDED_BY(mu_) = false;
  std::map<std::string, MountRecord> records_ ABSL_GUARDED_BY(mu_);
};

// What a path is, in one line; of a directory, everything below.
void Describe(const std::string& path, std::string_view name,
              std::map<std::string, std::string>& out) {
  struct stat found;
  if (lstat(path.c_str(), &found) < 0) {
    out[std::string(name)] = StrCat("error ", errno);
    return;
  }
  std::string line = StrCat(found.st_mode, " ", found.st_uid, " ", found.st_gid, " ",
                            found.st_nlink, " ", found.st_size, " ", found.st_rdev, " ",
                            found.st_mtim.tv_sec, ".", found.st_mtim.tv_nsec, " ");
  if (S_ISREG(found.st_mode)) {
    auto content = ReadFile(path, uint64_t{1} << 30);
    line += content.ok() ? Sha256Of(*content).Short() : std::string(content.status().message());
  } else if (S_ISLNK(found.st_mode)) {
    char target[4096];
    const ssize_t size = readlink(path.c_str(), target, sizeof(target));
    line += size < 0 ? "unreadable" : std::string(target, size);
  } else if (S_ISDIR(found.st_mode)) {
    DIR* directory = opendir(path.c_str());
    if (directory == nullptr) {
      line += StrCat("opendir ", errno);
    } else {
      while (const dirent* entry = readdir(directory)) {
        const std::string_view child(entry->d_name);
        if (child == "." || child == "..") continue;
        Describe(StrCat(path, "/", child), StrCat(name, "/", child), out);
      }
      closedir(directory);
    }
  }
  out[std::string(name)] = line;
}

std::map<std::string, std::string> Describe(const std::string& path) {
  std::map<std::string, std::string> out;
  Describe(path, "", out);
  return out;
}

bool Eventually(const std::function<bool()>& condition) {
  const absl::Time deadline = absl::Now() + absl::Seconds(20);
  while (!condition()) {
    if (absl::Now() > deadline) return false;
    absl::SleepFor(absl::Milliseconds(1));
  }
  return true;
}

class MountTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!WhyNot().empty()) {
      std::cerr << "*** SKIPPED, cannot mount here: " << WhyNot() << "\n";
      GTEST_SKIP() << WhyNot();
    }
    SetLogLevel(LogLevel::kOff);
    std::string path = ::testing::TempDir() + "/mount_XXXXXX";
    ASSERT_NE(mkdtemp(path.data()), nullptr);
    char resolved[PATH_MAX];
    ASSERT_NE(realpath(path.c_str(), resolved), nullptr);
    directory_ = resolved;
    ASSERT_EQ(MountsBelow(directory_), 0u);
    options_ = {directory_ + "/run", directory_ + "/upper", true, true};
    StartDaemon();
  }

  void TearDown() override {
    if (directory_.empty()) return;
    if (table_ != nullptr) table_->UnmountAll(false);
    table_.reset();
    loop_.reset();
    EXPECT_EQ(MountsBelow(directory_), 0u) << "something was left behind";
    EXPECT_TRUE(RemoveTree(directory_).ok());
  }

  void StartDaemon() {
    auto loop = FuseLoop::Create({});
    ASSERT_TRUE(loop.ok()) << loop.status();
    loop_ = *std::move(loop);
    auto table = MountTable::Create(options_, *loop_, records_);
    ASSERT_TRUE(table.ok()) << table.status();
    table_ = *std::move(table);
  }
  // As kill -9 does: nothing is unmounted.
  void KillDaemon() {
    table_.reset();
    loop_.reset();
  }

  static size_t MountsBelow(const std::string& directory) {
    auto mounts = ReadMountInfo();
    EXPECT_TRUE(mounts.ok());
    return std::count_if(mounts->begin(), mounts->end(), [&](const MountInfo& mount) {
      return mount.mount_point.starts_with(directory + "/");
    });
  }

  ChainRef Build(const TestChain& tree, std::string_view name = "image") {
    return tree.Build(StrCat(directory_, "/", name));
  }
  // A small tree with one of each kind.
  static TestChain Sample() {
    TestChain tree(2);
    tree.Dir("etc", 0755);
    tree.Dir("usr", 0711);
    tree.Dir("usr/bin");
    tree.File("etc/os-release", "NAME=test\n");
    tree.File("usr/bin/tool", PatternBytes(300'000, 1), 04755, 2);
    tree.HardLink("usr/bin/tool2", "usr/bin/tool");
    tree.Symlink("bin", "usr/bin");
    tree.Symlink("etc/link", "../etc/os-release");
    tree.Node("null", S_IFCHR | 0666, 1, 3);
    tree.Node("pipe", S_IFIFO | 0600, 0, 0);
    tree.File("empty", "");
    for (const char* path : {"etc/os-release", "usr/bin/tool", "usr"}) {
      tree.inode(path).mtime_seconds = 1'600'000'000;
      tree.inode(path).mtime_nanoseconds = 123'456'789;
    }
    tree.inode("etc/os-release").uid = 1234;
    tree.inode("etc/os-release").gid = 70'000;
    return tree;
  }

  std::string Target(std::string_view name) {
    const std::string path = StrCat(directory_, "/", name);
    EXPECT_TRUE(MakeDirs(path).ok());
    return path;
  }
  absl::Status Mount(const ChainRef& chain, const std::string& target, bool writable = false) {
    if (chain == nullptr) return absl::InternalError("no chain");
    MountRecord record;
    record.directory = target;
    record.reference = "example.org/test:1";
    record.writable = writable;
    record.mode = mode_;
    return table_->Mount(chain, record).status();
  }
  MountTable::FindChain Finder(const ChainRef& chain) {
    return [chain](const Digest& id) -> absl::StatusOr<ChainRef> {
      if (id != chain->chain_id) return absl::NotFoundError("no such chain");
      return chain;
    };
  }

  std::string directory_;
  std::string mode_ = "fuse";
  MountTable::Options options_;
  FakeRecords records_;
  std::unique_ptr<FuseLoop> loop_;
  std::unique_ptr<MountTable> table_;
};

// What holds however a chain is shown.
class BothModesTest : public MountTest, public testing::WithParamInterface<std::string_view> {
 protected:
  BothModesTest() { mode_ = GetParam(); }
};
INSTANTIATE_TEST_SUITE_P(Modes, BothModesTest, testing::Values(kFuseMode, kKernelMode),
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
  const std::vector<MountRecord> listed = table_->List();
  ASSERT_EQ(listed.size(), 1u);
  EXPECT_EQ(listed[0].directory, target);
  EXPECT_EQ(listed[0].mode, mode_);
  EXPECT_EQ(listed[0].chain_id, chain->chain_id);
  EXPECT_GT(listed[0].created_unix, 1'000'000'000);
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

// Every stat, listing, link and read of the second pass comes from the kernel's caches.
TEST_P(BothModesTest, AWarmTreeAsksNothing) {
  TestChain tree = Sample();
  for (int i = 0; i < 300; ++i) tree.File(StrCat("etc/file", i), PatternBytes(5000, i));
  const std::string target = Target("mnt");
  ASSERT_TRUE(Mount(Build(tree), target).ok());
  const auto absent = [&] { return access((target + "/usr/absent").c_str(), F_OK); };
  absent();
  const auto first = Describe(target);
  // Leaves the listing of directories whose first pass filled the cache out of order.
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

TEST_P(BothModesTest, WhatWasPreparedStaysWhileItIsPinned) {
  const ChainRef chain = Build(Sample());
  MountRecord wanted;
  wanted.mode = mode_;
  auto pin = table_->Prepare(chain, wanted);
  ASSERT_TRUE(pin.ok()) << pin.status();
  EXPECT_EQ(MountsBelow(options_.run_dir), 1u);
  EXPECT_TRUE(table_->InUse(chain->chain_id));
  EXPECT_TRUE(table_->List().empty());
  ASSERT_EQ(Mount(chain, Target("mnt")), absl::OkStatus());
  EXPECT_EQ(MountsBelow(options_.run_dir), 1u) << "the prepared one is used";
  ASSERT_TRUE(table_->Unmount(directory_ + "/mnt", false).ok());
  EXPECT_EQ(MountsBelow(options_.run_dir), 1u) << "the pin keeps it";
  *pin = nullptr;
  EXPECT_EQ(MountsBelow(directory_), 0u);
  EXPECT_TRUE(Eventually([&] { return chain.use_count() == 1; }));
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
  ASSERT_EQ(stat(options_.upper_dir.c_str(), &found), 0);
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
  // Who has the file open reads on, and keeps the chain from the collector.
  std::string content(300'000, '\0');
  EXPECT_EQ(*PreadFull(file->get(), absl::MakeSpan(content), 0), content.size());
  EXPECT_EQ(content, PatternBytes(300'000, 1));
  // The kernel itself has the files open and needs nobody to keep them.
  EXPECT_EQ(table_->InUse(chain->chain_id), mode_ == kFuseMode);
  // Mounted again meanwhile, the chain has a new private mount.
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
  const std::vector<MountRecord> listed = table_->List();
  const auto record = std::find_if(listed.begin(), listed.end(),
                                   [&](const MountRecord& r) { return r.directory == one; });
  ASSERT_NE(record, listed.end());
  EXPECT_TRUE(record->writable);
  EXPECT_TRUE(record->upper.starts_with(options_.upper_dir + "/"));
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
  std::vector<std::string> recovered = table_->Recover(Finder(chain));
  std::sort(recovered.begin(), recovered.end());
  EXPECT_EQ(recovered, (std::vector<std::string>{plain, rw}));
  EXPECT_EQ(records_.size(), 2u);
  EXPECT_EQ(Describe(plain), before);
  EXPECT_EQ(*ReadFile(rw + "/etc/os-release", 100), "CHANGED\n");
  EXPECT_EQ(access((lost + "/other").c_str(), F_OK), -1);
  EXPECT_EQ(errno, ENOENT);  // unmounted, not dead
  EXPECT_EQ(MountsBelow(options_.run_dir), 1u);
  EXPECT_TRUE(table_->Recover(Finder(chain)).empty());
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

TEST_F(MountTest, UnmountAllCanKeepTheRecords) {
  const ChainRef chain = Build(Sample());
  const std::string plain = Target("plain"), rw = Target("rw");
  ASSERT_EQ(Mount(chain, plain), absl::OkStatus());
  ASSERT_EQ(Mount(chain, rw, true), absl::OkStatus());
  ASSERT_TRUE(WriteFileDurably(rw + "/new", "kept").ok());
  table_->UnmountAll(true);
  EXPECT_EQ(MountsBelow(directory_), 0u);
  EXPECT_TRUE(table_->List().empty());
  EXPECT_EQ(records_.size(), 2u);
  EXPECT_EQ(table_->Recover(Finder(chain)).size(), 2u);
  EXPECT_EQ(*ReadFile(rw + "/new", 100), "kept");
  table_->UnmountAll(false);
  EXPECT_EQ(records_.size(), 0u);
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
  // The private mount as well: what is mounted next must not be its empty directory.
  ASSERT_EQ(Mount(chain, one), absl::OkStatus());
  ASSERT_EQ(umount2(StrCat(options_.run_dir, "/chains/", chain->chain_id.hex(), ".", mode_).c_str(),
                    MNT_DETACH),
            0);
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
    // What the user asked for is as visible as any other mount.
    EXPECT_EQ(*ReadFile(peer + "/mnt/etc/os-release", 100), "NAME=test\n");
    ASSERT_TRUE(table_->Unmount(target, false).ok());
    KillDaemon();
  }
  EXPECT_EQ(MountsBelow(shared), 0u);
  EXPECT_EQ(umount2(peer.c_str(), 0), 0);
  EXPECT_EQ(umount2(shared.c_str(), 0), 0);
}

class KernelMountTest : public MountTest {
 protected:
  KernelMountTest() { mode_ = "kernel"; }
  static std::string TypeAt(const std::string& directory) {
    auto mounts = ReadMountInfo();
    EXPECT_TRUE(mounts.ok());
    const MountInfo* mount = FindMountAt(*mounts, directory);
    return mount == nullptr ? "" : mount->fs_type;
  }
};

TEST_F(KernelMountTest, AutoIsTheKernelWhereItCanAndFuseWhereItCannot) {
  const ChainRef chain = Build(Sample());
  mode_ = "auto";
  ASSERT_EQ(Mount(chain, Target("kernel")), absl::OkStatus());
  EXPECT_EQ(TypeAt(directory_ + "/kernel"), "erofs");
  EXPECT_EQ(table_->List()[0].mode, "kernel");
  EXPECT_FALSE(table_->NeedProcess());
  mode_ = "fuse";
  ASSERT_EQ(Mount(chain, Target("fuse")), absl::OkStatus());
  EXPECT_EQ(TypeAt(directory_ + "/fuse"), "fuse.imagefs");
  EXPECT_TRUE(table_->NeedProcess());
  table_->UnmountAll(false);
  KillDaemon();
  options_.kernel = false;
  StartDaemon();
  mode_ = "auto";
  ASSERT_EQ(Mount(chain, Target("auto")), absl::OkStatus());
  EXPECT_EQ(TypeAt(directory_ + "/auto"), "fuse.imagefs");
  mode_ = "kernel";
  const absl::Status status = Mount(chain, Target("refused"));
  EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status;
  EXPECT_NE(status.message().find("--mode fuse"), absl::string_view::npos) << status;
  mode_ = "magic";
  EXPECT_TRUE(absl::IsInvalidArgument(Mount(chain, Target("refused"))));
}

TEST_F(KernelMountTest, MountsOutliveTheDaemonAndAreFoundAgain) {
  const ChainRef chain = Build(Sample());
  const std::string plain = Target("plain"), rw = Target("rw");
  ASSERT_EQ(Mount(chain, plain), absl::OkStatus());
  ASSERT_EQ(Mount(chain, rw, true), absl::OkStatus());
  ASSERT_TRUE(WriteFileDurably(rw + "/new", "kept").ok());
  auto opened = OpenFile(plain + "/usr/bin/tool", O_RDONLY);
  ASSERT_TRUE(opened.ok());
  for (const bool killed : {true, false}) {
    if (!killed) table_->UnmountAll(true);
    KillDaemon();
    // Nobody is there, and everything is.
    EXPECT_EQ(*ReadFile(plain + "/etc/os-release", 100), "NAME=test\n");
    EXPECT_EQ(*ReadFile(rw + "/new", 100), "kept");
    char byte;
    EXPECT_EQ(pread(opened->get(), &byte, 1, 250'000), 1);
    StartDaemon();
    EXPECT_EQ(table_->Recover(Finder(chain)).size(), 2u);
    EXPECT_EQ(table_->List().size(), 2u);
    EXPECT_TRUE(table_->InUse(chain->chain_id));
    EXPECT_FALSE(table_->NeedProcess());
    EXPECT_EQ(MountsBelow(options_.run_dir), 1u);
    EXPECT_EQ(MountsBelow(directory_), 3u) << "none was mounted twice";
  }
  opened->Reset();
  // The next mount shares the file system.
  ASSERT_EQ(Mount(chain, Target("more")), absl::OkStatus());
  EXPECT_EQ(StatPath(plain)->st_dev, StatPath(directory_ + "/more")->st_dev);
  ASSERT_TRUE(table_->Unmount(plain, false).ok());
  table_->UnmountAll(false);
  EXPECT_EQ(MountsBelow(directory_), 0u);
}

TEST_F(KernelMountTest, ALostPrivateMountIsMadeFromAMountOfIt) {
  const ChainRef chain = Build(Sample());
  MountRecord strict;
  strict.directory = Target("a");
  strict.flags.nosuid = true;
  ASSERT_EQ(table_->Mount(chain, strict).status(), absl::OkStatus());
  KillDaemon();
  const std::string path = StrCat(options_.run_dir, "/chains/", chain->chain_id.hex(), ".kernel");
  ASSERT_EQ(umount2(path.c_str(), 0), 0);
  StartDaemon();
  EXPECT_EQ(table_->Recover(Finder(chain)).size(), 1u);
  EXPECT_EQ(StatPath(path)->st_dev, StatPath(directory_ + "/a")->st_dev);
  ASSERT_EQ(Mount(chain, Target("b")), absl::OkStatus());
  EXPECT_EQ(StatPath(directory_ + "/b")->st_dev, StatPath(directory_ + "/a")->st_dev);
  struct statvfs found;
  ASSERT_EQ(statvfs((directory_ + "/b").c_str(), &found), 0);
  EXPECT_EQ(found.f_flag & ST_NOSUID, 0u) << "the flags are those of that one mount";
}

TEST_F(KernelMountTest, WhatWasUnmountedOrRestartedAwayIsMountedAgain) {
  const ChainRef chain = Build(Sample());
  ASSERT_EQ(Mount(chain, Target("a")), absl::OkStatus());
  KillDaemon();
  // As after a restart of the machine.
  ASSERT_EQ(umount2((directory_ + "/a").c_str(), 0), 0);
  MountRecord record = records_.List()->front();
  record.boot_id = "another";
  ASSERT_TRUE(records_.Put(record).ok());
  options_.kernel = false;
  StartDaemon();
  EXPECT_EQ(table_->Recover(Finder(chain)).size(), 1u);
  EXPECT_EQ(TypeAt(directory_ + "/a"), "fuse.imagefs") << "another kernel shows it otherwise";
  EXPECT_EQ(MountsBelow(options_.run_dir), 1u);
}

TEST_F(KernelMountTest, WhatWasUnmountedWhileNobodyLookedStaysAway) {
  const ChainRef chain = Build(Sample());
  ASSERT_EQ(Mount(chain, Target("a")), absl::OkStatus());
  ASSERT_EQ(Mount(chain, Target("b")), absl::OkStatus());
  KillDaemon();
  ASSERT_EQ(umount2((directory_ + "/a").c_str(), 0), 0);
  StartDaemon();
  EXPECT_EQ(table_->Recover(Finder(chain)), std::vector<std::string>{directory_ + "/b"});
  EXPECT_EQ(records_.size(), 1u);
  ASSERT_TRUE(table_->Unmount(directory_ + "/b", false).ok());
  EXPECT_EQ(MountsBelow(directory_), 0u);
}

TEST_F(KernelMountTest, AMountOutlivesItsImageAndIsListed) {
  const ChainRef chain = Build(Sample());
  ASSERT_EQ(Mount(chain, Target("a")), absl::OkStatus());
  KillDaemon();
  StartDaemon();
  const auto none = [](const Digest&) -> absl::StatusOr<ChainRef> {
    return absl::NotFoundError("no such chain");
  };
  EXPECT_EQ(table_->Recover(none).size(), 1u);
  EXPECT_EQ(*ReadFile(directory_ + "/a/etc/os-release", 100), "NAME=test\n");
  EXPECT_TRUE(table_->Unmount(directory_ + "/a", false).ok());
}

TEST_F(KernelMountTest, FlagsAreThoseAskedFor) {
  const ChainRef chain = Build(Sample());
  MountRecord record;
  record.mode = "kernel";
  record.directory = Target("strict");
  record.flags = {.nosuid = true, .nodev = true, .noexec = true, .id_map = ""};
  ASSERT_EQ(table_->Mount(chain, record).status(), absl::OkStatus());
  struct statvfs found;
  ASSERT_EQ(statvfs(record.directory.c_str(), &found), 0);
  EXPECT_EQ(found.f_flag & (ST_RDONLY | ST_NOSUID | ST_NODEV | ST_NOEXEC),
            static_cast<unsigned long>(ST_RDONLY | ST_NOSUID | ST_NODEV | ST_NOEXEC));  // NOLINT
  EXPECT_EQ(access((record.directory + "/usr/bin/tool").c_str(), X_OK), -1);
  ASSERT_EQ(Mount(chain, Target("plain")), absl::OkStatus());
  ASSERT_EQ(statvfs((directory_ + "/plain").c_str(), &found), 0);
  EXPECT_EQ(found.f_flag & (ST_NOSUID | ST_NODEV | ST_NOEXEC), 0u) << "flags are of one mount";
  record.directory = Target("rw");
  record.writable = true;
  ASSERT_EQ(table_->Mount(chain, record).status(), absl::OkStatus());
  ASSERT_EQ(statvfs(record.directory.c_str(), &found), 0);
  EXPECT_EQ(found.f_flag & (ST_RDONLY | ST_NOEXEC),
            static_cast<unsigned long>(ST_NOEXEC));  // NOLINT
}

TEST_F(KernelMountTest, IdsAreMapped) {
  const ChainRef chain = Build(Sample());
  MountRecord record;
  record.directory = Target("mapped");
  record.flags.id_map = "0:100000:1000,1234:5:1,70000:6:1";
  ASSERT_EQ(table_->Mount(chain, record).status(), absl::OkStatus());
  EXPECT_EQ(StatPath(record.directory + "/usr")->st_uid, 100'000u);
  EXPECT_EQ(StatPath(record.directory + "/etc/os-release")->st_uid, 5u);
  EXPECT_EQ(StatPath(record.directory + "/etc/os-release")->st_gid, 6u);
  ASSERT_EQ(Mount(chain, Target("plain")), absl::OkStatus());
  EXPECT_EQ(StatPath(directory_ + "/plain/etc/os-release")->st_uid, 1234u);
  record.directory = Target("fuse");
  record.mode = "fuse";
  EXPECT_TRUE(absl::IsInvalidArgument(table_->Mount(chain, record).status()));
  record.mode = "auto";
  for (const char* bad : {"1", "1:2", "1:2:0", "a:b:c", "0:0:10,5:100:1", "0:0:10,50:9:1",
                          "0:4294967295:2", "0:0:10,"}) {
    record.flags.id_map = bad;
    EXPECT_TRUE(absl::IsInvalidArgument(table_->Mount(chain, record).status())) << bad;
  }
  EXPECT_EQ(table_->List().size(), 2u);
}

TEST_F(KernelMountTest, AnUpperOfTheCallersStays) {
  const ChainRef chain = Build(Sample());
  MountRecord record;
  record.mode = "kernel";
  record.directory = Target("rw");
  record.writable = true;
  record.upper = directory_ + "/changes";
  record.keep_upper = true;
  ASSERT_EQ(table_->Mount(chain, record).status(), absl::OkStatus());
  ASSERT_TRUE(WriteFileDurably(record.directory + "/new", "kept").ok());
  MountRecord other = record;
  other.directory = Target("other");
  EXPECT_TRUE(absl::IsAlreadyExists(table_->Mount(chain, other).status()));
  ASSERT_TRUE(table_->Unmount(record.directory, false).ok());
  ASSERT_EQ(table_->Mount(chain, other).status(), absl::OkStatus());
  EXPECT_EQ(*ReadFile(other.directory + "/new", 100), "kept");
}

TEST_F(KernelMountTest, ManyDevicesFit) {
  TestChain tree(128);
  for (uint16_t i = 1; i <= 128; ++i) tree.File(StrCat("f", i), StrCat("layer ", i), 0644, i);
  const ChainRef chain = Build(tree);
  ASSERT_EQ(Mount(chain, Target("mnt")), absl::OkStatus());
  for (int i = 1; i <= 128; ++i) {
    EXPECT_EQ(*ReadFile(StrCat(directory_, "/mnt/f", i), 100), StrCat("layer ", i));
  }
}

// Of the layers of Sample the second is on its way.
class FillingTest : public BothModesTest {
 protected:
  void SetUp() override {
    BothModesTest::SetUp();
    if (IsSkipped()) return;
    chain_ = Build(Sample());
    ASSERT_NE(chain_, nullptr);
    fill_ = FakeFill::Empty(chain_->layers[1]);
  }
  void TearDown() override {
    chain_ = nullptr;
    BothModesTest::TearDown();
  }
  bool Data() const { return access((options_.run_dir + "/chains/data").c_str(), F_OK) == 0; }

  ChainRef chain_;
  std::shared_ptr<FakeFill> fill_;
};
INSTANTIATE_TEST_SUITE_P(Modes, FillingTest, testing::Values(kFuseMode, kKernelMode),
                         [](const auto& info) { return std::string(info.param); });

TEST_P(FillingTest, WhatIsReadIsBroughtAndNothingElse) {
  const std::string target = Target("mnt");
  ASSERT_EQ(Mount(chain_, target), absl::OkStatus());
  EXPECT_TRUE(table_->NeedProcess());
  size_t entries = 0;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(target)) {
    struct stat found;
    EXPECT_EQ(lstat(entry.path().c_str(), &found), 0);
    ++entries;
  }
  EXPECT_EQ(entries, 11u);
  EXPECT_EQ(*ReadFile(target + "/etc/os-release", 100), "NAME=test\n");
  EXPECT_EQ(fill_->calls(), 0u) << "names, attributes and other layers ask for nothing";
  auto file = OpenFile(target + "/usr/bin/tool", O_RDONLY);
  ASSERT_TRUE(file.ok());
  std::string part(1000, '\0');
  ASSERT_EQ(posix_fadvise(file->get(), 0, 0, POSIX_FADV_RANDOM), 0);
  EXPECT_EQ(*PreadFull(file->get(), absl::MakeSpan(part), 200'000), part.size());
  EXPECT_EQ(part, PatternBytes(300'000, 1).substr(200'000, 1000));
  EXPECT_LT(fill_->asked().total_bytes(), 100'000u);
  EXPECT_GT(fill_->calls(), 0u);
  EXPECT_TRUE(*ReadFile(target + "/usr/bin/tool", 1'000'000) == PatternBytes(300'000, 1));
  const size_t calls = fill_->calls();
  EXPECT_TRUE(*ReadFile(target + "/usr/bin/tool2", 1'000'000) == PatternBytes(300'000, 1));
  EXPECT_EQ(fill_->calls(), calls) << "what the kernel has it does not ask for again";
  file->Reset();
  ASSERT_TRUE(table_->Unmount(target, false).ok());
  EXPECT_FALSE(Data());
  EXPECT_EQ(MountsBelow(directory_), 0u);
}

TEST_P(FillingTest, ReadersWaitAndWorkersDoNot) {
  const std::string target = Target("mnt");
  ASSERT_EQ(Mount(chain_, target), absl::OkStatus());
  fill_->Hold();
  // More readers than the loop has workers, all for bytes that are not here.
  std::vector<std::thread> readers;
  std::atomic<int> right = 0;
  const std::string truth = PatternBytes(300'000, 1);
  for (int i = 0; i < 24; ++i) {
    readers.emplace_back([&, i] {
      auto file = OpenFile(target + "/usr/bin/tool", O_RDONLY);
      if (!file.ok()) return;
      posix_fadvise(file->get(), 0, 0, POSIX_FADV_RANDOM);
      std::string part(4096, '\0');
      const size_t offset = static_cast<size_t>(i) * 12'288;
      if (*PreadFull(file->get(), absl::MakeSpan(part), offset) == part.size() &&
          part == truth.substr(offset, part.size())) {
        ++right;
      }
    });
  }
  fill_->AwaitHeld(20);
  EXPECT_EQ(*ReadFile(target + "/etc/os-release", 100), "NAME=test\n");
  EXPECT_EQ(right, 0);
  fill_->Release();
  for (std::thread& reader : readers) reader.join();
  EXPECT_EQ(right, 24);
}

TEST_P(FillingTest, AFailureIsEioAndIsNotRemembered) {
  const std::string target = Target("mnt");
  ASSERT_EQ(Mount(chain_, target), absl::OkStatus());
  auto file = OpenFile(target + "/usr/bin/tool", O_RDONLY);
  ASSERT_TRUE(file.ok());
  ASSERT_EQ(posix_fadvise(file->get(), 0, 0, POSIX_FADV_RANDOM), 0);
  fill_->Fail(absl::UnavailableError("the registry is away"));
  char byte;
  EXPECT_EQ(pread(file->get(), &byte, 1, 100'000), -1);
  EXPECT_EQ(errno, EIO);
  fill_->Fail(absl::OkStatus());
  EXPECT_EQ(pread(file->get(), &byte, 1, 100'000), 1);
  EXPECT_EQ(byte, PatternBytes(300'000, 1)[100'000]);
}

TEST_P(FillingTest, ACompleteChainIsMountedFromLocalFiles) {
  const std::string first = Target("first"), second = Target("second");
  ASSERT_EQ(Mount(chain_, first), absl::OkStatus());
  fill_->Complete();
  ASSERT_EQ(Mount(chain_, second), absl::OkStatus());
  EXPECT_TRUE(*ReadFile(first + "/usr/bin/tool", 1'000'000) == PatternBytes(300'000, 1));
  EXPECT_TRUE(*ReadFile(second + "/usr/bin/tool", 1'000'000) == PatternBytes(300'000, 1));
  EXPECT_EQ(fill_->calls(), 0u);
  ASSERT_TRUE(table_->Unmount(first, false).ok());
  EXPECT_FALSE(Data());
  EXPECT_TRUE(Eventually([&] { return table_->NeedProcess() == (mode_ == kFuseMode); }));
  EXPECT_EQ(MountsBelow(directory_), 2u);
  EXPECT_EQ(*ReadFile(second + "/etc/os-release", 100), "NAME=test\n");
}

TEST_P(FillingTest, ALazilyUnmountedTreeReadsOn) {
  const std::string target = Target("mnt");
  ASSERT_EQ(Mount(chain_, target), absl::OkStatus());
  auto file = OpenFile(target + "/usr/bin/tool", O_RDONLY);
  ASSERT_TRUE(file.ok());
  ASSERT_TRUE(table_->Unmount(target, true).ok());
  std::string content(300'000, '\0');
  EXPECT_EQ(*PreadFull(file->get(), absl::MakeSpan(content), 0), content.size());
  EXPECT_TRUE(content == PatternBytes(300'000, 1));
  // The next one has a data mount of its own.
  ASSERT_EQ(Mount(chain_, target), absl::OkStatus());
  EXPECT_TRUE(*ReadFile(target + "/usr/bin/tool", 1'000'000) == PatternBytes(300'000, 1));
  file->Reset();
  ASSERT_TRUE(table_->Unmount(target, false).ok());
  EXPECT_TRUE(Eventually([&] { return !table_->NeedProcess(); }));
}

TEST_P(FillingTest, AKilledDaemonsFillingMountIsMadeAnew) {
  const std::string target = Target("mnt");
  ASSERT_EQ(Mount(chain_, target), absl::OkStatus());
  KillDaemon();
  StartDaemon();
  EXPECT_EQ(table_->Recover(Finder(chain_)).size(), 1u);
  EXPECT_TRUE(*ReadFile(target + "/usr/bin/tool", 1'000'000) == PatternBytes(300'000, 1));
  ASSERT_TRUE(table_->Unmount(target, false).ok());
  EXPECT_EQ(MountsBelow(directory_), 0u);
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
  EXPECT_EQ(table_->Recover(Finder(chain)), std::vector<std::string>{two});
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
  EXPECT_FALSE(IsOurs(mounts[0]));
  EXPECT_EQ(mounts[1].mount_point, "/a b\\c");
  EXPECT_EQ(mounts[1].minor, 53u);
  EXPECT_FALSE(mounts[1].shared);
  EXPECT_TRUE(IsOurs(mounts[1]));
  EXPECT_TRUE(IsOurs(mounts[2]));
  EXPECT_EQ(FindMountAt(mounts, "/mnt2"), &mounts[2]);
  EXPECT_EQ(FindMountOf(mounts, "/mnt2/x/y"), &mounts[2]);
  EXPECT_EQ(FindMountOf(mounts, "/none"), nullptr);
}

TEST(MountInfoTest, OverlayOptionsAreEscaped) {
  EXPECT_EQ(OverlayOptions({"/l,o:w", "/u\\p", "/w"}),
            "lowerdir=/l\\,o\\:w,upperdir=/u\\\\p,workdir=/w,index=off");
}

}  // namespace
}  // namespace imagefs
