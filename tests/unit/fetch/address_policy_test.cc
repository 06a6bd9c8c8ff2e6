// SPDX-License-Identifier: Apache-2.0
#include "fetch/address_policy.h"

#include <gtest/gtest.h>
#include <netinet/in.h>

#include "base/text.h"
#include "fetch/proxy_choice.h"
#include "fetch/url.h"
#include "tests/fakes/fetch/pending.h"

namespace imagefs {
namespace {

using Clock = AddressPolicy::Clock;

IpAddress Ip(std::string_view text) {
  const auto address = IpAddress::Parse(text);
  EXPECT_TRUE(address.has_value()) << text;
  return address.value_or(*IpAddress::Parse("::"));
}

TEST(IpAddressTest, Classes) {
  const std::pair<const char*, AddressClass> cases[] = {
      {"8.8.8.8", AddressClass::kPublic},
      {"198.51.100.1", AddressClass::kPublic},
      {"203.0.113.1", AddressClass::kPublic},
      {"2606:4700::1", AddressClass::kPublic},
      {"172.15.255.255", AddressClass::kPublic},
      {"172.32.0.0", AddressClass::kPublic},
      {"100.63.255.255", AddressClass::kPublic},
      {"100.128.0.0", AddressClass::kPublic},
      {"64:ff9b::8.8.8.8", AddressClass::kPublic},
      {"10.255.0.1", AddressClass::kPrivate},
      {"172.16.0.1", AddressClass::kPrivate},
      {"172.31.255.255", AddressClass::kPrivate},
      {"192.168.1.1", AddressClass::kPrivate},
      {"100.64.0.1", AddressClass::kPrivate},
      {"fc00::1", AddressClass::kPrivate},
      {"fdff::1", AddressClass::kPrivate},
      {"::ffff:10.0.0.1", AddressClass::kPrivate},
      {"::ffff:0:10.0.0.1", AddressClass::kPrivate},
      {"::10.0.0.1", AddressClass::kPrivate},
      {"64:ff9b::10.0.0.1", AddressClass::kPrivate},
      {"64:ff9b:1::8.8.8.8", AddressClass::kPrivate},
      {"2002:a00:1::1", AddressClass::kPrivate},
      {"2001:0:808:808::f5ff:fffe", AddressClass::kPrivate},  // Teredo, client 10.0.0.1
      {"2606:4700::5efe:10.0.0.1", AddressClass::kPrivate},
      {"169.254.1.1", AddressClass::kLinkLocal},
      {"fe80::1%eth0", AddressClass::kLinkLocal},
      {"febf::1", AddressClass::kLinkLocal},
      {"127.0.0.1", AddressClass::kLoopback},
      {"127.255.255.254", AddressClass::kLoopback},
      {"0.0.0.0", AddressClass::kLoopback},
      {"::", AddressClass::kLoopback},
      {"::1", AddressClass::kLoopback},
      {"::ffff:127.0.0.1", AddressClass::kLoopback},
      {"64:ff9b::7f00:1", AddressClass::kLoopback},
      {"169.254.169.254", AddressClass::kMetadata},
      {"::ffff:169.254.169.254", AddressClass::kMetadata},
      {"64:ff9b::a9fe:a9fe", AddressClass::kMetadata},
      {"169.254.170.2", AddressClass::kMetadata},
      {"fd00:ec2::254", AddressClass::kMetadata},
      {"100.100.100.200", AddressClass::kMetadata},
      {"224.0.0.1", AddressClass::kReserved},
      {"255.255.255.255", AddressClass::kReserved},
      {"0.1.2.3", AddressClass::kReserved},
      {"ff02::1", AddressClass::kReserved},
  };
  for (const auto& [text, address_class] : cases)
    EXPECT_EQ(Ip(text).Class(), address_class) << text;
}

TEST(IpAddressTest, ParsesAddressesOnly) {
  EXPECT_EQ(Ip("[::1]"), Ip("::1"));
  EXPECT_EQ(Ip("127.0.0.1").ToString(), "127.0.0.1");
  EXPECT_EQ(Ip("2001:DB8:0::1").ToString(), "2001:db8::1");
  for (const char* text : {"", "localhost", "1.2.3", "[1.2.3.4]", "1.2.3.4:80", "[::1", "::1]"}) {
    EXPECT_FALSE(IpAddress::Parse(text).has_value()) << text;
  }
  sockaddr_in in = {};
  in.sin_family = AF_INET;
  in.sin_addr.s_addr = htonl(0x0a000001);
  EXPECT_EQ(IpAddress::Of(reinterpret_cast<const sockaddr*>(&in)), Ip("10.0.0.1"));
  in.sin_family = AF_UNIX;
  EXPECT_FALSE(IpAddress::Of(reinterpret_cast<const sockaddr*>(&in)).has_value());
}

TEST(IpAddressTest, Prefixes) {
  const auto in = [](const char* prefix, const char* address) {
    const auto parsed = IpPrefix::Parse(prefix);
    EXPECT_TRUE(parsed.has_value()) << prefix;
    return parsed && parsed->Contains(Ip(address));
  };
  EXPECT_TRUE(in("10.0.0.0/8", "10.1.2.3"));
  EXPECT_TRUE(in("10.0.0.0/8", "::ffff:10.1.2.3"));
  EXPECT_TRUE(in("10.0.0.0/8", "64:ff9b::10.1.2.3"));
  EXPECT_FALSE(in("10.0.0.0/8", "11.0.0.0"));
  EXPECT_TRUE(in("172.16.0.0/12", "172.31.0.1"));
  EXPECT_FALSE(in("172.16.0.0/12", "172.32.0.1"));
  EXPECT_TRUE(in("192.168.1.7", "192.168.1.7"));
  EXPECT_FALSE(in("192.168.1.7", "192.168.1.6"));
  EXPECT_TRUE(in("fd00::/8", "fd12::1"));
  EXPECT_TRUE(in("0.0.0.0/0", "1.2.3.4"));
  EXPECT_FALSE(in("0.0.0.0/0", "2606:4700::1"));
  for (const char* text : {"10.0.0.0/33", "::/129", "10.0.0.0/", "10.0.0.0/-1", "host/8", "/8"}) {
    EXPECT_FALSE(IpPrefix::Parse(text).has_value()) << text;
  }
}

class AddressPolicyTest : public testing::Test {
 protected:
  // Checks whether a registry at `at` may lead to `to`.
  absl::Status Leads(AddressPolicy& policy, const std::string& at, const std::string& to) {
    policy.Sent({"r.example", "r.example"}, Ip(at), now_);
    return policy.Check({"r.example", "cdn.example"}, Ip(to), now_);
  }
  absl::Status Leads(const std::string& at, const std::string& to) {
    AddressPolicy policy({});
    return Leads(policy, at, to);
  }
  Clock::time_point now_ = Clock::now();
};

TEST_F(AddressPolicyTest, APublicRegistryLeadsToPublicAddressesOnly) {
  EXPECT_TRUE(Leads("203.0.113.1", "198.51.100.7").ok());
  for (const char* to :
       {"127.0.0.1", "10.0.0.1", "169.254.1.1", "::1", "::ffff:127.0.0.1", "0.0.0.0", "fd00::1",
        "64:ff9b::10.0.0.1", "169.254.169.254", "224.0.0.1"}) {
    const absl::Status status = Leads("203.0.113.1", to);
    EXPECT_TRUE(absl::IsFailedPrecondition(status)) << to << ": " << status;
    EXPECT_TRUE(Mentions(status, "cdn.example")) << status;
    EXPECT_TRUE(Mentions(status, "r.example")) << status;
  }
  EXPECT_TRUE(Mentions(Leads("203.0.113.1", "10.0.0.1"), "private"));
  EXPECT_TRUE(Mentions(Leads("203.0.113.1", "10.0.0.1"), "[network]"));
}

TEST_F(AddressPolicyTest, OthersLeadToTheirOwnClassAndOutside) {
  EXPECT_TRUE(Leads("127.0.0.1", "127.0.0.2").ok());
  EXPECT_TRUE(Leads("127.0.0.1", "203.0.113.1").ok());
  EXPECT_FALSE(Leads("127.0.0.1", "10.0.0.1").ok());
  EXPECT_TRUE(Leads("10.0.0.1", "192.168.0.1").ok());
  EXPECT_TRUE(Leads("10.0.0.1", "203.0.113.1").ok());
  EXPECT_FALSE(Leads("10.0.0.1", "127.0.0.1").ok());
  EXPECT_FALSE(Leads("10.0.0.1", "169.254.0.1").ok());
  for (const char* at : {"127.0.0.1", "10.0.0.1", "169.254.1.1"}) {
    EXPECT_FALSE(Leads(at, "169.254.169.254").ok());
  }
}

TEST_F(AddressPolicyTest, ALiteralRegistryNeedsNoAnswerFirst) {
  const AddressPolicy policy({});
  EXPECT_TRUE(policy.Check({"127.0.0.1", "127.0.1.9"}, Ip("127.0.1.9"), now_).ok());
  EXPECT_TRUE(policy.Check({"[::1]", "127.0.1.9"}, Ip("127.0.1.9"), now_).ok());
  EXPECT_TRUE(policy.Check({"localhost", "x"}, Ip("127.0.1.9"), now_).ok());
  EXPECT_FALSE(policy.Check({"unknown.example", "x"}, Ip("127.0.1.9"), now_).ok());
}

TEST_F(AddressPolicyTest, TheConfigurationAllowsMoreButNoMetadata) {
  AddressPolicy policy(
      {*IpPrefix::Parse("10.0.0.0/8"), *IpPrefix::Parse("0.0.0.0/0"), *IpPrefix::Parse("::/0")});
  EXPECT_TRUE(Leads(policy, "203.0.113.1", "10.0.0.1").ok());
  EXPECT_TRUE(Leads(policy, "203.0.113.1", "127.0.0.1").ok());
  for (const char* to : {"169.254.169.254", "fd00:ec2::254", "169.254.170.2", "100.100.100.200",
                         "::ffff:169.254.169.254", "224.0.0.1"}) {
    EXPECT_FALSE(Leads(policy, "203.0.113.1", to).ok()) << to;
    EXPECT_FALSE(policy.Check({to, to}, Ip(to), now_).ok()) << to;
  }
}

TEST_F(AddressPolicyTest, AnAllowedAddressDoesNotWidenWhatAPublicNameLeadsTo) {
  AddressPolicy policy({*IpPrefix::Parse("10.0.0.1")});
  EXPECT_TRUE(Leads(policy, "203.0.113.1", "10.0.0.1").ok());
  EXPECT_TRUE(policy.Check({"r.example", "r.example"}, Ip("10.0.0.1"), now_).ok());
  EXPECT_FALSE(Leads(policy, "10.0.0.1", "10.0.0.2").ok());
}

TEST_F(AddressPolicyTest, ANameThatMovesInsideIsRefused) {
  AddressPolicy policy({});
  const AddressPolicy::Target own{"r.example", "r.example"};
  policy.Sent(own, Ip("203.0.113.1"), now_);
  const absl::Status moved = policy.Check(own, Ip("127.0.0.1"), now_ + std::chrono::minutes(9));
  EXPECT_TRUE(absl::IsFailedPrecondition(moved));
  EXPECT_TRUE(Mentions(moved, "r.example")) << moved;
  EXPECT_TRUE(policy.Check(own, Ip("198.51.100.1"), now_).ok());
  // A laptop joins its company's network.
  EXPECT_TRUE(policy.Check(own, Ip("10.0.0.1"), now_ + std::chrono::minutes(10)).ok());
  policy.Sent(own, Ip("10.0.0.1"), now_ + std::chrono::minutes(10));
  EXPECT_TRUE(
      policy.Check({"r.example", "cdn"}, Ip("10.0.0.9"), now_ + std::chrono::minutes(11)).ok());
  EXPECT_FALSE(policy.Check(own, Ip("127.0.0.1"), now_ + std::chrono::minutes(11)).ok());
  // It leaves again.
  EXPECT_TRUE(policy.Check(own, Ip("203.0.113.1"), now_ + std::chrono::minutes(11)).ok());
  policy.Sent(own, Ip("203.0.113.1"), now_ + std::chrono::minutes(11));
  EXPECT_FALSE(
      policy.Check({"r.example", "cdn"}, Ip("10.0.0.9"), now_ + std::chrono::minutes(11)).ok());
}

TEST_F(AddressPolicyTest, ManyRegistriesDoNotMakeItForgetTheLast) {
  AddressPolicy policy({});
  for (int i = 0; i < 10'000; ++i) {
    const std::string name = StrCat("r", i);
    policy.Sent({name, name}, Ip("203.0.113.1"), now_ + std::chrono::milliseconds(i));
  }
  EXPECT_FALSE(policy.Check({"r9999", "r9999"}, Ip("10.0.0.1"), now_).ok());
}

TEST_F(AddressPolicyTest, BehindAProxyNamesAreChecked) {
  const AddressPolicy policy({*IpPrefix::Parse("10.0.0.7")});
  for (const char* host :
       {"127.0.0.1", "[::1]", "localhost", "a.localhost", "localhost.", "10.0.0.1", "127.0.0.1.",
        "169.254.169.254", "metadata.google.internal"}) {
    EXPECT_FALSE(policy.CheckName({"r.example", host}).ok()) << host;
  }
  EXPECT_TRUE(policy.CheckName({"r.example", "cdn.example"}).ok());
  EXPECT_TRUE(policy.CheckName({"r.example", "10.0.0.7"}).ok());
  EXPECT_TRUE(policy.CheckName({"10.0.0.1", "10.0.0.1"}).ok());
  EXPECT_TRUE(policy.CheckName({"localhost", "127.0.0.1"}).ok());
  EXPECT_FALSE(policy.CheckName({"169.254.169.254", "169.254.169.254"}).ok());
}

// However an address is written, Url's host is the canonical address.
TEST_F(AddressPolicyTest, OtherNotationsOfAnAddress) {
  for (const char* url : {"http://2130706433/", "http://0x7f000001/", "http://017700000001/",
                          "http://127.1/", "http://0x7f.0.0.1/", "http://127.0.0.1/"}) {
    const auto parsed = Url::Parse(url);
    ASSERT_TRUE(parsed.ok()) << url;
    EXPECT_FALSE(AddressPolicy({}).CheckName({"r.example", parsed->host}).ok()) << parsed->host;
  }
}

TEST(ProxySettingsTest, TheRulesOfCurl) {
  const ProxySettings settings{{"http://p:1", "http_proxy"},
                               {"http://p:2", "HTTPS_PROXY"},
                               "localhost,.corp.example 10.0.0.0/8,[::1]"};
  const auto proxy = [&settings](const char* url) { return settings.For(*Url::Parse(url)).url; };
  EXPECT_EQ(proxy("http://r.example/"), "http://p:1");
  EXPECT_EQ(proxy("https://r.example/"), "http://p:2");
  for (const char* url :
       {"http://localhost/", "https://corp.example/", "https://a.corp.example/",
        "http://A.CORP.example./", "http://10.1.2.3:5000/", "http://[::1]:5000/"}) {
    EXPECT_EQ(proxy(url), "") << url;
  }
  EXPECT_NE(proxy("https://notcorp.example/"), "");
  EXPECT_NE(proxy("https://11.0.0.1/"), "");
  EXPECT_EQ((ProxySettings{{"http://p:1", "x"}, {}, "*"}).For(*Url::Parse("http://x/")).url, "");
  EXPECT_EQ((ProxySettings{{"http://p:1", "x"}, {}, ""}).For(*Url::Parse("https://x/")).url, "");
}

TEST(ProxySettingsTest, NamedWithoutItsPassword) {
  for (const char* url : {"p:1", "http://p:1", "http://u:s%40cret@p:1/", "u:s@cret@p:1"}) {
    EXPECT_EQ((ProxySettings::Proxy{url, "HTTPS_PROXY"}).Name(),
              "the proxy p:1 (from HTTPS_PROXY)");
  }
}

}  // namespace
}  // namespace imagefs
