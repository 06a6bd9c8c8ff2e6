// SPDX-License-Identifier: Apache-2.0
#include "fetch/hosts.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <stdlib.h>
#include <unistd.h>

#include <string>
#include <thread>

#include "base/fd.h"
#include "base/text.h"

namespace imagefs {
namespace {

using Scheme = HostEndpoint::Scheme;
using Strings = std::vector<std::string>;

constexpr char kCa[] = "-----BEGIN CERTIFICATE-----\nQ0E=\n-----END CERTIFICATE-----\n";
constexpr char kOther[] = "-----BEGIN CERTIFICATE-----\nT1Ro\n-----END CERTIFICATE-----\n";
constexpr char kKey[] = "-----BEGIN PRIVATE KEY-----\nS0VZ\n-----END PRIVATE KEY-----\n";
constexpr char kDigest[] =
    "@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

class HostsTest : public testing::Test {
 protected:
  void SetUp() override {
    char name[] = "/tmp/hosts_test.XXXXXX";
    ASSERT_NE(mkdtemp(name), nullptr);
    dir_ = name;
    options_.containerd_dirs = {dir_ + "/containerd", dir_ + "/docker"};
    options_.registries_conf = {{dir_ + "/registries.conf", dir_ + "/registries.conf.d"},
                                {dir_ + "/user.conf", ""}};
    options_.certificate_dirs = {dir_ + "/certs.d", dir_ + "/docker"};
    options_.now = [this] { return now_; };
  }
  void TearDown() override { EXPECT_TRUE(RemoveTree(dir_).ok()); }

  // `path` is relative to the test's directory.
  void Write(const std::string& path, const std::string& text) {
    const std::string full = StrCat(dir_, "/", path);
    ASSERT_TRUE(MakeDirs(ParentOf(full)).ok());
    ASSERT_TRUE(WriteFileDurably(full, text).ok());
  }
  void Remove(const std::string& path) { ASSERT_TRUE(RemoveTree(StrCat(dir_, "/", path)).ok()); }

  HostResolver& Resolver() {
    if (resolver_ == nullptr) resolver_ = std::make_unique<HostResolver>(options_);
    return *resolver_;
  }
  HostPlan Plan(const std::string& text) {
    now_ += HostResolver::kRecheck;
    const auto plan = Resolver().PlanFor(*Reference::Parse(text));
    EXPECT_TRUE(plan.ok()) << plan.status();
    return plan.ok() ? **plan : HostPlan(1);
  }
  // "https://a.test/v2 repository ns=x mirror pull resolve push", a line for each.
  Strings Lines(const std::string& text) {
    Strings out;
    for (const HostEndpoint& e : Plan(text)) {
      EXPECT_NE(e.tls, nullptr);
      out.push_back(StrCat(e.scheme == Scheme::kEither        ? "either "
                           : e.scheme == Scheme::kHttpsOrHttp ? "insecure "
                                                              : "",
                           e.Name(), " ", e.repository, e.ns.empty() ? "" : " ns=" + e.ns,
                           e.mirror ? " mirror" : "", e.pull ? " pull" : "",
                           e.resolve ? " resolve" : "", e.push ? " push" : "",
                           e.tls != nullptr && e.tls->verify ? "" : " unverified"));
    }
    return out;
  }
  absl::Status Error(const std::string& text) {
    now_ += HostResolver::kRecheck;
    return Resolver().PlanFor(*Reference::Parse(text)).status();
  }
  // The error's message without the test's directory; "" for another code.
  std::string Message(absl::StatusCode code, const std::string& text) {
    const absl::Status status = Error(text);
    EXPECT_EQ(status.code(), code) << status;
    std::string out(ToStd(status.message()));
    for (size_t at; (at = out.find(dir_ + "/")) != out.npos;) out.erase(at, dir_.size() + 1);
    return out;
  }

  std::string dir_;
  HostResolver::Options options_;
  std::chrono::steady_clock::time_point now_;
  std::unique_ptr<HostResolver> resolver_;
};

TEST_F(HostsTest, WithoutFiles) {
  EXPECT_EQ(Lines("alpine"),
            (Strings{"https://registry-1.docker.io/v2 library/alpine pull resolve push"}));
  EXPECT_EQ(Lines("a.test:5000/b"), (Strings{"https://a.test:5000/v2 b pull resolve push"}));
  EXPECT_EQ(Lines("localhost:5000/b"),
            (Strings{"either http://localhost:5000/v2 b pull resolve push"}));
  EXPECT_EQ(Lines("[::1]:5000/b"), (Strings{"either http://[::1]:5000/v2 b pull resolve push"}));
  EXPECT_TRUE(Resolver().Files().empty());
  EXPECT_EQ(Resolver().PlanFor(*Reference::Parse("oci:/x")).status().code(),
            absl::StatusCode::kInvalidArgument);
}

TEST_F(HostsTest, HostsToml) {
  Write("containerd/docker.io/hosts.toml",
        "server = \"https://registry-1.docker.io\"\n[host.\"https://mirror.test/proxy\"]\n"
        "capabilities = [\"pull\"]\ndial_timeout = \"5s\"\nskip_verify = true\n"
        "[host.\"https://mirror.test/proxy\".header]\nx-a = \"b\"\n"
        "[host.\"http://127.0.0.1:5000\"]\n[host.\"127.0.0.1:5001\"]\n[host.\"docker.io\"]\n");
  EXPECT_EQ(
      Lines("alpine:3"),
      (Strings{"https://mirror.test/proxy/v2 library/alpine ns=docker.io mirror pull unverified",
               "http://127.0.0.1:5000/v2 library/alpine ns=docker.io mirror pull resolve push",
               "either http://127.0.0.1:5001/v2 library/alpine ns=docker.io mirror pull resolve "
               "push",
               "https://registry-1.docker.io/v2 library/alpine pull resolve push",
               "https://registry-1.docker.io/v2 library/alpine pull resolve push"}));
  const HostEndpoint first = Plan("alpine:3")[0];
  EXPECT_EQ(first.dial_timeout, std::chrono::seconds(5));
  ASSERT_EQ(first.headers.size(), 1U);
  EXPECT_EQ(first.headers[0].second, "b");
  EXPECT_EQ(first.origin, dir_ + "/containerd/docker.io/hosts.toml");
  // Without `server`: the registry itself, with the settings of the top.
  Write("containerd/a.test/hosts.toml", "skip_verify = true\n[header]\nx = \"1\"\n");
  EXPECT_EQ(Lines("a.test/b"), (Strings{"https://a.test/v2 b pull resolve push unverified"}));
  EXPECT_EQ(Plan("a.test/b")[0].headers.size(), 1U);
  // Another server instead of the registry.
  Write("containerd/b.test/hosts.toml", "server = \"https://c.test\"\n");
  EXPECT_EQ(Lines("b.test/b"), (Strings{"https://c.test/v2 b ns=b.test mirror pull resolve push"}));
}

TEST_F(HostsTest, DirectoriesOfHosts) {
  const auto server = [this](const std::string& reference) { return Plan(reference)[0].host; };
  Write("containerd/_default/hosts.toml", "server = \"default.test\"\n");
  Write("docker/a.test:5000/hosts.toml", "server = \"docker.test\"\n");
  EXPECT_EQ(server("a.test:5000/b"), "default.test");  // the first tree that has one
  Write("containerd/a.test/hosts.toml", "server = \"host.test\"\n");
  EXPECT_EQ(server("a.test/b"), "host.test");
  EXPECT_EQ(server("a.test:5000/b"), "default.test");
  Write("containerd/a.test:5000/hosts.toml", "server = \"colon.test\"\n");
  EXPECT_EQ(server("a.test:5000/b"), "colon.test");
  Write("containerd/a.test_5000_/hosts.toml", "server = \"underscore.test\"\n");
  EXPECT_EQ(server("a.test:5000/b"), "underscore.test");
  Write("containerd/[::1]_5000_/hosts.toml", "server = \"ip.test\"\n");
  EXPECT_EQ(server("[::1]:5000/b"), "ip.test");
  Remove("containerd");
  EXPECT_EQ(server("a.test:5000/b"), "docker.test");
  Remove("docker");
  EXPECT_EQ(server("a.test:5000/b"), "a.test:5000");
}

TEST_F(HostsTest, ContainerdDecidesBeforeRegistriesConf) {
  Write("registries.conf", "[[registry]]\nlocation = \"a.test\"\nblocked = true\n");
  EXPECT_EQ(Message(absl::StatusCode::kPermissionDenied, "a.test/b:1"),
            "a.test/b:1 is blocked by registries.conf:1 (`blocked = true`)");
  Write("containerd/a.test/hosts.toml", "# nothing\n");
  EXPECT_EQ(Lines("a.test/b"), (Strings{"https://a.test/v2 b pull resolve push"}));
  // An empty file is none.
  Write("containerd/a.test/hosts.toml", "");
  EXPECT_EQ(Error("a.test/b").code(), absl::StatusCode::kPermissionDenied);
  EXPECT_TRUE(Error("c.test/b").ok());
}

TEST_F(HostsTest, RegistriesConf) {
  Write("registries.conf",
        "[[registry]]\nprefix = \"docker.io\"\nlocation = \"docker.io\"\n"
        "[[registry.mirror]]\nlocation = \"mirror.test\"\n"
        "[[registry.mirror]]\nlocation = \"cache.test/hub\"\npull-from-mirror = \"digest-only\"\n"
        "[[registry.mirror]]\nlocation = \"127.0.0.1:5000\"\ninsecure = true\n"
        "pull-from-mirror = \"tag-only\"\n"
        "[[registry]]\nprefix = \"example.com/foo\"\nlocation = \"internal.test/bar\"\n"
        "insecure = true\n"
        "[[registry]]\nprefix = \"hub.test\"\nlocation = \"docker.io\"\n"
        "[[registry]]\nprefix = \"*.wild.test\"\n[[registry.mirror]]\nlocation = \"m.test\"\n"
        "[[registry]]\nprefix = \"*.moved.test\"\nlocation = \"new.test/old\"\n");
  EXPECT_EQ(Lines("alpine"),
            (Strings{"https://mirror.test/v2 library/alpine ns=docker.io mirror pull resolve",
                     "https://cache.test/v2 hub/library/alpine mirror pull",
                     "insecure https://127.0.0.1:5000/v2 library/alpine ns=docker.io mirror "
                     "resolve unverified",
                     "https://registry-1.docker.io/v2 library/alpine pull resolve push"}));
  EXPECT_EQ(Lines("example.com/foo/x:1"),
            (Strings{"insecure https://internal.test/v2 bar/x pull resolve push unverified"}));
  EXPECT_EQ(Lines("example.com/foo:1"),
            (Strings{"insecure https://internal.test/v2 bar pull resolve push unverified"}));
  EXPECT_EQ(Lines("example.com/food:1"),
            (Strings{"https://example.com/v2 food pull resolve push"}));
  EXPECT_EQ(Lines("hub.test/alpine"),
            (Strings{"https://registry-1.docker.io/v2 library/alpine pull resolve push"}));
  EXPECT_EQ(Lines(StrCat("x.wild.test/b", kDigest)),
            (Strings{"https://m.test/v2 b ns=x.wild.test mirror pull resolve",
                     "https://x.wild.test/v2 b pull resolve push"}));
  EXPECT_EQ(Lines("x.moved.test/b"), (Strings{"https://new.test/v2 old/b pull resolve push"}));
  EXPECT_EQ(Plan("alpine")[0].origin, dir_ + "/registries.conf:1");
}

TEST_F(HostsTest, PrefixesWithTags) {
  Write("registries.conf",
        "[[registry]]\nprefix = \"a.test/b:1\"\nlocation = \"c.test/d:1\"\n"
        "[[registry]]\nprefix = \"a.test/b:2\"\nlocation = \"c.test/d:3\"\n"
        "[[registry]]\nprefix = \"a.test/short\"\nlocation = \"c.test\"\n");
  EXPECT_EQ(Plan("a.test/b:1")[0].host, "c.test");
  EXPECT_EQ(Plan("a.test/b:4")[0].host, "a.test");
  EXPECT_EQ(Message(absl::StatusCode::kInvalidArgument, "a.test/b:2"),
            "registries.conf:4: makes a.test/b:2 c.test/d:3: a location with another tag or digest "
            "is not supported");
  EXPECT_EQ(Message(absl::StatusCode::kInvalidArgument, "a.test/short:1"),
            "registries.conf:7: makes a.test/short:1 \"c.test:1\", which is not HOST/REPOSITORY");
  EXPECT_EQ(Plan("a.test/short/x:1")[0].repository, "x");
}

TEST_F(HostsTest, DropInsAndTheUsersFileOverride) {
  const auto mirror = [](const std::string& location) {
    return StrCat("[[registry]]\nprefix = \"a.test\"\nlocation = \"", location, "\"\n");
  };
  Write("registries.conf", mirror("0.test"));
  Write("registries.conf.d/ignored.txt", "wrong");
  ASSERT_TRUE(MakeDirs(dir_ + "/registries.conf.d/directory.conf").ok());
  EXPECT_EQ(Plan("a.test/b")[0].host, "0.test");
  Write("registries.conf.d/20.conf", mirror("20.test"));
  EXPECT_EQ(Plan("a.test/b")[0].host, "20.test");
  Write("registries.conf.d/10.conf", mirror("10.test"));
  EXPECT_EQ(Plan("a.test/b")[0].host, "20.test");
  Write("user.conf", mirror("user.test"));
  EXPECT_EQ(Plan("a.test/b")[0].host, "user.test");
  EXPECT_EQ(Resolver().Files(),
            (Strings{dir_ + "/registries.conf", dir_ + "/registries.conf.d/10.conf",
                     dir_ + "/registries.conf.d/20.conf", dir_ + "/user.conf"}));
  Write("registries.conf.d/15.conf", "[[registry]]\n");
  EXPECT_TRUE(Message(absl::StatusCode::kInvalidArgument, "b.test/x")
                  .starts_with("registries.conf.d/15.conf:1: "));
}

TEST_F(HostsTest, BrokenFilesAreErrorsUntilTheyAreRepaired) {
  Write("containerd/a.test/hosts.toml", "\nserver = 1\n");
  EXPECT_TRUE(Message(absl::StatusCode::kInvalidArgument, "a.test/b")
                  .starts_with("containerd/a.test/hosts.toml:2: server is a text"));
  EXPECT_TRUE(Error("b.test/b").ok());
  Write("containerd/a.test/hosts.toml", "server = \"c.test\"\n");
  EXPECT_EQ(Plan("a.test/b")[0].host, "c.test");
  Remove("containerd/a.test/hosts.toml");
  ASSERT_TRUE(MakeDirs(dir_ + "/containerd/a.test/hosts.toml").ok());
  EXPECT_TRUE(Message(absl::StatusCode::kFailedPrecondition, "a.test/b")
                  .starts_with("containerd/a.test/hosts.toml: "));
  Remove("containerd");
  Write("registries.conf", std::string((1 << 20) + 1, '#'));
  EXPECT_TRUE(
      Message(absl::StatusCode::kFailedPrecondition, "a.test/b").starts_with("registries.conf: "));
}

TEST_F(HostsTest, ChangesAreSeenAfterASecond) {
  const auto host = [this] {
    return (**Resolver().PlanFor(*Reference::Parse("a.test/b:1")))[0].host;
  };
  EXPECT_EQ(host(), "a.test");
  Write("containerd/a.test/hosts.toml", "server = \"b.test\"\n");
  EXPECT_EQ(host(), "a.test");
  now_ += HostResolver::kRecheck;
  EXPECT_EQ(host(), "b.test");
  const auto first = *Resolver().PlanFor(*Reference::Parse("a.test/b:1"));
  now_ += HostResolver::kRecheck;
  EXPECT_EQ(first, *Resolver().PlanFor(*Reference::Parse("a.test/b:2")));
  // In place, with the same size, and in another tick of the kernel's clock.
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  const std::string path = dir_ + "/containerd/a.test/hosts.toml";
  ASSERT_TRUE(PwriteFull(OpenFile(path, O_WRONLY)->get(), "server = \"c.test\"\n", 0).ok());
  now_ += HostResolver::kRecheck;
  EXPECT_EQ(host(), "c.test");
  Remove("containerd");
  EXPECT_EQ(host(), "c.test");
  now_ += HostResolver::kRecheck;
  EXPECT_EQ(host(), "a.test");
  Write("registries.conf.d/a.conf", "[[registry]]\nlocation = \"a.test\"\nblocked = true\n");
  EXPECT_EQ(host(), "a.test");
  now_ += HostResolver::kRecheck;
  EXPECT_EQ(Resolver().PlanFor(*Reference::Parse("a.test/b")).status().code(),
            absl::StatusCode::kPermissionDenied);
  Write("registries.conf.d/b.conf", "[[registry]]\nlocation = \"a.test\"\n");
  now_ += HostResolver::kRecheck;
  EXPECT_EQ(host(), "a.test");
}

TEST_F(HostsTest, NamedCertificates) {
  Write("containerd/a.test/hosts.toml",
        StrCat("ca = [\"ca.pem\", \"", dir_, "/other.pem\"]\n",
               "client = [\"both.pem\", [\"c.cert\", \"c.key\"]]\n"));
  EXPECT_EQ(Message(absl::StatusCode::kFailedPrecondition, "a.test/b"),
            "containerd/a.test/hosts.toml: containerd/a.test/ca.pem does not exist");
  Write("containerd/a.test/ca.pem", "nothing");
  EXPECT_EQ(Message(absl::StatusCode::kInvalidArgument, "a.test/b"),
            "containerd/a.test/hosts.toml: containerd/a.test/ca.pem has no certificate in PEM "
            "format");
  Write("containerd/a.test/ca.pem", kCa);
  Write("other.pem", kOther);
  Write("containerd/a.test/both.pem", kCa);
  EXPECT_EQ(Message(absl::StatusCode::kInvalidArgument, "a.test/b"),
            "containerd/a.test/hosts.toml: containerd/a.test/both.pem has no key");
  Write("containerd/a.test/both.pem", StrCat(kKey, kCa, kOther));
  Write("containerd/a.test/c.cert", kOther);
  EXPECT_EQ(Message(absl::StatusCode::kFailedPrecondition, "a.test/b"),
            "containerd/a.test/hosts.toml: containerd/a.test/c.key does not exist");
  Write("containerd/a.test/c.key", kKey);
  const HostEndpoint endpoint = Plan("a.test/b")[0];
  EXPECT_EQ(endpoint.tls->ca_pem, StrCat(kCa, kOther));
  ASSERT_EQ(endpoint.tls->clients.size(), 2U);
  EXPECT_EQ(endpoint.tls->clients[0].certificate_pem, StrCat(kCa, kOther));
  EXPECT_EQ(endpoint.tls->clients[0].key_pem, Secret(StrCat(kKey, kCa, kOther)));
  EXPECT_EQ(endpoint.tls->clients[1].certificate_pem, kOther);
  EXPECT_EQ(endpoint.tls->clients[1].key_pem, Secret(kKey));
  EXPECT_EQ(endpoint, Plan("a.test/b")[0]);
  Write("containerd/a.test/c.key", StrCat(kKey, "\n"));
  EXPECT_NE(endpoint, Plan("a.test/b")[0]);
}

TEST_F(HostsTest, DirectoriesOfCertificates) {
  Write("certs.d/mirror.test:5000/ca.crt", kCa);
  Write("certs.d/mirror.test:5000/z.crt", "no certificate");
  Write("certs.d/mirror.test/ca.crt", kOther);
  Write("certs.d/docker.io/a.crt", kCa);
  Write("docker/registry-1.docker.io/b.crt", kOther);
  Write("containerd/docker.io/hosts.toml", "[host.\"https://mirror.test:5000\"]\nca = \"x\"\n");
  Write("containerd/docker.io/x", kOther);
  const HostPlan plan = Plan("alpine");
  ASSERT_EQ(plan.size(), 2U);
  EXPECT_EQ(plan[0].tls->ca_pem, StrCat(kOther, kCa));
  EXPECT_EQ(plan[1].tls->ca_pem, StrCat(kCa, kOther));
  EXPECT_EQ(Plan("mirror.test/x")[0].tls->ca_pem, kOther);

  // One of containerd's directories with nothing else; docker's is of both kinds, and read once.
  Write("containerd/a.test/ca.crt", kCa);
  EXPECT_EQ(Plan("a.test/b")[0].tls->ca_pem, kCa);
  Write("docker/b.test/ca.crt", kCa);
  EXPECT_EQ(Plan("b.test/b")[0].tls->ca_pem, kCa);
  Write("registries.conf",
        "[[registry]]\nlocation = \"b.test\"\n[[registry.mirror]]\nlocation = \"m.test\"\n");
  EXPECT_EQ(Plan("b.test/b")[0].tls->ca_pem, "");
  EXPECT_EQ(Plan("b.test/b")[1].tls->ca_pem, kCa);

  Write("certs.d/c.test/client.cert", kCa);
  EXPECT_EQ(Message(absl::StatusCode::kFailedPrecondition, "c.test/b"),
            "certs.d/c.test/client.cert: its key client.key is missing (certificates of CAs have "
            "names that end in .crt)");
  Write("certs.d/c.test/client.key", kKey);
  ASSERT_EQ(Plan("c.test/b")[0].tls->clients.size(), 1U);
  EXPECT_EQ(Plan("c.test/b")[0].tls->clients[0].key_pem, Secret(kKey));
  EXPECT_EQ(Resolver().Files().size(), 11U);
  Remove("certs.d/c.test/client.cert");
  EXPECT_EQ(Message(absl::StatusCode::kFailedPrecondition, "c.test/b"),
            "certs.d/c.test/client.key: its certificate client.cert is missing");
  Write("certs.d/d.test/ca.crt", kCa);
  for (int i = 0; i < 64; ++i) {
    const std::string link = StrCat(dir_, "/certs.d/d.test/", i, ".crt");
    ASSERT_EQ(symlink("ca.crt", link.c_str()), 0);
  }
  EXPECT_EQ(Message(absl::StatusCode::kFailedPrecondition, "d.test/b"),
            "certs.d/d.test has more than 64 certificates and keys");
}

TEST_F(HostsTest, ManyThreads) {
  options_.now = nullptr;
  Write("containerd/a.test/hosts.toml", "server = \"b.test\"\n");
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([t, &resolver = Resolver()] {
      for (int i = 0; i < 200; ++i) {
        const auto plan = resolver.PlanFor(*Reference::Parse(StrCat("a.test/r", i * (t % 2))));
        EXPECT_TRUE(plan.ok() && (**plan)[0].host == "b.test");
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
}

TEST_F(HostsTest, SystemOptions) {
  const auto root = HostResolver::SystemOptions("", "/ignored", "");
  EXPECT_EQ(root.containerd_dirs, (Strings{"/etc/containerd/certs.d", "/etc/docker/certs.d"}));
  EXPECT_EQ(root.certificate_dirs, (Strings{"/etc/containers/certs.d", "/etc/docker/certs.d"}));
  ASSERT_EQ(root.registries_conf.size(), 1U);
  EXPECT_EQ(root.registries_conf[0].first, "/etc/containers/registries.conf");
  EXPECT_EQ(root.registries_conf[0].second, "/etc/containers/registries.conf.d");
  const std::string own = dir_ + "/.config/containers/registries.conf";
  auto user = HostResolver::SystemOptions(dir_, "", "");
  EXPECT_EQ(user.certificate_dirs.back(), dir_ + "/.config/containers/certs.d");
  ASSERT_EQ(user.registries_conf.size(), 2U);
  EXPECT_EQ(user.registries_conf[1], std::pair(std::string(), own + ".d"));
  Write(".config/containers/registries.conf", "");
  user = HostResolver::SystemOptions(dir_, "", "");
  ASSERT_EQ(user.registries_conf.size(), 1U);
  EXPECT_EQ(user.registries_conf[0], std::pair(own, own + ".d"));
  EXPECT_EQ(HostResolver::SystemOptions(dir_, "/x", "").registries_conf[1].second,
            "/x/containers/registries.conf.d");
  const auto named = HostResolver::SystemOptions(dir_, "", "/named.conf");
  ASSERT_EQ(named.registries_conf.size(), 1U);
  EXPECT_EQ(named.registries_conf[0], std::pair(std::string("/named.conf"), std::string()));
}

TEST_F(HostsTest, ShortNamesAreCompleted) {
  Write("registries.conf",
        "unqualified-search-registries = [\"search.test\", \"other.test\"]\n"
        "[aliases]\nfedora = \"registry.test/team/fedora\"\n\"my/app\" = \"registry.test/app\"\n"
        "gone = \"registry.test/gone\"\n");
  Write("registries.conf.d/a.conf", "[aliases]\ngone = \"\"\n");
  const auto complete = [this](const std::string& text, ShortNames mode) {
    return CompleteShortName(text, mode, options_).value_or("error");
  };
  const auto aliases = [&](const std::string& text) {
    return complete(text, ShortNames::kAliases);
  };
  const auto search = [&](const std::string& text) { return complete(text, ShortNames::kSearch); };
  EXPECT_EQ(aliases("fedora"), "registry.test/team/fedora");
  EXPECT_EQ(aliases("fedora:39"), "registry.test/team/fedora:39");
  EXPECT_EQ(aliases(StrCat("fedora:39", kDigest)), StrCat("registry.test/team/fedora:39", kDigest));
  EXPECT_EQ(aliases(StrCat("my/app", kDigest)), StrCat("registry.test/app", kDigest));
  EXPECT_EQ(aliases("other"), "other");
  EXPECT_EQ(aliases("gone"), "gone");
  EXPECT_EQ(search("fedora:39"), "registry.test/team/fedora:39");
  EXPECT_EQ(search("other:1"), "search.test/other:1");
  EXPECT_EQ(search("team/other"), "search.test/team/other");
  EXPECT_EQ(search("gone"), "search.test/gone");
  EXPECT_EQ(complete("fedora", ShortNames::kDocker), "fedora");
  for (const std::string& text :
       {std::string("a.test/fedora"), std::string("localhost/fedora"), std::string("a:1/fedora"),
        std::string("docker://fedora"), std::string("oci:fedora"),
        std::string("oci-archive:fedora"), std::string("docker-archive:fedora"),
        std::string("Host/fedora"), std::string(), std::string(64, 'a'), std::string("/fedora"),
        std::string("@x")}) {
    EXPECT_EQ(search(text), text);
  }
  Write("registries.conf.d/b.conf", "unqualified-search-registries = []\n");
  EXPECT_EQ(search("other"), "other");
  Write("registries.conf.d/c.conf", "wrong\n");
  EXPECT_EQ(CompleteShortName("fedora", ShortNames::kAliases, options_).status().code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(aliases("a.test/fedora"), "a.test/fedora");
  options_.registries_conf.clear();
  EXPECT_EQ(search("fedora"), "fedora");
}

}  // namespace
}  // namespace imagefs
