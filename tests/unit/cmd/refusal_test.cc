// SPDX-License-Identifier: Apache-2.0
#include "cmd/refusal.h"

#include <fcntl.h>
#include <grpcpp/create_channel_posix.h>
#include <grpcpp/grpcpp.h>
#include <sys/socket.h>

#include <thread>

#include "base/fd.h"
#include "base/text.h"
#include "cmd/interrupt.h"
#include "cmd/rendezvous.h"
#include "gtest/gtest.h"
#include "proto/containerd/snapshots.grpc.pb.h"
#include "proto/control.grpc.pb.h"

namespace imagefs {
namespace {

class RefusalTest : public testing::Test {
 protected:
  void SetUp() override {
    BlockDaemonSignals();
    directory_ = StrCat(testing::TempDir(), "/refusal-", RandomHex(6));
    paths_.run = directory_ + "/run";
    paths_.root = directory_ + "/root";
    ASSERT_TRUE(PrepareRunDir(paths_.run, geteuid()).ok());
    config_ = directory_ + "/config.toml";
    ASSERT_TRUE(WriteFileDurably(config_, "wrong").ok());
    std::vector<PassedSocket> sockets;
    for (const char* name : {kControlSocket, kSnapshotterSocket}) {
      sockets.push_back({name, *ListenIn(paths_.run, name)});
    }
    control_ = *sockets[0].fd.Duplicate();
    serving_ = std::thread([this, tried = VersionOf(config_),
                            sockets = UsableSockets(std::move(sockets))]() mutable {
      ServeRefusal(paths_, std::move(sockets), absl::InvalidArgumentError("config.toml:25: wrong"),
                   config_, tried, std::chrono::minutes(5));
    });
  }
  void TearDown() override {
    // It ends because of this, and long before its time.
    ASSERT_TRUE(WriteFileDurably(config_, "another").ok());
    if (serving_.joinable()) serving_.join();
    (void)RemoveTree(directory_);
  }
  std::shared_ptr<grpc::Channel> Channel(std::string_view name) const {
    Paths paths = paths_;
    if (name != kControlSocket) {
      rename(StrCat(paths_.run, "/", name, ".sock").c_str(), paths_.socket().c_str());
    }
    absl::StatusOr<Fd> fd = ConnectDaemon(paths);
    EXPECT_TRUE(fd.ok()) << fd.status();
    fcntl(fd->get(), F_SETFL, O_NONBLOCK);
    return grpc::CreateInsecureChannelFromFd("imagefs", fd->Release());
  }

  std::string directory_, config_;
  Paths paths_;
  Fd control_;  // the listening socket, as the service manager has it
  std::thread serving_;
};

TEST_F(RefusalTest, CommandsHearWhy) {
  const auto stub = control::v1::Control::NewStub(Channel(kControlSocket));
  grpc::ClientContext context;
  control::v1::VersionReply reply;
  const grpc::Status status = stub->Version(&context, control::v1::VersionRequest(), &reply);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::FAILED_PRECONDITION);
  EXPECT_NE(status.error_message().find("config.toml:25: wrong"), std::string::npos);
  // As the daemon's own answer, of the kind of all failures to start.
  const auto mark = context.GetServerTrailingMetadata().find("imagefs");
  ASSERT_NE(mark, context.GetServerTrailingMetadata().end());
  EXPECT_EQ(mark->second, "no_daemon");
  grpc::ClientContext mount_context;
  const auto reader = stub->Mount(&mount_context, control::v1::MountRequest());
  control::v1::MountEvent event;
  EXPECT_FALSE(reader->Read(&event));
  EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::FAILED_PRECONDITION);
}

TEST_F(RefusalTest, WhoComesAfterAChangeIsLeftToTheNextDaemon) {
  ASSERT_TRUE(WriteFileDurably(config_, "repaired").ok());
  const absl::StatusOr<Fd> waiting = ConnectDaemon(paths_);
  ASSERT_TRUE(waiting.ok()) << waiting.status();
  serving_.join();
  EXPECT_TRUE(Fd(accept4(control_.get(), nullptr, nullptr, SOCK_NONBLOCK)).valid());
}

TEST_F(RefusalTest, SoDoesContainerd) {
  using containerd::services::snapshots::v1::Snapshots;
  const auto stub = Snapshots::NewStub(Channel(kSnapshotterSocket));
  grpc::ClientContext context;
  containerd::services::snapshots::v1::StatSnapshotResponse reply;
  const grpc::Status status =
      stub->Stat(&context, containerd::services::snapshots::v1::StatSnapshotRequest(), &reply);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::FAILED_PRECONDITION);
}

}  // namespace
}  // namespace imagefs
