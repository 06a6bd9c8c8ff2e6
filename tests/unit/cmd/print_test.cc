#include "cmd/print.h"

#include "base/json.h"
#include "gtest/gtest.h"
#include "proto/control.pb.h"

namespace imagefs {
namespace {

using namespace control::v1;  // NOLINT: the messages that are printed

Json Parsed(const std::string& text) {
  EXPECT_TRUE(text.ends_with('\n'));
  const absl::StatusOr<Json> json = Json::Parse(text);
  EXPECT_TRUE(json.ok()) << text;
  return json.value_or(Json());
}

TEST(PrintTest, EveryStepOfATransferIsTimed) {
  MountResult result;
  EXPECT_EQ(Parsed(MountJson(result))["timings_ms"].size(), 5u);
  Timing* timing = result.add_timings();
  timing->set_step("layers");
  timing->set_microseconds(1500);
  timing = result.add_timings();
  timing->set_step("layers");
  timing->set_microseconds(500);
  const std::string text = MountJson(result);
  EXPECT_NE(text.find("\"layers\": 2.0"), std::string::npos) << text;
  EXPECT_NE(text.find("\"merge\": 0.0"), std::string::npos) << text;
}

TEST(PrintTest, ErrorsHaveACodeAndAMessage) {
  const Json json = Parsed(ErrorJson(absl::NotFoundError("no \"such\"\nthing\xff")));
  EXPECT_EQ(json["error"].StringOr("code"), "NOT_FOUND");
  EXPECT_EQ(json["error"].StringOr("message"), "no \"such\"\nthing\xef\xbf\xbd");
}

TEST(PrintTest, WhatWasAddedBeforeAnErrorIsTold) {
  ListAddedReply reply;
  reply.add_images()->set_name("localhost/a:1");
  EXPECT_FALSE(Parsed(AddedListJson(reply))["error"].exists());
  const Json json = Parsed(AddedListJson(reply, absl::UnavailableError("gone")));
  EXPECT_EQ(json["images"].at(0).StringOr("name"), "localhost/a:1");
  EXPECT_EQ(json["error"].StringOr("code"), "UNAVAILABLE");
}

TEST(PrintTest, WhoWasStopped) {
  EXPECT_EQ(Parsed(StopJson(7))["pid"].integer(), 7);
  EXPECT_EQ(Parsed(StopJson(7))["stopped"].boolean(), true);
  EXPECT_TRUE(Parsed(StopJson(0))["pid"].is_null());
  EXPECT_EQ(Parsed(StopJson(0))["stopped"].boolean(), false);
}

TEST(PrintTest, ALineIsOneLine) {
  EXPECT_EQ(OneLine("a\nb\rc\x1b[31md\x7f\te"), "a b c [31md  e");
  EXPECT_EQ(OneLine("\xc3\xbc"), "\xc3\xbc");
}

}  // namespace
}  // namespace imagefs
