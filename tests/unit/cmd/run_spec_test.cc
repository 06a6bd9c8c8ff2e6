// SPDX-License-Identifier: Apache-2.0
#include "cmd/run_spec.h"

#include <string>
#include <vector>

#include "cmd/id_maps.h"
#include "gtest/gtest.h"

namespace imagefs {
namespace {

using Words = std::vector<std::string>;

std::string Own(const char* name) {
  if (name == std::string("TERM")) return "vt100";
  if (name == std::string("TOKEN")) return "secret";
  return "";
}

ImageConfig Config() {
  ImageConfig config;
  config.env = {"PATH=/bin", "A=1", "A=2", "broken", "=empty"};
  config.entrypoint = {"/entry", "-x"};
  config.cmd = {"all"};
  config.working_dir = "srv/./app/..";
  config.user = "www";
  return config;
}

absl::StatusOr<RunSpec> Spec(const ImageConfig& config, const RunOptions& options,
                             bool shell = false, bool terminal = false) {
  return MakeRunSpec(config, options, shell, terminal, Own);
}

TEST(RunSpecTest, TheImageSaysAllIfTheCallerSaysNothing) {
  const auto spec = Spec(Config(), {});
  ASSERT_TRUE(spec.ok());
  EXPECT_EQ(spec->programs, Words{"/entry"});
  EXPECT_EQ(spec->arguments, (Words{"-x", "all"}));
  EXPECT_EQ(spec->environment, (Words{"PATH=/bin", "A=2"}));
  EXPECT_EQ(spec->directory, "/srv");
  EXPECT_EQ(spec->user, "www");
  EXPECT_FALSE(spec->user_asked);
}

TEST(RunSpecTest, ACommandReplacesTheImagesAndAnEntryPointDropsIt) {
  RunOptions options;
  options.command = {"ls", "-l"};
  EXPECT_EQ(Spec(Config(), options)->arguments, (Words{"-x", "ls", "-l"}));
  options.entrypoint = "/other";
  EXPECT_EQ(Spec(Config(), options)->programs, Words{"/other"});
  EXPECT_EQ(Spec(Config(), options)->arguments, (Words{"ls", "-l"}));
  options.entrypoint = "";
  EXPECT_EQ(Spec(Config(), options)->programs, Words{"ls"});
  options.command.clear();
  options.entrypoint = "/other";
  EXPECT_TRUE(Spec(Config(), options)->arguments.empty());
}

TEST(RunSpecTest, NothingToRunIsAnError) {
  ImageConfig config = Config();
  config.entrypoint.clear();
  config.cmd.clear();
  EXPECT_TRUE(absl::IsInvalidArgument(Spec(config, {}).status()));
  EXPECT_TRUE(Spec(config, {}, /*shell=*/true).ok());
  config.cmd = {""};
  EXPECT_TRUE(absl::IsInvalidArgument(Spec(config, {}).status()));
}

TEST(RunSpecTest, AStringWithANulIsAnError) {
  const std::string bad("a\0b", 3);
  for (const int i : {0, 1, 2, 3, 4}) {
    ImageConfig config = Config();
    if (i == 0) config.env = {"A=" + bad};
    if (i == 1) config.entrypoint = {bad};
    if (i == 2) config.cmd = {bad};
    if (i == 3) config.working_dir = bad;
    if (i == 4) config.user = bad;
    EXPECT_TRUE(absl::IsInvalidArgument(Spec(config, {}).status())) << i;
  }
}

TEST(RunSpecTest, VariablesOfTheCaller) {
  RunOptions options;
  options.environment = {"A=3", "TOKEN", "ABSENT", "EMPTY="};
  EXPECT_EQ(Spec(Config(), options)->environment,
            (Words{"PATH=/bin", "A=3", "TOKEN=secret", "EMPTY="}));
  EXPECT_EQ(ValueIn(Spec(Config(), {}, false, /*terminal=*/true)->environment, "TERM"), "vt100");
  ImageConfig config = Config();
  config.env.clear();
  EXPECT_EQ(ValueIn(Spec(config, {})->environment, "PATH"),
            "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
}

TEST(RunSpecTest, TheShellOfTheImage) {
  ImageConfig config = Config();
  EXPECT_EQ(Spec(config, {}, true)->programs, (Words{"/bin/bash", "/bin/sh"}));
  config.env = {"SHELL=/bin/zsh"};
  EXPECT_EQ(Spec(config, {}, true)->programs, (Words{"/bin/zsh", "/bin/bash", "/bin/sh"}));
  EXPECT_TRUE(Spec(config, {}, true)->arguments.empty());
}

TEST(RunSpecTest, IsTheSameInAnotherProcess) {
  RunOptions options;
  options.user = "1:2";
  options.command = {"", "a b", "\n"};
  const auto spec = Spec(Config(), options);
  ASSERT_TRUE(spec.ok());
  const auto got = UnpackRunSpec(PackRunSpec(*spec));
  ASSERT_TRUE(got.ok());
  EXPECT_EQ(*got, *spec);
  for (const std::string& bad : {std::string(), std::string("x"), std::string("x\0", 2),
                                 std::string("d/\0", 3), std::string("\0\0", 2)}) {
    EXPECT_FALSE(UnpackRunSpec(bad).ok());
  }
}

constexpr char kPasswd[] =
    "root:x:0:0::/root:/bin/sh\nbad\nwww:x:33:34:Web:/srv/www:/bin/false\n"
    "nohome:x:40:40\nhuge:x:4294967295:1::/:\n1000:x:55:55::/five:\n";
constexpr char kGroup[] = "root:x:0:\nweb:x:34:\nextra:x:50:a,www\nother:x:51:wwww\nshort:x\n";

TEST(RunUserTest, NamesAndNumbers) {
  const auto find = [](const char* user) { return FindUser(user, kPasswd, kGroup); };
  EXPECT_EQ(*find(""), (UserIds{0, 0, {}, "/root"}));
  EXPECT_EQ(*find("www"), (UserIds{33, 34, {50}, "/srv/www"}));
  EXPECT_EQ(*find("33"), (UserIds{33, 34, {50}, "/srv/www"}));
  EXPECT_EQ(*find("www:extra"), (UserIds{33, 50, {}, "/srv/www"}));
  EXPECT_EQ(*find("33:7"), (UserIds{33, 7, {}, "/srv/www"}));
  EXPECT_EQ(*find("nohome"), (UserIds{40, 40, {}, "/"}));
  EXPECT_EQ(*find("77"), (UserIds{77, 0, {}, "/"}));
  EXPECT_EQ(*find("1000"), (UserIds{55, 55, {}, "/five"})) << "a name";
  for (const char* absent : {"nobody", "www:none", "huge", "-1", "4294967295", "2147483648"}) {
    EXPECT_TRUE(absl::IsNotFound(find(absent).status())) << absent;
  }
  EXPECT_EQ(*FindUser("5:6", "", ""), (UserIds{5, 6, {}, "/"})) << "an image without the files";
}

TEST(RunBindTest, IsParsed) {
  BindArg bind;
  EXPECT_EQ(ParseBind("/a:b:/c/../d:ro", &bind), "");
  EXPECT_EQ(bind.source, "/a:b");
  EXPECT_EQ(bind.destination, "/d");
  EXPECT_TRUE(bind.read_only);
  EXPECT_EQ(ParseBind("a:/b:rw", &bind), "");
  EXPECT_FALSE(bind.read_only);
  for (const char* bad : {"a", ":/b", "a:b", "a:/", "a:", "/a:ro"}) {
    EXPECT_NE(ParseBind(bad, &bind), "") << bad;
  }
}

TEST(RunMachineTest, HandlersOfOtherArchitectures) {
  const std::string arm64 =
      "enabled\ninterpreter /usr/bin/qemu-aarch64-static\nflags: OCF\noffset 0\n"
      "magic 7f454c460201010000000000000000000200b700\nmask "
      "ffffffffffffff00fffffffffffffffffeffffff\n";
  EXPECT_TRUE(HandlesArchitecture(arm64, "arm64"));
  EXPECT_FALSE(HandlesArchitecture(arm64, "riscv64"));
  EXPECT_FALSE(HandlesArchitecture("disabled" + arm64.substr(7), "arm64"));
  EXPECT_FALSE(HandlesArchitecture("enabled\nextension .py\n", "arm64"));
  EXPECT_FALSE(HandlesArchitecture("enabled\nmagic 7f\n", "arm64"));
  EXPECT_FALSE(HandlesArchitecture(arm64, "unknown"));
  EXPECT_TRUE(RunsNatively({"linux", "386", ""}, {"linux", "amd64", ""}));
  EXPECT_FALSE(RunsNatively({"linux", "arm64", ""}, {"linux", "amd64", ""}));
}

TEST(IdMapsTest, SubordinateIdsFollowTheCallersOwn) {
  constexpr char kText[] =
      "other:1:5\nme:100000:65536\n1000:300000:10\nme:bad:1\nme:1:0\nme:4294967295:9\n";
  EXPECT_EQ(MapsOf(kText, "me", 1000, 1000),
            (std::vector<IdRange>{{0, 1000, 1}, {1, 100000, 65536}, {65537, 300000, 10}}));
  EXPECT_EQ(MapsOf(kText, "nobody", 7, 8), (std::vector<IdRange>{{0, 8, 1}}));
  EXPECT_EQ(MapsOf("me:0:4294967295\n:5:5\n", "", 7, 7).size(), 1U) << "no name";
}

}  // namespace
}  // namespace imagefs
