// SPDX-License-Identifier: Apache-2.0
#include "cmd/listeners.h"

#include <fcntl.h>
#include <grpcpp/grpcpp.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <initializer_list>
#include <memory>

#include "base/text.h"
#include "cmd/rendezvous.h"
#include "gtest/gtest.h"
#include "proto/control.grpc.pb.h"

namespace imagefs {
namespace {

class ListenersTest : public testing::Test {
 protected:
  void SetUp() override {
    directory_ = StrCat(testing::TempDir(), "/li-", RandomHex(6));
    paths_.run = directory_ + "/run";
    paths_.root = directory_ + "/root";
    ASSERT_TRUE(PrepareStore(paths_.root).ok());
    ASSERT_TRUE(PrepareRunDir(paths_.run, geteuid()).ok());
    grpc::ServerBuilder builder;
    builder.RegisterService(&service_);
    server_ = builder.BuildAndStart();
    ASSERT_NE(server_, nullptr);
  }
  void TearDown() override {
    listeners_.reset();
    server_->Shutdown(std::chrono::system_clock::now());
    (void)RemoveTree(directory_);
  }
  std::string PathOf(std::string_view name) const { return StrCat(paths_.run, "/", name, ".sock"); }
  bool Exists(std::string_view name) const { return access(PathOf(name).c_str(), F_OK) == 0; }
  void Make(std::initializer_list<const char*> passed) {
    std::vector<PassedSocket> sockets;
    for (const char* name : passed) sockets.push_back({name, *ListenIn(paths_.run, name)});
    sockets = UsableSockets(std::move(sockets));
    for (const PassedSocket& socket : sockets) kept_.push_back(*socket.fd.Duplicate());
    listeners_ = std::make_unique<Listeners>(paths_, std::move(sockets));
  }
  size_t Polled() const {
    std::vector<pollfd> fds;
    listeners_->AppendTo(&fds);
    return fds.size();
  }
  // How many of the sockets have somebody waiting.
  size_t Waiting() const {
    std::vector<pollfd> fds;
    listeners_->AppendTo(&fds);
    return static_cast<size_t>(std::max(0, poll(fds.data(), fds.size(), 0)));
  }
  void AcceptAll() {
    std::vector<pollfd> fds;
    listeners_->AppendTo(&fds);
    ASSERT_GT(poll(fds.data(), fds.size(), 0), 0);
    listeners_->Accept(fds);
  }

  std::string directory_;
  Paths paths_;
  control::v1::Control::Service service_;
  std::unique_ptr<grpc::Server> server_;
  std::unique_ptr<Listeners> listeners_;
  std::vector<Fd> kept_;  // the manager's own descriptors of what it passed
};

TEST_F(ListenersTest, SocketsAreMadeWhereNoneIsPassed) {
  Make({});
  ASSERT_TRUE(listeners_->Add(kControlSocket, *server_).ok());
  ASSERT_TRUE(listeners_->Add(kSnapshotterSocket, *server_).ok());
  EXPECT_EQ(Polled(), 2u);
  struct stat st;
  ASSERT_EQ(stat(PathOf("snapshotter").c_str(), &st), 0);
  EXPECT_EQ(st.st_mode & 0777, 0600u);
  const absl::StatusOr<Fd> connection = ConnectDaemon(paths_);
  ASSERT_TRUE(connection.ok());
  EXPECT_EQ(Waiting(), 1u);
  AcceptAll();
  EXPECT_EQ(Waiting(), 0u);
  listeners_->Close();
  EXPECT_FALSE(Exists("control") || Exists("snapshotter"));
}

TEST_F(ListenersTest, WithoutDescriptorsAConnectionIsRefusedNotLeftWaiting) {
  Make({});
  ASSERT_TRUE(listeners_->Add(kControlSocket, *server_).ok());
  const absl::StatusOr<Fd> connection = ConnectDaemon(paths_);
  ASSERT_TRUE(connection.ok());
  rlimit before{};
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &before), 0);
  std::vector<pollfd> fds;
  listeners_->AppendTo(&fds);
  fds[0].revents = POLLIN;
  // From the first number that is free on none can be had.
  int first_free = 0;
  while (fcntl(first_free, F_GETFD) >= 0) ++first_free;
  rlimit none = before;
  none.rlim_cur = static_cast<rlim_t>(first_free);
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &none), 0);
  listeners_->Accept(fds);
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &before), 0);
  EXPECT_EQ(Waiting(), 0u);
  char byte;
  EXPECT_EQ(recv(connection->get(), &byte, 1, MSG_DONTWAIT), 0) << "it was closed";
}

TEST_F(ListenersTest, PassedSocketsKeepTheirNames) {
  Make({"control", "snapshotter"});
  ASSERT_TRUE(listeners_->Add(kControlSocket, *server_).ok());
  EXPECT_EQ(Polled(), 1u);  // nobody serves the other one yet
  EXPECT_TRUE(listeners_->Retire());
  listeners_->Close();
  EXPECT_TRUE(Exists("control") && Exists("snapshotter"));
  // Who connects now waits for the next daemon.
  EXPECT_TRUE(ConnectDaemon(paths_).ok());
}

TEST_F(ListenersTest, WhoConnectsToAPassedSocketSeesTheDaemon) {
  Make({"control"});
  const absl::StatusOr<Fd> connection = ConnectDaemon(paths_);
  ASSERT_TRUE(connection.ok());
  EXPECT_EQ(PeerOf(connection->get())->pid, getpid());
}

TEST_F(ListenersTest, AConnectionToAPassedSocketWithoutServerStaysInItsQueue) {
  Make({"control", "snapshotter"});
  ASSERT_TRUE(listeners_->Add(kSnapshotterSocket, *server_).ok());
  const absl::StatusOr<Fd> connection = ConnectDaemon(paths_);
  ASSERT_TRUE(connection.ok());
  EXPECT_EQ(Waiting(), 0u);
  EXPECT_TRUE(listeners_->Retire());
  listeners_->Close();
  pollfd queue{kept_[0].get(), POLLIN, 0};
  EXPECT_EQ(poll(&queue, 1, 0), 1);
}

TEST_F(ListenersTest, RetiringOneThatSomebodyHasConnectedToIsCalledOff) {
  for (const bool passed : {true, false}) {
    if (passed) Make({"control"});
    if (!passed) Make({});
    ASSERT_TRUE(listeners_->Add(kControlSocket, *server_).ok());
    ASSERT_TRUE(listeners_->Add(kCriSocket, *server_).ok());
    const absl::StatusOr<Fd> connection = ConnectDaemon(paths_);
    ASSERT_TRUE(connection.ok());
    EXPECT_FALSE(listeners_->Retire());
    EXPECT_EQ(Waiting(), 0u);  // served
    EXPECT_TRUE(Exists("control") && Exists("cri"));
    EXPECT_TRUE(ConnectDaemon(paths_).ok());
    AcceptAll();
    EXPECT_TRUE(listeners_->Retire());
    EXPECT_EQ(Exists("control"), passed);
    EXPECT_FALSE(Exists("cri"));
    listeners_->Close();
    kept_.clear();
  }
}

TEST_F(ListenersTest, ANameThatSomebodyElseTookIsLeftAlone) {
  Make({});
  ASSERT_TRUE(listeners_->Add(kControlSocket, *server_).ok());
  const Fd other = *ListenIn(paths_.run, "control");
  EXPECT_TRUE(listeners_->Retire());
  EXPECT_TRUE(Exists("control"));
  listeners_->Close();
  EXPECT_TRUE(ConnectDaemon(paths_).ok());
}

TEST_F(ListenersTest, ANameHasOneServerAndOneDaemon) {
  Make({});
  ASSERT_TRUE(listeners_->Add(kControlSocket, *server_).ok());
  EXPECT_FALSE(listeners_->Add(kControlSocket, *server_).ok());
  Listeners second(paths_, {});
  EXPECT_EQ(second.Add(kControlSocket, *server_).code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_TRUE(Exists("control"));
}

TEST_F(ListenersTest, ASocketInTheStoreLeadsToTheSameServer) {
  Make({"control"});
  ASSERT_TRUE(listeners_->Add(kControlSocket, *server_).ok());
  listeners_->AddInStore(kControlSocket, *server_);
  EXPECT_EQ(Polled(), 2u);
  EXPECT_TRUE(ConnectInStore(paths_).ok());
  EXPECT_EQ(Waiting(), 1u);
  AcceptAll();
  listeners_->Close();
  // The manager's socket stays, that of the daemon goes.
  EXPECT_TRUE(Exists("control"));
  EXPECT_NE(access((paths_.root + "/control.sock").c_str(), F_OK), 0);
}

TEST_F(ListenersTest, TheSocketInTheStoreComesBeforeThatOfARunDirectoryOfThisName) {
  Make({});
  int here = 0, elsewhere = 0;
  listeners_->AddInStore("own", [&here](Fd) { ++here; });
  EXPECT_EQ(Polled(), 1u);
  const Fd by_store = *ConnectSocket(paths_, "own");
  AcceptAll();
  EXPECT_EQ(here, 1);
  ASSERT_TRUE(listeners_->Add("own", [&elsewhere](Fd) { ++elsewhere; }).ok());
  const Fd again = *ConnectSocket(paths_, "own");
  AcceptAll();
  EXPECT_EQ(here, 2);
  ASSERT_EQ(unlink((paths_.root + "/own.sock").c_str()), 0);
  const Fd by_run = *ConnectSocket(paths_, "own");
  AcceptAll();
  EXPECT_EQ(elsewhere, 1);
  listeners_->Close();
  EXPECT_TRUE(absl::IsNotFound(ConnectSocket(paths_, "own").status()));
}

TEST_F(ListenersTest, NamesThatWereTakenAwayAreMadeAgain) {
  Make({});
  ASSERT_TRUE(listeners_->Add(kControlSocket, *server_).ok());
  ASSERT_TRUE(listeners_->Add(kSnapshotterSocket, *server_).ok());
  listeners_->AddInStore(kControlSocket, *server_);
  const Fd early = *ConnectDaemon(paths_);
  ASSERT_TRUE(RemoveTree(paths_.run).ok());
  ASSERT_EQ(unlink((paths_.root + "/control.sock").c_str()), 0);
  ASSERT_TRUE(absl::IsNotFound(ConnectDaemon(paths_).status()));
  {
    // Somebody is starting a daemon.
    const Fd lock = *TakeStartLock(paths_, /*wait=*/true);
    listeners_->Repair();
    EXPECT_FALSE(Exists("control"));
  }
  listeners_->Repair();
  EXPECT_TRUE(Exists("control") && Exists("snapshotter"));
  EXPECT_EQ(access((paths_.root + "/control.sock").c_str(), F_OK), 0);
  const Fd late = *ConnectDaemon(paths_);
  EXPECT_EQ(Waiting(), 1u);  // who came before was accepted
  AcceptAll();
  // Nothing to do.
  listeners_->Repair();
  EXPECT_EQ(Polled(), 3u);
}

TEST_F(ListenersTest, WhatIsAboveTheRunDirectoryIsNotMadeAgain) {
  const std::string above = directory_ + "/session";
  paths_.run = above + "/imagefs";
  ASSERT_TRUE(PrepareRunDir(paths_.run, geteuid()).ok());
  Make({});
  ASSERT_TRUE(listeners_->Add(kControlSocket, *server_).ok());
  ASSERT_TRUE(RemoveTree(above).ok());
  listeners_->Repair();
  EXPECT_NE(access(above.c_str(), F_OK), 0);
  ASSERT_EQ(mkdir(above.c_str(), 0700), 0);
  listeners_->Repair();
  EXPECT_TRUE(ConnectDaemon(paths_).ok());
}

}  // namespace
}  // namespace imagefs
