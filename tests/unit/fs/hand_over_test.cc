// SPDX-License-Identifier: Apache-2.0
// A daemon ends and the next one continues its FUSE sessions: real mounts, whose descriptors are
// kept by a keeper in the test.
#include <errno.h>
#include <fcntl.h>
#include <linux/fuse.h>
#include <poll.h>
#include <string.h>
#include <unistd.h>

#include <atomic>
#include <thread>

#include "cache/kv.h"
#include "fs/data_files.h"
#include "fs/session_store.h"
#include "gtest/gtest.h"
#include "tests/fakes/fs/fake_fill.h"
#include "tests/fakes/fs/fake_keeper.h"
#include "tests/fakes/fs/mount_fixture.h"

namespace imagefs {
namespace {

constexpr size_t kFileBytes = 300'000;

// In kernel mode the first layer is partially present, so that its bytes come through a session as
// well.
class HandOverTest : public BothModesTest {
 protected:
  void SetUp() override {
    BothModesTest::SetUp();
    if (IsSkipped()) return;
    chain_ = Build(Sample());
    ASSERT_NE(chain_, nullptr);
    fill_ = FakeFill::Empty(chain_->layers[1]);
    auto kv = KeyValueStore::Open(directory_ + "/db");
    ASSERT_TRUE(kv.ok()) << kv.status();
    kv_ = *std::move(kv);
    options_.find_chain = Finder(chain_);
    Restart();
    target_ = Target("mnt");
  }
  void TearDown() override {
    if (table_ != nullptr) {
      table_->UnmountAll();
      table_->RemoveLeftovers();
      EXPECT_TRUE(Eventually([&] { return keeper_.size() == 0; })) << "sessions are left";
    }
    options_.find_chain = nullptr;
    chain_ = nullptr;
    if (kv_ != nullptr) {
      EXPECT_TRUE(Eventually([&] { return kv_->KeysWithPrefix("session")->empty(); }));
    }
    BothModesTest::TearDown();
    sessions_.reset();
  }

  void Kill() {
    KillDaemon();
    sessions_.reset();
  }
  void Start() {
    sessions_ = std::make_unique<SessionStore>(*kv_, &keeper_, boot_);
    options_.sessions = sessions_.get();
    StartDaemon();
  }
  void Restart() {
    Kill();
    Start();
  }

  absl::StatusOr<Fd> OpenTool() {
    auto file = OpenFile(target_ + "/usr/bin/tool", O_RDONLY);
    if (file.ok()) posix_fadvise(file->get(), 0, 0, POSIX_FADV_RANDOM);
    return file;
  }
  // Reads a page that has not been read before, on a thread of its own.
  class Reader {
   public:
    Reader(int fd, size_t offset)
        : thread_([this, fd, offset] {
            std::string page(4096, '\0');
            const ssize_t got = pread(fd, page.data(), page.size(), static_cast<off_t>(offset));
            error_ = got < 0 ? errno : 0;
            right_ = got == static_cast<ssize_t>(page.size()) &&
                     page == PatternBytes(kFileBytes, 1).substr(offset, page.size());
            done_ = true;
          }) {}
    ~Reader() { Join(); }
    void Join() {
      if (thread_.joinable()) thread_.join();
    }
    bool done() const { return done_; }
    bool right() const { return right_; }
    int error() const { return error_; }

   private:
    std::atomic<bool> done_{false}, right_{false};
    std::atomic<int> error_{0};
    std::thread thread_;
  };
  // Reads a request without answering it, like a daemon that is killed in between.
  void TakeARead() {
    std::vector<KeptDescriptor> kept = keeper_.Inherit();
    std::string message(1 << 21, '\0');
    for (int turn = 0; turn < 500; ++turn) {
      for (const KeptDescriptor& one : kept) {
        pollfd wait = {one.fd.get(), POLLIN, 0};
        if (poll(&wait, 1, 10) != 1) continue;
        if (read(one.fd.get(), message.data(), message.size()) <= 0) continue;
        fuse_in_header header;
        memcpy(&header, message.data(), sizeof(header));
        if (header.opcode == FUSE_READ) return;
      }
    }
    FAIL() << "no request comes";
  }

  std::string target_;
  std::string boot_ = "this boot";
  ChainRef chain_;
  std::shared_ptr<FakeFill> fill_;
  FakeKeeper keeper_;
  std::unique_ptr<KeyValueStore> kv_;
  std::unique_ptr<SessionStore> sessions_;
};
INSTANTIATE_TEST_SUITE_P(Modes, HandOverTest, testing::Values(kFuseMode, kKernelMode),
                         [](const auto& info) { return std::string(info.param); });

TEST_P(HandOverTest, ReadsOfADeadDaemonAreAnsweredByTheNextFourTimes) {
  ASSERT_EQ(Mount(chain_, target_), absl::OkStatus());
  EXPECT_EQ(keeper_.size(), 1u);
  const uint64_t mount = MountIdAt(target_);
  const auto file = OpenTool();
  ASSERT_TRUE(file.ok()) << file.status();
  for (size_t round = 0; round < 4; ++round) {
    Kill();
    Reader taken(file->get(), round * 40'960);
    TakeARead();
    Reader queued(file->get(), round * 40'960 + 20'480);
    Start();
    taken.Join();
    queued.Join();
    EXPECT_TRUE(taken.right()) << strerror(taken.error());
    EXPECT_TRUE(queued.right()) << strerror(queued.error());
    EXPECT_EQ(Recover(Finder(chain_)).size(), 1u);
    EXPECT_TRUE(table_->NeedProcess());
  }
  EXPECT_EQ(MountIdAt(target_), mount) << "it is the mount that it was";
  EXPECT_TRUE(*ReadFile(target_ + "/usr/bin/tool", 1'000'000) == PatternBytes(kFileBytes, 1));
  EXPECT_EQ(*ReadFile(target_ + "/etc/os-release", 100), "NAME=test\n");
}

TEST_P(HandOverTest, AStoppedDaemonLeavesItsReadsToTheNext) {
  ASSERT_EQ(Mount(chain_, target_), absl::OkStatus());
  const auto file = OpenTool();
  ASSERT_TRUE(file.ok()) << file.status();
  fill_->Hold();
  Reader reader(file->get(), 102'400);
  fill_->AwaitHeld(1);
  loop_->Leave();
  fill_->FailHeld(absl::CancelledError("the daemon stops"));
  Kill();
  EXPECT_FALSE(reader.done());
  Start();
  fill_->AwaitHeld(1);
  EXPECT_FALSE(reader.done());
  fill_->Release();
  reader.Join();
  EXPECT_TRUE(reader.right()) << strerror(reader.error());
  EXPECT_EQ(Recover(Finder(chain_)).size(), 1u);
}

TEST_P(HandOverTest, AKernelThatCannotSendAgainEndsOnlyWhatWasUnderWay) {
  ASSERT_EQ(Mount(chain_, target_), absl::OkStatus());
  const auto file = OpenTool();
  ASSERT_TRUE(file.ok()) << file.status();
  loop_options_.resend = false;
  Kill();
  Reader taken(file->get(), 102'400);
  TakeARead();
  Reader queued(file->get(), 204'800);
  Start();
  taken.Join();
  queued.Join();
  EXPECT_TRUE(taken.right() || taken.error() == EINTR || taken.error() == EIO)
      << strerror(taken.error());
  EXPECT_TRUE(queued.right()) << strerror(queued.error());
  EXPECT_EQ(Recover(Finder(chain_)).size(), 1u);
  EXPECT_TRUE(*ReadFile(target_ + "/usr/bin/tool", 1'000'000) == PatternBytes(kFileBytes, 1));
}

TEST_P(HandOverTest, AWritableMountGoesOn) {
  ASSERT_EQ(Mount(chain_, target_, /*writable=*/true), absl::OkStatus());
  const auto file = OpenTool();
  ASSERT_TRUE(file.ok()) << file.status();
  Restart();
  Reader reader(file->get(), 102'400);
  reader.Join();
  EXPECT_TRUE(reader.right()) << strerror(reader.error());
  EXPECT_EQ(Recover(Finder(chain_)).size(), 1u);
  EXPECT_TRUE(WriteFileDurably(target_ + "/etc/new", "written").ok());
}

TEST_P(HandOverTest, ALazilyUnmountedTreeReadsOn) {
  ASSERT_EQ(Mount(chain_, target_), absl::OkStatus());
  {
    const auto file = OpenTool();
    ASSERT_TRUE(file.ok()) << file.status();
    ASSERT_TRUE(table_->Unmount(target_, true).ok());
    Restart();
    Recover(Finder(chain_));
    Reader reader(file->get(), 102'400);
    reader.Join();
    EXPECT_TRUE(reader.right()) << strerror(reader.error());
    // A later mount has a session of its own.
    ASSERT_EQ(Mount(chain_, target_), absl::OkStatus());
    Restart();
    EXPECT_EQ(Recover(Finder(chain_)).size(), 1u);
    Reader old(file->get(), 204'800);
    old.Join();
    EXPECT_TRUE(old.right()) << strerror(old.error());
    EXPECT_TRUE(*ReadFile(target_ + "/usr/bin/tool", 1'000'000) == PatternBytes(kFileBytes, 1));
  }
  ASSERT_TRUE(table_->Unmount(target_, false).ok());
  EXPECT_TRUE(Eventually([&] { return keeper_.size() == 0; }));
}

TEST_P(HandOverTest, ALayerThatIsCompleteByNowIsReadOn) {
  ASSERT_EQ(Mount(chain_, target_), absl::OkStatus());
  const auto file = OpenTool();
  ASSERT_TRUE(file.ok()) << file.status();
  fill_->Complete();
  Restart();
  EXPECT_EQ(Recover(Finder(chain_)).size(), 1u);
  Reader reader(file->get(), 102'400);
  reader.Join();
  EXPECT_TRUE(reader.right()) << strerror(reader.error());
  // In kernel mode, a new mount needs no process.
  const std::string second = Target("second");
  ASSERT_EQ(Mount(chain_, second), absl::OkStatus());
  EXPECT_TRUE(*ReadFile(second + "/usr/bin/tool", 1'000'000) == PatternBytes(kFileBytes, 1));
}

TEST_P(HandOverTest, AnotherTreeIsNeverShownInItsPlace) {
  ASSERT_EQ(Mount(chain_, target_), absl::OkStatus());
  const auto file = OpenTool();
  ASSERT_TRUE(file.ok()) << file.status();
  Kill();
  TestChain other(2);
  other.File("first", "moves the others");
  other.File("tool", PatternBytes(kFileBytes, 2), 0755, 2);
  const ChainRef changed = Build(other, "other");
  const_cast<Chain&>(*changed).chain_id = chain_->chain_id;
  if (mode_ == kKernelMode) {
    // Only the layer matters in that mode.
    const_cast<Layer&>(*changed->layers[1]).id = chain_->layers[1]->id;
  }
  options_.find_chain = Finder(changed);
  Start();
  Reader reader(file->get(), 102'400);
  reader.Join();
  EXPECT_FALSE(reader.right());
  EXPECT_NE(reader.error(), 0);
  EXPECT_EQ(Recover(Finder(chain_)).size(), 1u);
  EXPECT_TRUE(*ReadFile(target_ + "/usr/bin/tool", 1'000'000) == PatternBytes(kFileBytes, 1));
}

TEST_P(HandOverTest, WithoutTheKeeperMountsComeBackAndOpenFilesFail) {
  ASSERT_EQ(Mount(chain_, target_), absl::OkStatus());
  const auto file = OpenTool();
  ASSERT_TRUE(file.ok()) << file.status();
  Kill();
  keeper_.Clear();
  Start();
  Reader reader(file->get(), 102'400);
  reader.Join();
  EXPECT_NE(reader.error(), 0);
  EXPECT_EQ(Recover(Finder(chain_)).size(), 1u);
  EXPECT_TRUE(*ReadFile(target_ + "/usr/bin/tool", 1'000'000) == PatternBytes(kFileBytes, 1));
}

TEST_P(HandOverTest, AnotherBootsRecordsAreForgotten) {
  ASSERT_EQ(Mount(chain_, target_), absl::OkStatus());
  Kill();
  boot_ = "another boot";
  Start();
  EXPECT_EQ(keeper_.size(), 0u);
  EXPECT_EQ(Recover(Finder(chain_)).size(), 1u);
  EXPECT_TRUE(*ReadFile(target_ + "/usr/bin/tool", 1'000'000) == PatternBytes(kFileBytes, 1));
}

TEST_P(HandOverTest, AKeeperThatIsFullTakesNothingFromTheMount) {
  keeper_.Fail(true);
  ASSERT_EQ(Mount(chain_, target_), absl::OkStatus());
  EXPECT_TRUE(*ReadFile(target_ + "/usr/bin/tool", 1'000'000) == PatternBytes(kFileBytes, 1));
  EXPECT_EQ(keeper_.size(), 0u);
}

TEST_P(HandOverTest, ASessionIsForgottenWithItsMount) {
  ASSERT_EQ(Mount(chain_, target_), absl::OkStatus());
  EXPECT_EQ(keeper_.size(), 1u);
  ASSERT_TRUE(table_->Unmount(target_, false).ok());
  EXPECT_TRUE(Eventually([&] { return keeper_.size() == 0; }));
}

TEST(DataNodes, ComeFromTheLayerAndItsLayout) {
  const std::string directory = StrCat(testing::TempDir(), "/data-nodes-", RandomHex(6));
  TestChain tree(2), longer(2);
  tree.File("a", "first", 0644, 1);
  tree.File("b", "second", 0644, 2);
  longer.File("a", "first", 0644, 1);
  longer.File("bb", "second", 0644, 2);
  const ChainRef one = tree.Build(directory + "/1"), same = tree.Build(directory + "/2");
  const ChainRef other = longer.Build(directory + "/3");
  EXPECT_EQ(DataNodeOf(*one->layers[0]), DataNodeOf(*same->layers[0]));
  EXPECT_EQ(DataNameOf(*one->layers[0]), DataNameOf(*same->layers[0]));
  EXPECT_NE(DataNodeOf(*one->layers[0]), DataNodeOf(*one->layers[1]));
  // The same bytes with another index.
  EXPECT_EQ(one->layers[0]->id, other->layers[0]->id);
  EXPECT_NE(DataNodeOf(*one->layers[0]), DataNodeOf(*other->layers[0]));
  DataFiles files;
  ASSERT_TRUE(files.Add(one->layers[0], one->chain_id).ok());
  ASSERT_TRUE(files.Add(other->layers[0], other->chain_id).ok());
  EXPECT_EQ(files.List(0).size(), 2u);
  files.Remove(one->layers[0]);
  EXPECT_FALSE(files.unused());
  files.Remove(other->layers[0]);
  EXPECT_TRUE(files.unused());
  EXPECT_TRUE(RemoveTree(directory).ok());
}

}  // namespace
}  // namespace imagefs
