// SPDX-License-Identifier: Apache-2.0
#include "cmd/status_page.h"

#include <gtest/gtest.h>

#include <string>

#include "absl/strings/escaping.h"
#include "base/digest.h"
#include "base/json.h"
#include "base/text.h"
#include "cmd/page_handlers.h"
#include "cmd/print.h"
#include "proto/control.pb.h"

namespace imagefs {
namespace {

using namespace control::v1;  // NOLINT: the messages that are shown

bool Has(const std::string& text, std::string_view part) {
  return text.find(part) != std::string::npos;
}
size_t Count(const std::string& text, std::string_view part) {
  size_t count = 0;
  for (size_t at = 0; (at = text.find(part, at)) != std::string::npos; ++at) ++count;
  return count;
}
// What is between the first `open` and the next `close`.
std::string Between(const std::string& text, std::string_view open, std::string_view close) {
  const size_t begin = text.find(open);
  if (begin == std::string::npos) return "";
  const size_t from = begin + open.size();
  return text.substr(from, text.find(close, from) - from);
}
std::string Data(const std::string& page) {
  return Between(page, "<script type=\"application/json\" id=\"data\">", "</script>");
}

constexpr std::string_view kEvil =
    "</script><script>alert(1)</script><!--\xe2\x80\xa8\"'&<b>\x01\xe2\x80\xae";

// A lazy mount all of whose texts are hostile.
MountStatusReply HostileReply() {
  MountStatusReply reply;
  Mount* mount = reply.mutable_mount();
  mount->set_directory(std::string(kEvil));
  mount->set_reference(std::string(kEvil));
  mount->set_state(std::string(kEvil));
  mount->set_reason(std::string(kEvil));
  mount->set_mode(std::string(kEvil));
  MountStatusReply::Layer* layer = reply.add_layers();
  layer->set_diff_id(std::string(kEvil));
  layer->set_digest(std::string(kEvil));
  layer->set_state(std::string(kEvil));
  layer->set_reason(std::string(kEvil));
  layer->set_map_bytes(1000);
  layer->add_names(std::string(kEvil));
  layer->add_names("not \xff UTF-8");
  MountStatusReply::Run* run = layer->add_runs();
  run->set_end(1000);
  for (const uint64_t bytes : {100, 200, 300, 400}) run->add_bytes(bytes);
  run->set_files(2);
  run->add_names(0);
  run->add_names(1);
  MountStatusReply::Event* event = reply.add_events();
  event->set_step("registry");
  event->set_detail(std::string(kEvil));
  event->set_priority(std::string(kEvil));
  return reply;
}

TEST(StatusPageTest, HostileNamesAreText) {
  const std::string page = MountPage(HostileReply(), true);
  EXPECT_FALSE(Has(page, "alert(1)</script>"));
  EXPECT_FALSE(Has(page, "<b>"));
  // It would turn the text around. The script spells it out.
  const size_t data = page.find("<script type=");
  EXPECT_FALSE(Has(page.substr(0, data), "\xe2\x80\xae"));
  EXPECT_EQ(Count(page, "<script"), 2U);
  EXPECT_EQ(Count(page, "</script"), 2U);
  EXPECT_TRUE(Has(page, "&lt;/script&gt;&lt;script&gt;alert(1)"));

  ListMountsReply mounts;
  *mounts.add_mounts() = HostileReply().mount();
  ListImagesReply images;
  Image* image = images.add_images();
  image->set_reference(std::string(kEvil));
  image->set_platform(std::string(kEvil));
  image->add_used_by()->set_name(std::string(kEvil));
  StatusReply status;
  status.set_root(std::string(kEvil));
  status.add_warnings(std::string(kEvil));
  status.add_layers()->set_source(std::string(kEvil));
  const std::string overview = OverviewPage(status, mounts, images);
  EXPECT_EQ(Count(overview, "<script"), 1U);
  EXPECT_EQ(Count(overview, "</script"), 1U);
  EXPECT_FALSE(Has(overview, "<b>"));
  EXPECT_TRUE(Has(overview, "href=\"mount?directory=%3C/script%3E"));
}

TEST(StatusPageTest, TheEmbeddedJsonIsTheReply) {
  const MountStatusReply reply = HostileReply();
  const std::string data = Data(MountPage(reply, false));
  EXPECT_EQ(data.find_first_of("<>&"), std::string::npos);
  EXPECT_FALSE(Has(data, "\xe2\x80\xa8"));
  const auto json = Json::Parse(data);
  ASSERT_TRUE(json.ok()) << json.status();
  EXPECT_EQ((*json)["reference"].string(), std::string(kEvil));
  const Json layer = (*json)["layers"].at(0);
  EXPECT_EQ(layer["map"]["bytes"].integer(), 1000);
  EXPECT_EQ(layer["map"]["names"].at(0).string(), std::string(kEvil));
  EXPECT_EQ(layer["map"]["names"].at(1).string(), "not \xef\xbf\xbd UTF-8");
  const Json run = layer["map"]["runs"].at(0);
  EXPECT_EQ(run.at(1).integer(), 1000);
  EXPECT_EQ(run.at(2).at(3).integer(), 400);
  EXPECT_EQ(run.at(4).at(1).integer(), 1);
  EXPECT_EQ((*json)["events"].at(0)["detail"].string(), std::string(kEvil));
}

TEST(StatusPageTest, APageAsksForNothingAndRunsOnlyItsOwnScript) {
  for (const std::string& page :
       {MountPage(HostileReply(), true), OverviewPage({}, {}, {}), MountPage({}, false)}) {
    // Names and links are no requests; what loads something has one of these.
    for (const char* loader : {" src=", "<link", "<iframe", "<img", "url(", "@import", "fetch(",
                               "XMLHttpRequest", "innerHTML", "import(", " style=", " onclick"}) {
      EXPECT_FALSE(Has(page, loader)) << loader;
    }
    const std::string script = Between(page, "<script>", "</script>");
    const std::string style = Between(page, "<style>", "</style>");
    ASSERT_FALSE(script.empty());
    for (const std::string& text : {script, style}) {
      const std::string hash = absl::Base64Escape(absl::HexStringToBytes(Sha256Of(text).hex()));
      EXPECT_TRUE(Has(PagePolicy(), StrCat("'sha256-", hash, "'")));
    }
    EXPECT_TRUE(
        Has(page, "http-equiv=\"Content-Security-Policy\" content=\"default-src &#39;none&#39;"));
  }
  EXPECT_FALSE(Has(PagePolicy(), "unsafe"));
  EXPECT_TRUE(Has(PagePolicy(), "frame-ancestors 'none'"));
}

TEST(StatusPageTest, SaysWhatThereIsToSay) {
  MountStatusReply reply;
  reply.mutable_mount()->set_reference("docker.io/library/debian:12");
  reply.mutable_mount()->set_state("filling");
  reply.mutable_mount()->set_filled_percent(42);
  std::string page = MountPage(reply, true);
  EXPECT_TRUE(Has(page, "<progress max=\"100\" value=\"42\""));
  EXPECT_TRUE(Has(page, "No layer was lazy"));
  EXPECT_TRUE(Has(page, "Nothing is recorded"));
  EXPECT_TRUE(Has(page, "All mounts"));
  EXPECT_FALSE(Has(MountPage(reply, false), "All mounts"));
  MountStatusReply::Event* event = reply.add_events();
  event->set_step("range");
  event->set_layer(1);
  event->set_answered_us(1500);
  event->set_ended_us(-1);
  event->set_begin(100);
  event->set_end(400);
  event->set_priority("profile");
  reply.set_events_dropped(3);
  page = MountPage(reply, true);
  EXPECT_TRUE(Has(page, "3 further events not kept"));
  EXPECT_TRUE(Has(page, "<td class=\"num\">1.5</td><td class=\"num\">not ended</td>"));
  EXPECT_TRUE(Has(page, "<td class=\"num\">300</td><td>profile</td>"));
}

TEST(StatusPageTest, ALongListIsCut) {
  ListMountsReply mounts;
  for (int i = 0; i < 6000; ++i) mounts.add_mounts()->set_directory(StrCat("/m/", i));
  const std::string page = OverviewPage({}, mounts, {});
  EXPECT_TRUE(Has(page, "6000 mounts"));
  EXPECT_TRUE(Has(page, "/m/4999<"));
  EXPECT_FALSE(Has(page, "/m/5000<"));
  EXPECT_TRUE(Has(page, "<p>and 1000 more</p>"));
}

TEST(StatusPageTest, TheCommandsJsonHasNoPicture) {
  MountStatusReply reply = HostileReply();
  reply.mutable_layers(0)->clear_runs();
  const auto json = Json::Parse(MountStatusJson(reply));
  ASSERT_TRUE(json.ok());
  EXPECT_FALSE((*json)["events"].exists());
  EXPECT_FALSE((*json)["layers"].at(0)["map"].exists());
}

TEST(StatusPageTest, EscapesForHtml) {
  EXPECT_EQ(EscapeHtml("a<b>&\"'"), "a&lt;b&gt;&amp;&quot;&#39;");
  EXPECT_EQ(EscapeJsonForHtml("\"</script>\xe2\x80\xa8\xe2\x80\xa9\xe2\x80\xaa\""),
            "\"\\u003c/script\\u003e\\u2028\\u2029\xe2\x80\xaa\"");
  EXPECT_EQ(EscapeJsonForHtml("\xe2\x80"), "\xe2\x80");
}

TEST(PageHandlersTest, OnlyAddressesAndLocalhostAreHosts) {
  for (const char* host : {"127.0.0.1", "127.0.0.1:9180", "10.1.2.3:80", "localhost",
                           "LocalHost:80", "[::1]", "[::1]:9180", "[fe80::1]:1"}) {
    EXPECT_TRUE(IsLocalHostHeader(host)) << host;
  }
  for (const char* host :
       {"", "evil.example", "evil.example:9180", "localhost.evil.example", "127.0.0.1.evil.example",
        "127.1", "[::1", "[::1]x", "[evil]", "localhost@evil.example", ":9180", "localhost."}) {
    EXPECT_FALSE(IsLocalHostHeader(host)) << host;
  }
}

}  // namespace
}  // namespace imagefs
