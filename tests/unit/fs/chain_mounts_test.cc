// SPDX-License-Identifier: Apache-2.0
// The private mounts on their own: who shares one, when it is removed, and what outlives its
// daemon.
#include "fs/chain_mounts.h"

#include <fcntl.h>
#include <sys/mount.h>
#include <unistd.h>

#include <memory>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "tests/fakes/base/eventually.h"
#include "tests/fakes/fs/fake_fill.h"
#include "tests/fakes/fs/mount_fixture.h"

namespace imagefs {
namespace {

class ChainMountsTest : public BothModesTest {
 protected:
  void SetUp() override {
    BothModesTest::SetUp();
    if (IsSkipped() || HasFatalFailure()) return;
    table_.reset();
    private_ = Target("chains");  // by that name mounts are known as ours
    chain_ = Build(Sample());
    ASSERT_NE(chain_, nullptr);
    Start();
  }
  void TearDown() override {
    for (const std::string& path : mounted_here_) EXPECT_EQ(umount2(path.c_str(), 0), 0) << path;
    if (mounts_ != nullptr) mounts_->RemoveOrphans();
    mounts_.reset();
    BothModesTest::TearDown();
  }
  void Start() { mounts_ = std::make_unique<ChainMounts>(private_, *loop_, nullptr); }
  Presentation Plain() const {
    return {mode_, "", files_ ? ErofsWay::kFiles : ErofsWay::kLoopDevices};
  }
  bool kernel() const { return mode_ == kKernelMode; }
  // Returns "" if nothing is mounted there.
  static std::string Read(const ChainMounts::Lease& lease) {
    return ReadFile(lease.path + "/etc/os-release", 100).value_or("");
  }
  static std::string Tool(const ChainMounts::Lease& lease) {
    return ReadFile(lease.path + "/usr/bin/tool", 1 << 20).value_or("");
  }
  size_t Mounts() const { return MountsBelow(private_); }
  // The number of names in the directory of private mounts.
  size_t Names() const { return ListDirectory(private_); }
  static size_t ListDirectory(const std::string& path) {
    size_t count = 0;
    for (const auto& [name, line] : Describe(path)) {
      if (!name.empty() && name.find('/', 1) == std::string::npos) ++count;
    }
    return count;
  }

  // A bind mount that lasts until the end of the test.
  std::string BindOf(const std::string& path) {
    mounted_here_.push_back(Target("bind"));
    EXPECT_EQ(mount(path.c_str(), mounted_here_.back().c_str(), nullptr, MS_BIND, nullptr), 0);
    return mounted_here_.back();
  }
  std::string OtherFileSystem() {
    mounted_here_.push_back(Target("stranger"));
    EXPECT_EQ(mount("tmpfs", mounted_here_.back().c_str(), "tmpfs", 0, nullptr), 0);
    return mounted_here_.back();
  }

  std::string private_;
  std::vector<std::string> mounted_here_;
  ChainRef chain_;
  std::unique_ptr<ChainMounts> mounts_;
};

TEST_P(ChainMountsTest, OneIsSharedUntilItsLastUserGoes) {
  const auto first = mounts_->Acquire(chain_, Plain());
  ASSERT_TRUE(first.ok()) << first.status();
  EXPECT_EQ(Read(*first), "NAME=test\n");
  const auto second = mounts_->Acquire(chain_, Plain());
  ASSERT_TRUE(second.ok()) << second.status();
  EXPECT_EQ(second->name, first->name);
  EXPECT_EQ(second->path, first->path);
  EXPECT_FALSE(second->filling);
  EXPECT_EQ(Mounts(), 1U);
  EXPECT_TRUE(mounts_->InUse(chain_->chain_id));
  EXPECT_EQ(mounts_->HasKernelMounts(), kernel());
  EXPECT_EQ(mounts_->NeedProcess(), !kernel());
  mounts_->Release(first->name, /*lazy=*/false);
  EXPECT_EQ(Read(*second), "NAME=test\n");
  mounts_->Release(second->name, /*lazy=*/false);
  EXPECT_EQ(Mounts(), 0U);
  EXPECT_EQ(Names(), 0U);
  EXPECT_FALSE(mounts_->InUse(chain_->chain_id));
  EXPECT_FALSE(mounts_->NeedProcess());
  EXPECT_FALSE(mounts_->HasKernelMounts());
}

TEST_P(ChainMountsTest, MoreReleasesThanUsersAreNothing) {
  mounts_->Release("never", /*lazy=*/false);
  const auto lease = mounts_->Acquire(chain_, Plain());
  ASSERT_TRUE(lease.ok()) << lease.status();
  mounts_->Release(lease->name, /*lazy=*/false);
  mounts_->Release(lease->name, /*lazy=*/false);
  const auto again = mounts_->Acquire(chain_, Plain());
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_EQ(Read(*again), "NAME=test\n");
  mounts_->Release(again->name, /*lazy=*/false);
  EXPECT_EQ(Mounts(), 0U);
}

TEST_P(ChainMountsTest, ChainsAndPresentationsHaveTheirOwn) {
  TestChain tree(1);
  tree.Dir("etc");
  tree.File("etc/os-release", "NAME=other\n");
  const ChainRef other = Build(tree, "other");
  const auto first = mounts_->Acquire(chain_, Plain()), second = mounts_->Acquire(other, Plain());
  ASSERT_TRUE(first.ok()) << first.status();
  ASSERT_TRUE(second.ok()) << second.status();
  EXPECT_NE(first->name, second->name);
  EXPECT_EQ(Read(*first), "NAME=test\n");
  EXPECT_EQ(Read(*second), "NAME=other\n");
  Presentation shown = Plain();
  shown.mode = kernel() ? std::string(kFuseMode) : std::string(kKernelMode);
  shown.way = ErofsWay::kFiles;
  const auto third = mounts_->Acquire(chain_, shown);
  ASSERT_TRUE(third.ok()) << third.status();
  EXPECT_NE(third->name, first->name);
  EXPECT_EQ(Read(*third), "NAME=test\n");
  EXPECT_TRUE(mounts_->HasKernelMounts());
  EXPECT_TRUE(mounts_->NeedProcess());
  mounts_->Release(first->name, /*lazy=*/false);
  EXPECT_EQ(Read(*second), "NAME=other\n");
  EXPECT_TRUE(mounts_->InUse(chain_->chain_id)) << "by the other presentation";
  mounts_->Release(third->name, /*lazy=*/false);
  EXPECT_FALSE(mounts_->InUse(chain_->chain_id));
  EXPECT_TRUE(mounts_->InUse(other->chain_id));
  mounts_->Release(second->name, /*lazy=*/false);
}

TEST_P(ChainMountsTest, ManyAtOnceMakeOne) {
  constexpr int kUsers = 16;
  std::vector<std::thread> threads;
  std::vector<absl::StatusOr<ChainMounts::Lease>> leases(kUsers);
  for (int i = 0; i < kUsers; ++i) {
    threads.emplace_back([&, i] { leases[i] = mounts_->Acquire(chain_, Plain()); });
  }
  for (std::thread& thread : threads) thread.join();
  threads.clear();
  EXPECT_EQ(Mounts(), 1U);
  std::set<std::string> paths;
  for (const auto& lease : leases) {
    ASSERT_TRUE(lease.ok()) << lease.status();
    paths.insert(lease->path);
  }
  EXPECT_EQ(paths.size(), 1U);
  // Users come and go. A user that has a lease must always have a mount.
  for (int i = 0; i < kUsers; ++i) {
    threads.emplace_back([&, i] {
      for (int round = 0; round < 5; ++round) {
        mounts_->Release(leases[i]->name, /*lazy=*/round % 2 == 0);
        leases[i] = mounts_->Acquire(chain_, Plain());
        ASSERT_TRUE(leases[i].ok()) << leases[i].status();
        EXPECT_EQ(Read(*leases[i]), "NAME=test\n");
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(Mounts(), 1U);
  for (const auto& lease : leases) mounts_->Release(lease->name, /*lazy=*/false);
  EXPECT_EQ(Mounts(), 0U);
  EXPECT_EQ(Names(), 0U);
}

TEST_P(ChainMountsTest, AFailureLeavesNothing) {
  const auto before = mounts_->Acquire(chain_, Plain());
  ASSERT_TRUE(before.ok()) << before.status();
  mounts_->Release(before->name, /*lazy=*/false);
  // Something else is in its place.
  ASSERT_TRUE(WriteFileDurably(before->path, "x").ok());
  EXPECT_FALSE(mounts_->Acquire(chain_, Plain()).ok());
  EXPECT_FALSE(mounts_->HasKernelMounts());
  EXPECT_EQ(Mounts(), 0U);
  // A session that has started ends with its mount.
  EXPECT_TRUE(Eventually([&] { return !mounts_->NeedProcess(); }));
  EXPECT_FALSE(mounts_->InUse(chain_->chain_id));
  ASSERT_EQ(unlink(before->path.c_str()), 0);
  const auto after = mounts_->Acquire(chain_, Plain());
  ASSERT_TRUE(after.ok()) << after.status();
  EXPECT_EQ(Read(*after), "NAME=test\n");
  mounts_->Release(after->name, /*lazy=*/false);
}

TEST_P(ChainMountsTest, OneThatSomebodyUnmountedIsMadeAgain) {
  const auto first = mounts_->Acquire(chain_, Plain());
  ASSERT_TRUE(first.ok()) << first.status();
  ASSERT_EQ(umount2(first->path.c_str(), MNT_DETACH), 0);
  const auto second = mounts_->Acquire(chain_, Plain());
  ASSERT_TRUE(second.ok()) << second.status();
  EXPECT_EQ(second->name, first->name);
  EXPECT_EQ(Read(*second), "NAME=test\n");
  EXPECT_EQ(Mounts(), 1U);
  mounts_->Release(first->name, /*lazy=*/false);
  EXPECT_EQ(Read(*second), "NAME=test\n") << "the other has it";
  mounts_->Release(second->name, /*lazy=*/false);
  EXPECT_EQ(Mounts(), 0U);
}

TEST_P(ChainMountsTest, WhatIsReadAfterALazyReleaseIsServedToItsEnd) {
  const auto lease = mounts_->Acquire(chain_, Plain());
  ASSERT_TRUE(lease.ok()) << lease.status();
  absl::StatusOr<Fd> file = OpenFile(lease->path + "/usr/bin/tool", O_RDONLY);
  ASSERT_TRUE(file.ok()) << file.status();
  mounts_->Release(lease->name, /*lazy=*/true);
  EXPECT_EQ(Mounts(), 0U);
  // In kernel mode the kernel keeps what it needs.
  EXPECT_EQ(mounts_->InUse(chain_->chain_id), !kernel());
  std::string bytes(300'000, '\0');
  EXPECT_EQ(PreadFull(file->get(), absl::MakeSpan(bytes.data(), bytes.size()), 0),
            absl::StatusOr<size_t>(bytes.size()));
  EXPECT_TRUE(bytes == PatternBytes(300'000, 1));
  file->Reset();
  EXPECT_TRUE(Eventually([&] { return !mounts_->InUse(chain_->chain_id); }));
  EXPECT_FALSE(mounts_->NeedProcess());
}

TEST_P(ChainMountsTest, NothingIsAdoptedWhereNothingIs) {
  const auto lease = mounts_->Adopt(chain_->chain_id, chain_, Plain(), /*filling=*/false, nullptr);
  EXPECT_TRUE(absl::IsNotFound(lease.status())) << lease.status();
  EXPECT_FALSE(mounts_->InUse(chain_->chain_id));
}

TEST_P(ChainMountsTest, StrangersGoAndOnesOwnStay) {
  const auto lease = mounts_->Acquire(chain_, Plain());
  ASSERT_TRUE(lease.ok()) << lease.status();
  const std::string stranger = Target("chains/0123.kernel");
  ASSERT_EQ(mount("tmpfs", stranger.c_str(), "tmpfs", 0, nullptr), 0);
  ASSERT_EQ(mount("tmpfs", stranger.c_str(), "tmpfs", 0, nullptr), 0);  // one on the other
  ASSERT_EQ(Mounts(), 3U);
  mounts_->RemoveOrphans();
  EXPECT_EQ(Mounts(), 1U);
  EXPECT_FALSE(StatPath(stranger).ok());
  EXPECT_EQ(Read(*lease), "NAME=test\n");
  mounts_->Release(lease->name, /*lazy=*/false);
}

INSTANTIATE_TEST_SUITE_P(Modes, ChainMountsTest,
                         testing::Values(kFuseMode, kKernelMode, kLoopDevices));

// A kernel mount outlives its daemon; the next daemon may know more or less about it.
class KernelMountsTest : public ChainMountsTest {
 protected:
  void Restart() {
    mounts_.reset();
    Start();
  }
};

TEST_P(KernelMountsTest, TheNextDaemonAdoptsIt) {
  ASSERT_TRUE(mounts_->Acquire(chain_, Plain()).ok());
  Restart();
  EXPECT_EQ(Mounts(), 1U);
  EXPECT_FALSE(mounts_->InUse(chain_->chain_id)) << "until it is adopted";
  const auto filling = mounts_->Adopt(chain_->chain_id, chain_, Plain(), /*filling=*/true, nullptr);
  EXPECT_TRUE(absl::IsNotFound(filling.status())) << filling.status();
  // A chain that the store has forgotten stays mounted.
  const auto lease = mounts_->Adopt(chain_->chain_id, nullptr, Plain(), /*filling=*/false, nullptr);
  ASSERT_TRUE(lease.ok()) << lease.status();
  EXPECT_EQ(Read(*lease), "NAME=test\n");
  EXPECT_TRUE(mounts_->InUse(chain_->chain_id));
  EXPECT_TRUE(mounts_->HasKernelMounts());
  EXPECT_FALSE(mounts_->NeedProcess());
  // A later Acquire shares the adopted mount.
  const auto acquired = mounts_->Acquire(chain_, Plain());
  ASSERT_TRUE(acquired.ok()) << acquired.status();
  EXPECT_EQ(acquired->name, lease->name);
  mounts_->RemoveOrphans();
  EXPECT_EQ(Mounts(), 1U);
  mounts_->Release(lease->name, /*lazy=*/false);
  EXPECT_EQ(Read(*acquired), "NAME=test\n");
  mounts_->Release(acquired->name, /*lazy=*/false);
  EXPECT_EQ(Mounts(), 0U);
}

TEST_P(KernelMountsTest, WhatNobodyAdoptsGoes) {
  ASSERT_TRUE(mounts_->Acquire(chain_, Plain()).ok());
  Restart();
  mounts_->RemoveOrphans();
  EXPECT_EQ(Mounts(), 0U);
  EXPECT_EQ(Names(), 0U);
  // Adopt looks at the current mounts, not at those of the startup.
  const auto lease = mounts_->Adopt(chain_->chain_id, chain_, Plain(), /*filling=*/false, nullptr);
  EXPECT_TRUE(absl::IsNotFound(lease.status())) << lease.status();
}

TEST_P(KernelMountsTest, OnlyTheMountThatABindIsOfIsAdopted) {
  const auto before = mounts_->Acquire(chain_, Plain());
  ASSERT_TRUE(before.ok()) << before.status();
  const std::string bind = BindOf(before->path), other = OtherFileSystem();
  Restart();
  const auto mounts = ReadMountInfo();
  ASSERT_TRUE(mounts.ok());
  const auto adopt = [&](const std::string& of) {
    return mounts_->Adopt(chain_->chain_id, chain_, Plain(), false, FindMountAt(*mounts, of));
  };
  EXPECT_TRUE(absl::IsNotFound(adopt(other).status()));
  const auto lease = adopt(bind);
  ASSERT_TRUE(lease.ok()) << lease.status();
  EXPECT_EQ(lease->path, before->path);
  mounts_->Release(lease->name, /*lazy=*/false);
}

TEST_P(KernelMountsTest, APrivateMountThatIsGoneComesFromItsBind) {
  const auto before = mounts_->Acquire(chain_, Plain());
  ASSERT_TRUE(before.ok()) << before.status();
  const std::string bind = BindOf(before->path);
  mounts_.reset();
  ASSERT_EQ(umount2(before->path.c_str(), 0), 0);
  Start();
  const auto mounts = ReadMountInfo();
  ASSERT_TRUE(mounts.ok());
  const ChainMounts::Lease lease =
      mounts_->AdoptKernelMount(chain_->chain_id, chain_, Plain(), FindMountAt(*mounts, bind));
  EXPECT_EQ(lease.path, before->path);
  EXPECT_EQ(Read(lease), "NAME=test\n");
  EXPECT_EQ(Mounts(), 1U);
  EXPECT_TRUE(mounts_->InUse(chain_->chain_id));
  const ChainMounts::Lease again =
      mounts_->AdoptKernelMount(chain_->chain_id, chain_, Plain(), nullptr);
  EXPECT_EQ(again.name, lease.name);
  mounts_->Release(lease.name, /*lazy=*/false);
  EXPECT_EQ(Mounts(), 1U) << "it has two users";
  mounts_->Release(again.name, /*lazy=*/false);
  EXPECT_EQ(Mounts(), 0U);
}

INSTANTIATE_TEST_SUITE_P(Modes, KernelMountsTest, testing::Values(kKernelMode, kLoopDevices));

// One of the layers is served by the data mount, in kernel mode over files.
class FillingMountsTest : public ChainMountsTest {
 protected:
  void SetUp() override {
    ChainMountsTest::SetUp();
    if (IsSkipped() || HasFatalFailure()) return;
    fill_ = FakeFill::Empty(chain_->layers[1]);
  }
  std::shared_ptr<FakeFill> fill_;
};

TEST_P(FillingMountsTest, TheDataMountIsThereFromTheFirstLayerToTheLast) {
  const auto first = mounts_->Acquire(chain_, Plain());
  ASSERT_TRUE(first.ok()) << first.status();
  EXPECT_TRUE(first->filling);
  EXPECT_EQ(Mounts(), 2U) << "the data mount, and that of the chain";
  EXPECT_TRUE(mounts_->NeedProcess());
  EXPECT_TRUE(Tool(*first) == PatternBytes(300'000, 1));
  const auto second = mounts_->Acquire(chain_, Plain());
  ASSERT_TRUE(second.ok()) << second.status();
  EXPECT_EQ(second->name, first->name);
  mounts_->Release(first->name, /*lazy=*/false);
  EXPECT_EQ(Mounts(), 2U);
  mounts_->Release(second->name, /*lazy=*/false);
  EXPECT_EQ(Mounts(), 0U);
  EXPECT_EQ(Names(), 0U);
  EXPECT_TRUE(Eventually([&] { return !mounts_->NeedProcess(); }));
}

TEST_P(FillingMountsTest, OnceCompleteWhatIsMountedNextIsReadFromLocalFiles) {
  const auto filling = mounts_->Acquire(chain_, Plain());
  ASSERT_TRUE(filling.ok()) << filling.status();
  fill_->Complete();
  const auto complete = mounts_->Acquire(chain_, Plain());
  ASSERT_TRUE(complete.ok()) << complete.status();
  EXPECT_FALSE(complete->filling);
  EXPECT_NE(complete->name, filling->name);
  EXPECT_EQ(Read(*filling), "NAME=test\n") << "the old one goes with its last user";
  mounts_->Release(filling->name, /*lazy=*/false);
  EXPECT_EQ(Mounts(), 1U);
  EXPECT_TRUE(Eventually([&] { return !mounts_->NeedProcess(); }));
  EXPECT_TRUE(Tool(*complete) == PatternBytes(300'000, 1));
  mounts_->Release(complete->name, /*lazy=*/false);
}

TEST_P(FillingMountsTest, LoopDevicesNeedAllOfIt) {
  Presentation loops = Plain();
  loops.way = ErofsWay::kLoopDevices;
  const auto lease = mounts_->Acquire(chain_, loops);
  EXPECT_TRUE(absl::IsFailedPrecondition(lease.status())) << lease.status();
  EXPECT_EQ(Mounts(), 0U);
  EXPECT_FALSE(mounts_->NeedProcess());
}

INSTANTIATE_TEST_SUITE_P(Modes, FillingMountsTest, testing::Values(kKernelMode));

}  // namespace
}  // namespace imagefs
