// SPDX-License-Identifier: Apache-2.0
#include "base/log.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <unistd.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/text.h"

namespace imagefs {
namespace {

class LogTest : public ::testing::Test {
 protected:
  ~LogTest() override { SetLogLevel(LogLevel::kInfo); }
};

TEST_F(LogTest, LevelDecides) {
  SetLogLevel(LogLevel::kWarning);
  EXPECT_FALSE(LogEnabled(LogLevel::kInfo));
  EXPECT_TRUE(LogEnabled(LogLevel::kWarning));
  ::testing::internal::CaptureStderr();
  LogInfo("quiet");
  LogWarning("loud n=", 3);
  const std::string text = ::testing::internal::GetCapturedStderr();
  EXPECT_EQ(text.find("quiet"), std::string::npos);
  EXPECT_NE(text.find("loud n=3\n"), std::string::npos) << text;
  SetLogLevel(LogLevel::kOff);
  EXPECT_FALSE(LogEnabled(LogLevel::kError));
  EXPECT_FALSE(LogEnabled(LogLevel::kOff));
}

TEST_F(LogTest, OneEventIsOneLine) {
  ::testing::internal::CaptureStderr();
  LogError("from=", std::string("the\nnetwork\r\x1b[31m"), " braces={}");
  const std::string text = ::testing::internal::GetCapturedStderr();
  EXPECT_NE(text.find("from=\"the network  [31m\" braces={}\n"), std::string::npos) << text;
}

template <typename... Args>
std::string TextOf(const Args&... args) {
  return internal::LogTextOf(args...);
}

TEST(LogTextTest, ValuesAreQuotedWhereTheyHaveToBe) {
  const std::string none, words = "two words", sneaky = "x y=z", path = "/a/b";
  EXPECT_EQ(TextOf("an.event n=", 3, " path=", path), "an.event n=3 path=/a/b");
  EXPECT_EQ(TextOf("an.event a=", none, " b=", words, " c=", sneaky),
            "an.event a=\"\" b=\"two words\" c=\"x y=z\"");
  EXPECT_EQ(TextOf("an.event q=", std::string("say \"hi\" \\")),
            "an.event q=\"say \\\"hi\\\" \\\\\"");
  // Several pieces of one value.
  EXPECT_EQ(TextOf("an.event path=", path, "/", 7, " cause=", 2, " spans are wrong"),
            "an.event path=/a/b/7 cause=\"2 spans are wrong\"");
  // A value in the text, before another key.
  EXPECT_EQ(TextOf("an.event reason=not synced, by=", words),
            "an.event reason=\"not synced,\" by=\"two words\"");
  // The name of the event in pieces.
  EXPECT_EQ(TextOf("layer.", std::string("used"), " id=", 1), "layer.used id=1");
  EXPECT_EQ(TextOf("no keys at all"), "no keys at all");
}

TEST(LogTextTest, WhatIsComposedCanBeParsed) {
  const std::vector<std::string> values = {"",  "x",     "two words",  "a=b", "\"",          "\\",
                                           " ", "x y=z", "\\\" k=\"v", "ü",   "ends with \\"};
  for (const std::string& one : values) {
    for (const std::string& other : values) {
      const std::string line = TextOf("an.event first=", one, " second_2=", other);
      const auto fields = ParseLogLine(line);
      ASSERT_EQ(fields.size(), 3U) << line;
      EXPECT_EQ(fields[0], std::pair(std::string(), std::string("an.event")));
      EXPECT_EQ(fields[1], std::pair(std::string("first"), one)) << line;
      EXPECT_EQ(fields[2], std::pair(std::string("second_2"), other)) << line;
    }
  }
  EXPECT_EQ(ParseLogLine("only words").size(), 1U);
  EXPECT_EQ(ParseLogLine("").size(), 1U);
  EXPECT_EQ(ParseLogLine("cut k=\"no end").back().second, "no end");
}

TEST_F(LogTest, AWriterGetsEveryLine) {
  std::vector<std::pair<LogLevel, std::string>> lines;
  {
    const BackgroundLog background(
        [&](LogLevel level, const std::string& line) { lines.emplace_back(level, line); });
    LogInfo("one n=", 1);
    LogError("two cause=", std::string("a b"));
  }
  ASSERT_EQ(lines.size(), 2U);
  EXPECT_EQ(lines[0], std::pair(LogLevel::kInfo, std::string("one n=1")));
  EXPECT_EQ(lines[1], std::pair(LogLevel::kError, std::string("two cause=\"a b\"")));
}

TEST_F(LogTest, InTheBackgroundNothingIsLostInItsOrder) {
  ::testing::internal::CaptureStderr();
  {
    const BackgroundLog background;
    for (int i = 0; i < 1000; ++i) LogInfo("line ", i, ".");
  }
  LogInfo("line 1000.");
  const std::string text = ::testing::internal::GetCapturedStderr();
  size_t at = 0;
  for (int i = 0; i <= 1000; ++i) {
    at = text.find(StrCat("line ", i, "."), at);
    ASSERT_NE(at, std::string::npos) << i;
  }
}

TEST_F(LogTest, WhoLogsDoesNotWaitForWhoReads) {
  // This pipe is never read, so it fills up long before the last line.
  int ends[2];
  ASSERT_EQ(pipe2(ends, O_CLOEXEC), 0);
  const int before = dup(STDERR_FILENO);
  ASSERT_EQ(fcntl(ends[1], F_SETPIPE_SZ, 4096), 4096);
  ASSERT_EQ(dup2(ends[1], STDERR_FILENO), STDERR_FILENO);
  close(ends[1]);
  auto background = std::make_unique<BackgroundLog>();
  for (int i = 0; i < 20000; ++i) LogInfo("a line that nobody reads, of some length");
  // With the reader gone, writing the queued lines fails.
  signal(SIGPIPE, SIG_IGN);
  close(ends[0]);
  background.reset();
  ASSERT_EQ(dup2(before, STDERR_FILENO), STDERR_FILENO);
  close(before);
}

TEST(RedactUrlTest, SecretsGo) {
  EXPECT_EQ(RedactUrl("https://user:secret@host:5000/v2/x?token=secret#secret"),
            "https://host:5000/v2/x");
  EXPECT_EQ(RedactUrl("https://a@b:secret@host/x"), "https://host/x");
  EXPECT_EQ(RedactUrl("https://host/path@sha256:abc"), "https://host/path@sha256:abc");
  EXPECT_EQ(RedactUrl("user:secret@host/x"), "host/x");
  EXPECT_EQ(RedactUrl("https://user:secret@host"), "https://host");
  EXPECT_EQ(RedactUrl("?token=secret"), "");
  EXPECT_EQ(RedactUrl(""), "");
}

}  // namespace
}  // namespace imagefs
