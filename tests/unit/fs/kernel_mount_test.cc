// SPDX-License-Identifier: Apache-2.0
// The kernel presentation with real mounts, and chains with a partially present layer.
#include <errno.h>
#include <fcntl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <atomic>
#include <filesystem>
#include <string>
#include <thread>

#include "base/text.h"
#include "fs/mount_syscalls.h"
#include "fs/mount_table.h"
#include "gtest/gtest.h"
#include "tests/fakes/fs/fake_fill.h"
#include "tests/fakes/fs/mount_fixture.h"
#include "tests/fakes/fs/test_chain.h"

namespace imagefs {
namespace {

class KernelMountTest : public BothModesTest {
 protected:
  static std::string TypeAt(const std::string& directory) {
    auto mounts = ReadMountInfo();
    EXPECT_TRUE(mounts.ok());
    const MountInfo* mount = FindMountAt(*mounts, directory);
    return mount == nullptr ? "" : mount->fs_type;
  }
};

INSTANTIATE_TEST_SUITE_P(Ways, KernelMountTest, testing::Values(kKernelMode, kLoopDevices),
                         [](const auto& info) { return std::string(info.param); });

TEST_P(KernelMountTest, AutoIsTheKernelWhereItCanAndFuseWhereItCannot) {
  const ChainRef chain = Build(Sample());
  mode_ = "auto";
  ASSERT_EQ(Mount(chain, Target("kernel")), absl::OkStatus());
  EXPECT_EQ(TypeAt(directory_ + "/kernel"), "erofs");
  EXPECT_EQ(table_->List()[0].record.mode, "kernel");
  EXPECT_FALSE(table_->NeedProcess());
  mode_ = "fuse";
  ASSERT_EQ(Mount(chain, Target("fuse")), absl::OkStatus());
  EXPECT_EQ(TypeAt(directory_ + "/fuse"), "fuse.imagefs");
  EXPECT_TRUE(table_->NeedProcess());
  table_->UnmountAll();
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

TEST_P(KernelMountTest, MountsOutliveTheDaemonAndAreFoundAgain) {
  const ChainRef chain = Build(Sample());
  const std::string plain = Target("plain"), rw = Target("rw");
  ASSERT_EQ(Mount(chain, plain), absl::OkStatus());
  ASSERT_EQ(Mount(chain, rw, true), absl::OkStatus());
  ASSERT_TRUE(WriteFileDurably(rw + "/new", "kept").ok());
  auto opened = OpenFile(plain + "/usr/bin/tool", O_RDONLY);
  ASSERT_TRUE(opened.ok());
  for (int round = 0; round < 2; ++round) {
    KillDaemon();
    // No daemon is running, and everything can be read.
    EXPECT_EQ(*ReadFile(plain + "/etc/os-release", 100), "NAME=test\n");
    EXPECT_EQ(*ReadFile(rw + "/new", 100), "kept");
    char byte;
    EXPECT_EQ(pread(opened->get(), &byte, 1, 250'000), 1);
    StartDaemon();
    EXPECT_EQ(Recover(Finder(chain)).size(), 2u);
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
  table_->UnmountAll();
  EXPECT_EQ(MountsBelow(directory_), 0u);
}

TEST_P(KernelMountTest, ALostPrivateMountIsMadeFromAMountOfIt) {
  const ChainRef chain = Build(Sample());
  MountRequest strict;
  strict.directory = Target("a");
  strict.reference = kReference;
  strict.options.flags.nosuid = true;
  ASSERT_EQ(Mount(chain, strict), absl::OkStatus());
  KillDaemon();
  const std::string path = PrivatePath(chain);
  ASSERT_EQ(umount2(path.c_str(), 0), 0);
  StartDaemon();
  EXPECT_EQ(Recover(Finder(chain)).size(), 1u);
  EXPECT_EQ(StatPath(path)->st_dev, StatPath(directory_ + "/a")->st_dev);
  ASSERT_EQ(Mount(chain, Target("b")), absl::OkStatus());
  EXPECT_EQ(StatPath(directory_ + "/b")->st_dev, StatPath(directory_ + "/a")->st_dev);
  struct statvfs found;
  ASSERT_EQ(statvfs((directory_ + "/b").c_str(), &found), 0);
  EXPECT_EQ(found.f_flag & ST_NOSUID, 0u) << "the flags are those of that one mount";
}

TEST_P(KernelMountTest, WhatWasUnmountedOrRestartedAwayIsMountedAgain) {
  const ChainRef chain = Build(Sample());
  ASSERT_EQ(Mount(chain, Target("a")), absl::OkStatus());
  KillDaemon();
  // As after a reboot.
  ASSERT_EQ(umount2((directory_ + "/a").c_str(), 0), 0);
  MountRecord record = records_.List()->records.front();
  record.boot_id = "another";
  ASSERT_TRUE(records_.Put(record).ok());
  options_.kernel = false;
  StartDaemon();
  EXPECT_EQ(Recover(Finder(chain)).size(), 1u);
  EXPECT_EQ(TypeAt(directory_ + "/a"), "fuse.imagefs") << "another kernel shows it otherwise";
  EXPECT_EQ(MountsBelow(options_.run_dir), 1u);
}

TEST_P(KernelMountTest, AMountOfFstabIsNotTheDaemonsInAnotherBoot) {
  const ChainRef chain = Build(Sample());
  for (const bool writable : {false, true}) {
    MountRequest request;
    request.directory = Target(writable ? "rw" : "ro");
    request.options.writable = writable;
    request.options.this_boot_only = true;
    ASSERT_EQ(Mount(chain, request), absl::OkStatus());
  }
  KillDaemon();
  StartDaemon();
  EXPECT_EQ(Recover(Finder(chain)).size(), 2u) << "in this boot it is";
  KillDaemon();
  std::vector<std::string> uppers;
  const std::vector<MountRecord> recorded = records_.List()->records;
  for (MountRecord record : recorded) {
    ASSERT_EQ(umount2(record.directory.c_str(), 0), 0);
    if (!record.upper.empty()) uppers.push_back(record.upper);
    record.boot_id = "another";
    ASSERT_TRUE(records_.Put(record).ok());
  }
  StartDaemon();
  EXPECT_EQ(Recover(Finder(chain)).size(), 0u);
  EXPECT_EQ(records_.size(), 0u);
  ASSERT_EQ(uppers.size(), 1u);
  EXPECT_NE(access(uppers[0].c_str(), F_OK), 0) << "what was written goes with the mount";
  EXPECT_EQ(MountsBelow(directory_), 0u);
}

TEST_P(KernelMountTest, WhatWasUnmountedWhileNobodyLookedStaysAway) {
  const ChainRef chain = Build(Sample());
  ASSERT_EQ(Mount(chain, Target("a")), absl::OkStatus());
  ASSERT_EQ(Mount(chain, Target("b")), absl::OkStatus());
  KillDaemon();
  ASSERT_EQ(umount2((directory_ + "/a").c_str(), 0), 0);
  StartDaemon();
  EXPECT_EQ(Recover(Finder(chain)), std::vector<std::string>{directory_ + "/b"});
  EXPECT_EQ(records_.size(), 1u);
  ASSERT_TRUE(table_->Unmount(directory_ + "/b", false).ok());
  EXPECT_EQ(MountsBelow(directory_), 0u);
}

TEST_P(KernelMountTest, AMountOutlivesItsImageAndIsListed) {
  const ChainRef chain = Build(Sample());
  ASSERT_EQ(Mount(chain, Target("a")), absl::OkStatus());
  KillDaemon();
  StartDaemon();
  const auto none = [](const Digest&) -> absl::StatusOr<ChainRef> {
    return absl::NotFoundError("no such chain");
  };
  EXPECT_EQ(Recover(none).size(), 1u);
  EXPECT_EQ(*ReadFile(directory_ + "/a/etc/os-release", 100), "NAME=test\n");
  EXPECT_TRUE(table_->Unmount(directory_ + "/a", false).ok());
}

TEST_P(KernelMountTest, FlagsAreThoseAskedFor) {
  const ChainRef chain = Build(Sample());
  MountRequest request;
  request.mode = "kernel";
  request.directory = Target("strict");
  request.options.flags = {.nosuid = true, .nodev = true, .noexec = true, .id_map = ""};
  ASSERT_EQ(Mount(chain, request), absl::OkStatus());
  struct statvfs found;
  ASSERT_EQ(statvfs(request.directory.c_str(), &found), 0);
  EXPECT_EQ(found.f_flag & (ST_RDONLY | ST_NOSUID | ST_NODEV | ST_NOEXEC),
            static_cast<unsigned long>(ST_RDONLY | ST_NOSUID | ST_NODEV | ST_NOEXEC));  // NOLINT
  EXPECT_EQ(access((request.directory + "/usr/bin/tool").c_str(), X_OK), -1);
  ASSERT_EQ(Mount(chain, Target("plain")), absl::OkStatus());
  ASSERT_EQ(statvfs((directory_ + "/plain").c_str(), &found), 0);
  EXPECT_EQ(found.f_flag & (ST_NOSUID | ST_NODEV | ST_NOEXEC), 0u) << "flags are of one mount";
  request.directory = Target("rw");
  request.options.writable = true;
  ASSERT_EQ(Mount(chain, request), absl::OkStatus());
  ASSERT_EQ(statvfs(request.directory.c_str(), &found), 0);
  EXPECT_EQ(found.f_flag & (ST_RDONLY | ST_NOEXEC),
            static_cast<unsigned long>(ST_NOEXEC));  // NOLINT
}

TEST_P(KernelMountTest, IdsAreMapped) {
  const ChainRef chain = Build(Sample());
  MountRequest request;
  request.directory = Target("mapped");
  request.options.flags.id_map = "0:100000:1000,1234:5:1,70000:6:1";
  ASSERT_EQ(Mount(chain, request), absl::OkStatus());
  EXPECT_EQ(StatPath(request.directory + "/usr")->st_uid, 100'000u);
  EXPECT_EQ(StatPath(request.directory + "/etc/os-release")->st_uid, 5u);
  EXPECT_EQ(StatPath(request.directory + "/etc/os-release")->st_gid, 6u);
  ASSERT_EQ(Mount(chain, Target("plain")), absl::OkStatus());
  EXPECT_EQ(StatPath(directory_ + "/plain/etc/os-release")->st_uid, 1234u);
  request.directory = Target("fuse");
  request.mode = "fuse";
  EXPECT_TRUE(absl::IsInvalidArgument(Mount(chain, request)));
  request.mode = "auto";
  for (const char* bad : {"1", "1:2", "1:2:0", "a:b:c", "0:0:10,5:100:1", "0:0:10,50:9:1",
                          "0:4294967295:2", "0:0:10,"}) {
    request.options.flags.id_map = bad;
    EXPECT_TRUE(absl::IsInvalidArgument(Mount(chain, request))) << bad;
  }
  EXPECT_EQ(table_->List().size(), 2u);
}

TEST_P(KernelMountTest, AnUpperOfTheCallersStays) {
  const ChainRef chain = Build(Sample());
  MountRequest request;
  request.mode = "kernel";
  request.directory = Target("rw");
  request.options.writable = true;
  request.upper = directory_ + "/changes";
  ASSERT_EQ(Mount(chain, request), absl::OkStatus());
  ASSERT_TRUE(WriteFileDurably(request.directory + "/new", "kept").ok());
  MountRequest other = request;
  other.directory = Target("other");
  EXPECT_TRUE(absl::IsAlreadyExists(Mount(chain, other)));
  ASSERT_TRUE(table_->Unmount(request.directory, false).ok());
  ASSERT_EQ(Mount(chain, other), absl::OkStatus());
  EXPECT_EQ(*ReadFile(other.directory + "/new", 100), "kept");
}

TEST_P(KernelMountTest, ManyDevicesFit) {
  TestChain tree(128);
  for (uint16_t i = 1; i <= 128; ++i) tree.File(StrCat("f", i), StrCat("layer ", i), 0644, i);
  const ChainRef chain = Build(tree);
  ASSERT_EQ(Mount(chain, Target("mnt")), absl::OkStatus());
  for (int i = 1; i <= 128; ++i) {
    EXPECT_EQ(*ReadFile(StrCat(directory_, "/mnt/f", i), 100), StrCat("layer ", i));
  }
}

// The second layer of Sample is not local yet.
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
  // More readers than the loop has workers, all of missing bytes.
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
  // The next mount gets a new data mount.
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
  EXPECT_EQ(Recover(Finder(chain_)).size(), 1u);
  EXPECT_TRUE(*ReadFile(target + "/usr/bin/tool", 1'000'000) == PatternBytes(300'000, 1));
  ASSERT_TRUE(table_->Unmount(target, false).ok());
  EXPECT_EQ(MountsBelow(directory_), 0u);
}

}  // namespace
}  // namespace imagefs
