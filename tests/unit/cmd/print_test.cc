// SPDX-License-Identifier: Apache-2.0
#include "cmd/print.h"

#include <string>
#include <vector>

#include "base/json.h"
#include "base/text.h"
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
  EXPECT_EQ(json["error"].StringOr("code"), "not_found");
  EXPECT_EQ(json["error"].StringOr("cause"), json["error"].StringOr("message"));
  EXPECT_EQ(json["error"].StringOr("remedy", "absent"), "");
  EXPECT_EQ(json["error"].IntOr("exit", 0), 4);
  EXPECT_EQ(json["error"].StringOr("message"), "no \"such\"\nthing\xef\xbf\xbd");
}

TEST(PrintTest, WhatWasAddedBeforeAnErrorIsTold) {
  ListAddedReply reply;
  reply.add_images()->set_name("localhost/a:1");
  EXPECT_FALSE(Parsed(AddedListJson(reply))["error"].exists());
  const Json json = Parsed(AddedListJson(reply, absl::UnavailableError("gone")));
  EXPECT_EQ(json["images"].at(0).StringOr("name"), "localhost/a:1");
  EXPECT_EQ(json["error"].StringOr("code"), "network");
}

std::string Remedy(std::string_view message) {
  const Json error = Parsed(ErrorJson(absl::InternalError(ToAbsl(message))))["error"];
  const std::string remedy = error.StringOr("remedy"), cause = error.StringOr("cause");
  EXPECT_EQ(remedy.empty() ? cause : StrCat(cause, "; ", remedy), message);
  return remedy;
}

TEST(PrintTest, ARemedyIsAllThatSaysWhatToDo) {
  EXPECT_EQ(Remedy("/m: no image; imagefs ls lists them"), "imagefs ls lists them");
  EXPECT_EQ(Remedy("a:1: refused; check the network; run this again"),
            "check the network; run this again");
  EXPECT_EQ(Remedy("a:1: one; other text; check: that"), "check: that");
  EXPECT_EQ(Remedy("a:1: full; `imagefs prune` frees some"), "`imagefs prune` frees some");
  EXPECT_EQ(Remedy("a:1: full"), "");
  EXPECT_EQ(Remedy(""), "");
}

TEST(PrintTest, WhatOthersSayIsNoRemedy) {
  EXPECT_EQ(Remedy("a:1: it failed (\"quota; try later\")"), "");
  EXPECT_EQ(Remedy("a:1: it failed \"no \\\"; try x\"; wait"), "wait");
  EXPECT_EQ(Remedy("a:1: it failed \"not closed; try later"), "");
  EXPECT_EQ(Remedy("a:1: it failed (not closed; try later"), "");
  EXPECT_EQ(Remedy("a:1: it failed); try later"), "try later");
  EXPECT_EQ(Remedy("mount: error 5; the kernel says: erofs: try"), "");
  EXPECT_EQ(Remedy("a:1: cause; trying"), "");
  EXPECT_EQ(Remedy("a:1: a `b; try c` d"), "");
  EXPECT_EQ(Remedy("a:1: cause;try"), "");
  EXPECT_EQ(Remedy("a:1: cause; "), "");
}

TEST(PrintTest, AFailureToUnmountIsAnErrorOfItsKind) {
  UnmountReply reply;
  UnmountReply::Failure* failure = reply.add_failures();
  failure->set_directory("/m");
  failure->set_message("/m is busy; end it");
  failure->set_kind("busy");
  *reply.add_failures() = *failure;
  reply.mutable_failures(1)->set_kind("from another version");
  const Json json = Parsed(UnmountJson(reply));
  EXPECT_EQ(json["failures"].at(0).StringOr("directory"), "/m");
  EXPECT_EQ(json["failures"].at(0)["error"].StringOr("code"), "busy");
  EXPECT_EQ(json["failures"].at(0)["error"].StringOr("remedy"), "end it");
  EXPECT_EQ(json["failures"].at(0)["error"].IntOr("exit", 0), 6);
  EXPECT_EQ(json["failures"].at(1)["error"].StringOr("code"), "other");
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

// Nothing that starts another line or speaks to a terminal.
void ExpectHarmless(const std::string& text) {
  for (size_t i = 0; i < text.size(); ++i) {
    const auto c = static_cast<unsigned char>(text[i]);
    const bool control = (c < ' ' && c != '\n') || c == 0x7f;
    const bool later_control = c == 0xc2 && i + 1 < text.size() &&
                               static_cast<unsigned char>(text[i + 1]) < 0xa0;  // U+0080 to U+009F
    ASSERT_FALSE(control || later_control) << "at " << i << ": " << text;
  }
}

std::vector<std::string> Lines(const std::string& text) {
  EXPECT_TRUE(text.empty() || text.ends_with('\n')) << text;
  std::vector<std::string> lines;
  for (std::string_view line : Split(std::string_view(text).substr(0, text.size() - 1), '\n')) {
    lines.emplace_back(line);
  }
  return lines;
}

TEST(PrintTest, RepliesWithNothingInThemAreWholeDocuments) {
  for (const std::string& text :
       {VersionJson("1.0"), CheckedJson("/etc/imagefs.conf"), MountJson({}), UnmountJson({}),
        MountsJson({}), ImagesJson({}), InspectJson({}), RpullJson({}, "", "", ""),
        AddedListJson({}), RemoveJson({}), IndexJson({}), MountStatusJson({}), ProfileJson({}),
        CheckJson({}), StatusJson({})}) {
    const Json json = Parsed(text);
    EXPECT_TRUE(json.is_object() || json.is_array()) << text;
  }
  for (const std::string& text :
       {MountText({}, 0), MountsText({}, 0), ImagesText({}, 0), InspectText({}), AddedText({}),
        AddedListText({}, 0), RemoveText({}), IndexText({}), MountStatusText({}), ProfileText({}),
        CheckText({}), StatusText({})}) {
    EXPECT_TRUE(text.empty() || text.ends_with('\n')) << text;
  }
}

TEST(PrintTest, StatusHasWarnings) {
  StatusReply reply;
  reply.add_warnings("mind the gap");
  EXPECT_NE(StatusText(reply).find("\nwarning: mind the gap\n"), std::string::npos);
  EXPECT_EQ(Parsed(StatusJson(reply))["warnings"].at(0).string(), "mind the gap");
}

TEST(PrintTest, ColumnsAreAsWideAsTheirWidestCell) {
  ListMountsReply reply;
  for (const char* directory : {"/a", "/a/much/longer/one"}) {
    Mount* mount = reply.add_mounts();
    mount->set_directory(directory);
    mount->set_reference("example.org/x:1");
    mount->set_mode("fuse");
    mount->set_state("mounted");
  }
  const std::vector<std::string> lines = Lines(MountsText(reply, 0));
  ASSERT_EQ(lines.size(), 3U);
  const size_t column = lines[0].find("REFERENCE");
  EXPECT_EQ(column, std::string("/a/much/longer/one").size() + 2);
  EXPECT_EQ(lines[1].find("example.org"), column);
  EXPECT_EQ(lines[2].find("example.org"), column);
  EXPECT_EQ(Lines(MountsText({}, 0)).size(), 1U) << "the head is there without rows";
}

TEST(PrintTest, AgesInOneUnit) {
  ListMountsReply reply;
  Mount* mount = reply.add_mounts();
  mount->set_created_unix(1'000'000);
  const auto age = [&](int64_t seconds) {
    const std::string line = Lines(MountsText(reply, 1'000'000 + seconds)).at(1);
    std::vector<std::string> cells;
    for (std::string_view cell : Split(line, ' ')) {
      if (!cell.empty()) cells.emplace_back(cell);
    }
    return cells.back();
  };
  EXPECT_EQ(age(-5), "0s") << "a clock that was set back";
  EXPECT_EQ(age(59), "59s");
  EXPECT_EQ(age(60), "1m");
  EXPECT_EQ(age(3599), "59m");
  EXPECT_EQ(age(3600), "1h");
  EXPECT_EQ(age(48 * 3600 - 1), "47h");
  EXPECT_EQ(age(48 * 3600), "2d");
}

TEST(PrintTest, TheStateOfAMountSaysWhatThereIsToKnow) {
  ListMountsReply reply;
  Mount* mount = reply.add_mounts();
  const auto state = [&] { return Lines(MountsText(reply, 0)).at(1); };
  mount->set_mode("kernel");
  mount->set_state("filling");
  mount->set_filled_percent(42);
  mount->set_needs_daemon(true);
  EXPECT_TRUE(state().ends_with("filling 42%")) << state();
  mount->set_state("mounted");
  EXPECT_TRUE(state().ends_with("mounted, by the daemon")) << state();
  mount->set_mode("fuse");
  EXPECT_TRUE(state().ends_with("mounted")) << state();
  mount->set_needs_daemon(false);
  mount->set_state("not mounted");
  mount->set_reason("no\nregistry");
  EXPECT_TRUE(state().ends_with("not mounted: no\\nregistry")) << state();
}

TEST(PrintTest, MountedAndPulledAreOneLine) {
  MountResult result;
  result.mutable_image()->set_reference("example.org/x:1");
  result.add_layers();
  EXPECT_EQ(MountText(result, 1500), "pulled example.org/x:1: 1 layer, 0 B fetched, 1.5ms\n");
  result.add_layers();
  result.mutable_mount()->set_directory("/mnt");
  result.mutable_mount()->set_mode("fuse");
  result.mutable_mount()->set_writable(true);
  result.set_fetched_bytes(1 << 20);
  EXPECT_TRUE(
      MountText(result, 1500)
          .starts_with(
              "mounted example.org/x:1 on /mnt (fuse, writable): 2 layers, 1.0 MiB fetched, "))
      << MountText(result, 1500);
}

TEST(PrintTest, AReusedLayerWasNotFetched) {
  MountResult result;
  for (const bool reused : {true, false}) {
    LayerEvent* layer = result.add_layers();
    layer->set_blob_bytes(1000);
    layer->set_downloaded_bytes(700);
    layer->set_fetched_bytes(reused ? 0 : 500);  // 200 were left by an earlier attempt
    layer->set_reused(reused);
  }
  const Json json = Parsed(MountJson(result));
  EXPECT_EQ(json["layers"].at(0)["fetched"].integer(), 0);
  EXPECT_EQ(json["layers"].at(1)["fetched"].integer(), 500);
  EXPECT_EQ(json["layers"].at(1)["bytes"].integer(), 1000);
}

TEST(PrintTest, WhatAnImageSaysIsShownAndHarmsNoTerminal) {
  InspectReply reply;
  reply.mutable_image()->set_reference("example.org/x:1");
  reply.set_config_json(
      R"({"created":"now\u001b[31m","config":{"Entrypoint":["a\u001b[2J\u009b31m","b"],)"
      R"("Cmd":null,"WorkingDir":"/\u009b31m\nuser       root","Env":["A=\u0007","B=2"]}})");
  reply.add_layers()->set_state("complete");
  const std::string text = InspectText(reply);
  ExpectHarmless(text);
  EXPECT_NE(text.find("\nenv        B=2\n"), std::string::npos) << text;
  EXPECT_EQ(text.find("\nuser "), std::string::npos) << "it says nothing of a user: " << text;
  EXPECT_EQ(text.find("command"), std::string::npos) << text;
  // What is no JSON object is an empty one, and no error of the command.
  for (const char* config : {"{", "[1]", ""}) {
    reply.set_config_json(config);
    EXPECT_EQ(Parsed(InspectJson(reply))["config"].Dump(), "{}") << config;
  }
  EXPECT_TRUE(Parsed(InspectJson(reply))["index_digest"].is_null());
}

TEST(PrintTest, AnArtifactIsShownByItsType) {
  InspectReply reply;
  reply.mutable_image()->set_reference("example.org/x:1");
  reply.mutable_image()->set_artifact_type("application/x\x1b[31m");
  const std::string text = InspectText(reply);
  ExpectHarmless(text);
  EXPECT_NE(text.find("\nartifact   application/x"), std::string::npos) << text;
  EXPECT_EQ(text.find("platform"), std::string::npos) << text;
  EXPECT_EQ(Parsed(InspectJson(reply))["artifact_type"].string(), "application/x\x1b[31m");
  control::v1::ListImagesReply images;
  *images.add_images() = reply.image();
  EXPECT_NE(ImagesText(images, 0).find(" artifact "), std::string::npos);
  EXPECT_EQ(Parsed(ImagesJson(images)).at(0)["artifact_type"].string(), "application/x\x1b[31m");
  reply.mutable_image()->clear_artifact_type();
  reply.mutable_image()->set_platform("linux/arm64");
  EXPECT_NE(InspectText(reply).find("\nplatform   linux/arm64\n"), std::string::npos);
}

TEST(PrintTest, DocumentsOfTheRegistryAreAsTheyWere) {
  InspectReply reply;
  reply.set_manifest_json(R"({"a":[1,-2,true,false,null,"x",{}],"b":{"c":[]}})");
  const Json json = Parsed(InspectJson(reply))["manifest"];
  EXPECT_EQ(json.Dump(), Json::Parse(reply.manifest_json())->Dump());
}

TEST(PrintTest, AnIndexSaysItsShareOrWhyThereIsNone) {
  MountResult result;
  IndexResult* index = result.mutable_index();
  IndexResult::Layer* layer = index->add_layers();
  layer->set_digest("sha256:0123456789abcdef");
  layer->set_blob_bytes(10'000);
  layer->set_index_bytes(123);
  layer = index->add_layers();
  layer->set_reason("its blob cannot be read in parts");
  index->set_repository("example.org/x");
  index->set_artifact_digest("sha256:aa");
  index->add_signed_by("KEY1");
  index->add_signatures_lost("KEY2");
  const std::vector<std::string> lines = Lines(IndexText(result));
  ASSERT_EQ(lines.size(), 6U);
  EXPECT_TRUE(lines[1].starts_with("0123456789ab  ")) << lines[1];
  EXPECT_TRUE(lines[1].ends_with("1.2%")) << lines[1];
  EXPECT_TRUE(lines[2].ends_with("-      its blob cannot be read in parts")) << lines[2];
  EXPECT_TRUE(lines[3].starts_with("published to example.org/x as sha256:aa (")) << lines[3];
  EXPECT_EQ(lines[4], "signed by KEY1");
  EXPECT_TRUE(lines[5].starts_with("no longer signed by KEY2; ")) << lines[5];
  EXPECT_EQ(Parsed(IndexJson(result))["signatures_lost"].at(0).string(), "KEY2");
}

TEST(PrintTest, ACheckSaysWhatWasDoneOrIsToBe) {
  CheckReply reply;
  for (const char* state : {"right", "filling", "absent", "lost"}) {
    CheckReply::Layer* layer = reply.add_layers();
    layer->set_name(std::string("layer-") + state);
    layer->set_state(state);
    if (layer->state() == "lost") layer->set_reason("other bytes");
  }
  reply.mutable_layers(3)->set_action("fetched again");
  CheckReply::Finding* finding = reply.add_findings();
  finding->set_kind("file");
  finding->set_name("blobs/x");
  finding->set_problem("nobody knows it");
  const std::string text = CheckText(reply);
  EXPECT_EQ(text.find("layer layer-right"), std::string::npos) << text;
  EXPECT_EQ(text.find("layer layer-filling"), std::string::npos) << text;
  EXPECT_NE(text.find("\nlayer layer-absent: absent; it is fetched when it is needed\n"),
            std::string::npos)
      << text;
  EXPECT_NE(text.find("\nlayer layer-lost: other bytes; fetched again\n"), std::string::npos)
      << text;
  EXPECT_TRUE(text.ends_with("\nfile blobs/x: nobody knows it; not repaired; use --repair\n"))
      << text;
}

TEST(PrintTest, AProfileIsSummedByLayer) {
  ProfileReply reply;
  reply.set_manifest_digest("sha256:aa");
  EXPECT_EQ(ProfileText(reply), "") << "there is none";
  reply.set_json(R"({"layers":[{"diff_id":"sha256:bb","data_bytes":2048}],)"
                 R"("parts":[[0,0,512],[0,1024,1536]]})");
  const std::vector<std::string> lines = Lines(ProfileText(reply));
  ASSERT_EQ(lines.size(), 4U);
  EXPECT_TRUE(lines[1].find("1.0 KiB of the layers' tars, in the order of 2 parts") !=
              std::string::npos)
      << lines[1];
  EXPECT_TRUE(lines[3].starts_with("bb")) << lines[3];
  // One that somebody has written by hand.
  reply.set_json(R"({"parts":[[7,"x"],[-1],[],3,[0,5,1]]})");
  EXPECT_FALSE(ProfileText(reply).empty());
}

}  // namespace
}  // namespace imagefs
