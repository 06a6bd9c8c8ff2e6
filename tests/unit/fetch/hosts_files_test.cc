// SPDX-License-Identifier: Apache-2.0
#include "fetch/hosts_files.h"

#include <gtest/gtest.h>

#include <string>

#include "base/text.h"

namespace imagefs {
namespace {

using std::chrono::milliseconds;
using Pairs = std::vector<std::pair<std::string, std::string>>;
using Strings = std::vector<std::string>;

HostsToml Hosts(const std::string& text) {
  const absl::StatusOr<HostsToml> parsed = ParseHostsToml(text, "f");
  EXPECT_TRUE(parsed.ok()) << parsed.status() << "\n" << text.substr(0, 500);
  return parsed.value_or(HostsToml());
}

// The message of the error.
std::string HostsError(const std::string& text) {
  const absl::StatusOr<HostsToml> parsed = ParseHostsToml(text, "f");
  if (parsed.ok()) return "no error";
  EXPECT_EQ(parsed.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_FALSE(HasControls(ToStd(parsed.status().message())));
  return std::string(ToStd(parsed.status().message()));
}

RegistriesConf Conf(const std::string& text) {
  const absl::StatusOr<RegistriesConf> parsed = ParseRegistriesConf(text, "f");
  EXPECT_TRUE(parsed.ok()) << parsed.status() << "\n" << text.substr(0, 500);
  return parsed.value_or(RegistriesConf());
}

std::string ConfError(const std::string& text) {
  const absl::StatusOr<RegistriesConf> parsed = ParseRegistriesConf(text, "f");
  if (parsed.ok()) return "no error";
  EXPECT_EQ(parsed.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_FALSE(HasControls(ToStd(parsed.status().message())));
  return std::string(ToStd(parsed.status().message()));
}

bool Has(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

TEST(HostsTomlTest, NothingIsTheRegistryItself) {
  for (const char* text :
       {"", "# nothing\n", "unknown = 1\n[host]\n", "[other]\na = [1, {b = 2}]\n"}) {
    const HostsToml parsed = Hosts(text);
    EXPECT_TRUE(parsed.hosts.empty());
    EXPECT_EQ(parsed.server.host, "");
    EXPECT_EQ(parsed.server.root, "/v2");
    EXPECT_TRUE(parsed.server.pull && parsed.server.resolve && parsed.server.push);
  }
}

TEST(HostsTomlTest, HostsAreInTheOrderOfTheFile) {
  const HostsToml parsed = Hosts(
      "server = \"https://z.example\"\n[host.\"http://z.test:5000\"]\n"
      "[host.\"a.test\"]\nskip_verify = true\n[host.\"https://m.test\".header]\nx = \"1\"\n"
      "[host.\"b.test\"]\n");
  ASSERT_EQ(parsed.hosts.size(), 4U);
  EXPECT_EQ(parsed.hosts[0].host, "z.test:5000");
  EXPECT_EQ(parsed.hosts[0].scheme, "http");
  EXPECT_EQ(parsed.hosts[1].host, "a.test");
  EXPECT_EQ(parsed.hosts[1].scheme, "");
  EXPECT_TRUE(parsed.hosts[1].skip_verify);
  EXPECT_EQ(parsed.hosts[2].host, "m.test");
  EXPECT_EQ(parsed.hosts[3].host, "b.test");
  EXPECT_EQ(parsed.server.host, "z.example");
  EXPECT_EQ(parsed.server.scheme, "https");
}

TEST(HostsTomlTest, Roots) {
  const auto root = [](const std::string& url, bool override_path) {
    return Hosts(StrCat("[host.\"", url, "\"]\noverride_path = ", override_path ? "true" : "false"))
        .hosts.at(0)
        .root;
  };
  EXPECT_EQ(root("https://a.test", false), "/v2");
  EXPECT_EQ(root("https://a.test/", false), "/v2");
  EXPECT_EQ(root("https://a.test/v2", false), "/v2");
  EXPECT_EQ(root("https://a.test/v2/", false), "/v2");
  EXPECT_EQ(root("https://a.test/proxy", false), "/proxy/v2");
  EXPECT_EQ(root("a.test/x/../proxy//", false), "/proxy/v2");
  EXPECT_EQ(root("https://a.test/../..", true), "");
  EXPECT_EQ(root("https://a.test", true), "");
  EXPECT_EQ(root("https://a.test/", true), "");
  EXPECT_EQ(root("https://a.test/v2/proxy/", true), "/v2/proxy");
}

TEST(HostsTomlTest, Capabilities) {
  const HostsToml parsed = Hosts(
      "capabilities = [\"push\"]\n[host.\"a.test\"]\ncapabilities = [\"Pull\", \"RESOLVE\"]\n"
      "[host.\"b.test\"]\ncapabilities = []\n");
  EXPECT_TRUE(parsed.hosts[0].pull && parsed.hosts[0].resolve && !parsed.hosts[0].push);
  EXPECT_TRUE(parsed.hosts[1].pull && parsed.hosts[1].resolve && parsed.hosts[1].push);
  // They limit a named server only.
  EXPECT_TRUE(parsed.server.pull && parsed.server.resolve && parsed.server.push);
  const HostsToml named = Hosts("server = \"a.test\"\ncapabilities = [\"pull\"]\n");
  EXPECT_TRUE(named.server.pull && !named.server.resolve && !named.server.push);
  EXPECT_TRUE(Has(HostsError("\ncapabilities = [\"fetch\"]"), "f:2: capabilities has \"fetch\""));
  EXPECT_TRUE(Has(HostsError("capabilities = \"pull\""), "is a list of texts"));
  EXPECT_TRUE(Has(HostsError("capabilities = [1]"), "entry that is no text"));
}

TEST(HostsTomlTest, CertificatesInAllForms) {
  EXPECT_EQ(Hosts("ca = \"a.pem\"").server.ca, (Strings{"a.pem"}));
  EXPECT_EQ(Hosts("ca = [\"a.pem\", \"/b.pem\"]").server.ca, (Strings{"a.pem", "/b.pem"}));
  EXPECT_EQ(Hosts("client = \"a.pem\"").server.client, (Pairs{{"a.pem", ""}}));
  EXPECT_EQ(Hosts("client = [\"a.pem\", \"b.pem\"]").server.client,
            (Pairs{{"a.pem", ""}, {"b.pem", ""}}));
  EXPECT_EQ(Hosts("client = [[\"a.cert\", \"a.key\"], [\"b.cert\", \"b.key\"]]").server.client,
            (Pairs{{"a.cert", "a.key"}, {"b.cert", "b.key"}}));
  EXPECT_EQ(Hosts("client = [\"a.pem\", [\"b.cert\", \"b.key\"]]").server.client.size(), 2U);
  for (const char* bad :
       {"ca = 1", "ca = [1]", "ca = \"\"", "ca = {}", "ca = \"a\\u0000b\"", "client = 1",
        "client = [[\"a\"]]", "client = [[\"a\", \"b\", \"c\"]]", "client = [[\"a\", 1]]",
        "client = \"\"", "client = {a = 1}", "client = \"a\\nb\"", "client = [[[\"a\", \"b\"]]]",
        "skip_verify = 1", "override_path = \"yes\""}) {
    EXPECT_TRUE(HostsError(bad).starts_with("f:1: ")) << bad << ": " << HostsError(bad);
  }
}

TEST(HostsTomlTest, Headers) {
  const HostsToml parsed = Hosts(
      "[host.\"a.test\".header]\nX-A = \"1\"\nx-b = [\"2\", \"3\"]\nHost = \"evil\"\n"
      "content-length = \"5\"\n");
  EXPECT_EQ(parsed.hosts[0].headers, (Pairs{{"X-A", "1"}, {"x-b", "2"}, {"x-b", "3"}}));
  for (const char* bad : {"X-A = \"a\\r\\nInjected: 1\"", "X-A = \"a\\u0000\"", "X-A = [\"a\\n\"]",
                          "X-A = 1", "X-A = [1]", "\"X A\" = \"1\"", "\"X:\" = \"1\"",
                          "\"X\\r\\nY\" = \"1\"", "\"\" = \"1\"", "X-A = {b = 1}"}) {
    EXPECT_TRUE(HostsError(StrCat("[header]\n", bad)).starts_with("f:2: ")) << bad;
  }
  EXPECT_TRUE(Has(HostsError("header = \"a\""), "is a table"));
}

TEST(HostsTomlTest, DialTimeout) {
  EXPECT_EQ(Hosts("dial_timeout = \"1m500ms\"").server.dial_timeout, milliseconds(60'500));
  EXPECT_EQ(Hosts("dial_timeout = \"0\"").server.dial_timeout, std::nullopt);
  EXPECT_EQ(Hosts("").server.dial_timeout, std::nullopt);
  for (const char* bad : {"dial_timeout = \"5\"", "dial_timeout = 5", "dial_timeout = \"-1s\""}) {
    EXPECT_TRUE(Has(HostsError(bad), "dial_timeout")) << bad;
  }
}

TEST(HostsTomlTest, WrongHosts) {
  for (const char* bad : {"https://user:password@a.test",
                          "https://a.test?x=1",
                          "https://a.test/v2#x",
                          "ftp://a.test",
                          "https://",
                          "",
                          "/v2",
                          "https://a.test:0",
                          "https://a.test:99999",
                          "https://a.test:x",
                          "https://a.test\\r\\nX: 1",
                          "https://a.test\\u0000",
                          "https://a b.test",
                          "https://-a.test",
                          "https://a..test",
                          "https://[::1",
                          "https://[x]:5",
                          "https://a.test/%2e%2e/",
                          "unix:///x",
                          "https://a.test/\\u0001",
                          "http:a.test"}) {
    const std::string error = HostsError(StrCat("\n[host.\"", bad, "\"]\n"));
    EXPECT_TRUE(error.starts_with("f:2: host \"")) << bad << ": " << error;
    if (*bad == '\0') continue;
    const std::string server = HostsError(StrCat("\n\nserver = \"", bad, "\"\n"));
    EXPECT_TRUE(server.starts_with("f:3: server ")) << bad << ": " << server;
  }
  EXPECT_TRUE(Has(HostsError("[host.\"https://me:x@a.test\"]"), "imagefs login"));
  EXPECT_EQ(Hosts("[host.\"https://[::1]:5000\"]").hosts[0].host, "[::1]:5000");
  EXPECT_EQ(Hosts("[host.\"my_host\"]").hosts[0].host, "my_host");
  for (const char* bad : {"host = 1", "host = []", "[[host]]\n", "[host]\na = 1\n", "server = 1"}) {
    EXPECT_TRUE(HostsError(bad).starts_with("f:")) << bad;
  }
}

TEST(HostsTomlTest, HugeAndMalformedInput) {
  EXPECT_TRUE(Has(HostsError(std::string((1 << 20) + 1, '#')), "larger than 1 MiB"));
  std::string many;
  for (int i = 0; i < 65; ++i) StrAppend(&many, "[host.\"h", i, ".test\"]\n");
  EXPECT_TRUE(Has(HostsError(many), "more than 64 hosts"));
  // Malformed text is base/toml's concern, which names the file.
  EXPECT_TRUE(HostsError("[=").starts_with("f"));
}

TEST(RegistriesConfTest, Everything) {
  const RegistriesConf conf = Conf(
      "unqualified-search-registries = [\"a.test\", \"localhost:5000\"]\n"
      "short-name-mode = \"enforcing\"\ncredential-helpers = [\"x\"]\n"
      "[[registry]]\nprefix = \"example.com/foo/\"\nlocation = \"internal.test/bar\"\n"
      "[[registry.mirror]]\nlocation = \"m0.test/x\"\n"
      "[[registry.mirror]]\nlocation = \"m1.test:5000\"\ninsecure = true\n"
      "pull-from-mirror = \"digest-only\"\n"
      "[[registry.mirror]]\nlocation = \"m2.test\"\npull-from-mirror = \"tag-only\"\n"
      "[[registry]]\nlocation = \"registry.test\"\nblocked = true\n"
      "[[registry]]\nprefix = \"*.wild.test\"\ninsecure = true\nmirror-by-digest-only = true\n"
      "[[registry.mirror]]\nlocation = \"m.test\"\n"
      "[aliases]\nfedora = \"registry.test/fedora\"\n\"team/app\" = \"localhost/x\"\nnone = "
      "\"\"\n");
  ASSERT_EQ(conf.registries.size(), 3U);
  const RegistriesConf::Registry& first = conf.registries[0];
  EXPECT_EQ(first.prefix, "example.com/foo");
  EXPECT_EQ(first.location, "internal.test/bar");
  EXPECT_EQ(first.origin, "f:4");
  ASSERT_EQ(first.mirrors.size(), 3U);
  EXPECT_TRUE(first.mirrors[0].tags && first.mirrors[0].digests && !first.mirrors[0].insecure);
  EXPECT_TRUE(!first.mirrors[1].tags && first.mirrors[1].digests && first.mirrors[1].insecure);
  EXPECT_TRUE(first.mirrors[2].tags && !first.mirrors[2].digests);
  EXPECT_EQ(conf.registries[1].prefix, "registry.test");
  EXPECT_TRUE(conf.registries[1].blocked);
  EXPECT_EQ(conf.registries[2].prefix, "*.wild.test");
  EXPECT_EQ(conf.registries[2].location, "");
  EXPECT_TRUE(conf.registries[2].insecure);
  EXPECT_FALSE(conf.registries[2].mirrors[0].tags);
  EXPECT_EQ(conf.aliases.at("fedora"), "registry.test/fedora");
  EXPECT_EQ(conf.aliases.at("team/app"), "localhost/x");
  EXPECT_EQ(conf.aliases.at("none"), "");
  EXPECT_EQ(conf.search_registries, (Strings{"a.test", "localhost:5000"}));
  EXPECT_EQ(Conf("").search_registries, std::nullopt);
  EXPECT_EQ(Conf("unqualified-search-registries = []").search_registries, Strings());
}

TEST(RegistriesConfTest, TheFirstOfAPrefixCounts) {
  const RegistriesConf conf = Conf(
      "[[registry]]\nprefix = \"a.test\"\nlocation = \"b.test\"\n"
      "[[registry]]\nprefix = \"a.test\"\nlocation = \"c.test\"\n");
  ASSERT_EQ(conf.registries.size(), 1U);
  EXPECT_EQ(conf.registries[0].location, "b.test");
}

TEST(RegistriesConfTest, Version1) {
  for (const char* section : {"search", "insecure", "block"}) {
    const std::string error =
        ConfError(StrCat("# a\n[registries.", section, "]\nregistries = [\"a.test\"]\n"));
    EXPECT_TRUE(error.starts_with("f:2: ")) << error;
    EXPECT_TRUE(Has(error, "version 1") && Has(error, "[[registry]]")) << error;
  }
  // As some packages ship it.
  Conf("[registries.search]\nregistries = []\n[registries.insecure]\nregistries = []\n");
}

TEST(RegistriesConfTest, WrongInput) {
  const std::string registry = "[[registry]]\nlocation = \"a.test\"\n";
  for (const std::string& bad : {
           std::string("registry = 1"),
           std::string("registry = [1]"),
           std::string("[registry]\nlocation = \"a.test\""),
           std::string("[[registry]]\n"),
           std::string("[[registry]]\nprefix = \"a.test\""),
           std::string("[[registry]]\nlocation = 1"),
           std::string("[[registry]]\nlocation = \"https://a.test\""),
           std::string("[[registry]]\nlocation = \"me@a.test\""),
           std::string("[[registry]]\nlocation = \"a.test/x?y\""),
           std::string("[[registry]]\nlocation = \"a.test//x\""),
           std::string("[[registry]]\nlocation = \"a.test/\\r\\nX: 1\""),
           std::string("[[registry]]\nlocation = \"a.test:x/y\""),
           std::string("[[registry]]\nlocation = \"/x\""),
           std::string("[[registry]]\nprefix = \"*.a.test/x\""),
           std::string("[[registry]]\nprefix = \"*.a.test:5000\""),
           std::string("[[registry]]\nprefix = \"a.*.test\"\nlocation = \"a.test\""),
           std::string("[[registry]]\nlocation = \"*.a.test\""),
           registry + "insecure = \"true\"",
           registry + "blocked = 1",
           registry + "pull-from-mirror = \"all\"",
           registry + "mirror = 1",
           registry + "mirror = [1]",
           registry + "[[registry.mirror]]\ninsecure = true",
           registry + "[[registry.mirror]]\nlocation = \"m.test\"\npull-from-mirror = \"some\"",
           registry + "mirror-by-digest-only = true\n[[registry.mirror]]\nlocation = \"m.test\"\n"
                      "pull-from-mirror = \"all\"",
           registry + registry + "blocked = true",
           registry + "[[registry]]\nprefix = \"b.test\"\nlocation = \"a.test\"\ninsecure = true",
           std::string("unqualified-search-registries = \"a.test\""),
           std::string("unqualified-search-registries = [\"\"]"),
           std::string("unqualified-search-registries = [\"a.test/x\"]"),
           std::string("unqualified-search-registries = [\"https://a.test\"]"),
           std::string("aliases = 1"),
           std::string("[aliases]\na = 1"),
           std::string("[aliases]\na = \"b\""),
           std::string("[aliases]\na = \"b/c\""),
           std::string("[aliases]\na = \"b.test/c:1\""),
           std::string("[aliases]\na = \"b.test/c@sha256:00\""),
           std::string("[aliases]\na = \"b.test/c\\n\""),
           std::string("[aliases]\n\"a:1\" = \"b.test/c\""),
           std::string("[aliases]\n\"a.test/b\" = \"b.test/c\""),
           std::string("[aliases]\n\"\" = \"b.test/c\""),
           std::string("[aliases]\na = \"b.test/c\"\na = \"b.test/d\""),
       }) {
    const std::string error = ConfError(bad);
    EXPECT_TRUE(error.starts_with("f:")) << bad << ": " << error;
  }
}

TEST(RegistriesConfTest, Matching) {
  constexpr size_t kNone = std::string_view::npos;
  EXPECT_EQ(MatchPrefix("a.test/b:1", "a.test"), 6U);
  EXPECT_EQ(MatchPrefix("a.test/b:1", "a.test/b"), 8U);
  EXPECT_EQ(MatchPrefix("a.test/b:1", "a.test/b:1"), 10U);
  EXPECT_EQ(MatchPrefix("a.test/b@sha256:00", "a.test/b"), 8U);
  EXPECT_EQ(MatchPrefix("a.test/bc", "a.test/b"), kNone);
  EXPECT_EQ(MatchPrefix("a.tester/b", "a.test"), kNone);
  EXPECT_EQ(MatchPrefix("a.test:5000/b", "a.test"), kNone);
  EXPECT_EQ(MatchPrefix("a.test:5000/b", "a.test:5000"), 11U);
  EXPECT_EQ(MatchPrefix("x.a.test/b", "*.a.test"), 8U);
  EXPECT_EQ(MatchPrefix("y.x.a.test:5000/b", "*.a.test"), 10U);
  EXPECT_EQ(MatchPrefix("a.test/b", "*.a.test"), kNone);
  EXPECT_EQ(MatchPrefix("ba.test/b", "*.a.test"), kNone);
  EXPECT_EQ(MatchPrefix("b.test/x.a.test", "*.a.test"), kNone);
  EXPECT_EQ(MatchPrefix("x.a.test.evil.test/b", "*.a.test"), kNone);
  const RegistriesConf conf = Conf(
      "[[registry]]\nlocation = \"a.test\"\n[[registry]]\nlocation = \"a.test/b/c\"\n"
      "[[registry]]\nlocation = \"a.test/b\"\n[[registry]]\nprefix = \"*.a.test\"\n");
  EXPECT_EQ(FindRegistry(conf, "a.test/b/c/d:1")->prefix, "a.test/b/c");
  EXPECT_EQ(FindRegistry(conf, "a.test/b/cd:1")->prefix, "a.test/b");
  EXPECT_EQ(FindRegistry(conf, "a.test/bb:1")->prefix, "a.test");
  EXPECT_EQ(FindRegistry(conf, "x.a.test/bb:1")->prefix, "*.a.test");
  EXPECT_EQ(FindRegistry(conf, "b.test/bb:1"), nullptr);
}

TEST(RegistriesConfTest, Merging) {
  RegistriesConf base = Conf(
      "unqualified-search-registries = [\"a.test\"]\n[[registry]]\nlocation = \"a.test\"\n"
      "[[registry]]\nlocation = \"b.test\"\n[aliases]\na = \"x.test/a\"\nb = \"x.test/b\"\n");
  MergeRegistriesConf(Conf("[[registry]]\nprefix = \"a.test\"\nlocation = \"c.test\"\n"
                           "[[registry]]\nlocation = \"d.test\"\n"
                           "[aliases]\na = \"\"\nc = \"x.test/c\"\n"),
                      base);
  ASSERT_EQ(base.registries.size(), 3U);
  EXPECT_EQ(base.registries[0].location, "c.test");
  EXPECT_EQ(base.aliases.at("a"), "");
  EXPECT_EQ(base.aliases.at("b"), "x.test/b");
  EXPECT_EQ(base.aliases.at("c"), "x.test/c");
  EXPECT_EQ(base.search_registries, (Strings{"a.test"}));
  MergeRegistriesConf(Conf("unqualified-search-registries = []"), base);
  EXPECT_EQ(base.search_registries, Strings());
}

}  // namespace
}  // namespace imagefs
