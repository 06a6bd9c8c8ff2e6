// SPDX-License-Identifier: Apache-2.0
#include "cmd/service_manager.h"

#include <fcntl.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/text.h"
#include "cmd/rendezvous.h"
#include "gtest/gtest.h"

namespace imagefs {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

class ServiceManagerTest : public testing::Test {
 protected:
  void SetUp() override {
    dir_ = StrCat(testing::TempDir(), "/sm-", RandomHex(6));
    ASSERT_TRUE(PrepareRunDir(dir_, geteuid()).ok());
  }
  void TearDown() override {
    for (const char* name : {"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_FDS",
                             "LISTEN_PID", "LISTEN_FDNAMES"}) {
      unsetenv(name);
    }
    (void)RemoveTree(dir_);
  }
  Fd Listening(const std::string& name) { return *ListenIn(dir_, name); }
  // What the service manager hears on, and all that it has heard.
  void ListenToNotifications() {
    manager_ = Fd(socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    const std::string path = dir_ + "/notify";
    ASSERT_LT(path.size(), sizeof(address.sun_path));
    path.copy(address.sun_path, path.size());
    ASSERT_EQ(bind(manager_.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)),
              0);
    setenv("NOTIFY_SOCKET", path.c_str(), 1);
  }
  std::string Heard() {
    char buffer[512];
    const ssize_t size = recv(manager_.get(), buffer, sizeof(buffer), 0);
    return size < 0 ? "" : std::string(buffer, static_cast<size_t>(size));
  }

  std::string dir_;
  Fd manager_;
};

std::vector<std::string> Names(const std::vector<PassedSocket>& sockets) {
  std::vector<std::string> names;
  for (const PassedSocket& socket : sockets) names.push_back(socket.name);
  return names;
}

TEST_F(ServiceManagerTest, KnownListeningSocketsAreKept) {
  std::vector<PassedSocket> passed;
  for (const char* name : {"snapshotter", "control", "cri"}) {
    passed.push_back({name, Listening(name)});
  }
  const std::vector<PassedSocket> kept = UsableSockets(std::move(passed));
  EXPECT_EQ(Names(kept), (std::vector<std::string>{"snapshotter", "control", "cri"}));
  for (const PassedSocket& socket : kept) {
    EXPECT_NE(fcntl(socket.fd.get(), F_GETFL) & O_NONBLOCK, 0) << socket.name;
  }
}

TEST_F(ServiceManagerTest, OthersAreClosed) {
  std::vector<PassedSocket> passed;
  passed.push_back({"unknown", Listening("unknown")});
  passed.push_back({"", Listening("empty")});
  passed.push_back({"control.sock", Listening("longer")});
  passed.push_back({"cri", Fd(open("/dev/null", O_RDWR | O_CLOEXEC))});
  passed.push_back({"cri", Fd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0))});  // not listening
  Fd tcp(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  ASSERT_EQ(listen(tcp.get(), 1), 0);
  passed.push_back({"cri", std::move(tcp)});
  passed.push_back({"cri", Fd(socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0))});
  passed.push_back({"control", Listening("one")});
  passed.push_back({"control", Listening("two")});
  std::vector<int> numbers;
  for (const PassedSocket& socket : passed) numbers.push_back(socket.fd.get());
  const std::vector<PassedSocket> kept = UsableSockets(std::move(passed));
  ASSERT_EQ(Names(kept), std::vector<std::string>{"control"});
  EXPECT_EQ(kept[0].fd.get(), numbers[7]);  // the first of its name
}

TEST_F(ServiceManagerTest, WithoutAManagerNothingIsTakenAndNothingSaid) {
  EXPECT_TRUE(TakePassedDescriptors().sockets.empty());
  // Of another process: these are not ours.
  setenv("LISTEN_FDS", "1", 1);
  setenv("LISTEN_PID", "1", 1);
  EXPECT_TRUE(TakePassedDescriptors().sockets.empty());
  NotifyServiceManager("READY=1");
  EXPECT_EQ(Watchdog::LimitFromEnvironment(), seconds(0));
}

TEST_F(ServiceManagerTest, NonsenseInTheEnvironmentTakesNothing) {
  for (const char* count : {"", "-1", "x", "99999999999999999999"}) {
    setenv("LISTEN_FDS", count, 1);
    setenv("LISTEN_PID", StrCat(getpid()).c_str(), 1);
    EXPECT_TRUE(TakePassedDescriptors().sockets.empty()) << count;
  }
}

TEST_F(ServiceManagerTest, StatesArriveAtTheManager) {
  ListenToNotifications();
  NotifyServiceManager("READY=1\nSTATUS=Serving /x");
  EXPECT_EQ(Heard(), "READY=1\nSTATUS=Serving /x");
}

TEST_F(ServiceManagerTest, TheWatchdogsLimitIsRead) {
  setenv("WATCHDOG_USEC", "30000000", 1);
  EXPECT_EQ(Watchdog::LimitFromEnvironment(), seconds(30));
  setenv("WATCHDOG_PID", "1", 1);  // another process is watched
  EXPECT_EQ(Watchdog::LimitFromEnvironment(), seconds(0));
  unsetenv("WATCHDOG_PID");
  for (const char* nonsense : {"", "-5", "soon", "0"}) {
    setenv("WATCHDOG_USEC", nonsense, 1);
    EXPECT_EQ(Watchdog::LimitFromEnvironment(), seconds(0)) << nonsense;
  }
}

TEST_F(ServiceManagerTest, ThePingComesTwiceALimitAndOnlyFromTurns) {
  ListenToNotifications();
  Watchdog watchdog(seconds(10));
  const auto start = Watchdog::Clock::now();
  EXPECT_EQ(watchdog.PollTimeoutMs(-1, start), 0);
  EXPECT_EQ(Heard(), "");
  watchdog.Turn(start);
  EXPECT_EQ(Heard(), "WATCHDOG=1");
  EXPECT_EQ(watchdog.PollTimeoutMs(-1, start), 5000);
  EXPECT_EQ(watchdog.PollTimeoutMs(1000, start), 1000);
  EXPECT_EQ(watchdog.PollTimeoutMs(1000, start + milliseconds(4900)), 100);
  watchdog.Turn(start + milliseconds(4999));
  EXPECT_EQ(Heard(), "");
  watchdog.Turn(start + seconds(5));
  EXPECT_EQ(Heard(), "WATCHDOG=1");
  // A loop that hung does not have to make up for what it missed.
  watchdog.Turn(start + seconds(60));
  EXPECT_EQ(Heard(), "WATCHDOG=1");
  EXPECT_EQ(Heard(), "");
  EXPECT_EQ(watchdog.PollTimeoutMs(-1, start + seconds(61)), 4000);
}

TEST_F(ServiceManagerTest, WhereNobodyWatchesPollMayWait) {
  ListenToNotifications();
  Watchdog watchdog{seconds(0)};
  EXPECT_EQ(watchdog.PollTimeoutMs(-1, Watchdog::Clock::now()), -1);
  EXPECT_EQ(watchdog.PollTimeoutMs(1000, Watchdog::Clock::now()), 1000);
  watchdog.Turn(Watchdog::Clock::now());
  EXPECT_EQ(Heard(), "");
}

}  // namespace
}  // namespace imagefs
