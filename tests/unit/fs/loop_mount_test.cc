// SPDX-License-Identifier: Apache-2.0
// The kernel presentation on kernels that cannot mount EROFS from files: loop devices. Tests of
// both ways are in kernel_mount_test.cc and mount_test.cc.
#include <errno.h>
#include <fcntl.h>
#include <linux/loop.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cstring>
#include <filesystem>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/cleanup/cleanup.h"
#include "base/text.h"
#include "fs/erofs_mount.h"
#include "fs/loop_devices.h"
#include "fs/mount_syscalls.h"
#include "fs/mount_table.h"
#include "gtest/gtest.h"
#include "tests/fakes/fs/fake_fill.h"
#include "tests/fakes/fs/mount_fixture.h"
#include "tests/fakes/fs/test_chain.h"

namespace imagefs {
namespace {

class LoopMountTest : public MountTest {
 protected:
  LoopMountTest() {
    files_ = false;
    mode_ = "auto";
  }
  size_t Devices() const { return LoopDevicesOver(directory_).size(); }
  // Another image that contains the layers of `chain`.
  ChainRef Share(const ChainRef& chain, const TestChain& tree) {
    const ChainRef built = Build(tree, "other");
    auto other = std::make_shared<Chain>();
    other->chain_id = Sha256Of("other");
    other->index_path = StrCat(directory_, "/other/chains/", other->chain_id.hex());
    EXPECT_EQ(rename(built->index_path.c_str(), other->index_path.c_str()), 0);
    auto index = ErofsImage::Open(other->index_path);
    EXPECT_TRUE(index.ok());
    other->index = *std::move(index);
    other->layers = chain->layers;
    return other;
  }
  std::string ModeAt(const std::string& target) const {
    for (const MountState& mount : table_->List()) {
      if (mount.record.directory == target) return mount.record.mode;
    }
    return "none";
  }
};

TEST_F(LoopMountTest, ALayerHasOneDeviceWhoeverShowsIt) {
  const ChainRef chain = Build(Sample()), other = Share(chain, Sample());
  ASSERT_EQ(Mount(chain, Target("a")), absl::OkStatus());
  EXPECT_EQ(ModeAt(directory_ + "/a"), "kernel");
  EXPECT_EQ(Devices(), 3u) << "an index and two layers";
  ASSERT_EQ(Mount(chain, Target("more")), absl::OkStatus());
  ASSERT_EQ(Mount(other, Target("b")), absl::OkStatus());
  EXPECT_EQ(Devices(), 4u) << "an index more";
  KillDaemon();
  EXPECT_EQ(Devices(), 4u);
  StartDaemon();
  // The next daemon mounts an image that shares layers with a mount it found.
  ASSERT_EQ(umount2((directory_ + "/b").c_str(), 0), 0);
  ASSERT_EQ(umount2(PrivatePath(other).c_str(), 0), 0);
  EXPECT_TRUE(Eventually([&] { return Devices() == 3; }));
  EXPECT_EQ(Recover(Finder(chain)).size(), 2u);
  ASSERT_EQ(Mount(other, Target("b")), absl::OkStatus());
  EXPECT_EQ(Devices(), 4u);
  EXPECT_TRUE(*ReadFile(directory_ + "/b/usr/bin/tool", 1'000'000) == PatternBytes(300'000, 1));
  ASSERT_TRUE(table_->Unmount(directory_ + "/a", false).ok());
  ASSERT_TRUE(table_->Unmount(directory_ + "/more", false).ok());
  EXPECT_TRUE(Eventually([&] { return Devices() == 3; })) << "the layers are still shown";
  EXPECT_TRUE(*ReadFile(directory_ + "/b/usr/bin/tool", 1'000'000) == PatternBytes(300'000, 1));
  ASSERT_TRUE(table_->Unmount(directory_ + "/b", false).ok());
  EXPECT_TRUE(Eventually([&] { return Devices() == 0; }));
}

TEST_F(LoopMountTest, ManyAtOnceMakeNoDeviceTwice) {
  const ChainRef chain = Build(Sample());
  std::vector<ChainRef> chains;
  for (int i = 0; i < 8; ++i) {
    auto one = std::make_shared<Chain>();
    one->chain_id = Sha256Of(StrCat("chain ", i));
    one->index_path = StrCat(directory_, "/image/chains/", one->chain_id.hex());
    ASSERT_TRUE(WriteFileDurably(one->index_path, *ReadFile(chain->index_path, 1'000'000)).ok());
    auto index = ErofsImage::Open(one->index_path);
    ASSERT_TRUE(index.ok());
    one->index = *std::move(index);
    one->layers = chain->layers;
    chains.push_back(std::move(one));
  }
  std::vector<std::thread> threads;
  std::atomic<int> right = 0;
  for (int i = 0; i < 8; ++i) {
    threads.emplace_back([&, i] {
      const std::string target = Target(StrCat("m", i));
      if (Mount(chains[i], target).ok() &&
          *ReadFile(target + "/etc/os-release", 100) == "NAME=test\n") {
        ++right;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(right, 8);
  EXPECT_EQ(Devices(), 8u + 2u);
}

TEST_F(LoopMountTest, TheSameLayerTwice) {
  TestChain tree(2);
  tree.File("a", "same", 0644, 1);
  tree.File("b", "same", 0644, 2);
  const ChainRef built = Build(tree);
  auto chain = std::make_shared<Chain>();
  chain->chain_id = built->chain_id;
  chain->index_path = built->index_path;
  auto index = ErofsImage::Open(built->index_path);
  ASSERT_TRUE(index.ok());
  chain->index = *std::move(index);
  chain->layers = {built->layers[0], built->layers[0]};
  ASSERT_EQ(Mount(chain, Target("mnt")), absl::OkStatus());
  EXPECT_EQ(ModeAt(directory_ + "/mnt"), "kernel");
  EXPECT_EQ(Devices(), 2u);
  EXPECT_EQ(*ReadFile(directory_ + "/mnt/a", 100), "same");
  EXPECT_EQ(*ReadFile(directory_ + "/mnt/b", 100), "same");
}

TEST_F(LoopMountTest, ALayerWithoutBytes) {
  TestChain tree(3);
  tree.File("a", "bytes", 0644, 2);
  const ChainRef chain = Build(tree);
  ASSERT_EQ(chain->layers[0]->data_bytes, 0u);
  ASSERT_EQ(Mount(chain, Target("mnt")), absl::OkStatus());
  EXPECT_EQ(ModeAt(directory_ + "/mnt"), "kernel");
  EXPECT_EQ(*ReadFile(directory_ + "/mnt/a", 100), "bytes");
  ASSERT_TRUE(table_->Unmount(directory_ + "/mnt", false).ok());
  ASSERT_EQ(Mount(chain, Target("again")), absl::OkStatus());
  EXPECT_EQ(ModeAt(directory_ + "/again"), "kernel");
}

TEST_F(LoopMountTest, WhatFillsIsFuseUntilItIsWhole) {
  const ChainRef chain = Build(Sample());
  const auto fill = FakeFill::Empty(chain->layers[1]);
  ASSERT_EQ(Mount(chain, Target("fills")), absl::OkStatus());
  EXPECT_EQ(ModeAt(directory_ + "/fills"), "fuse");
  MountRequest request;
  request.directory = Target("refused");
  request.mode = "kernel";
  const absl::Status status = Mount(chain, request);
  EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status;
  EXPECT_NE(status.message().find("imagefs pull"), absl::string_view::npos) << status;
  request.mode = "auto";
  request.options.flags.id_map = "0:100000:1000";
  EXPECT_TRUE(absl::IsFailedPrecondition(Mount(chain, request)));
  EXPECT_EQ(Devices(), 0u);
  fill->Complete();
  ASSERT_EQ(Mount(chain, Target("whole")), absl::OkStatus());
  EXPECT_EQ(ModeAt(directory_ + "/whole"), "kernel");
  EXPECT_TRUE(*ReadFile(directory_ + "/fills/usr/bin/tool", 1'000'000) == PatternBytes(300'000, 1));
  EXPECT_TRUE(*ReadFile(directory_ + "/whole/usr/bin/tool", 1'000'000) == PatternBytes(300'000, 1));
}

// As recorded on a kernel that mounts files.
TEST_F(LoopMountTest, AFillingKernelMountOfAnotherBootBecomesFuse) {
  options_.erofs.files = true;
  KillDaemon();
  StartDaemon();
  const ChainRef chain = Build(Sample());
  const auto fill = FakeFill::Empty(chain->layers[1]);
  ASSERT_EQ(Mount(chain, Target("mnt")), absl::OkStatus());
  ASSERT_EQ(ModeAt(directory_ + "/mnt"), "kernel");
  KillDaemon();
  ASSERT_EQ(umount2((directory_ + "/mnt").c_str(), MNT_DETACH), 0);
  MountRecord record = records_.List()->records.front();
  record.boot_id = "another";
  ASSERT_TRUE(records_.Put(record).ok());
  options_.erofs.files = false;
  StartDaemon();
  EXPECT_EQ(Recover(Finder(chain)).size(), 1u);
  EXPECT_EQ(ModeAt(directory_ + "/mnt"), "fuse");
}

TEST_F(LoopMountTest, AFileThatADeviceWouldCutIsFuse) {
  const ChainRef chain = Build(Sample());
  auto data = OpenFile(chain->layers[0]->directory + "/data", O_RDWR);
  ASSERT_TRUE(data.ok());
  struct stat st;
  ASSERT_EQ(fstat(data->get(), &st), 0);
  ASSERT_EQ(ftruncate(data->get(), st.st_size + 100), 0);
  ASSERT_EQ(Mount(chain, Target("mnt")), absl::OkStatus());
  EXPECT_EQ(ModeAt(directory_ + "/mnt"), "fuse");
  mode_ = "kernel";
  const absl::Status status = Mount(chain, Target("refused"));
  EXPECT_NE(status.message().find("multiples of 512"), absl::string_view::npos) << status;
  EXPECT_EQ(Devices(), 0u);
}

TEST_F(LoopMountTest, AMountThatFailsLeavesNoDevice) {
  const ChainRef chain = Build(Sample());
  auto index = OpenFile(chain->index_path, O_RDWR);
  ASSERT_TRUE(index.ok());
  ASSERT_TRUE(PwriteFull(index->get(), std::string(512, '\1'), 1024).ok());
  ASSERT_EQ(Mount(chain, Target("mnt")), absl::OkStatus());
  EXPECT_EQ(ModeAt(directory_ + "/mnt"), "fuse") << "which has the index in memory";
  EXPECT_TRUE(Eventually([&] { return Devices() == 0; }));
}

TEST_F(LoopMountTest, WithoutDescriptorsItIsFuse) {
  TestChain tree(128);
  for (uint16_t i = 1; i <= 128; ++i) tree.File(StrCat("f", i), StrCat("layer ", i), 0644, i);
  const ChainRef chain = Build(tree);
  rlimit old;
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &old), 0);
  const int next = dup(0);
  ASSERT_GE(next, 0);
  close(next);
  rlimit few = old;
  few.rlim_cur = static_cast<rlim_t>(next) + 60;
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &few), 0);
  const absl::Status status = Mount(chain, Target("few"));
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &old), 0);
  ASSERT_EQ(status, absl::OkStatus());
  EXPECT_EQ(ModeAt(directory_ + "/few"), "fuse");
  EXPECT_EQ(Devices(), 0u);
  ASSERT_EQ(Mount(chain, Target("enough")), absl::OkStatus());
  EXPECT_EQ(ModeAt(directory_ + "/enough"), "kernel");
  EXPECT_EQ(Devices(), 129u);
}

TEST_F(LoopMountTest, AnImageThatIsRemovedIsReadOn) {
  ChainRef chain = Build(Sample());
  ASSERT_EQ(Mount(chain, Target("a")), absl::OkStatus());
  ASSERT_TRUE(RemoveTree(directory_ + "/image").ok());
  KillDaemon();
  StartDaemon();
  const auto none = [](const Digest&) -> absl::StatusOr<ChainRef> {
    return absl::NotFoundError("no such chain");
  };
  EXPECT_EQ(Recover(none).size(), 1u);
  EXPECT_TRUE(*ReadFile(directory_ + "/a/usr/bin/tool", 1'000'000) == PatternBytes(300'000, 1));
  // The same image again has other files and does not get the devices of the removed ones.
  chain = Build(Sample());
  EXPECT_EQ(Devices(), 3u);
  ASSERT_TRUE(table_->Unmount(directory_ + "/a", false).ok());
  EXPECT_TRUE(Eventually([&] { return Devices() == 0; }));
}

TEST_F(LoopMountTest, AFileInThePlaceOfAnotherHasADeviceOfItsOwn) {
  ChainRef chain = Build(Sample());
  ASSERT_EQ(Mount(chain, Target("a")), absl::OkStatus());
  auto held = OpenFile(directory_ + "/a/usr/bin/tool", O_RDONLY);
  ASSERT_TRUE(held.ok());
  ASSERT_TRUE(table_->Unmount(directory_ + "/a", true).ok());
  EXPECT_EQ(Devices(), 3u) << "somebody reads on";
  ASSERT_TRUE(RemoveTree(directory_ + "/image").ok());
  chain = Build(Sample());
  ASSERT_EQ(Mount(chain, Target("b")), absl::OkStatus());
  EXPECT_EQ(Devices(), 6u);
  EXPECT_TRUE(*ReadFile(directory_ + "/b/usr/bin/tool", 1'000'000) == PatternBytes(300'000, 1));
  std::string part(1000, '\0');
  EXPECT_EQ(*PreadFull(held->get(), absl::MakeSpan(part), 200'000), part.size());
  EXPECT_EQ(part, PatternBytes(300'000, 1).substr(200'000, 1000));
  held->Reset();
  EXPECT_TRUE(Eventually([&] { return Devices() == 3; }));
}

// The kernel caches pages of the index's device separately from those of the file. EROFS reads
// inodes and names from them.
TEST_F(LoopMountTest, AnIndexThatIsMadeRightIsReadAnew) {
  const ChainRef chain = Build(Sample());
  ASSERT_EQ(Mount(chain, Target("a")), absl::OkStatus());
  const std::string right = *ReadFile(chain->index_path, 1'000'000);
  std::string wrong = right;
  for (char& c : wrong) c = static_cast<char>(~c);
  std::string device;
  for (const auto& [name, path] : LoopDevicesOver(directory_)) {
    if (path == chain->index_path) device = "/dev/" + name;
  }
  auto pages = OpenFile(device, O_RDONLY);
  ASSERT_TRUE(pages.ok()) << pages.status();
  const auto shows = [&](const std::string& expected) {
    std::string got(expected.size(), '\0');
    return *PreadFull(pages->get(), absl::MakeSpan(got), 0) == got.size() && got == expected;
  };
  auto index = OpenFile(chain->index_path, O_RDWR);
  ASSERT_TRUE(index.ok());
  for (const bool restarted : {false, true}) {
    if (restarted) {
      KillDaemon();
      StartDaemon();
      ASSERT_EQ(Recover(Finder(chain)).size(), 1u);
    }
    EXPECT_TRUE(shows(right));
    ASSERT_TRUE(PwriteFull(index->get(), wrong, 0).ok());
    EXPECT_TRUE(Eventually([&] { return shows(wrong); })) << "as from a file";
    ASSERT_TRUE(PwriteFull(index->get(), right, 0).ok());
    EXPECT_TRUE(Eventually([&] { return shows(right); }));
  }
  EXPECT_EQ(StatPath(directory_ + "/a/etc/os-release")->st_uid, 1234u);
  // Changes that no daemon watches.
  KillDaemon();
  EXPECT_TRUE(shows(right));
  ASSERT_TRUE(PwriteFull(index->get(), wrong, 0).ok());
  ASSERT_EQ(DropLoopCaches(chain->index_path), absl::OkStatus());
  EXPECT_TRUE(shows(wrong));
  ASSERT_TRUE(PwriteFull(index->get(), right, 0).ok());
  ASSERT_EQ(DropLoopCaches(chain->index_path), absl::OkStatus());
  EXPECT_TRUE(shows(right));
  StartDaemon();
  ASSERT_EQ(Recover(Finder(chain)).size(), 1u);
}

// Does not take devices made by other programs, and does not wait for them.
TEST_F(LoopMountTest, DevicesOfOthersAreTheirs) {
  const ChainRef chain = Build(Sample());
  auto theirs = MakeLoopDevice(chain->layers[0]->directory + "/data");
  ASSERT_TRUE(theirs.ok()) << theirs.status();
  loop_info64 info = {};
  ASSERT_EQ(ioctl(theirs->held[0].get(), LOOP_GET_STATUS64, &info), 0);
  EXPECT_EQ(info.lo_flags & (LO_FLAGS_READ_ONLY | LO_FLAGS_AUTOCLEAR),
            static_cast<uint32_t>(LO_FLAGS_READ_ONLY | LO_FLAGS_AUTOCLEAR));
  EXPECT_EQ(info.lo_flags & LO_FLAGS_DIRECT_IO, 0u);
  memcpy(info.lo_file_name, "another", sizeof("another"));
  ASSERT_EQ(ioctl(theirs->held[0].get(), LOOP_SET_STATUS64, &info), 0);
  ASSERT_EQ(Mount(chain, Target("a")), absl::OkStatus());
  EXPECT_EQ(ModeAt(directory_ + "/a"), "kernel");
  EXPECT_EQ(Devices(), 4u);
  theirs->held.clear();
  EXPECT_TRUE(Eventually([&] { return Devices() == 3; }));
}

// A private /dev, as in a container.
class LoopProbeTest : public LoopMountTest {
 protected:
  void SetUp() override {
    LoopMountTest::SetUp();
    if (IsSkipped()) return;
    dev_ = Target("dev");
    ASSERT_EQ(mount("tmpfs", dev_.c_str(), "tmpfs", 0, nullptr), 0);
  }
  void TearDown() override {
    if (!dev_.empty()) {
      EXPECT_EQ(umount2(dev_.c_str(), MNT_DETACH), 0);
    }
    LoopMountTest::TearDown();
  }
  void Give(const std::string& name) {
    struct stat st;
    ASSERT_EQ(stat(("/dev/" + name).c_str(), &st), 0);
    ASSERT_EQ(mknod((dev_ + "/" + name).c_str(), st.st_mode, st.st_rdev), 0);
  }
  // The result of the probe there.
  std::string Probe() {
    EXPECT_EQ(mount(dev_.c_str(), "/dev", nullptr, MS_BIND, nullptr), 0);
    const absl::Cleanup back = [] { EXPECT_EQ(umount2("/dev", MNT_DETACH), 0); };
    const auto way = ProbeErofs(directory_, {.files = false});
    return way.ok() ? "" : std::string(way.status().message());
  }
  std::string dev_;
};

TEST_F(LoopProbeTest, SaysWhatIsMissing) {
  EXPECT_EQ(*ProbeErofs(directory_, {.files = false}), ErofsWay::kLoopDevices);
  const auto files = ProbeErofs(directory_);
  ASSERT_TRUE(files.ok()) << files.status();
  std::string why = Probe();
  EXPECT_NE(why.find("/dev/loop-control: No such file"), std::string::npos) << why;
  EXPECT_NE(why.find("modprobe loop"), std::string::npos) << why;
  Give("loop-control");
  why = Probe();
  EXPECT_NE(why.find("/dev/loop"), std::string::npos) << why;
  EXPECT_NE(why.find("a /dev that is a devtmpfs"), std::string::npos) << why;
  const auto off = ProbeErofs(directory_, {.files = false, .loop_devices = false});
  EXPECT_NE(off.status().message().find("mount.loop_devices"), absl::string_view::npos);
  for (const auto& entry : std::filesystem::directory_iterator(directory_)) {
    EXPECT_FALSE(entry.path().filename().string().starts_with("probe")) << entry.path();
  }
  EXPECT_EQ(Devices(), 0u);
}

}  // namespace
}  // namespace imagefs
