// SPDX-License-Identifier: Apache-2.0
#include "base/json.h"

#include <gtest/gtest.h>

#include <limits>
#include <string>

#include "base/text.h"

namespace imagefs {
namespace {

TEST(JsonTest, AccessorsAreTotal) {
  const absl::StatusOr<Json> parsed = Json::Parse(
      R"({"s":"x","i":-5,"u":18446744073709551615,"f":1.5,"b":true,"n":null,"a":[1,"2",{}]})");
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  const Json& json = *parsed;
  EXPECT_EQ(json["s"].string(), "x");
  EXPECT_EQ(json["i"].integer(), -5);
  EXPECT_EQ(json["u"].integer(), std::nullopt) << "does not fit";
  EXPECT_EQ(json["f"].integer(), std::nullopt);
  EXPECT_EQ(json["b"].boolean(), true);
  EXPECT_TRUE(json["n"].is_null());
  EXPECT_EQ(json["a"].size(), 3u);
  EXPECT_EQ(json["a"].at(0).integer(), 1);
  EXPECT_FALSE(json["a"].at(3).exists());
  EXPECT_EQ(json["a"].elements().size(), 3u);
  EXPECT_FALSE(json["absent"]["deeper"].at(7)["still"].exists());
  EXPECT_EQ(json["i"].string(), std::nullopt);
  EXPECT_EQ(json["s"].integer(), std::nullopt);
  EXPECT_EQ(json.StringOr("s"), "x");
  EXPECT_EQ(json.StringOr("i", "none"), "none");
  EXPECT_EQ(json.IntOr("i", 3), -5);
  EXPECT_EQ(json.IntOr("s", 3), 3);
  EXPECT_EQ(json["s"].size(), 0u);
  EXPECT_EQ(Json().Dump(), "null");
}

TEST(JsonTest, ValueKeepsItsDocumentAlive) {
  Json inner;
  {
    const absl::StatusOr<Json> parsed = Json::Parse(R"({"a":{"b":["deep"]}})");
    inner = (*parsed)["a"];
  }
  EXPECT_EQ(inner["b"].at(0).string(), "deep");
  EXPECT_EQ(inner.Dump(), R"({"b":["deep"]})");
}

TEST(JsonTest, MembersKeepTheirOrderAndTheLastOfANameCounts) {
  const absl::StatusOr<Json> parsed = Json::Parse(R"({"z":1,"a":2,"z":3})");
  ASSERT_TRUE(parsed.ok());
  const auto members = parsed->members();
  ASSERT_EQ(members.size(), 2u);
  EXPECT_EQ(members[0].first, "z");
  EXPECT_EQ(members[0].second.integer(), 3);
  EXPECT_EQ(members[1].first, "a");
}

TEST(JsonTest, NestedValuesStayWhereTheyWere) {
  for (const std::string_view text :
       {R"([[],{},[[1],[2,{"a":[{"b":[]},3]}]],"x",null,true,1.5])",
        R"({"a":{"b":{"c":[]}},"d":{}})",
        R"({"a":[1,2],"b":{"a":{"a":1}},"c":-1,"d":18446744073709551615,"":""})", "7", "\"x\""}) {
    const absl::StatusOr<Json> parsed = Json::Parse(text);
    ASSERT_TRUE(parsed.ok()) << text << parsed.status();
    EXPECT_EQ(parsed->Dump(), text);
  }
  EXPECT_EQ(Json::Parse(R"({"a":{"b":1,"c":2},"a":[3]})")->Dump(), R"({"a":[3]})");
}

TEST(JsonTest, RefusesWhatIsNoJson) {
  for (const std::string_view bad :
       {"", " ", "{", "[1,]", "{\"a\":}", "{} x", "nul", "\"\x80\"", "\"\\ud800\"", "01", "1e999",
        "[1 2]", "{1:2}", "\"a\nb\"", "'a'", "// c\n1"}) {
    EXPECT_TRUE(absl::IsInvalidArgument(Json::Parse(bad).status())) << bad;
  }
}

TEST(JsonTest, DepthIsBounded) {
  const auto nested = [](size_t depth) {
    return std::string(depth, '[') + std::string(depth, ']');
  };
  EXPECT_TRUE(Json::Parse(nested(64)).ok());
  EXPECT_TRUE(absl::IsInvalidArgument(Json::Parse(nested(65)).status()));
  EXPECT_TRUE(absl::IsInvalidArgument(Json::Parse(std::string(5'000'000, '[')).status()));
  EXPECT_FALSE(Json::Parse(R"({"a":{"b":{}}})", 2).ok());
}

TEST(JsonTest, MembersAreBounded) {
  const auto wide = [](int n) {
    std::string text = "{";
    for (int i = 0; i < n; ++i) StrAppend(&text, i == 0 ? "" : ",", "\"", i, "\":0");
    return text + "}";
  };
  EXPECT_TRUE(Json::Parse(wide(4096)).ok());
  EXPECT_TRUE(absl::IsInvalidArgument(Json::Parse(wide(4097)).status()));
}

// Records the events it receives.
class Recorder : public JsonVisitor {
 public:
  absl::Status Open(bool object) override { return Say(object ? "{" : "["); }
  absl::Status Close() override { return Say("/"); }
  absl::Status Key(std::string_view key) override { return Say(StrCat(key, ":")); }
  absl::Status String(std::string_view value) override {
    if (value == "stop") return absl::AbortedError("stopped");
    return Say(StrCat("'", value, "'"));
  }
  absl::Status Int(int64_t value) override { return Say(StrCat(value)); }
  absl::Status Null() override { return Say("null"); }
  absl::Status Other() override { return Say("?"); }
  std::string heard;

 private:
  absl::Status Say(std::string_view text) {
    StrAppend(&heard, heard.empty() ? "" : " ", text);
    return absl::OkStatus();
  }
};

TEST(VisitJsonTest, TellsEverythingInOrder) {
  Recorder recorder;
  ASSERT_TRUE(VisitJson(R"({"a":[1,-2,"x",{"b":null}],"a":true,"c":1.5,"d":18446744073709551615})",
                        recorder)
                  .ok());
  EXPECT_EQ(recorder.heard, "{ a: [ 1 -2 'x' { b: null / / a: ? c: ? d: ? /");
}

TEST(VisitJsonTest, ErrorsEndIt) {
  Recorder recorder;
  EXPECT_EQ(VisitJson(R"([1,"stop",2])", recorder).code(), absl::StatusCode::kAborted);
  EXPECT_EQ(recorder.heard, "[ 1");
  for (const std::string_view bad : {"", "[1", "[1]]", "{\"a\"}", "[\"\xff\"]"}) {
    EXPECT_EQ(VisitJson(bad, recorder).code(), absl::StatusCode::kInvalidArgument) << bad;
  }
  EXPECT_TRUE(VisitJson("[[[]],[[]]]", recorder, 3).ok());
  EXPECT_FALSE(VisitJson("[[[]],[[[]]]]", recorder, 3).ok());
  EXPECT_FALSE(VisitJson(std::string(1 << 20, '['), recorder).ok());
}

TEST(JsonWriterTest, Compact) {
  JsonWriter writer;
  writer.BeginObject().Member("s", "x").Member("n", int64_t{-1}).Member("b", true).Key("a");
  writer.BeginArray().Int(1).Uint(2).Double(0.5).Null().BeginObject().EndObject().EndArray();
  writer.Key("raw").Raw("{\"k\":1}").EndObject();
  EXPECT_EQ(writer.Take(), R"({"s":"x","n":-1,"b":true,"a":[1,2,0.5,null,{}],"raw":{"k":1}})");
}

TEST(JsonWriterTest, Pretty) {
  JsonWriter writer(true);
  writer.BeginObject().Key("a").BeginArray().Int(1).Int(2).EndArray().Key("e").BeginArray();
  writer.EndArray().EndObject();
  EXPECT_EQ(writer.Take(), "{\n  \"a\": [\n    1,\n    2\n  ],\n  \"e\": []\n}");
}

TEST(JsonWriterTest, AnyBytesGiveValidJson) {
  std::string bytes;
  for (int c = 0; c < 256; ++c) bytes += static_cast<char>(c);
  JsonWriter writer;
  writer.BeginObject().Member(bytes, bytes).Key("d");
  writer.Double(std::numeric_limits<double>::quiet_NaN()).EndObject();
  const std::string text = writer.Take();
  const absl::StatusOr<Json> parsed = Json::Parse(text);
  ASSERT_TRUE(parsed.ok()) << parsed.status() << text;
  const std::string back = *parsed->members()[0].second.string();
  EXPECT_EQ(back.substr(0, 128), bytes.substr(0, 128));
  EXPECT_NE(back.find("\xef\xbf\xbd"), std::string::npos);
  EXPECT_TRUE((*parsed)["d"].is_null());
}

TEST(JsonWriterTest, ControlCharactersAreEscaped) {
  // Of two, three and four bytes too, which have bytes like those of C1 characters.
  const std::string harmless = "\xc2\xa0 \xc3\x80 \xc3\x9f \xe2\x82\x82 \xf0\x90\x82\x80 \xc2\xbf";
  const std::string text =
      StrCat("\x7f", harmless, "\x1b[1m \xc2\x80\xc2\x9b", "2J\xc2\x9f", harmless, "\xc2\x85");
  const std::string escaped =
      StrCat(R"("\u007f)", harmless, R"(\u001b[1m \u0080\u009b2J\u009f)", harmless, R"(\u0085")");
  JsonWriter writer;
  writer.BeginObject().Member(text, text).EndObject();
  const std::string written = writer.Take();
  EXPECT_EQ(written, StrCat("{", escaped, ":", escaped, "}"));
  const absl::StatusOr<Json> parsed = Json::Parse(written);
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_EQ((*parsed)[text].string(), text) << "the same text for whoever reads it";
  EXPECT_EQ(parsed->Dump(), written);
}

}  // namespace
}  // namespace imagefs
