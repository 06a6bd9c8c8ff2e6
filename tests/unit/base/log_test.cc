#include "base/log.h"

#include <gtest/gtest.h>

#include <string>

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
  LogError("from=", "the\nnetwork\r\x1b[31m", " braces={}");
  const std::string text = ::testing::internal::GetCapturedStderr();
  EXPECT_NE(text.find("from=the network  [31m braces={}\n"), std::string::npos) << text;
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
