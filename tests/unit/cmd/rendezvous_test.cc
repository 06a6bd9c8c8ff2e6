// SPDX-License-Identifier: Apache-2.0
#include "cmd/rendezvous.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/failure.h"
#include "base/fd.h"
#include "base/text.h"
#include "gtest/gtest.h"

namespace imagefs {
namespace {

class RendezvousTest : public testing::Test {
 protected:
  void SetUp() override {
    dir_ = StrCat(testing::TempDir(), "/rendezvous-", RandomHex(6));
    paths_.root = dir_ + "/root";
    // Longer than a socket address holds.
    paths_.run = StrCat(dir_, "/", std::string(120, 'r'));
    ASSERT_TRUE(PrepareRunDir(paths_.run, geteuid()).ok());
    ASSERT_TRUE(PrepareStore(paths_.root).ok());
  }
  // As a daemon does that owns the store.
  Fd HoldStore() const {
    Fd fd = *OpenFile(paths_.lock(), O_RDWR | O_CREAT, 0600);
    EXPECT_EQ(flock(fd.get(), LOCK_EX | LOCK_NB), 0);
    EXPECT_TRUE(PwriteFull(fd.get(), StrCat(getpid()), 0).ok());
    return fd;
  }
  void TearDown() override { (void)RemoveTree(dir_); }
  std::string dir_;
  Paths paths_;
};

TEST_F(RendezvousTest, NoDaemonIsNotFound) {
  EXPECT_TRUE(absl::IsNotFound(ConnectDaemon(paths_).status()));
  paths_.run += "/absent";
  EXPECT_TRUE(absl::IsNotFound(ConnectDaemon(paths_).status()));
}

TEST_F(RendezvousTest, ListenerIsFoundAndPrivate) {
  absl::StatusOr<Fd> listener = ListenForCommands(paths_);
  ASSERT_TRUE(listener.ok()) << listener.status();
  struct stat st;
  ASSERT_EQ(stat(paths_.socket().c_str(), &st), 0);
  EXPECT_EQ(st.st_mode & 0777, 0600u);
  absl::StatusOr<Fd> connection = ConnectDaemon(paths_);
  ASSERT_TRUE(connection.ok()) << connection.status();
  absl::StatusOr<Peer> peer = PeerOf(connection->get());
  ASSERT_TRUE(peer.ok());
  EXPECT_EQ(peer->pid, getpid());
  EXPECT_EQ(peer->uid, geteuid());
}

TEST_F(RendezvousTest, TheSecondListenerIsRefusedWithThePidOfTheFirst) {
  absl::StatusOr<Fd> listener = ListenForCommands(paths_);
  ASSERT_TRUE(listener.ok());
  absl::StatusOr<Fd> second = ListenForCommands(paths_);
  ASSERT_EQ(second.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_NE(ToStd(second.status().message()).find(StrCat("pid ", getpid())),
            std::string_view::npos);
}

TEST_F(RendezvousTest, ASocketThatAKilledDaemonLeftIsReplaced) {
  ListenForCommands(paths_)->Reset();  // closed, but its name stays
  ASSERT_EQ(access(paths_.socket().c_str(), F_OK), 0);
  EXPECT_TRUE(absl::IsNotFound(ConnectDaemon(paths_).status()));
  absl::StatusOr<Fd> listener = ListenForCommands(paths_);
  ASSERT_TRUE(listener.ok()) << listener.status();
  EXPECT_TRUE(ConnectDaemon(paths_).ok());
}

TEST_F(RendezvousTest, TheStartLockIsHeldByOne) {
  absl::StatusOr<Fd> lock = TakeStartLock(paths_, /*wait=*/true);
  ASSERT_TRUE(lock.ok());
  EXPECT_TRUE(absl::IsUnavailable(TakeStartLock(paths_, /*wait=*/false).status()));
  lock->Reset();
  EXPECT_TRUE(TakeStartLock(paths_, /*wait=*/false).ok());
}

TEST_F(RendezvousTest, ADaemonIsFoundByItsStoreToo) {
  const Fd listener = *ListenIn(paths_.root, "control");
  EXPECT_TRUE(ConnectDaemon(paths_).ok());
  paths_.run = dir_ + "/another";
  EXPECT_TRUE(ConnectDaemon(paths_).ok());
  EXPECT_TRUE(ConnectOrStart(paths_, {"would", "be", "this", "test"}).ok());
}

TEST_F(RendezvousTest, TheRunDirectoryGoesBeforeTheStore) {
  const Fd in_run = *ListenIn(paths_.run, "control"), in_store = *ListenIn(paths_.root, "control");
  fcntl(in_run.get(), F_SETFL, O_NONBLOCK);
  fcntl(in_store.get(), F_SETFL, O_NONBLOCK);
  const auto waiting = [](const Fd& listener) {
    return Fd(accept4(listener.get(), nullptr, nullptr, SOCK_NONBLOCK)).valid();
  };
  const Fd first = *ConnectDaemon(paths_);
  EXPECT_TRUE(waiting(in_run));
  EXPECT_FALSE(waiting(in_store));
  const Fd second = *ConnectInStore(paths_);
  EXPECT_FALSE(waiting(in_run));
  EXPECT_TRUE(waiting(in_store));
}

TEST_F(RendezvousTest, WhyNobodyListensTellsAFreeStoreFromOneThatIsHeld) {
  EXPECT_TRUE(absl::IsNotFound(ExplainNoDaemon(paths_)));
  Fd store = HoldStore();
  const absl::Status held = ExplainNoDaemon(paths_);
  EXPECT_TRUE(absl::IsFailedPrecondition(held));
  EXPECT_NE(ToStd(held.message()).find(StrCat("pid ", getpid())), std::string_view::npos);
  EXPECT_EQ(AwaitListener(paths_, std::chrono::milliseconds(0)), held);
  {
    const Fd start = *TakeStartLock(paths_, /*wait=*/true);
    EXPECT_TRUE(absl::IsUnavailable(ExplainNoDaemon(paths_)));
  }
  store.Reset();
  EXPECT_TRUE(absl::IsNotFound(ExplainNoDaemon(paths_)));
  EXPECT_TRUE(absl::IsNotFound(AwaitListener(paths_, std::chrono::minutes(1))));
  const Fd listener = *ListenIn(paths_.root, "control");
  EXPECT_TRUE(AwaitListener(paths_, std::chrono::minutes(1)).ok());
}

TEST_F(RendezvousTest, ADaemonThatWasToldToStopIsKnown) {
  const Fd store = HoldStore();
  EXPECT_FALSE(WasStopped(paths_, getpid()));
  ASSERT_TRUE(NoteStopped(paths_).ok());
  EXPECT_TRUE(WasStopped(paths_, getpid()));
  EXPECT_FALSE(WasStopped(paths_, getpid() + 1));
}

TEST_F(RendezvousTest, ARunningDaemonIsUsedAndNoneStarted) {
  absl::StatusOr<Fd> listener = ListenForCommands(paths_);
  ASSERT_TRUE(listener.ok());
  EXPECT_TRUE(ConnectOrStart(paths_, {"would", "be", "this", "test"}).ok());
}

std::string Reported(const absl::Status& status) {
  int ends[2];
  EXPECT_EQ(pipe2(ends, O_CLOEXEC), 0);
  Fd reader(ends[0]);
  ReportReady(ends[1], status);
  char buffer[8192];
  const ssize_t n = read(reader.get(), buffer, sizeof(buffer));
  return n <= 0 ? "" : std::string(buffer, static_cast<size_t>(n));
}

TEST(ReportReadyTest, OneLineWithTheReason) {
  EXPECT_EQ(Reported(absl::OkStatus()), "ok\n");
  EXPECT_EQ(Reported(absl::FailedPreconditionError("store is owned\nby pid 1")),
            "9/no_daemon store is owned by pid 1\n");
  EXPECT_EQ(Reported(WithKind(absl::FailedPreconditionError("owned"), FailureKind::kBusy)),
            "9/busy owned\n");
  EXPECT_LE(Reported(absl::InternalError(std::string(100000, 'x'))).size(), 4096u);
}

TEST(WaitForExitTest, AProcessThatIsGone) {
  const pid_t child = fork();
  if (child == 0) _exit(0);
  ASSERT_GT(child, 0);
  EXPECT_TRUE(WaitForExit(child, 60'000).ok());
  EXPECT_EQ(WaitForExit(getpid(), 0).code(), absl::StatusCode::kDeadlineExceeded);
}

}  // namespace
}  // namespace imagefs
