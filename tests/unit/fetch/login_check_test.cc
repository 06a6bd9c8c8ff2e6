// SPDX-License-Identifier: Apache-2.0
#include "fetch/login_check.h"

#include <gtest/gtest.h>

#include <string>
#include <thread>

#include "base/text.h"
#include "tests/fakes/fetch/fake_registry.h"

namespace imagefs {
namespace {

using Kind = FakeRegistry::Auth::Kind;

class LoginCheckTest : public testing::Test {
 protected:
  void SetUp() override { server_.AddFile("/v2/", "{}"); }

  void SetAuth(Kind kind) {
    FakeRegistry::Auth auth;
    auth.kind = kind;
    auth.user = "me";
    auth.password = "secret";
    server_.SetAuth(auth);
  }

  absl::StatusOr<bool> Check(const std::string& user, const std::string& password) {
    SourceFactory::Options options;
    options.max_attempts = 1;
    SourceFactory::Access access;
    access.credential.username = user;
    access.credential.password = password;
    Reference reference;
    reference.host = server_.host();
    reference.repository = "imagefs-login";
    return CheckLogin(options, reference, access, CancelToken());
  }

  FakeRegistry server_;
};

TEST_F(LoginCheckTest, RightAndWrong) {
  for (const Kind kind : {Kind::kBasic, Kind::kBearer}) {
    SetAuth(kind);
    const absl::StatusOr<bool> right = Check("me", "secret");
    ASSERT_TRUE(right.ok()) << right.status();
    EXPECT_TRUE(*right);
    const absl::Status wrong = Check("me", "wrong").status();
    EXPECT_EQ(wrong.code(), absl::StatusCode::kUnauthenticated) << wrong;
    const std::string message(wrong.message());
    EXPECT_NE(message.find(server_.host()), std::string::npos) << message;
    EXPECT_TRUE(message.ends_with("; check user name and password")) << message;
    EXPECT_EQ(message.find("imagefs login"), std::string::npos) << message;
    EXPECT_EQ(message.find("wrong"), std::string::npos) << message;
  }
  for (const FakeRegistry::Request& request : server_.requests()) {
    if (request.path != "/v2/" && request.path != "/token") ADD_FAILURE() << request.path;
  }
}

TEST_F(LoginCheckTest, ARegistryThatAsksForNothingChecksNothing) {
  const absl::StatusOr<bool> checked = Check("me", "secret");
  ASSERT_TRUE(checked.ok()) << checked.status();
  EXPECT_FALSE(*checked);
  for (const FakeRegistry::Request& request : server_.requests()) {
    EXPECT_EQ(request.Header("authorization"), "") << "it is sent to those that ask for it";
  }
}

TEST_F(LoginCheckTest, WhatIsNoRegistryIsAnError) {
  server_.Remove("/v2/");
  EXPECT_EQ(Check("me", "secret").status().code(), absl::StatusCode::kNotFound);
}

TEST_F(LoginCheckTest, ItCanBeCancelled) {
  FakeRegistry::Behaviour held;
  held.hold = true;
  server_.On("/v2/", held);
  CancelSource cancel;
  std::thread canceller([&] {
    EXPECT_TRUE(server_.WaitForRequests("/v2/", 1));
    cancel.Cancel();
  });
  SourceFactory::Access access;
  Reference reference;
  reference.host = server_.host();
  reference.repository = "x";
  EXPECT_EQ(CheckLogin({}, reference, access, cancel.token()).status().code(),
            absl::StatusCode::kCancelled);
  canceller.join();
}

}  // namespace
}  // namespace imagefs
