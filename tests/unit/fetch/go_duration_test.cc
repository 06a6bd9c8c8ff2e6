// SPDX-License-Identifier: Apache-2.0
#include "fetch/go_duration.h"

#include "gtest/gtest.h"

namespace imagefs {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

TEST(ParseGoDurationTest, ReadsWhatGoWrites) {
  EXPECT_EQ(ParseGoDuration("12h"), seconds(43200));
  EXPECT_EQ(ParseGoDuration("1h30m5s"), seconds(5405));
  EXPECT_EQ(ParseGoDuration("1500ms"), milliseconds(1500));
  EXPECT_EQ(ParseGoDuration("1.001s"), milliseconds(1001));
  EXPECT_EQ(ParseGoDuration("999us"), milliseconds(0));
  EXPECT_EQ(ParseGoDuration("1.5m"), seconds(90));
  EXPECT_EQ(ParseGoDuration("0"), seconds(0));
  EXPECT_EQ(ParseGoDuration("0s"), seconds(0));
  for (const char* bad : {"", "5", "h", "-5s", "5x", "1.2.3s", ".s", "99999999999h"}) {
    EXPECT_FALSE(ParseGoDuration(bad)) << bad;
  }
}

}  // namespace
}  // namespace imagefs
