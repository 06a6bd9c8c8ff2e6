// SPDX-License-Identifier: Apache-2.0
#include "base/log_context.h"

#include <gtest/gtest.h>

#include <string>

#include "absl/synchronization/notification.h"
#include "base/executor.h"
#include "base/flight.h"
#include "base/log.h"
#include "base/thread_role.h"

namespace imagefs {
namespace {

TEST(LogContextTest, EndsWithItsScope) {
  EXPECT_TRUE(LogContext::Current().empty());
  EXPECT_EQ(LogContext::Current().text(), "");
  {
    const LogContext::Scope outer(LogContext(" call=1"));
    EXPECT_EQ(LogContext::Current().text(), " call=1");
    {
      const LogContext::Scope inner(LogContext(" call=2"));
      EXPECT_EQ(LogContext::Current().text(), " call=2");
    }
    EXPECT_EQ(LogContext::Current().text(), " call=1");
  }
  EXPECT_TRUE(LogContext::Current().empty());
}

TEST(LogContextTest, IsInEveryLine) {
  ::testing::internal::CaptureStderr();
  {
    const LogContext::Scope scope(LogContext(" call=7"));
    LogInfo("a.thing value=", 3);
  }
  LogInfo("another.thing");
  const std::string text = ::testing::internal::GetCapturedStderr();
  EXPECT_NE(text.find("a.thing value=3 call=7\n"), std::string::npos) << text;
  EXPECT_NE(text.find("another.thing\n"), std::string::npos) << text;
}

TEST(LogContextTest, FollowsTasks) {
  Executor executor(ThreadRole::kLayer, 1);
  std::string first, second;
  absl::Notification done;
  {
    const LogContext::Scope scope(LogContext(" call=1"));
    executor.Submit([&] {
      first = LogContext::Current().text();
      executor.Submit([&] {
        second = LogContext::Current().text();
        done.Notify();
      });
    });
  }
  done.WaitForNotification();
  EXPECT_EQ(first, " call=1");
  EXPECT_EQ(second, " call=1");
}

// The work has the context of who began it; each caller is answered in its own.
TEST(LogContextTest, FollowsFlights) {
  FlightTable<int> flights("test");
  FlightTable<int>::Context work;
  std::string at_start, one, other;
  {
    const LogContext::Scope scope(LogContext(" call=1"));
    flights.Join("key",
                 {.start =
                      [&](FlightTable<int>::Context context) {
                        at_start = LogContext::Current().text();
                        work = std::move(context);
                      },
                  .done = [&](const absl::StatusOr<int>&) { one = LogContext::Current().text(); }});
  }
  {
    const LogContext::Scope scope(LogContext(" call=2"));
    flights.Join(
        "key", {.start = [](const FlightTable<int>::Context&) {},
                .done = [&](const absl::StatusOr<int>&) { other = LogContext::Current().text(); }});
  }
  work.finish(5);
  EXPECT_EQ(at_start, " call=1");
  EXPECT_EQ(one, " call=1");
  EXPECT_EQ(other, " call=2");
  EXPECT_TRUE(LogContext::Current().empty());
}

}  // namespace
}  // namespace imagefs
