// SPDX-License-Identifier: Apache-2.0
#include "fetch/credentials.h"

#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <string>

#include "absl/strings/escaping.h"
#include "base/fd.h"
#include "base/text.h"
#include "fetch/credential_origin.h"
#include "gtest/gtest.h"
#include "tests/unit/fetch/credential_dirs.h"

namespace imagefs {
namespace {

class CredentialsTest : public CredentialDirsTest {
 protected:
  // `path` is relative to the test's directory.
  void Write(const std::string& path, const std::string& text, mode_t mode = 0600) {
    WriteAt(StrCat(dir_, "/", path), text, mode);
  }

  void WriteDocker(const std::string& text) { Write("home/.docker/config.json", text); }

  // A credential helper that records its input, then runs `body`.
  void WriteHelper(const std::string& name, const std::string& body) {
    Write(
        "bin/docker-credential-" + name,
        StrCat("#!/bin/sh\nread -r server\necho \"$1 $server\" >> ", dir_, "/asked\n", body, "\n"),
        0755);
  }

  std::string Asked() { return ReadFile(dir_ + "/asked", 1 << 20).value_or(""); }

  // "user:password", "token:...", "anonymous" or the reason why there is none.
  std::string Found(const std::string& text) {
    FoundCredential all = FindCredential(*Reference::Parse(text), options_);
    EXPECT_TRUE(all.credential.empty() || all.trouble.empty());
    if (!all.trouble.empty()) return all.trouble;
    const Credential* found = &all.credential;
    if (found->empty()) return "anonymous";
    if (!found->identity_token.empty()) {
      EXPECT_TRUE(found->username.empty() && found->password.empty());
      return StrCat("token:", found->identity_token.view());
    }
    return StrCat(found->username, ":", found->password.view());
  }

  static std::string Auth(const std::string& user_and_password) {
    return StrCat("{\"auth\":\"", absl::Base64Escape(user_and_password), "\"}");
  }
};

bool Contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

TEST_F(CredentialsTest, NoFilesMeanAnonymous) {
  EXPECT_EQ(Found("q.io/x"), "anonymous");
  options_ = CredentialOptions();
  EXPECT_EQ(Found("q.io/x"), "anonymous");
  WriteDocker("");
  EXPECT_EQ(Found("q.io/x"), "anonymous");
}

TEST_F(CredentialsTest, DockerAuths) {
  WriteDocker(StrCat("{\"auths\":{\"q.io\":", Auth("me:pass:word"), ",\"h:5000\":", Auth("a:b"),
                     ",\"https://old.io/v1/\":", Auth("c:d"), ",\"http://v2.io/v2/\":", Auth("e:f"),
                     ",\"plain.io\":{\"username\":\"g\",\"password\":\"h\"},\"empty.io\":{}}}"));
  EXPECT_EQ(Found("q.io/x"), "me:pass:word") << "only the first colon separates";
  EXPECT_EQ(Found("h:5000/x"), "a:b");
  EXPECT_EQ(Found("old.io/x"), "c:d");
  EXPECT_EQ(Found("v2.io/x"), "e:f");
  EXPECT_EQ(Found("plain.io/x"), "g:h");
  EXPECT_EQ(Found("empty.io/x"), "anonymous");
  EXPECT_EQ(Found("h:5001/x"), "anonymous") << "another port is another registry";
  EXPECT_EQ(Found("sub.q.io/x"), "anonymous");
  EXPECT_EQ(Found("oci:/q.io"), "anonymous");
}

TEST_F(CredentialsTest, PaddingOfOldDockersIsCutOff) {
  WriteDocker(StrCat("{\"auths\":{\"q.io\":", Auth(std::string("me:pw\0\0", 7)), "}}"));
  EXPECT_EQ(Found("q.io/x"), "me:pw");
}

TEST_F(CredentialsTest, DockerHubHasManyNames) {
  for (const char* key : {"https://index.docker.io/v1/", "index.docker.io", "docker.io",
                          "registry-1.docker.io", "https://docker.io"}) {
    WriteDocker(StrCat("{\"auths\":{\"", key, "\":", Auth("me:pw"), "}}"));
    EXPECT_EQ(Found("alpine"), "me:pw") << key;
    EXPECT_EQ(Found("registry-1.docker.io/library/alpine"), "me:pw") << key;
    EXPECT_EQ(Found("q.io/alpine"), "anonymous") << key;
  }
}

TEST_F(CredentialsTest, IdentityTokens) {
  WriteDocker(StrCat("{\"auths\":{\"a.io\":{\"auth\":\"", absl::Base64Escape("me:"),
                     "\",\"identitytoken\":\"tok\"},\"b.io\":", Auth("<token>:tik"), "}}"));
  EXPECT_EQ(Found("a.io/x"), "token:tok");
  EXPECT_EQ(Found("b.io/x"), "token:tik");
}

TEST_F(CredentialsTest, LongestNamespaceWins) {
  Write("run/containers/auth.json",
        StrCat("{\"auths\":{\"q.io/a\":", Auth("short:1"), ",\"q.io/a/b/c\":", Auth("long:3"),
               ",\"q.io\":", Auth("host:0"), ",\"q.io/a/b\":", Auth("middle:2"),
               ",\"docker.io/library\":", Auth("hub:4"), "}}"));
  EXPECT_EQ(Found("q.io/a/b/c"), "long:3");
  EXPECT_EQ(Found("q.io/a/b/c/d"), "long:3");
  EXPECT_EQ(Found("q.io/a/b/cc"), "middle:2") << "parts match as a whole";
  EXPECT_EQ(Found("q.io/a/x"), "short:1");
  EXPECT_EQ(Found("q.io/ab"), "host:0");
  EXPECT_EQ(Found("alpine"), "hub:4");
  EXPECT_EQ(Found("docker.io/other/alpine"), "anonymous");
}

TEST_F(CredentialsTest, OrderOfFiles) {
  const auto auths = [](const std::string& user) {
    return StrCat("{\"auths\":{\"q.io\":", Auth(user + ":p"), "}}");
  };
  WriteDocker(auths("docker"));
  EXPECT_EQ(Found("q.io/x"), "docker:p");
  Write("dockerconf/config.json", auths("dockerconf"));
  options_.docker_config = dir_ + "/dockerconf";
  EXPECT_EQ(Found("q.io/x"), "dockerconf:p");
  Write("home/.config/containers/auth.json", auths("dotconfig"));
  EXPECT_EQ(Found("q.io/x"), "dotconfig:p");
  Write("xdg/containers/auth.json", auths("xdg"));
  options_.xdg_config_home = dir_ + "/xdg";
  EXPECT_EQ(Found("q.io/x"), "xdg:p");
  Write("run/containers/auth.json", auths("run"));
  EXPECT_EQ(Found("q.io/x"), "run:p");
  Write("my.json", auths("explicit"));
  options_.auth_file = dir_ + "/my.json";
  EXPECT_EQ(Found("q.io/x"), "explicit:p");
  Write("my.json", "{\"auths\":{\"other.io\":{}}}");
  EXPECT_EQ(Found("q.io/x"), "run:p") << "the next file is asked";
}

TEST_F(CredentialsTest, BadFilesAreTroubleThatKeepsSecrets) {
  const std::string file = dir_ + "/home/.docker/config.json";
  WriteDocker("{\"auths\":{\"q.io\":{\"auth\":\"c2VjcmV0OnNlY3JldA==\"}");
  EXPECT_TRUE(Contains(Found("q.io/x"), file));
  EXPECT_FALSE(Contains(Found("q.io/x"), "c2Vj"));
  WriteDocker("[]");
  EXPECT_TRUE(Contains(Found("q.io/x"), file));
  WriteDocker("{\"auths\":{\"q.io\":{\"auth\":\"!!secret!!\"}}}");
  EXPECT_TRUE(Contains(Found("q.io/x"), file));
  EXPECT_TRUE(Contains(Found("q.io/x"), "log in"));
  EXPECT_FALSE(Contains(Found("q.io/x"), "secret"));
  WriteDocker(StrCat("{\"auths\":{\"q.io\":", Auth("nocolon-secret"), "}}"));
  EXPECT_TRUE(Contains(Found("q.io/x"), "USER:PASSWORD"));
  EXPECT_FALSE(Contains(Found("q.io/x"), "secret"));
  EXPECT_EQ(Found("other.io/x"), "anonymous") << "another registry's entry is not looked at";
  WriteDocker(std::string((4 << 20) + 1, ' '));
  EXPECT_TRUE(Contains(Found("q.io/x"), file));
  ASSERT_EQ(unlink(file.c_str()), 0);
  ASSERT_TRUE(MakeDirs(file).ok());
  EXPECT_TRUE(Contains(Found("q.io/x"), file)) << "a directory cannot be read";
}

TEST_F(CredentialsTest, HelperOfARegistryBeatsTheStoreBeatsAuths) {
  WriteHelper("one", "echo '{\"ServerURL\":\"x\",\"Username\":\"one\",\"Secret\":\"1\"}'");
  WriteHelper("two", "echo '{\"ServerURL\":\"x\",\"Username\":\"two\",\"Secret\":\"2\"}'");
  WriteDocker(
      StrCat("{\"credHelpers\":{\"q.io\":\"one\"},\"credsStore\":\"two\",\"auths\":{\"q.io\":",
             Auth("file:3"), ",\"r.io\":", Auth("file:3"), "}}"));
  EXPECT_EQ(Found("q.io/x"), "one:1");
  EXPECT_EQ(Asked(), "get q.io\n");
  EXPECT_EQ(Found("r.io/x"), "two:2");
  EXPECT_EQ(Asked(), "get q.io\nget r.io\n");
  WriteDocker(StrCat("{\"credHelpers\":{\"q.io\":\"\"},\"credsStore\":\"two\",\"auths\":{\"q.io\":",
                     Auth("file:3"), "}}"));
  EXPECT_EQ(Found("q.io/x"), "file:3") << "an empty helper means the file";
}

TEST_F(CredentialsTest, TheOriginIsTheFileOrTheHelper) {
  WriteHelper("one", "echo '{\"ServerURL\":\"x\",\"Username\":\"one\",\"Secret\":\"1\"}'");
  WriteDocker(StrCat("{\"credHelpers\":{\"q.io\":\"one\"},\"auths\":{\"r.io\":{\"auth\":\"",
                     absl::Base64Escape("me:2"), "\"}}}"));
  const std::string file = dir_ + "/home/.docker/config.json";
  EXPECT_EQ(FindCredentialOrigin(*Reference::Parse("r.io/x"), options_).origin, file);
  EXPECT_EQ(FindCredentialOrigin(*Reference::Parse("q.io/x"), options_).origin,
            StrCat("docker-credential-one, by ", file));
  EXPECT_EQ(FindCredentialOrigin(*Reference::Parse("s.io/x"), options_).origin, "");
}

TEST_F(CredentialsTest, HelperWithoutACredentialIsNoError) {
  WriteHelper("none", "echo 'credentials not found in native keychain'; exit 1");
  WriteDocker("{\"credsStore\":\"none\"}");
  EXPECT_EQ(Found("q.io/x"), "anonymous");
  EXPECT_EQ(Found("alpine"), "anonymous");
  EXPECT_EQ(Asked(), "get q.io\nget https://index.docker.io/v1/\nget docker.io\n");
  WriteDocker(StrCat("{\"credsStore\":\"none\",\"auths\":{\"q.io\":", Auth("file:3"), "}}"));
  EXPECT_EQ(Found("q.io/x"), "file:3");
}

TEST_F(CredentialsTest, HelperTokens) {
  WriteHelper("tok", "echo '{\"Username\":\"<token>\",\"Secret\":\"refresh\"}'");
  WriteDocker("{\"credsStore\":\"tok\"}");
  EXPECT_EQ(Found("q.io/x"), "token:refresh");
}

TEST_F(CredentialsTest, BrokenHelpersAreTroubleThatNamesThemAndTheFile) {
  const std::string file = dir_ + "/home/.docker/config.json";
  WriteDocker("{\"credsStore\":\"absent\"}");
  EXPECT_TRUE(Contains(Found("q.io/x"), "docker-credential-absent: not found in PATH"));
  EXPECT_TRUE(Contains(Found("q.io/x"), file));

  WriteDocker("{\"credsStore\":\"bad\"}");
  WriteHelper("bad", "echo 'the keyring is locked'; exit 3");
  EXPECT_TRUE(Contains(Found("q.io/x"), "status 3 (the keyring is locked)"));
  WriteHelper("bad", "echo '{\"Secret\":\"hush\"}'; exit 3");
  EXPECT_TRUE(Contains(Found("q.io/x"), "status 3"));
  EXPECT_FALSE(Contains(Found("q.io/x"), "hush"));
  WriteHelper("bad", "echo 'hush, no JSON'");
  EXPECT_TRUE(Contains(Found("q.io/x"), "not a JSON object"));
  EXPECT_FALSE(Contains(Found("q.io/x"), "hush"));
  WriteHelper("bad", "kill -9 $$");
  EXPECT_TRUE(Contains(Found("q.io/x"), "signal 9"));
  WriteHelper("bad", "head -c 1000000 /dev/zero");
  EXPECT_TRUE(Contains(Found("q.io/x"), "64 KiB"));
}

TEST_F(CredentialsTest, TroubleHidesNothingThatWorks) {
  WriteDocker(StrCat("{\"credsStore\":\"absent\",\"auths\":{\"q.io\":", Auth("file:3"), "}}"));
  EXPECT_EQ(Found("q.io/x"), "file:3") << "the same file";
  EXPECT_TRUE(Contains(Found("other.io/x"), "docker-credential-absent"));
  Write("run/containers/auth.json", "no JSON");
  EXPECT_EQ(Found("q.io/x"), "file:3") << "the next file";
  EXPECT_TRUE(Contains(Found("other.io/x"), "run/containers/auth.json")) << "the first trouble";
}

TEST_F(CredentialsTest, ALoginWithoutASession) {
  Write("podman-run-1/containers/auth.json", StrCat("{\"auths\":{\"q.io\":", Auth("me:1"), "}}"));
  options_.login_dirs = {dir_ + "/none", dir_ + "/podman-run-1/containers"};
  EXPECT_EQ(Found("q.io/x"), "me:1");
  // Others may have written it.
  ASSERT_EQ(chmod(options_.login_dirs[1].c_str(), 0777), 0);
  EXPECT_EQ(Found("q.io/x"), "anonymous");
  ASSERT_EQ(chmod(options_.login_dirs[1].c_str(), 0700), 0);
  if (geteuid() == 0) {
    ASSERT_EQ(chown(options_.login_dirs[1].c_str(), 1234, 1234), 0);
    EXPECT_EQ(Found("q.io/x"), "anonymous");
  }
  options_.login_dirs = {dir_ + "/link"};
  ASSERT_EQ(symlink((dir_ + "/podman-run-1/containers").c_str(), options_.login_dirs[0].c_str()),
            0);
  EXPECT_EQ(Found("q.io/x"), "anonymous");
}

TEST_F(CredentialsTest, HelperMayIgnoreItsInput) {
  Write("bin/docker-credential-deaf",
        "#!/bin/sh\nexec <&-\necho '{\"Username\":\"u\",\"Secret\":\"s\"}'\n", 0755);
  WriteDocker("{\"credsStore\":\"deaf\"}");
  EXPECT_EQ(Found("q.io/x"), "u:s");
}

TEST_F(CredentialsTest, HelperNamesAreNoPathsAndNoShell) {
  for (const char* name : {"../../bin/evil", "x y", "$(touch evil)", "a;b"}) {
    WriteDocker(StrCat("{\"credsStore\":\"", name, "\"}"));
    EXPECT_TRUE(Contains(Found("q.io/x"), "not a valid name of a credential helper")) << name;
  }
}

TEST_F(CredentialsTest, FingerprintTellsApartAndRevealsNothing) {
  const Credential a{"user", "hush", ""}, b{"user", "hush2", ""}, token{"", "", "hush"};
  EXPECT_EQ(a.Fingerprint(), (Credential{"user", "hush", ""}).Fingerprint());
  EXPECT_NE(a.Fingerprint(), b.Fingerprint());
  EXPECT_NE(a.Fingerprint(), token.Fingerprint());
  EXPECT_NE((Credential{"ab", "c", ""}).Fingerprint(), (Credential{"a", "bc", ""}).Fingerprint());
  EXPECT_NE((Credential{"", "x", ""}).Fingerprint(), (Credential{"", "", "x"}).Fingerprint());
  EXPECT_EQ(a.Fingerprint().find("hush"), std::string::npos);
  EXPECT_EQ(Credential().Fingerprint(), "anonymous");
}

TEST_F(CredentialsTest, OptionsFromEnvironment) {
  setenv("HOME", "/h", 1);
  setenv("DOCKER_CONFIG", "/d", 1);
  setenv("REGISTRY_AUTH_FILE", "/r", 1);
  unsetenv("XDG_CONFIG_HOME");
  const CredentialOptions options = CredentialOptions::FromEnvironment();
  EXPECT_EQ(options.home, "/h");
  EXPECT_EQ(options.docker_config, "/d");
  EXPECT_EQ(options.auth_file, "/r");
  EXPECT_EQ(options.xdg_config_home, "");
}

}  // namespace
}  // namespace imagefs
