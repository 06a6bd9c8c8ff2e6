// SPDX-License-Identifier: Apache-2.0
#include "cmd/control_service.h"

#include <grpcpp/grpcpp.h>
#include <unistd.h>

#include <map>
#include <thread>

#include "base/fd.h"
#include "base/text.h"
#include "gtest/gtest.h"
#include "proto/control.grpc.pb.h"
#include "tests/fakes/fs/fake_store.h"
#include "tests/unit/cmd/control_server.h"

namespace imagefs {
namespace {

using namespace control::v1;  // NOLINT: the messages of the service

class ControlServiceTest : public ControlServerTest {
 protected:
  ControlServiceTest() : ControlServerTest(/*layers=*/3, "control") {}
  void SetUp() override {
    ControlServerTest::SetUp();
    ASSERT_TRUE(MakeDirs(dir_ + "/a").ok());
    ASSERT_TRUE(MakeDirs(dir_ + "/b").ok());
  }

  control::v1::MountRequest Request(std::string_view directory, bool progress = false) {
    control::v1::MountRequest request;
    request.mutable_image()->set_reference("registry.test/app:1");
    request.set_directory(StrCat(dir_, "/", directory));
    request.set_progress(progress);
    return request;
  }
  struct Reply {
    grpc::Status status;
    MountResult result;
  };
  // Runs the call to its end on this thread.
  Reply Finish(std::unique_ptr<grpc::ClientReader<MountEvent>> reader) {
    Reply reply;
    MountEvent event;
    while (reader->Read(&event)) {
      if (event.has_result()) reply.result = event.result();
    }
    reply.status = reader->Finish();
    return reply;
  }
  Reply Mount(const control::v1::MountRequest& request) {
    grpc::ClientContext context;
    return Finish(stub_->Mount(&context, request));
  }
  Reply Pull() {
    grpc::ClientContext context;
    PullRequest request;
    request.mutable_image()->set_reference("registry.test/app:1");
    return Finish(stub_->Pull(&context, request));
  }
};

TEST_F(ControlServiceTest, MountAnswersWhatItDid) {
  store_.SetState(0, LayerState::kComplete);
  const Reply reply = Mount(Request("a"));
  ASSERT_TRUE(reply.status.ok()) << reply.status.error_message();
  EXPECT_EQ(reply.result.mount().directory(), dir_ + "/a");
  EXPECT_EQ(reply.result.mount().reference(), "registry.test/app:1");
  EXPECT_EQ(reply.result.mount().mode(), "fuse");
  ASSERT_EQ(reply.result.layers_size(), 3);
  EXPECT_TRUE(reply.result.layers(0).reused());
  EXPECT_FALSE(reply.result.layers(1).reused());
  EXPECT_EQ(reply.result.fetched_bytes(), 2000u) << "the layer that was here is not counted";
  std::vector<std::string> steps;
  for (const Timing& timing : reply.result.timings()) steps.push_back(timing.step());
  EXPECT_EQ(steps.front(), "resolve");
  EXPECT_EQ(steps.back(), "mount");
  ASSERT_EQ(mounts_.List().size(), 1u);
}

TEST_F(ControlServiceTest, ErrorsKeepTheirCodeAndMessage) {
  for (int code = 1; code <= 16; ++code) {
    store_.FailResolve(absl::Status(static_cast<absl::StatusCode>(code), "because"));
    grpc::ClientContext context;
    const Reply reply = Finish(stub_->Mount(&context, Request("a")));
    EXPECT_EQ(reply.status.error_code(), code);
    EXPECT_EQ(reply.status.error_message(), "because");
    EXPECT_EQ(context.GetServerTrailingMetadata().count("imagefs"), 1u);
  }
  store_.FailResolve(absl::OkStatus());
  store_.FailChain(absl::DataLossError("wrong digest"));
  EXPECT_EQ(Mount(Request("a")).status.error_code(), grpc::StatusCode::DATA_LOSS);
  store_.FailChain(absl::OkStatus());
  mounts_.FailMount(absl::FailedPreconditionError("no /dev/fuse"));
  EXPECT_EQ(Mount(Request("a")).status.error_message(), "no /dev/fuse");
  EXPECT_TRUE(mounts_.List().empty());
}

TEST_F(ControlServiceTest, ALongMessageIsCut) {
  store_.FailResolve(absl::NotFoundError(std::string(20000, '\xff')));
  const Reply reply = Mount(Request("a"));
  EXPECT_EQ(reply.status.error_code(), grpc::StatusCode::NOT_FOUND);
  EXPECT_LE(reply.status.error_message().size(), 2000u);
}

TEST_F(ControlServiceTest, BadDirectoriesFailBeforeAnythingIsFetched) {
  EXPECT_EQ(Mount(Request("missing")).status.error_code(), grpc::StatusCode::NOT_FOUND);
  EXPECT_EQ(Mount(Request("missing/deeper")).status.error_code(), grpc::StatusCode::NOT_FOUND);
  ASSERT_TRUE(WriteFileDurably(dir_ + "/file", "x").ok());
  EXPECT_EQ(Mount(Request("file")).status.error_code(), grpc::StatusCode::FAILED_PRECONDITION);
  control::v1::MountRequest relative = Request("a");
  relative.set_directory("a");
  EXPECT_EQ(Mount(relative).status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  control::v1::MountRequest mode = Request("a");
  mode.set_mode("magic");
  EXPECT_EQ(Mount(mode).status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  control::v1::MountRequest reference = Request("a");
  reference.mutable_image()->set_reference("UPPER/case:tag:tag");
  EXPECT_EQ(Mount(reference).status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(store_.resolve_calls(), 0);
}

TEST_F(ControlServiceTest, ADirectoryIsUsedOnceAlsoThroughALink) {
  ASSERT_TRUE(Mount(Request("a")).status.ok());
  EXPECT_EQ(Mount(Request("a")).status.error_code(), grpc::StatusCode::ALREADY_EXISTS);
  ASSERT_EQ(symlink((dir_ + "/a").c_str(), (dir_ + "/link").c_str()), 0);
  EXPECT_EQ(Mount(Request("link")).status.error_code(), grpc::StatusCode::ALREADY_EXISTS);
  EXPECT_EQ(store_.resolve_calls(), 1);
}

TEST_F(ControlServiceTest, ProgressArrivesWhileLayersAreOnTheirWay) {
  store_.HoldChain();
  store_.SetState(0, LayerState::kComplete);
  grpc::ClientContext context;
  auto reader = stub_->Mount(&context, Request("a", /*progress=*/true));
  MountEvent event;
  bool seen = false;
  while (!seen && reader->Read(&event)) {
    if (event.progress().phase() != "layers" || event.progress().layers_size() != 3) continue;
    const LayerEvent& layer = event.progress().layers(1);
    seen = layer.activity() == "downloading" && layer.downloaded_bytes() == 250;
  }
  ASSERT_TRUE(seen);
  EXPECT_TRUE(event.progress().layers(0).reused());
  EXPECT_EQ(event.progress().layers(0).activity(), "done");
  EXPECT_FALSE(event.progress().layers(1).shared());
  store_.ReleaseChain();
  const Reply reply = Finish(std::move(reader));
  EXPECT_TRUE(reply.status.ok());
  EXPECT_EQ(reply.result.layers_size(), 3);
}

TEST_F(ControlServiceTest, TwoCallersShareOneFlight) {
  store_.HoldChain();
  grpc::ClientContext first_context, second_context;
  auto first = stub_->Mount(&first_context, Request("a", /*progress=*/true));
  store_.AwaitChainCalls(1);
  auto second = stub_->Mount(&second_context, Request("b"));
  store_.AwaitChainCalls(2);
  EXPECT_EQ(store_.chain_counters().leaders, 1u);
  EXPECT_EQ(store_.chain_counters().joins, 1u);
  // The first learns of the second.
  MountEvent event;
  bool shared = false;
  while (!shared && first->Read(&event)) {
    shared = event.progress().layers_size() == 3 && event.progress().layers(0).shared();
  }
  EXPECT_TRUE(shared);
  store_.ReleaseChain();
  const Reply a = Finish(std::move(first));
  const Reply b = Finish(std::move(second));
  EXPECT_TRUE(a.status.ok());
  EXPECT_TRUE(b.status.ok());
  EXPECT_TRUE(a.result.layers(0).shared());
  EXPECT_TRUE(b.result.layers(0).shared());
  EXPECT_EQ(mounts_.List().size(), 2u);
}

TEST_F(ControlServiceTest, ACallerThatLeavesDisturbsNobody) {
  store_.HoldChain();
  grpc::ClientContext first_context, second_context;
  auto first = stub_->Mount(&first_context, Request("a"));
  store_.AwaitChainCalls(1);
  auto second = stub_->Mount(&second_context, Request("b"));
  store_.AwaitChainCalls(2);
  first_context.TryCancel();
  EXPECT_EQ(Finish(std::move(first)).status.error_code(), grpc::StatusCode::CANCELLED);
  store_.AwaitChainLeft(1);
  EXPECT_EQ(store_.chain_counters().cancelled, 0u);
  store_.ReleaseChain();
  EXPECT_TRUE(Finish(std::move(second)).status.ok());
  ASSERT_EQ(mounts_.List().size(), 1u);
  EXPECT_EQ(mounts_.List()[0].record.directory, dir_ + "/b");
}

TEST_F(ControlServiceTest, TheLastCallerThatLeavesStopsTheWork) {
  store_.HoldChain();
  grpc::ClientContext context;
  auto reader = stub_->Mount(&context, Request("a"));
  store_.AwaitChainCalls(1);
  context.TryCancel();
  EXPECT_EQ(Finish(std::move(reader)).status.error_code(), grpc::StatusCode::CANCELLED);
  store_.AwaitChainCancelled();
  EXPECT_TRUE(mounts_.List().empty());
}

TEST_F(ControlServiceTest, AMountThatItsCallerDidNotSeeIsUndone) {
  mounts_.HoldMount();
  grpc::ClientContext context;
  auto reader = stub_->Mount(&context, Request("a"));
  mounts_.AwaitMountCalls(1);
  context.TryCancel();
  EXPECT_EQ(Finish(std::move(reader)).status.error_code(), grpc::StatusCode::CANCELLED);
  mounts_.ReleaseMount();
  // After the shutdown every call, and so its undoing, has ended.
  server_->Shutdown();
  server_->Wait();
  mounts_.AwaitEmpty();
}

TEST_F(ControlServiceTest, PullEndsWhenTheImageIsDurable) {
  store_.HoldDurable();
  Reply reply;
  std::thread caller([&] { reply = Pull(); });
  store_.AwaitDurableCalls(1);
  EXPECT_EQ(service_->activity().running_calls, 1);
  store_.ReleaseDurable();
  caller.join();
  EXPECT_TRUE(reply.status.ok());
  EXPECT_FALSE(reply.result.has_mount());
  EXPECT_EQ(reply.result.timings(reply.result.timings_size() - 1).step(), "sync");
  EXPECT_TRUE(mounts_.List().empty());
}

TEST_F(ControlServiceTest, APullThatWaitsForTheDiskCanBeCancelled) {
  store_.HoldDurable();
  grpc::ClientContext context;
  PullRequest request;
  request.mutable_image()->set_reference("registry.test/app:1");
  auto reader = stub_->Pull(&context, request);
  store_.AwaitDurableCalls(1);
  context.TryCancel();
  EXPECT_EQ(Finish(std::move(reader)).status.error_code(), grpc::StatusCode::CANCELLED);
  // The call has ended though nothing was released.
  server_->Shutdown();
  server_->Wait();
  EXPECT_EQ(service_->activity().running_calls, 0);
  store_.ReleaseDurable();
}

TEST_F(ControlServiceTest, AnEagerMountWaitsForWhatIsMissing) {
  store_.UseFillingChain();
  control::v1::MountRequest request = Request("a");
  ASSERT_TRUE(Mount(request).status.ok());
  ASSERT_EQ(mounts_.List().size(), 1u) << "others show what is there";
  store_.HoldDurable();
  request = Request("b");
  request.set_eager(true);
  Reply reply;
  std::thread caller([&] { reply = Mount(request); });
  store_.AwaitDurableCalls(1);
  EXPECT_EQ(mounts_.List().size(), 1u);
  store_.ReleaseDurable();
  caller.join();
  ASSERT_TRUE(reply.status.ok()) << reply.status.error_message();
  std::vector<std::string> steps;
  for (const Timing& timing : reply.result.timings()) steps.push_back(timing.step());
  ASSERT_GE(steps.size(), 2u);
  EXPECT_EQ(steps[steps.size() - 2], "sync");
  EXPECT_EQ(steps.back(), "mount");
  EXPECT_EQ(mounts_.List().size(), 2u);
}

TEST_F(ControlServiceTest, AnEagerMountWhoseCallerLeavesIsNotMadeLater) {
  store_.UseFillingChain();
  store_.HoldDurable();
  control::v1::MountRequest request = Request("a");
  request.set_eager(true);
  grpc::ClientContext context;
  auto reader = stub_->Mount(&context, request);
  store_.AwaitDurableCalls(1);
  context.TryCancel();
  EXPECT_EQ(Finish(std::move(reader)).status.error_code(), grpc::StatusCode::CANCELLED);
  server_->Shutdown();
  server_->Wait();
  store_.ReleaseDurable();
  publications_.reset();
  executor_.reset();  // runs what is queued
  EXPECT_TRUE(mounts_.List().empty());
}

TEST_F(ControlServiceTest, APullOfADirectoryIsOfWhatIsMountedThere) {
  const auto pull = [this](std::string_view name) {
    grpc::ClientContext context;
    PullRequest request;
    request.set_directory(StrCat(dir_, "/", name));
    return Finish(stub_->Pull(&context, request));
  };
  EXPECT_EQ(pull("a").status.error_code(), grpc::StatusCode::NOT_FOUND);
  MountState mount;
  mount.record.directory = dir_ + "/a";
  mount.record.reference = "registry.test/app:1";
  mounts_.AddMount(mount);
  const Reply reply = pull("a");
  ASSERT_TRUE(reply.status.ok()) << reply.status.error_message();
  EXPECT_EQ(reply.result.layers_size(), 3);
  EXPECT_EQ(reply.result.timings(reply.result.timings_size() - 1).step(), "sync");
  EXPECT_EQ(store_.resolve_calls(), 0);
  mount.record.directory = dir_ + "/b";
  mount.not_mounted = "its image is gone";
  mounts_.AddMount(mount);
  EXPECT_EQ(pull("b").status.error_code(), grpc::StatusCode::FAILED_PRECONDITION);
}

TEST_F(ControlServiceTest, AnIndexThatNobodyWaitsForIsGivenUp) {
  store_.HoldDurable();
  grpc::ClientContext context;
  IndexRequest request;
  request.mutable_image()->set_reference("registry.test/app:1");
  request.set_push(true);
  auto reader = stub_->Index(&context, request);
  store_.AwaitDurableCalls(1);
  store_.HoldChain();
  store_.ReleaseDurable();
  store_.AwaitChainCalls(2);  // the second one makes the indexes
  EXPECT_EQ(publications_->running(), 1);
  context.TryCancel();
  EXPECT_EQ(Finish(std::move(reader)).status.error_code(), grpc::StatusCode::CANCELLED);
  store_.AwaitChainCancelled();
}

TEST_F(ControlServiceTest, UnmountReportsEachDirectory) {
  ASSERT_TRUE(Mount(Request("a")).status.ok());
  grpc::ClientContext context;
  UnmountRequest request;
  request.add_directories(dir_ + "/a");
  request.add_directories(dir_ + "/b");
  UnmountReply reply;
  ASSERT_TRUE(stub_->Unmount(&context, request, &reply).ok());
  ASSERT_EQ(reply.unmounted_size(), 1);
  EXPECT_EQ(reply.unmounted(0), dir_ + "/a");
  ASSERT_EQ(reply.failures_size(), 1);
  EXPECT_EQ(reply.failures(0).directory(), dir_ + "/b");
  EXPECT_TRUE(mounts_.List().empty());
}

TEST_F(ControlServiceTest, UnmountAll) {
  ASSERT_TRUE(Mount(Request("a")).status.ok());
  ASSERT_TRUE(Mount(Request("b")).status.ok());
  grpc::ClientContext context;
  UnmountRequest request;
  request.set_all(true);
  UnmountReply reply;
  ASSERT_TRUE(stub_->Unmount(&context, request, &reply).ok());
  EXPECT_EQ(reply.unmounted_size(), 2);
}

TEST_F(ControlServiceTest, ListsInspectsAndRemoves) {
  ASSERT_TRUE(Mount(Request("a")).status.ok());
  store_.SetState(2, LayerState::kFilling);
  grpc::ClientContext list_context, inspect_context, remove_context, images_context;
  ListMountsReply mounts;
  ASSERT_TRUE(stub_->ListMounts(&list_context, ListMountsRequest(), &mounts).ok());
  ASSERT_EQ(mounts.mounts_size(), 1);
  EXPECT_EQ(mounts.mounts(0).directory(), dir_ + "/a");

  InspectRequest inspect;
  inspect.mutable_image()->set_reference("registry.test/app:1");
  InspectReply image;
  ASSERT_TRUE(stub_->Inspect(&inspect_context, inspect, &image).ok());
  ASSERT_EQ(image.layers_size(), 3);
  EXPECT_EQ(image.layers(2).state(), "filling");
  EXPECT_EQ(image.image().compressed_bytes(), 3000u);

  ListImagesReply images;
  ASSERT_TRUE(stub_->ListImages(&images_context, ListImagesRequest(), &images).ok());
  EXPECT_EQ(images.images_size(), 1);

  RemoveRequest remove;
  remove.add_references("registry.test/app:1");
  RemoveReply removed;
  ASSERT_TRUE(stub_->Remove(&remove_context, remove, &removed).ok());
  EXPECT_EQ(removed.freed_bytes(), 4096u);
  remove.add_references("registry.test/app:2");
  grpc::ClientContext again;
  EXPECT_EQ(stub_->Remove(&again, remove, &removed).error_code(), grpc::StatusCode::NOT_FOUND);
}

TEST_F(ControlServiceTest, AUsersDaemonGivesPodmanNothing) {
  {
    grpc::ClientContext context;
    AddRequest request;
    request.mutable_image()->set_reference("registry.test/app:1");
    auto reader = stub_->Add(&context, request);
    MountEvent event;
    EXPECT_FALSE(reader->Read(&event));
    const grpc::Status status = reader->Finish();
    EXPECT_EQ(status.error_code(), grpc::StatusCode::FAILED_PRECONDITION);
    EXPECT_NE(status.error_message().find("root"), std::string::npos);
  }
  {
    grpc::ClientContext context;
    ListAddedReply reply;
    EXPECT_EQ(stub_->ListAdded(&context, {}, &reply).error_code(),
              grpc::StatusCode::FAILED_PRECONDITION);
  }
  grpc::ClientContext context;
  RemoveReply reply;
  EXPECT_EQ(stub_->Drop(&context, {}, &reply).error_code(), grpc::StatusCode::FAILED_PRECONDITION);
}

TEST_F(ControlServiceTest, StatusHasCountersAndFlights) {
  ASSERT_TRUE(Mount(Request("a")).status.ok());
  grpc::ClientContext context;
  StatusReply reply;
  ASSERT_TRUE(stub_->Status(&context, StatusRequest(), &reply).ok());
  EXPECT_EQ(reply.pid(), getpid());
  EXPECT_EQ(reply.version(), "1.2.3");
  EXPECT_GT(reply.rss_bytes(), 1u << 20);
  EXPECT_EQ(reply.mounts(), 1u);
  EXPECT_EQ(reply.images(), 1u);
  std::map<std::string, uint64_t> leaders;
  for (const StatusReply::Flight& flight : reply.flights()) {
    leaders[flight.name()] = flight.leaders();
  }
  EXPECT_EQ(leaders, (std::map<std::string, uint64_t>{{"chain", 1}, {"token", 0}}));
  EXPECT_EQ(reply.counters(0).name(), "layers_built");
  EXPECT_EQ(reply.layers(0).state(), "complete");
}

TEST_F(ControlServiceTest, ShutdownAsksTheDaemon) {
  grpc::ClientContext context;
  ShutdownRequest request;
  request.set_unmount(true);
  ShutdownReply reply;
  ASSERT_TRUE(stub_->Shutdown(&context, request, &reply).ok());
  EXPECT_EQ(reply.pid(), getpid());
  server_->Shutdown();
  server_->Wait();
  EXPECT_EQ(stop_, 2);
}

}  // namespace
}  // namespace imagefs
