// SPDX-License-Identifier: Apache-2.0
#include "cmd/config.h"

#include <gtest/gtest.h>

#include <string>
#include <utility>
#include <vector>

#include "base/fd.h"
#include "base/text.h"

namespace imagefs {
namespace {

TEST(Config, DefaultsOfAnEmptyFile) {
  const auto config = ParseConfig("", "f");
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_TRUE(config->index_lookup);
  EXPECT_EQ(config->index_trust, IndexTrust::Any());
  EXPECT_EQ(config->index_memory, 64U << 20);
  EXPECT_EQ(config->index_least_processors, 4U);
  EXPECT_EQ(config->ContainerdPolicy().otherwise(), IndexTrust::Trusted());
  EXPECT_EQ(config->PodmanPolicy().otherwise(), IndexTrust::Trusted());
  EXPECT_FALSE(config->index_publish);
  EXPECT_EQ(config->index_publish_spread, absl::Seconds(10));
  EXPECT_TRUE(config->fill_background);
  EXPECT_EQ(config->fill_deadline, absl::Seconds(60));
}

TEST(Config, WhatIsNoneMayBeWrittenDown) {
  const auto config = ParseConfig(
      "[index]\npublish_to = \"\"\n[credentials]\nkubelet_config = \"\"\nkubelet_bin_dir = \"\"\n",
      "f");
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->index_publish_to, "");
  EXPECT_EQ(config->kubelet_config, "");
  EXPECT_FALSE(ParseConfig("[credentials]\ncontainerd = \"\"\n", "f").ok());
}

TEST(Config, Verifiers) {
  const auto none = ParseConfig("[verify]\nbin_dir = \"\"\n", "f");
  ASSERT_TRUE(none.ok()) << none.status();
  EXPECT_EQ(none->verify_bin_dir, "");
  EXPECT_EQ(none->verify_timeout, absl::Seconds(10));
  EXPECT_FALSE(none->verify_require);
  const auto config =
      ParseConfig("[verify]\nbin_dir = \"/opt/v\"\ntimeout = \"1m\"\nrequire = true\n", "f");
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->verify_bin_dir, "/opt/v");
  EXPECT_EQ(config->verify_timeout, absl::Minutes(1));
  EXPECT_TRUE(config->verify_require);
  EXPECT_FALSE(ParseConfig("[verify]\nbin_dir = \"v\"\n", "f").ok());
  EXPECT_FALSE(ParseConfig("[verify]\ntimeout = \"0s\"\n", "f").ok());
}

TEST(Config, Everything) {
  const auto config = ParseConfig(
      "[index]\nlookup = false\ntrust = \"configured\"\n"
      "repositories = [\"registry.test/indexes\", \"other.test/x\"]\npublish = true\n"
      "publish_to = \"registry.test/indexes\"\npublish_spread = \"off\"\n"
      "publish_images = [\"registry.test/team/**\"]\n"
      "[fill]\nbackground = false\nquiet = \"500ms\"\ndeadline = \"2m\"\n[profile]\nenabled = "
      "false\n",
      "f");
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_FALSE(config->index_lookup);
  EXPECT_EQ(config->index_trust, IndexTrust::Configured());
  ASSERT_EQ(config->index_repositories.size(), 2U);
  EXPECT_EQ(config->index_repositories[1], "other.test/x");
  EXPECT_TRUE(config->index_publish);
  EXPECT_EQ(config->index_publish_to, "registry.test/indexes");
  EXPECT_EQ(config->index_publish_images, std::vector<std::string>{"registry.test/team/**"});
  EXPECT_EQ(config->index_publish_spread, absl::ZeroDuration());
  EXPECT_FALSE(config->fill_background);
  EXPECT_EQ(config->fill_quiet, absl::Milliseconds(500));
  EXPECT_EQ(config->fill_deadline, absl::Minutes(2));
  EXPECT_FALSE(config->profile);
}

TEST(Config, Hosts) {
  using Strings = std::vector<std::string>;
  const auto plain = ParseConfig("", "f");
  ASSERT_TRUE(plain.ok()) << plain.status();
  EXPECT_EQ(plain->short_names, ShortNames::kAliases);
  const HostResolver::Options system = HostResolver::SystemOptions("/home/me", "/xdg", "");
  HostResolver::Options options = plain->HostsOptions("/home/me", "/xdg", "");
  EXPECT_EQ(options.containerd_dirs, system.containerd_dirs);
  EXPECT_EQ(options.registries_conf, system.registries_conf);
  EXPECT_EQ(options.certificate_dirs, system.certificate_dirs);

  const auto off = ParseConfig(
      "[hosts]\ncontainerd = \"off\"\ncontainers = \"off\"\ncertificates = \"off\"\n"
      "short_names = \"docker\"\n",
      "f");
  ASSERT_TRUE(off.ok()) << off.status();
  options = off->HostsOptions("/home/me", "", "/named.conf");
  EXPECT_TRUE(options.containerd_dirs.empty());
  EXPECT_TRUE(options.registries_conf.empty());
  EXPECT_TRUE(options.certificate_dirs.empty());
  EXPECT_EQ(off->short_names, ShortNames::kDocker);

  const auto named = ParseConfig(
      "[hosts]\ncontainerd = [\"/a\", \"/b\"]\ncontainers = [\"/c.conf\"]\n"
      "certificates = [\"/d\"]\nshort_names = \"search\"\n",
      "f");
  ASSERT_TRUE(named.ok()) << named.status();
  options = named->HostsOptions("", "", "/named.conf");
  EXPECT_EQ(options.containerd_dirs, (Strings{"/a", "/b"}));
  ASSERT_EQ(options.registries_conf.size(), 1U);
  EXPECT_EQ(options.registries_conf[0].first, "/c.conf");
  EXPECT_EQ(options.registries_conf[0].second, "/c.conf.d");
  EXPECT_EQ(options.certificate_dirs, (Strings{"/d"}));
  EXPECT_EQ(named->short_names, ShortNames::kSearch);
  for (const char* wrong : {"containerd = \"on\"", "containerd = true", "containers = [\"a.conf\"]",
                            "certificates = [1]", "short_names = \"podman\"", "short_names = 1"}) {
    EXPECT_FALSE(ParseConfig(StrCat("[hosts]\n", wrong), "f").ok()) << wrong;
  }
}

TEST(Config, Metrics) {
  EXPECT_FALSE(ParseConfig("", "f")->metrics_listen.has_value());
  EXPECT_FALSE(ParseConfig("[metrics]\nlisten = \"\"\n", "f")->metrics_listen.has_value());
  EXPECT_FALSE(ParseConfig("[metrics]\nlisten = \"[::1]:9180\"\n", "f")->metrics_page);
  EXPECT_TRUE(ParseConfig("[metrics]\nlisten = \"[::1]:9180\"\npage = true\n", "f")->metrics_page);
  EXPECT_EQ(ParseConfig("[metrics]\npage = true\n", "f").status().message(),
            "f: metrics.page needs metrics.listen");
  EXPECT_EQ(ParseConfig("[metrics]\nlisten = \"[::1]:9180\"\n", "f")->metrics_listen->ToString(),
            "[::1]:9180");
  EXPECT_TRUE(ParseConfig("[metrics]\nlisten = \"/run/x.sock\"\n", "f")->metrics_listen->is_unix());
  for (const char* wrong : {"\":9180\"", "9180", "true", "\"host:9180\""}) {
    const absl::Status status =
        ParseConfig(StrCat("[metrics]\nlisten = ", wrong, "\n"), "f").status();
    EXPECT_NE(status.message().find("f:2: metrics.listen is an address like"),
              absl::string_view::npos)
        << status;
  }
}

constexpr char kFleetKey[] = "RWSKNqp+nTqvMI32F6xbm56YB+QBPKZe5q9alOdgEbnS5gQLCdsIhlNU";

TEST(Config, KeysOfAFleet) {
  EXPECT_TRUE(ParseConfig("", "f")->index_keys.empty());
  EXPECT_TRUE(ParseConfig("[index]\nkeys = []\n", "f")->index_keys.empty());
  const std::string directory = ::testing::TempDir();
  const std::string file = directory + "/fleet.pub";
  ASSERT_TRUE(
      WriteFileDurably(file, StrCat("untrusted comment: minisign public key\n", kFleetKey, "\n"))
          .ok());
  for (const std::string& keys : {StrCat("\"", kFleetKey, "\""), StrCat("\"", file, "\""),
                                  StrCat("\"", kFleetKey, "\", \"", file, "\"")}) {
    const auto config = ParseConfig(StrCat("[index]\nkeys = [", keys, "]\n"), "f");
    ASSERT_TRUE(config.ok()) << config.status();
    EXPECT_FALSE(config->index_keys.empty());
  }
  for (const auto& [keys, needle] : std::vector<std::pair<std::string, std::string>>{
           {StrCat("\"", kFleetKey, "\""), "f.toml:2: index.keys must be a list"},
           {"[1]", "index.keys must be a list"},
           {"[\"RWx\"]", "\"RWx\" is not a minisign public key"},
           {"[\"fleet.pub\"]", "\"fleet.pub\" is not a minisign public key"},
           {StrCat("[\"", directory, "/absent.pub\"]"), "absent.pub: No such file"},
           {"[\"/etc/hostname\"]", "/etc/hostname: "},
       }) {
    const auto config = ParseConfig(StrCat("[index]\nkeys = ", keys, "\n"), "f.toml");
    ASSERT_FALSE(config.ok()) << keys;
    EXPECT_NE(config.status().message().find(needle), absl::string_view::npos) << config.status();
  }
}

TEST(Config, Network) {
  const auto none = ParseConfig("", "f");
  ASSERT_TRUE(none.ok()) << none.status();
  EXPECT_TRUE(none->network_allow.empty());
  EXPECT_EQ(none->network_least_rate, 1024U);
  const auto config = ParseConfig(
      "[network]\nallow = [\"10.0.0.0/8\", \"fd00::/8\", \"192.168.1.7\"]\nleast_rate = 0\n", "f");
  ASSERT_TRUE(config.ok()) << config.status();
  ASSERT_EQ(config->network_allow.size(), 3U);
  EXPECT_TRUE(config->network_allow[0].Contains(*IpAddress::Parse("10.9.9.9")));
  EXPECT_EQ(config->network_least_rate, 0U);
}

TEST(Config, WhoseIndexIsBelieved) {
  const auto config = ParseConfig(
      "[index]\nmemory = \"256MiB\"\n"
      "[containerd]\nlazy = \"repository\"\nlazy_images = [\"registry.test/**\"]\n"
      "[podman]\nlazy = \"any\"\n",
      "f");
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->index_memory, 256U << 20);
  EXPECT_EQ(config->CommandPolicy().otherwise(), IndexTrust::Any());
  // What others push to the repository is not covered by a digest.
  const Reference pinned =
      *Reference::Parse(StrCat("registry.test/a@sha256:", std::string(64, 'a')));
  EXPECT_EQ(config->CommandPolicy().For(*Reference::Parse("registry.test/a")), IndexTrust::Any());
  EXPECT_EQ(config->CommandPolicy().For(pinned), IndexTrust::Configured());
  EXPECT_EQ(ParseConfig("[index]\ntrust = \"any\"\n", "f")->CommandPolicy().For(pinned),
            IndexTrust::Any());
  EXPECT_FALSE(config->containerd_keep_blobs);
  EXPECT_TRUE(ParseConfig("[containerd]\nkeep_blobs = true\n", "f")->containerd_keep_blobs);
  EXPECT_FALSE(config->store_open);
  EXPECT_TRUE(ParseConfig("[store]\nsharing = \"open\"\n", "f")->store_open);
  EXPECT_EQ(config->store_scrub, absl::Hours(168));
  EXPECT_EQ(ParseConfig("[store]\nscrub = \"24h\"\n", "f")->store_scrub, absl::Hours(24));
  EXPECT_EQ(ParseConfig("[store]\nscrub = \"off\"\n", "f")->store_scrub, absl::ZeroDuration());
  EXPECT_FALSE(ParseConfig("[store]\nscrub = \"never\"\n", "f").ok());
  EXPECT_FALSE(ParseConfig("[store]\nsharing = \"shared\"\n", "f").ok());
  const LazyPolicy containerd = config->ContainerdPolicy();
  EXPECT_EQ(containerd.For(*Reference::Parse("registry.test/a/b")), IndexTrust::Any());
  EXPECT_EQ(containerd.For(*Reference::Parse("other.test/a")), IndexTrust::Repository());
  EXPECT_EQ(config->PodmanPolicy().For(*Reference::Parse("x")), IndexTrust::Any());
  for (const char* wrong :
       {"[containerd]\nlazy = \"all\"\n", "[containerd]\nlazy = true\n",
        "[containerd]\nlazy_images = \"registry.test/**\"\n",
        "[podman]\nlazy_images = [\"debian\"]\n", "[podman]\nlazy_images = [1]\n",
        "[index]\ntrust = \"all\"\n", "[index]\nmemory = \"1MiB\"\n", "[index]\nmemory = 64\n",
        "[index]\nmemory = \"much\"\n"}) {
    EXPECT_FALSE(ParseConfig(wrong, "f").ok()) << wrong;
  }
  EXPECT_EQ(ParseConfig("[podman]\nlazy = \"all\"\n", "f").status().message(),
            "f:2: podman.lazy must be \"trusted\" or \"repository\" or \"any\"");
}

TEST(Config, BytesThatNothingVerifies) {
  const Reference tag = *Reference::Parse("registry.test/a:1");
  const auto allowed = [&](std::string_view fill) {
    const auto config = ParseConfig(
        StrCat("[containerd]\nlazy_images = [\"registry.test/**\"]\n[fill]\n", fill), "f");
    EXPECT_TRUE(config.ok()) << config.status();
    return StrCat(config->CommandPolicy().For(tag).Allows(IndexSource::kUnverified), " ",
                  config->ContainerdPolicy().For(tag).Allows(IndexSource::kUnverified), " ",
                  config->CommandPolicy().For(tag).Allows(IndexSource::kBeside));
  };
  EXPECT_EQ(allowed(""), "1 1 1");
  EXPECT_EQ(allowed("unverified = \"allow\"\n"), "1 1 1");
  EXPECT_EQ(allowed("unverified = \"deny\"\n"), "0 0 1");
  EXPECT_FALSE(ParseConfig("[fill]\nunverified = true\n", "f").ok());
}

TEST(Config, LoopDevices) {
  EXPECT_TRUE(ParseConfig("", "f")->loop_devices);
  EXPECT_FALSE(ParseConfig("[mount]\nloop_devices = false\n", "f")->loop_devices);
  EXPECT_FALSE(ParseConfig("[mount]\nloop_devices = \"no\"\n", "f").ok());
}

TEST(Config, CredentialsOfANode) {
  const auto none = ParseConfig("", "f");
  ASSERT_TRUE(none.ok()) << none.status();
  EXPECT_FALSE(none->cri_proxy);
  EXPECT_EQ(none->kubelet_config, "");
  const auto config = ParseConfig(
      "[credentials]\nkubelet_config = \"/etc/kubernetes/providers.yaml\"\n"
      "kubelet_bin_dir = \"/usr/libexec/providers\"\ncri_proxy = true\n"
      "containerd = \"/run/other/containerd.sock\"\n",
      "f");
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->kubelet_config, "/etc/kubernetes/providers.yaml");
  EXPECT_EQ(config->kubelet_bin_dir, "/usr/libexec/providers");
  EXPECT_TRUE(config->cri_proxy);
  EXPECT_EQ(config->containerd_socket, "/run/other/containerd.sock");
}

TEST(Config, Space) {
  const auto none = ParseConfig("", "f");
  ASSERT_TRUE(none.ok()) << none.status();
  EXPECT_TRUE(none->space.limit.all());
  EXPECT_EQ(none->space.reserve, SpaceLimits().reserve);
  EXPECT_EQ(none->space.background_min_free, 15u);
  EXPECT_EQ(none->store_keep_partial, absl::Hours(24));
  const auto config = ParseConfig(
      "[store]\nlimit = \"80%\"\nreserve = \"2G\"\nhigh = \"90%\"\nlow = \"0%\"\nkeep_partial = "
      "\"off\"\n[fill]\nmin_free = \"3%\"\n",
      "f");
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->space.limit, (SpaceAmount{UINT64_MAX, 80}));
  EXPECT_EQ(config->space.reserve, (SpaceAmount{uint64_t{2} << 30, 100}));
  EXPECT_EQ(config->space.high, 90u);
  EXPECT_EQ(config->space.low, 0u);
  EXPECT_EQ(config->space.background_min_free, 3u);
  EXPECT_EQ(config->store_keep_partial, absl::ZeroDuration());
  const auto words = ParseConfig("[store]\nlimit = \"none\"\nreserve = \"none\"\n", "f");
  ASSERT_TRUE(words.ok()) << words.status();
  EXPECT_TRUE(words->space.limit.all());
  EXPECT_EQ(words->space.reserve, (SpaceAmount{0, 0}));
}

TEST(Config, ErrorsNameFileLineAndSetting) {
  for (const auto& [text, needle] : std::vector<std::pair<std::string, std::string>>{
           {"[index]\nlookup = 1\n", "f.toml:2: index.lookup must be true or false"},
           {"[index]\nlokup = true\n", "f.toml:2: index.lokup is not known"},
           {"[indx]\n", "f.toml:1: indx is not a section"},
           {"top = 1\n", "top is not a section"},
           {"[fill]\nquiet = \"soon\"\n", "fill.quiet must be a duration"},
           {"[fill]\nquiet = \"-1s\"\n", "fill.quiet must be a duration"},
           {"[fill]\nquiet = 5\n", "fill.quiet must be a duration"},
           {"[network]\nallow = \"10.0.0.0/8\"\n", "network.allow must be a list of ranges"},
           {"[network]\nallow = [\"10.0.0.0/33\"]\n", "network.allow must be a list of ranges"},
           {"[network]\nallow = [\"registry.example\"]\n",
            "network.allow must be a list of ranges"},
           {"[network]\nleast_rate = -1\n", "network.least_rate must be a number"},
           {"[index]\ntrust = \"all\"\n",
            "index.trust must be \"repository\" or \"any\" or \"configured\""},
           {"[index]\nrepositories = \"x\"\n", "index.repositories must be a list"},
           {"[index]\nrepositories = [\"UPPER//\"]\n", "f.toml:2: index.repositories"},
           {"[credentials]\ncri_proxy = \"yes\"\n", "credentials.cri_proxy must be true or false"},
           {"[credentials]\ncontainerd = \"relative\"\n", "f.toml:2: credentials.containerd"},
           {"[credentials]\nkubelet_config = \"/a\"\n", "must be set together"},
           {"[credentials]\nkubelet_bin_dir = \"/a\"\n", "must be set together"},
           {"[store]\nlimit = \"0\"\n", "f.toml:2: store.limit must be a size like"},
           {"[store]\nlimit = 5\n", "store.limit must be a size like"},
           {"[store]\nlimit = \"101%\"\n", "store.limit must be a size like"},
           {"[store]\nreserve = \"some\"\n", " or \"auto\" or \"none\""},
           {"[store]\nhigh = \"95\"\n", "store.high must be a percentage"},
           {"[store]\nlow = \"96%\"\n", "store.low must be below store.high"},
           {"[store]\nkeep_partial = \"1\"\n", "store.keep_partial must be a duration"},
           {"[index\n", "f.toml:1: "}}) {
    const auto config = ParseConfig(text, "f.toml");
    ASSERT_FALSE(config.ok()) << text;
    EXPECT_NE(std::string(config.status().message()).find(needle), std::string::npos)
        << config.status();
  }
}

TEST(Config, DurationsHaveAnEnd) {
  EXPECT_TRUE(ParseConfig("[fill]\ndeadline = \"1000000s\"\n", "f").ok());
  for (const char* text : {"1000001s", "99999999999h", "inf", "0s", "-5s", "", "5"}) {
    const auto config = ParseConfig(StrCat("[fill]\ndeadline = \"", text, "\"\n"), "f");
    EXPECT_TRUE(absl::IsInvalidArgument(config.status())) << text;
  }
}

TEST(Config, AFileThatIsNamedMustBeThere) { EXPECT_FALSE(LoadConfig("/nonexistent/c").ok()); }

}  // namespace
}  // namespace imagefs
