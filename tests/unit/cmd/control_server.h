// SPDX-License-Identifier: Apache-2.0
// A control service over fakes, and a client of it in this process.
#pragma once

#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>
#include <stdlib.h>

#include <atomic>
#include <chrono>
#include <memory>
#include <string>
#include <string_view>
#include <utility>

#include "base/directory.h"
#include "base/fd.h"
#include "base/text.h"
#include "cmd/control_service.h"
#include "cmd/publish.h"
#include "proto/control.grpc.pb.h"
#include "tests/fakes/fs/fake_store.h"

namespace imagefs {

class ControlServerTest : public testing::Test {
 protected:
  // `layers`: of the image that the store has. `name`: of the test's directory.
  ControlServerTest(int layers, std::string_view name)
      : dir_(StrCat(testing::TempDir(), "/", name, "-", RandomHex(6))), store_(layers) {}

  void SetUp() override {
    ASSERT_TRUE(MakeDirs(dir_).ok());
    char resolved[4096];
    ASSERT_NE(realpath(dir_.c_str(), resolved), nullptr);
    dir_ = resolved;
    ControlService::Options options;
    options.version = "1.2.3";
    options.root = "/store";
    options.run = "/run/x";
    options.request_stop = [this](bool unmount) { stop_ = unmount ? 2 : 1; };
    options.progress_interval = std::chrono::milliseconds(1);
    executor_ = std::make_unique<Executor>(ThreadRole::kTest, 4);
    publications_ =
        std::make_unique<Publications>(Publications::Deps{store_, sources_, *executor_});
    service_ = ControlService::Create(
        std::move(options), {store_, sources_, mounts_, nullptr, *executor_, *publications_});
    grpc::ServerBuilder builder;
    builder.RegisterService(&service_->service());
    server_ = builder.BuildAndStart();
    ASSERT_NE(server_, nullptr);
    stub_ = control::v1::Control::NewStub(server_->InProcessChannel(grpc::ChannelArguments()));
  }
  void TearDown() override {
    server_->Shutdown(std::chrono::system_clock::now());
    server_->Wait();
    server_.reset();
    publications_.reset();
    executor_.reset();
    service_.reset();
    (void)RemoveTree(dir_);
  }

  std::string dir_;
  FakeImageStore store_;
  FakeSources sources_;
  FakeMountTable mounts_;
  std::atomic<int> stop_{0};  // 1: told to stop, 2: and to unmount
  std::unique_ptr<Executor> executor_;
  std::unique_ptr<Publications> publications_;
  std::unique_ptr<ControlService> service_;
  std::unique_ptr<grpc::Server> server_;
  std::unique_ptr<control::v1::Control::Stub> stub_;
};

}  // namespace imagefs
