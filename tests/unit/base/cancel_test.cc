// SPDX-License-Identifier: Apache-2.0
#include "base/cancel.h"

#include <gtest/gtest.h>

#include <atomic>
#include <memory>
#include <thread>
#include <utility>

namespace imagefs {
namespace {

TEST(CancelTest, TokenWithoutSourceIsNeverCancelled) {
  const CancelToken token;
  EXPECT_FALSE(token.cancelled());
  const CancelToken::Registration registration = token.OnCancel([] { FAIL(); });
}

TEST(CancelTest, CallbackRunsOnce) {
  CancelSource source;
  int calls = 0;
  const CancelToken::Registration registration = source.token().OnCancel([&] { ++calls; });
  EXPECT_EQ(calls, 0);
  source.Cancel();
  source.Cancel();
  EXPECT_EQ(calls, 1);
  EXPECT_TRUE(source.token().cancelled());
}

TEST(CancelTest, RegisteringTooLateRunsAtOnce) {
  CancelSource source;
  source.Cancel();
  int calls = 0;
  const CancelToken::Registration registration = source.token().OnCancel([&] { ++calls; });
  EXPECT_EQ(calls, 1);
}

TEST(CancelTest, UnregisteredCallbackDoesNotRunAndIsFreed) {
  CancelSource source;
  auto held = std::make_shared<int>(1);
  CancelToken::Registration outer;
  {
    CancelToken::Registration inner = source.token().OnCancel([held] { FAIL(); });
    EXPECT_EQ(held.use_count(), 2);
    outer = std::move(inner);
  }
  EXPECT_EQ(held.use_count(), 2) << "moved, not dropped";
  outer.Reset();
  EXPECT_EQ(held.use_count(), 1);
  source.Cancel();
}

TEST(CancelTest, CallbackMayUseItsOwnSource) {
  CancelSource source;
  CancelToken::Registration registration;
  int calls = 0;
  registration = source.token().OnCancel([&] {
    ++calls;
    source.Cancel();
    registration.Reset();
    EXPECT_TRUE(source.token().cancelled());
  });
  source.Cancel();
  EXPECT_EQ(calls, 1);
}

TEST(CancelTest, RegistrationMayOutliveTheSource) {
  auto source = std::make_unique<CancelSource>();
  CancelToken::Registration registration = source->token().OnCancel([] { FAIL(); });
  source.reset();
  registration.Reset();
}

TEST(CancelTest, RegisterRacingCancelRunsExactlyOnce) {
  for (int round = 0; round < 500; ++round) {
    CancelSource source;
    std::atomic<int> calls{0};
    CancelToken::Registration registration;
    std::thread other([&] { registration = source.token().OnCancel([&] { ++calls; }); });
    source.Cancel();
    other.join();
    ASSERT_EQ(calls.load(), 1);
  }
}

}  // namespace
}  // namespace imagefs
