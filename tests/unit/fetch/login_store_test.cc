// SPDX-License-Identifier: Apache-2.0
#include "fetch/login_store.h"

#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <string>
#include <thread>
#include <vector>

#include "absl/strings/escaping.h"
#include "base/fd.h"
#include "base/json.h"
#include "base/text.h"
#include "fetch/credential_origin.h"
#include "gtest/gtest.h"
#include "tests/unit/fetch/credential_dirs.h"

namespace imagefs {
namespace {

class LoginStoreTest : public CredentialDirsTest {
 protected:
  void SetUp() override {
    CredentialDirsTest::SetUp();
    options_.login_dirs = {dir_ + "/user/containers", dir_ + "/podman-run/containers",
                           dir_ + "/run-containers/0"};
    ASSERT_TRUE(MakeDirs(options_.xdg_runtime_dir, 0700).ok());
    file_ = dir_ + "/run/containers/auth.json";
  }

  void Write(const std::string& path, const std::string& text, mode_t mode = 0600) {
    WriteAt(path, text, mode);
  }

  // A helper that keeps one secret per server in files.
  void WriteHelper(const std::string& name) {
    constexpr char kScript[] = R"sh(
input=$(cat)
kept() { printf '%s/kept.%s' "$kept_in" "$(printf '%s' "$1" | tr -c a-z0-9 _)"; }
case $1 in
  store) server=$(printf '%s' "$input" | sed 's/.*"ServerURL":"\([^"]*\)".*/\1/')
         printf '%s' "$input" >"$(kept "$server")" ;;
  get) cat "$(kept "$input")" 2>/dev/null || { echo 'credentials not found'; exit 1; } ;;
  erase) rm "$(kept "$input")" ;;
esac
)sh";
    Write(StrCat(dir_, "/bin/docker-credential-", name),
          StrCat("#!/bin/sh\nkept_in=", dir_, kScript), 0755);
  }

  LoginName Name(const std::string& text) {
    const absl::StatusOr<LoginName> name = LoginName::Parse(text);
    EXPECT_TRUE(name.ok()) << name.status();
    return name.value_or(LoginName());
  }

  // Where it went, or the error.
  std::string Store(const std::string& name, const std::string& user = "me",
                    const std::string& password = "secret") {
    const auto place = StoreLogin(options_, Name(name), user, password);
    return place.ok() ? place->ToString() : std::string(place.status().message());
  }
  std::string Erase(const std::string& name) {
    const auto place = EraseLogin(options_, Name(name));
    return place.ok() ? place->ToString() : std::string(place.status().message());
  }
  // "USER:PASSWORD" as a later command finds it.
  std::string Found(const std::string& reference) {
    const FoundCredential found = FindCredential(*Reference::Parse(reference), options_);
    if (!found.trouble.empty()) return found.trouble;
    const Credential& one = found.credential;
    return one.empty() ? "anonymous" : StrCat(one.username, ":", one.password.view());
  }
  std::string Text(const std::string& file) { return ReadFile(file, 1 << 20).value_or(""); }

  std::string file_;
};

TEST_F(LoginStoreTest, ANameIsARegistryOrANamespaceInIt) {
  EXPECT_EQ(Name("r.test").host, "r.test");
  EXPECT_EQ(Name("localhost").host, "localhost");
  EXPECT_EQ(Name("r.test:5000/a/b").path, "a/b");
  EXPECT_EQ(Name("[::1]:5000/a").host, "[::1]:5000");
  EXPECT_EQ(Name("docker.io").ToString(), "docker.io");
  EXPECT_EQ(Name("index.docker.io").ToString(), "docker.io");
  for (const char* text : {"", "/", "r", "r/a", "r.test/", "r.test/A", "https://r.test", "oci:/a",
                           "r.test/a:1", "r.test/a@sha256:0", "r.test a", "r.test\n"}) {
    EXPECT_FALSE(LoginName::Parse(text).ok()) << text;
  }
}

TEST_F(LoginStoreTest, ALoginIsFoundAndNothingElseChanges) {
  Write(file_,
        R"({"later": {"a": [1, 2.5, null, true], "b": "é"}, "auths": {"other.test": )"
        R"({"auth": "b3RoZXI6cA==", "extra": 1}, "https://r.test/v1/": {"auth": "eDp5"}}, )"
        R"("credHelpers": {}})",
        0644);
  EXPECT_EQ(Store("r.test", "me", "a:b \"c"), file_);
  EXPECT_EQ(Found("r.test/x"), "me:a:b \"c") << "the older one under another key is gone";
  EXPECT_EQ(Found("other.test/x"), "other:p");
  const auto json = Json::Parse(Text(file_));
  ASSERT_TRUE(json.ok()) << json.status();
  EXPECT_EQ((*json)["later"].Dump(), R"({"a":[1,2.5,null,true],"b":"é"})");
  EXPECT_EQ((*json)["auths"]["other.test"].IntOr("extra", 0), 1);
  EXPECT_EQ((*json)["auths"].size(), 2u);
  EXPECT_TRUE((*json)["credHelpers"].is_object());
  struct stat st;
  ASSERT_EQ(stat(file_.c_str(), &st), 0);
  EXPECT_EQ(st.st_mode & 07777, 0600u);

  EXPECT_EQ(Erase("r.test"), file_);
  EXPECT_EQ(Found("r.test/x"), "anonymous");
  EXPECT_EQ(Found("other.test/x"), "other:p");
  EXPECT_NE(Erase("r.test").find("there is no login for r.test"), std::string::npos);
}

TEST_F(LoginStoreTest, ANamespaceHasALoginOfItsOwn) {
  Store("r.test", "all", "1");
  Store("r.test/team", "team", "2");
  EXPECT_EQ(Found("r.test/other/x"), "all:1");
  EXPECT_EQ(Found("r.test/team/x"), "team:2");
  Erase("r.test");
  EXPECT_EQ(Found("r.test/other/x"), "anonymous");
  EXPECT_EQ(Found("r.test/team/x"), "team:2");
}

TEST_F(LoginStoreTest, TheHubHasTheKeyOfItsFile) {
  EXPECT_EQ(Store("index.docker.io"), file_);
  EXPECT_NE(Text(file_).find("\"docker.io\""), std::string::npos) << Text(file_);
  EXPECT_EQ(Found("alpine"), "me:secret");
  options_.auth_file = dir_ + "/docker/config.json";
  EXPECT_EQ(Store("docker.io", "you"), options_.auth_file);
  EXPECT_NE(Text(options_.auth_file).find("\"https://index.docker.io/v1/\""), std::string::npos);
  EXPECT_EQ(Found("alpine"), "you:secret");
  EXPECT_EQ(Erase("docker.io"), options_.auth_file);
}

TEST_F(LoginStoreTest, AConfigurationOfDockerThatIsNamedHasIt) {
  options_.docker_config = dir_ + "/docker";
  EXPECT_EQ(Store("r.test"), dir_ + "/docker/config.json");
  EXPECT_EQ(Found("r.test/x"), "me:secret");
  EXPECT_EQ(Erase("r.test"), dir_ + "/docker/config.json");
}

TEST_F(LoginStoreTest, AFileThatIsWrongIsLeftAlone) {
  for (const char* text : {"{", "[]", R"({"auths": ["x"]})"}) {
    Write(file_, text);
    const std::string said = Store("r.test");
    EXPECT_NE(said.find("repair or remove"), std::string::npos) << said;
    EXPECT_EQ(Text(file_), text);
  }
  for (const char* text : {"", " \n", "{}", R"({"auths": null})"}) {
    Write(file_, text);
    EXPECT_EQ(Store("r.test"), file_) << text;
    EXPECT_EQ(Found("r.test/x"), "me:secret") << text;
  }
}

TEST_F(LoginStoreTest, WithoutASessionItIsWherePodmanPutsIt) {
  options_.xdg_runtime_dir = "";
  const std::string expected = geteuid() == 0 ? options_.login_dirs[2] : options_.login_dirs[1];
  EXPECT_EQ(Store("r.test"), expected + "/auth.json");
  EXPECT_EQ(Found("r.test/x"), "me:secret");
  struct stat st;
  ASSERT_EQ(stat(expected.c_str(), &st), 0);
  EXPECT_EQ(st.st_mode & 07777, 0700u);
  EXPECT_EQ(Erase("r.test"), expected + "/auth.json");
}

TEST_F(LoginStoreTest, OthersMayNotHaveTheDirectory) {
  const std::string directory = ParentOf(file_);
  ASSERT_TRUE(MakeDirs(directory, 0700).ok());
  ASSERT_EQ(chmod(directory.c_str(), 0777), 0);
  EXPECT_NE(Store("r.test").find("only this user may write to"), std::string::npos);
  ASSERT_EQ(rmdir(directory.c_str()), 0);
  // Somebody's link in its place leads to a directory of ours.
  ASSERT_TRUE(MakeDirs(dir_ + "/elsewhere", 0700).ok());
  ASSERT_EQ(symlink((dir_ + "/elsewhere").c_str(), directory.c_str()), 0);
  EXPECT_NE(Store("r.test").find("only this user may write to"), std::string::npos);
  EXPECT_EQ(access((dir_ + "/elsewhere/auth.json").c_str(), F_OK), -1);
  ASSERT_EQ(unlink(directory.c_str()), 0);
  ASSERT_EQ(chmod(options_.xdg_runtime_dir.c_str(), 0777), 0);
  EXPECT_NE(Store("r.test").find("XDG_RUNTIME_DIR"), std::string::npos);
  options_.xdg_runtime_dir = dir_ + "/none";
  EXPECT_NE(Store("r.test").find("XDG_RUNTIME_DIR"), std::string::npos);
}

TEST_F(LoginStoreTest, LinksOfOthersAreNotFollowed) {
  Write(dir_ + "/target.json", "{}");
  options_.auth_file = dir_ + "/link.json";
  ASSERT_EQ(symlink((dir_ + "/target.json").c_str(), options_.auth_file.c_str()), 0);
  EXPECT_EQ(Store("r.test"), dir_ + "/target.json") << "its own user's";
  if (geteuid() != 0) GTEST_SKIP() << "needs root";
  ASSERT_EQ(lchown(options_.auth_file.c_str(), 1234, 1234), 0);
  EXPECT_NE(Store("r.test").find("symbolic link of another user"), std::string::npos);
}

TEST_F(LoginStoreTest, TheHelperOfTheFileHasIt) {
  WriteHelper("keys");
  Write(file_,
        R"({"auths": {"r.test": {"auth": "b2xkOm9sZA=="}}, "credHelpers": {"r.test": "keys"}})");
  EXPECT_EQ(Store("r.test"), StrCat("docker-credential-keys, by ", file_));
  EXPECT_EQ(Text(file_).find("auth\":"), std::string::npos)
      << "the old one is gone: " << Text(file_);
  EXPECT_NE(Text(file_).find("credHelpers"), std::string::npos);
  EXPECT_EQ(Found("r.test/x"), "me:secret");
  EXPECT_EQ(Store("r.test/team"), file_) << "helpers know no namespaces";
  EXPECT_EQ(Erase("r.test"), StrCat("docker-credential-keys, by ", file_));
  EXPECT_NE(Erase("r.test").find("there is no login"), std::string::npos);
}

TEST_F(LoginStoreTest, TheStoreOfDockersFileHasIt) {
  WriteHelper("keys");
  options_.auth_file = dir_ + "/docker/config.json";
  Write(options_.auth_file, R"({"credsStore": "keys"})");
  EXPECT_EQ(Store("docker.io"), StrCat("docker-credential-keys, by ", options_.auth_file));
  const auto json = Json::Parse(Text(options_.auth_file));
  ASSERT_TRUE(json.ok());
  EXPECT_EQ((*json)["auths"]["https://index.docker.io/v1/"].Dump(), "{}") << "as docker has it";
  EXPECT_EQ(Found("alpine"), "me:secret");
  const auto all = EraseAllLogins(options_);
  ASSERT_TRUE(all.ok()) << all.status();
  EXPECT_EQ(*all, std::vector<std::string>{"https://index.docker.io/v1/"});
  EXPECT_EQ(Found("alpine"), "anonymous");
}

TEST_F(LoginStoreTest, DockersHelperForThisRegistryHasIt) {
  WriteHelper("keys");
  const std::string dockers = dir_ + "/home/.docker/config.json";
  Write(dockers, R"({"credHelpers": {"r.test": "keys"}, "credsStore": "never"})");
  EXPECT_EQ(Store("r.test"), StrCat("docker-credential-keys, by ", dockers));
  EXPECT_EQ(Found("r.test/x"), "me:secret");
  EXPECT_EQ(Store("s.test"), file_) << "docker's store is for docker";
  EXPECT_EQ(Erase("r.test"), StrCat("docker-credential-keys, by ", dockers));
}

TEST_F(LoginStoreTest, AHelperThatFailsIsNamed) {
  Write(dir_ + "/bin/docker-credential-locked", "#!/bin/sh\necho 'it is locked'; exit 3\n", 0755);
  Write(file_, R"({"credHelpers": {"r.test": "locked", "s.test": "none"}})");
  for (const std::string& said : {Store("r.test"), Erase("r.test")}) {
    EXPECT_NE(said.find("docker-credential-locked: "), std::string::npos) << said;
    EXPECT_NE(said.find("it is locked"), std::string::npos) << said;
  }
  EXPECT_NE(Store("s.test").find("docker-credential-none: not found in PATH"), std::string::npos);
}

TEST_F(LoginStoreTest, AllAtOnce) {
  Store("r.test");
  Store("s.test/team");
  const auto all = EraseAllLogins(options_);
  ASSERT_TRUE(all.ok()) << all.status();
  EXPECT_EQ(*all, (std::vector<std::string>{"r.test", "s.test/team"}));
  EXPECT_EQ(Found("r.test/x"), "anonymous");
  EXPECT_TRUE(EraseAllLogins(options_)->empty());
}

TEST_F(LoginStoreTest, LoginsAtTheSameTimeAreAllKept) {
  std::vector<std::thread> threads;
  for (int i = 0; i < 8; ++i) {
    threads.emplace_back([this, i] {
      EXPECT_TRUE(StoreLogin(options_, {StrCat("r", i, ".test"), ""}, "me", "secret").ok());
    });
  }
  for (std::thread& one : threads) one.join();
  for (int i = 0; i < 8; ++i) EXPECT_EQ(Found(StrCat("r", i, ".test/x")), "me:secret");
}

}  // namespace
}  // namespace imagefs
