// SPDX-License-Identifier: Apache-2.0
#include "fetch/kubelet_providers.h"

#include <sys/stat.h>

#include <string>
#include <thread>
#include <vector>

#include "base/fd.h"
#include "base/text.h"
#include "fetch/node_credentials.h"
#include "gtest/gtest.h"

namespace imagefs {
namespace {

using std::chrono::seconds;

TEST(MatchesImageTest, FollowsTheKubelet) {
  EXPECT_TRUE(MatchesImage("registry.io", "registry.io/a/b"));
  EXPECT_TRUE(MatchesImage("*.registry.io", "eu.registry.io/a"));
  EXPECT_FALSE(MatchesImage("*.registry.io", "registry.io/a"));
  EXPECT_FALSE(MatchesImage("*.registry.io", "a.eu.registry.io/a"));
  EXPECT_TRUE(MatchesImage("*.*.registry.io", "a.eu.registry.io/a"));
  EXPECT_TRUE(MatchesImage("1234.dkr.ecr.*.amazonaws.com", "1234.dkr.ecr.eu-1.amazonaws.com/a"));
  EXPECT_FALSE(MatchesImage("registry.io", "registry.io:5000/a"));
  EXPECT_TRUE(MatchesImage("registry.io:5000", "registry.io:5000/a"));
  EXPECT_FALSE(MatchesImage("registry.io:5000", "registry.io/a"));
  EXPECT_TRUE(MatchesImage("registry.io/team", "registry.io/team/app"));
  EXPECT_FALSE(MatchesImage("registry.io/team", "registry.io/other/app"));
  EXPECT_TRUE(MatchesImage("https://registry.io/team", "registry.io/team/app"));
  EXPECT_FALSE(MatchesImage("", "registry.io/team"));
}

constexpr char kHead[] = "apiVersion: kubelet.config.k8s.io/v1\nkind: CredentialProviderConfig\n";

std::string Provider(const std::string& name, const std::string& more = "") {
  return StrCat("- name: ", name,
                "\n  matchImages: [\"*.io\"]\n  defaultCacheDuration: 1h\n"
                "  apiVersion: credentialprovider.kubelet.k8s.io/v1\n",
                more);
}

TEST(ParseKubeletProvidersTest, ReadsYamlAndJson) {
  const auto list = ParseKubeletProviders(
      StrCat(kHead, "providers:\n",
             Provider("one", "  args: [get, x y]\n  env:\n  - {name: A, value: b}\n  later: 1\n"),
             Provider("two", "  tokenAttributes: {requireServiceAccount: true}\n")),
      "f");
  ASSERT_TRUE(list.ok()) << list.status();
  ASSERT_EQ(list->size(), 2u);
  EXPECT_EQ(list->at(0).args, (std::vector<std::string>{"get", "x y"}));
  EXPECT_EQ(list->at(0).environment, (std::vector<std::string>{"A=b"}));
  EXPECT_FALSE(list->at(0).needs_service_account);
  EXPECT_TRUE(list->at(1).needs_service_account);
  EXPECT_TRUE(ParseKubeletProviders(
                  R"({"apiVersion": "kubelet.config.k8s.io/v1beta1",
                      "kind": "CredentialProviderConfig", "providers": [{"name": "a",
                      "matchImages": ["a.io"], "defaultCacheDuration": "0s",
                      "apiVersion": "credentialprovider.kubelet.k8s.io/v1beta1"}]})",
                  "f")
                  .ok());
}

TEST(ParseKubeletProvidersTest, RefusesTheRest) {
  for (const std::string& bad :
       {std::string("a: [b"), std::string("[]"), std::string(""), std::string(kHead),
        StrCat(kHead, "providers: []\n"), StrCat(kHead, "providers: [x]\n"),
        StrCat(kHead, "providers:\n", Provider("../sh")),
        StrCat(kHead, "providers:\n", Provider("..")),
        StrCat(kHead, "providers:\n", Provider("\"a b\"")),
        StrCat(kHead, "providers:\n", Provider("a"), Provider("a")),
        StrCat(kHead, "providers:\n- name: a\n"),
        StrCat(kHead, "providers:\n", Provider("a", "  env: [{value: x}]\n")),
        StrCat(kHead, "providers:\n", Provider("a", "  args: x\n")),
        StrCat("apiVersion: other/v1\nkind: CredentialProviderConfig\nproviders:\n",
               Provider("a"))}) {
    const auto list = ParseKubeletProviders(bad, "file.yaml");
    ASSERT_FALSE(list.ok()) << bad;
    EXPECT_NE(std::string(list.status().message()).find("file.yaml"), std::string::npos);
  }
}

// Plugins are shell scripts that print $dir/answer.
class PluginTest : public testing::Test {
 protected:
  void SetUp() override {
    char name[] = "/tmp/kubelet_providers_test.XXXXXX";
    ASSERT_NE(mkdtemp(name), nullptr);
    dir_ = name;
    Script(StrCat("cat >>", dir_, "/asked; cat ", dir_, "/answer"));
    Config(StrCat(kHead, "providers:\n", Provider("plugin")));
    Answer("Image", R"("a.io": {"username": "u", "password": "p"})");
    options_.config = dir_ + "/config";
    options_.bin_dir = dir_;
    options_.now = [this] { return now_; };
  }
  void TearDown() override { EXPECT_TRUE(RemoveTree(dir_).ok()); }

  void Write(const std::string& name, const std::string& text, mode_t mode) {
    ASSERT_TRUE(WriteFileDurably(StrCat(dir_, "/", name), text, mode).ok());
    ASSERT_EQ(chmod(StrCat(dir_, "/", name).c_str(), mode), 0);
  }
  void Config(const std::string& text) { Write("config", text, 0600); }
  void Script(const std::string& body) { Write("plugin", StrCat("#!/bin/sh\n", body, "\n"), 0700); }
  void Answer(const std::string& scope, const std::string& auth, const std::string& more = "") {
    Write("answer",
          StrCat(R"({"kind": "CredentialProviderResponse", "cacheKeyType": ")", scope,
                 R"(", "apiVersion": "credentialprovider.kubelet.k8s.io/v1", )", more,
                 R"("auth": {)", auth, "}}"),
          0600);
  }
  static Reference Ref(const std::string& text) { return *Reference::Parse(text); }
  static std::string Users(const std::vector<Credential>& list) {
    std::string out;
    for (const Credential& one : list) StrAppend(&out, one.username, " ");
    return out;
  }

  std::string dir_;
  std::chrono::steady_clock::time_point now_;
  KubeletProviders::Options options_;
};

TEST_F(PluginTest, IsAskedForMatchingImagesAndKeptAsItSays) {
  KubeletProviders providers(options_);
  EXPECT_EQ(Users(providers.Find(Ref("a.io/x:1"), nullptr)), "u ");
  EXPECT_EQ(Users(providers.Find(Ref("a.io/x:2"), nullptr)), "u ");
  EXPECT_EQ(providers.runs(), 1u);
  EXPECT_EQ(Users(providers.Find(Ref("a.io/y:1"), nullptr)), "u ");
  EXPECT_EQ(Users(providers.Find(Ref("other.org/y:1"), nullptr)), "");
  EXPECT_EQ(providers.runs(), 2u);
  now_ += seconds(3601);
  providers.Find(Ref("a.io/x:1"), nullptr);
  EXPECT_EQ(providers.runs(), 3u);
  Answer("Registry", R"("a.io": {"username": "v", "password": "p"})", R"("cacheDuration": "5s",)");
  const Credential refused{.username = "u", .password = "p"};
  EXPECT_EQ(Users(providers.Find(Ref("a.io/x:1"), &refused)), "v ");
  EXPECT_EQ(Users(providers.Find(Ref("a.io/z:1"), nullptr)), "v ");
  EXPECT_EQ(providers.runs(), 4u);
}

TEST_F(PluginTest, TheMostSpecificPatternComesFirst) {
  Answer("Global", R"("*.io": {"username": "c", "password": "p"},
                      "a.io": {"username": "b", "password": "p"},
                      "b.io": {"username": "no", "password": "p"},
                      "a.io/team": {"username": "a", "password": "p"})");
  KubeletProviders providers(options_);
  EXPECT_EQ(Users(providers.Find(Ref("a.io/team/x"), nullptr)), "a b c ");
  EXPECT_EQ(Users(providers.Find(Ref("a.io/x"), nullptr)), "b c ");
  EXPECT_EQ(providers.runs(), 1u);
}

TEST_F(PluginTest, EqualQuestionsShareARun) {
  Script(StrCat("echo >>", dir_, "/began; while [ ! -e ", dir_, "/go ]; do sleep 0.01; done; cat ",
                dir_, "/answer"));
  KubeletProviders providers(options_);
  std::vector<std::thread> threads;
  for (int i = 0; i < 6; ++i) {
    threads.emplace_back([&] { EXPECT_EQ(Users(providers.Find(Ref("a.io/x"), nullptr)), "u "); });
  }
  Write("go", "", 0600);
  for (std::thread& thread : threads) thread.join();
  // Late callers find the cached answer.
  EXPECT_EQ(providers.runs(), 1u);
}

TEST_F(PluginTest, WhatFailsIsLeftOut) {
  KubeletProviders providers(options_);
  for (const std::string& body :
       {std::string("exit 1"), std::string("echo no json"), std::string("kill -9 $$"),
        std::string("head -c 2000000 /dev/zero"), std::string("echo '{}'")}) {
    Script(body);
    EXPECT_EQ(Users(providers.Find(Ref("a.io/x"), nullptr)), "") << body;
  }
  Config("nonsense: [");
  EXPECT_EQ(Users(providers.Find(Ref("a.io/x"), nullptr)), "");
}

TEST_F(PluginTest, ANodeAsksInOrder) {
  NodeCredentials::Options options;
  options.kubelet = options_;
  options.files.home = dir_ + "/home";
  const auto node = NodeCredentials::Create(options);
  const Reference image = Ref("a.io/x:1"), neighbour = Ref("a.io/x:2");
  EXPECT_EQ(node->Find(image, nullptr).username, "u");
  node->Remember(image, {.username = "sent", .password = "s"});
  EXPECT_EQ(node->Find(image, nullptr).username, "sent");
  EXPECT_EQ(node->Find(neighbour, nullptr).username, "sent");
  EXPECT_EQ(node->Find(Ref("a.io/y:1"), nullptr).username, "u");
  node->Remember(image, {.username = "wrong", .password = "s"});
  node->TakeBack(image, {.username = "wrong", .password = "s"});
  EXPECT_EQ(node->AccessFor(image).credential.username, "sent");
  const auto renewed = node->RefreshFor(neighbour)({.username = "sent", .password = "s"});
  ASSERT_TRUE(renewed.ok());
  EXPECT_EQ(renewed->username, "u");
  EXPECT_EQ(node->counters().remembered, 0u);
  EXPECT_EQ(node->counters().renewed, 1u);
  node->Remember(image, {.username = "again", .password = "s"});
  node->RememberId(image, "sha256:1");
  node->Forget("sha256:2");
  EXPECT_EQ(node->counters().remembered, 1u);
  node->Forget("sha256:1");
  EXPECT_EQ(node->counters().remembered, 0u);
  for (size_t i = 0; i < NodeCredentials::kMaxReferences + 10; ++i) {
    node->Remember(Ref(StrCat("b.io/x:", i)), {.username = "n", .password = "s"});
  }
  EXPECT_EQ(node->counters().remembered, NodeCredentials::kMaxReferences);
}

}  // namespace
}  // namespace imagefs
