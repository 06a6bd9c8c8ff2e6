// SPDX-License-Identifier: Apache-2.0
#include "snap/cri_proxy.h"

#include <grpcpp/generic/async_generic_service.h>
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/grpcpp.h>
#include <grpcpp/server_posix.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <filesystem>
#include <future>
#include <map>
#include <memory>
#include <string>
#include <utility>

#include "absl/synchronization/mutex.h"
#include "base/log.h"
#include "base/text.h"
#include "proto/cri.pb.h"

namespace imagefs {
namespace {

std::string TextOf(const grpc::ByteBuffer& bytes) {
  std::vector<grpc::Slice> slices;
  EXPECT_TRUE(bytes.Dump(&slices).ok());
  std::string out;
  for (const grpc::Slice& slice : slices) {
    out.append(reinterpret_cast<const char*>(slice.begin()), slice.size());
  }
  return out;
}
grpc::ByteBuffer BytesOf(const std::string& text) {
  const grpc::Slice slice(text);
  return grpc::ByteBuffer(&slice, 1);
}

// A containerd that returns prepared answers and records its requests. For streams, a single call
// returns all prepared answers.
class FakeContainerd : public grpc::CallbackGenericService {
 public:
  explicit FakeContainerd(const std::string& socket) {
    grpc::ServerBuilder builder;
    builder.AddListeningPort("unix:" + socket, grpc::InsecureServerCredentials());
    builder.RegisterCallbackGenericService(this);
    server_ = builder.BuildAndStart();
  }
  ~FakeContainerd() override { server_->Shutdown(std::chrono::system_clock::now()); }

  struct Answer {
    grpc::Status status;
    std::vector<std::string> messages;
  };
  void AnswerWith(const std::string& method, Answer answer) {
    absl::MutexLock lock(&mu_);
    answers_[method] = std::move(answer);
  }
  struct Asked {
    std::string method, message, header;
  };
  std::vector<Asked> asked() {
    absl::MutexLock lock(&mu_);
    return asked_;
  }

  grpc::ServerGenericBidiReactor* CreateReactor(
      grpc::GenericCallbackServerContext* context) override {
    return new Reactor(*this, *context);
  }

 private:
  class Reactor : public grpc::ServerGenericBidiReactor {
   public:
    Reactor(FakeContainerd& fake, grpc::GenericCallbackServerContext& context) : fake_(fake) {
      asked_.method = context.method();
      const auto header = context.client_metadata().find("x-passed-on");
      if (header != context.client_metadata().end()) {
        asked_.header = {header->second.data(), header->second.size()};
      }
      StartRead(&request_);
    }
    void OnReadDone(bool ok) override {
      if (ok) asked_.message = TextOf(request_);
      absl::MutexLock lock(&fake_.mu_);
      fake_.asked_.push_back(asked_);
      answer_ = fake_.answers_[asked_.method];
      Next();
    }
    void OnWriteDone(bool) override { Next(); }
    void OnDone() override { delete this; }

   private:
    void Next() {
      if (sent_ == answer_.messages.size()) return Finish(answer_.status);
      response_ = BytesOf(answer_.messages[sent_++]);
      StartWrite(&response_);
    }
    FakeContainerd& fake_;
    Asked asked_;
    Answer answer_;
    size_t sent_ = 0;
    grpc::ByteBuffer request_, response_;
  };

  absl::Mutex mu_;
  std::map<std::string, Answer> answers_;
  std::vector<Asked> asked_;
  std::unique_ptr<grpc::Server> server_;
};

constexpr char kPull[] = "/runtime.v1.ImageService/PullImage";
constexpr char kRemove[] = "/runtime.v1.ImageService/RemoveImage";

class CriProxyTest : public ::testing::Test {
 protected:
  CriProxyTest() : socket_(StrCat(::testing::TempDir(), "/cri-", getpid(), ".sock")) {
    SetLogLevel(LogLevel::kOff);
    credentials_ = NodeCredentials::Create({});
    auto proxy = CriProxy::Start({.containerd = socket_}, credentials_);
    EXPECT_TRUE(proxy.ok()) << proxy.status();
    proxy_ = *std::move(proxy);
    int ends[2];
    EXPECT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends), 0);
    grpc::AddInsecureChannelFromFd(proxy_->server(), ends[0]);
    channel_ = grpc::CreateInsecureChannelFromFd("kubelet", ends[1]);
  }
  ~CriProxyTest() override { std::filesystem::remove(socket_); }

  struct Result {
    grpc::Status status;
    std::string message;
  };
  Result Call(const std::string& method, const std::string& message) {
    grpc::TemplatedGenericStub<grpc::ByteBuffer, grpc::ByteBuffer> stub(channel_);
    grpc::ClientContext context;
    context.AddMetadata("x-passed-on", "yes");
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(20));
    grpc::ByteBuffer request = BytesOf(message), response;
    std::promise<grpc::Status> done;
    stub.UnaryCall(&context, method, {}, &request, &response,
                   [&](grpc::Status status) { done.set_value(std::move(status)); });
    Result out;
    out.status = done.get_future().get();
    if (out.status.ok()) out.message = TextOf(response);
    return out;
  }
  static std::string PullOf(const std::string& image) {
    runtime::v1::PullImageRequest request;
    request.mutable_image()->set_image(image);
    request.mutable_auth()->set_username("tester");
    request.mutable_auth()->set_password("s3cret");
    return request.SerializeAsString();
  }
  static std::string PulledAs(const std::string& id) {
    runtime::v1::PullImageResponse response;
    response.set_image_ref(id);
    return response.SerializeAsString();
  }
  std::string UserFor(const std::string& image) {
    const auto reference = Reference::Parse(image);
    EXPECT_TRUE(reference.ok());
    return credentials_->Find(*reference, nullptr).username;
  }

  const std::string socket_;
  std::shared_ptr<NodeCredentials> credentials_;
  std::unique_ptr<CriProxy> proxy_;
  std::shared_ptr<grpc::Channel> channel_;
};

TEST_F(CriProxyTest, PassesBytesOnAsTheyCame) {
  FakeContainerd containerd(socket_);
  // Fields of a future version.
  const std::string request("\xfa\x3f\x03new", 6), response("\x82\x7d\x02ok", 5);
  containerd.AnswerWith("/runtime.v1.RuntimeService/Later", {grpc::Status::OK, {response}});
  const Result result = Call("/runtime.v1.RuntimeService/Later", request);
  EXPECT_TRUE(result.status.ok()) << result.status.error_message();
  EXPECT_EQ(result.message, response);
  ASSERT_EQ(containerd.asked().size(), 1u);
  EXPECT_EQ(containerd.asked()[0].message, request);
  EXPECT_EQ(containerd.asked()[0].header, "yes");
}

TEST_F(CriProxyTest, PassesErrorsOn) {
  FakeContainerd containerd(socket_);
  containerd.AnswerWith("/runtime.v1alpha2.RuntimeService/Version",
                        {grpc::Status(grpc::StatusCode::NOT_FOUND, "no such thing"), {}});
  const Result result = Call("/runtime.v1alpha2.RuntimeService/Version", "");
  EXPECT_EQ(result.status.error_code(), grpc::StatusCode::NOT_FOUND);
  EXPECT_EQ(result.status.error_message(), "no such thing");
}

TEST_F(CriProxyTest, OtherServicesAreNotReachable) {
  FakeContainerd containerd(socket_);
  for (const char* method :
       {"/containerd.services.tasks.v1.Tasks/Kill", "/runtime.v1.Other/X", "/runtime.v1.", "/"}) {
    EXPECT_EQ(Call(method, "").status.error_code(), grpc::StatusCode::UNIMPLEMENTED) << method;
  }
  EXPECT_TRUE(containerd.asked().empty());
}

TEST_F(CriProxyTest, CredentialsAreKeptWhileTheImageIs) {
  FakeContainerd containerd(socket_);
  containerd.AnswerWith(kPull, {grpc::Status::OK, {PulledAs("sha256:abc")}});
  containerd.AnswerWith(kRemove, {grpc::Status::OK, {""}});
  ASSERT_TRUE(Call(kPull, PullOf("host.test/app:1")).status.ok());
  EXPECT_EQ(UserFor("host.test/app:1"), "tester");
  EXPECT_EQ(UserFor("other.test/app:1"), "");
  runtime::v1::RemoveImageRequest remove;
  remove.mutable_image()->set_image("sha256:abc");  // as the kubelet's collector does
  ASSERT_TRUE(Call(kRemove, remove.SerializeAsString()).status.ok());
  EXPECT_EQ(UserFor("host.test/app:1"), "");
}

TEST_F(CriProxyTest, CredentialsOfAFailedPullAreNotKept) {
  FakeContainerd containerd(socket_);
  containerd.AnswerWith(kPull, {grpc::Status(grpc::StatusCode::UNKNOWN, "401"), {}});
  EXPECT_FALSE(Call(kPull, PullOf("host.test/app:1")).status.ok());
  EXPECT_EQ(UserFor("host.test/app:1"), "");
}

TEST_F(CriProxyTest, WhatIsNotARequestIsContainerdsToRefuse) {
  FakeContainerd containerd(socket_);
  containerd.AnswerWith(kPull, {grpc::Status(grpc::StatusCode::INVALID_ARGUMENT, "bad"), {}});
  EXPECT_EQ(Call(kPull, "\xff\xff\xff").status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
}

TEST_F(CriProxyTest, ContainerdMayBeAwayAndComeBack) {
  EXPECT_EQ(Call("/runtime.v1.RuntimeService/Version", "").status.error_code(),
            grpc::StatusCode::UNAVAILABLE);
  FakeContainerd containerd(socket_);
  containerd.AnswerWith("/runtime.v1.RuntimeService/Version", {grpc::Status::OK, {"v"}});
  Result result;
  for (int i = 0; i < 100; ++i) {  // the client backs off
    result = Call("/runtime.v1.RuntimeService/Version", "");
    if (result.status.ok()) break;
    usleep(100'000);
  }
  EXPECT_EQ(result.message, "v") << result.status.error_message();
}

}  // namespace
}  // namespace imagefs
