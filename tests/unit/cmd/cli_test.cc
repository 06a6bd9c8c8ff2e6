// SPDX-License-Identifier: Apache-2.0
#include "cmd/cli.h"

#include "gtest/gtest.h"

namespace imagefs {
namespace {

std::variant<Command, CliExit> Parse(std::vector<const char*> arguments) {
  arguments.insert(arguments.begin(), "imagefs");
  return ParseCommandLine(static_cast<int>(arguments.size()), arguments.data(), "1.2.3");
}

Command ParsedCommand(std::vector<const char*> arguments) {
  auto result = Parse(std::move(arguments));
  EXPECT_TRUE(std::holds_alternative<Command>(result));
  return std::holds_alternative<Command>(result) ? std::get<Command>(result) : Command();
}

// The arguments of the verb, which has to be that one.
template <typename Args>
Args Parsed(std::vector<const char*> arguments) {
  const Command command = ParsedCommand(std::move(arguments));
  const Args* args = std::get_if<Args>(&command.args);
  EXPECT_NE(args, nullptr);
  return args == nullptr ? Args() : *args;
}

CliExit Exit(std::vector<const char*> arguments) {
  auto result = Parse(std::move(arguments));
  EXPECT_TRUE(std::holds_alternative<CliExit>(result));
  return std::holds_alternative<CliExit>(result) ? std::get<CliExit>(result) : CliExit{-1, "", ""};
}

TEST(CliTest, Mount) {
  const Command command = ParsedCommand(
      {"mount", "--rw", "alpine:3", "/mnt", "--pull", "never", "--platform", "linux/arm64"});
  ASSERT_TRUE(std::holds_alternative<MountArgs>(command.args));
  const MountArgs& mount = std::get<MountArgs>(command.args);
  EXPECT_EQ(mount.reference, "alpine:3");
  EXPECT_EQ(mount.directory, "/mnt");
  EXPECT_EQ(mount.image.pull, "never");
  EXPECT_EQ(mount.image.platform, "linux/arm64");
  EXPECT_EQ(mount.mode, "auto");
  EXPECT_TRUE(mount.writable);
  EXPECT_FALSE(command.global.json);
}

TEST(CliTest, AnIndexIsSignedByAnyNumberOfKeys) {
  const IndexArgs index =
      Parsed<IndexArgs>({"index", "--push", "--sign", "a.key", "alpine:3", "--sign", "b.key"});
  EXPECT_EQ(index.reference, "alpine:3");
  EXPECT_EQ(index.sign, (std::vector<std::string>{"a.key", "b.key"}));
  EXPECT_TRUE(Parsed<IndexArgs>({"index", "--push", "alpine:3"}).sign.empty());
  EXPECT_EQ(Exit({"index", "--sign", "a.key", "alpine:3"}).code, 2);
  EXPECT_EQ(Exit({"index", "--push", "alpine:3", "--sign"}).code, 2);
}

TEST(CliTest, MountOptionsAreThoseOfMount8) {
  const MountArgs mount =
      Parsed<MountArgs>({"mount", "a", "/b", "-o", "suid,dev,noexec,rw,defaults,nofail", "-o",
                         "exec,nodev,x-systemd.automount,context=\"u:r:t:s0:c1,c2\""});
  EXPECT_TRUE(mount.suid) << "defaults takes nothing back";
  EXPECT_FALSE(mount.dev) << "the last one counts";
  EXPECT_FALSE(mount.noexec) << "the last one counts";
  EXPECT_TRUE(mount.writable);
  EXPECT_EQ(mount.context, "u:r:t:s0:c1,c2");
}

TEST(CliTest, OwnersAndPermissionsOfAMount) {
  const MountArgs mount = Parsed<MountArgs>(
      {"mount", "a", "/b", "-o", "uid=1000,gid=root,umask=022,fmask=0133,allow_other"});
  EXPECT_EQ(mount.shown_as, (ShownAs{1000, 0, 022, 0133}));
  EXPECT_TRUE(mount.allow_other);
  EXPECT_EQ(Parsed<MountArgs>({"mount", "a", "/b", "-o", "uid=root"}).shown_as.uid, 0u);
  EXPECT_FALSE(Parsed<MountArgs>({"mount", "a", "/b"}).shown_as.any());
}

TEST(CliTest, SetuidAndDevicesHaveToBeAskedFor) {
  for (const char* words : {"ro", "defaults", "suid,nosuid,dev,nodev", "user,exec"}) {
    const MountArgs mount = Parsed<MountArgs>({"mount", "a", "/b", "-o", words});
    EXPECT_FALSE(mount.suid) << words;
    EXPECT_FALSE(mount.dev) << words;
  }
  EXPECT_FALSE(Parsed<MountArgs>({"mount", "a", "/b"}).suid);
  const MountArgs both =
      Parsed<MountArgs>({"mount", "a", "/b", "-o", "nosuid,suid", "-o", "nodev,dev"});
  EXPECT_TRUE(both.suid);
  EXPECT_TRUE(both.dev);
}

TEST(CliTest, AnEmptyOrEndlessPathIsAnError) {
  const std::string longer(100'000, 'x');
  for (const char* path : {"", longer.c_str()}) {
    for (const std::vector<const char*>& words :
         std::vector<std::vector<const char*>>{{"mount", "a", path},
                                               {"mount", "a", "/b", "--rw", "--upper", path},
                                               {"umount", path},
                                               {"umount", "/a", path},
                                               {"status", path},
                                               {"pull", "--wait", path},
                                               {"--root", path, "ls"},
                                               {"--run", path, "ls"},
                                               {"--config", path, "ls"}}) {
      const CliExit exit = Exit(words);
      EXPECT_EQ(exit.code, 2) << words[0];
      EXPECT_LT(exit.error.size(), 1000u) << words[0];
    }
  }
  EXPECT_EQ(Exit({"mount", "a", "/b", "--context", "a\nb"}).code, 2);
}

TEST(CliTest, MountOptionsAsWords) {
  const MountArgs mount = Parsed<MountArgs>(
      {"mount", "a", "/b", "-o", "writable,upper=/u,mode=fuse,pull=never,user,comment=x"});
  EXPECT_TRUE(mount.writable);
  EXPECT_EQ(mount.upper, "/u");
  EXPECT_EQ(mount.mode, "fuse");
  EXPECT_EQ(mount.image.pull, "never");
  EXPECT_FALSE(mount.for_mount8);
  // Options of the command itself are no words of a mount, but of mount(8), which has no others.
  EXPECT_EQ(Exit({"mount", "a", "/b", "-o", "root=/r"}).code, 2);
}

TEST(CliTest, GlobalOptionsBeforeAndAfterTheVerb) {
  for (const Command& command : {ParsedCommand({"--root", "/r", "--json", "ls"}),
                                 ParsedCommand({"ls", "--root", "/r", "--json"})}) {
    EXPECT_TRUE(std::holds_alternative<LsArgs>(command.args));
    EXPECT_EQ(command.global.root, "/r");
    EXPECT_TRUE(command.global.json);
  }
}

TEST(CliTest, AddTakesImagesOrLists) {
  EXPECT_EQ(Parsed<AddArgs>({"add", "a:1", "b:2"}).references,
            (std::vector<std::string>{"a:1", "b:2"}));
  EXPECT_EQ(Parsed<AddArgs>({"add", "--name", "localhost/a", "oci:/a"}).name, "localhost/a");
  EXPECT_TRUE(Parsed<AddArgs>({"add", "--list"}).list);
  EXPECT_EQ(Parsed<AddArgs>({"add", "a", "--pull", "always"}).image.pull, "always");
  EXPECT_EQ(Exit({"add"}).code, 2);
  EXPECT_EQ(Exit({"add", "--list", "a"}).code, 2);
  EXPECT_EQ(Exit({"add", "--name", "n", "a", "b"}).code, 2);
  EXPECT_EQ(Exit({"add", "--name", "UPPER", "a"}).code, 2);
  EXPECT_EQ(Exit({"drop"}).code, 2);
  EXPECT_EQ(Parsed<DropArgs>({"drop", "a:1"}).names, std::vector<std::string>{"a:1"});
}

TEST(CliTest, UmountTakesDirectoriesOrAll) {
  EXPECT_EQ(Parsed<UmountArgs>({"umount", "/a", "/b"}).directories,
            (std::vector<std::string>{"/a", "/b"}));
  EXPECT_TRUE(Parsed<UmountArgs>({"umount", "--all"}).all);
  EXPECT_EQ(Exit({"umount"}).code, 2);
  EXPECT_EQ(Exit({"umount", "--all", "/a"}).code, 2);
}

TEST(CliTest, UsageErrorsAreOneLineAndExitWith2) {
  for (std::vector<const char*> arguments :
       {std::vector<const char*>{},
        {"fly"},
        {"mount"},
        {"mount", "alpine"},
        {"ls", "--wings"},
        {"mount", "a", "/b", "--mode", "magic"},
        {"pull", "a", "--platform", "nonsense/"},
        {"mount", "a", "/b", "--upper", "/c"},
        {"mount", "a", "/b", "-o", "flying"},
        {"mount", "a", "/b", "--rw", "--map-uids", "0:1:2"},
        {"mount", "a", "/b", "--mode", "fuse", "--context", "x"},
        {"pull", ""},
        {"inspect", "UPPER/case:bad tag"},
        {"rm", "fine", "a b"},
        {"daemon", "--idle-exit", "soon"},
        {"help", "fly"}}) {
    const CliExit exit = Exit(arguments);
    EXPECT_EQ(exit.code, 2);
    EXPECT_EQ(exit.output, "");
    EXPECT_EQ(exit.error.rfind("imagefs: ", 0), 0u) << exit.error;
    EXPECT_EQ(exit.error.find('\n'), exit.error.size() - 1) << exit.error;
  }
}

TEST(CliTest, HelpTeaches) {
  EXPECT_EQ(Exit({"--version"}).output, "imagefs 1.2.3\n");
  const CliExit overview = Exit({"--help"});
  EXPECT_EQ(overview.code, 0);
  EXPECT_NE(overview.output.find("imagefs mount docker.io/library/alpine:3 /mnt"),
            std::string::npos);
  EXPECT_EQ(Exit({"help"}).output, overview.output);
  for (const char* verb : {"mount", "umount", "pull", "inspect", "rm", "daemon"}) {
    const std::string help = Exit({"help", verb}).output;
    EXPECT_NE(help.find("imagefs"), std::string::npos) << verb;
    EXPECT_EQ(Exit({verb, "--help"}).output, help);
  }
  EXPECT_EQ(Exit({"help", "daemon"}).output.find("--ready-fd"), std::string::npos);
}

TEST(CliTest, WhatFollowsTheImageIsTheCommand) {
  const RunArgs run =
      Parsed<RunArgs>({"run", "--bind", "/a:/b:ro", "-e", "A=1", "--env", "B", "--root", "/r",
                       "alpine", "ls", "-l", "--user", "x", "--", "--json"});
  EXPECT_FALSE(run.shell);
  EXPECT_EQ(run.options.reference, "alpine");
  EXPECT_EQ(run.options.command,
            (std::vector<std::string>{"ls", "-l", "--user", "x", "--", "--json"}));
  EXPECT_EQ(run.options.user, "");
  EXPECT_EQ(run.options.environment, (std::vector<std::string>{"A=1", "B"}));
  ASSERT_EQ(run.binds.size(), 1U);
  EXPECT_TRUE(run.binds[0].read_only);
  EXPECT_TRUE(Parsed<RunArgs>({"run", "alpine", "-x"}).options.entrypoint == std::nullopt);
  EXPECT_EQ(Parsed<RunArgs>({"run", "--entrypoint", "/p", "alpine"}).options.entrypoint, "/p");
  EXPECT_TRUE(Parsed<RunArgs>({"shell", "--read-only", "alpine"}).shell);
  const BundleArgs bundle = Parsed<BundleArgs>({"bundle", "alpine", "/d", "ls", "-l"});
  EXPECT_EQ(bundle.directory, "/d");
  EXPECT_EQ(bundle.options.command, (std::vector<std::string>{"ls", "-l"}));
  EXPECT_EQ(Exit({"run", "--bind", "a:b", "alpine"}).code, 2);
  EXPECT_EQ(Exit({"run", "--workdir", "b", "alpine"}).code, 2);
  EXPECT_EQ(Exit({"--json", "run", "alpine"}).code, 2);
  EXPECT_EQ(Exit({"run"}).code, 2);
}

TEST(CliTest, AWordThatIsNoVerbIsNamedAndAnotherOneProposed) {
  EXPECT_EQ(Exit({"mout", "alpine", "/mnt"}).error,
            "imagefs: \"mout\" is not a verb; did you mean mount?; try: imagefs help\n");
  EXPECT_NE(Exit({"umuont", "/mnt"}).error.find("did you mean umount?"), std::string::npos);
  EXPECT_NE(Exit({"--json", "image"}).error.find("did you mean images?"), std::string::npos);
  EXPECT_NE(Exit({"--root", "mount", "muont"}).error.find("did you mean mount?"),
            std::string::npos);
  EXPECT_EQ(Exit({"enter", "alpine"}).error.find("alpine"), std::string::npos);
  EXPECT_NE(Exit({"help", "pul"}).error.find("did you mean pull?"), std::string::npos);
  // Nothing comes near.
  EXPECT_EQ(Exit({"frobnicate"}).error.find("did you mean"), std::string::npos);
  EXPECT_EQ(Exit({std::string(100000, 'a').c_str()}).error.find("did you mean"), std::string::npos);
}

TEST(CliTest, WordsOfOtherToolsAreVerbs) {
  EXPECT_EQ(Parsed<UmountArgs>({"unmount", "-l", "/mnt"}).directories,
            std::vector<std::string>{"/mnt"});
  EXPECT_TRUE(Parsed<UmountArgs>({"umount", "-a"}).all);
  EXPECT_TRUE(Parsed<LsArgs>({"--root", "list", "list"}).directories.empty());
  (void)Parsed<LsArgs>({"ps"});
  (void)Parsed<StatusArgs>({"info"});
  EXPECT_TRUE(Parsed<RmArgs>({"rmi", "-f", "alpine"}).force);
  (void)Parsed<RmArgs>({"remove", "alpine"});
  (void)Parsed<RmArgs>({"delete", "alpine"});
  EXPECT_EQ(Exit({"version"}).output, "imagefs 1.2.3\n");
  EXPECT_EQ(Exit({"-V"}).output, "imagefs 1.2.3\n");
  EXPECT_EQ(Exit({"version", "--json"}).output, Exit({"--version", "--json"}).output);
  EXPECT_EQ(Exit({"help", "unmount"}).output, Exit({"help", "umount"}).output);
  EXPECT_EQ(Exit({"mount", "list"}).code, 2) << "only the verb";
}

TEST(CliTest, ListsHaveColumnsAndFilters) {
  const ImagesArgs images =
      Parsed<ImagesArgs>({"images", "alpine", "--filter", "used=false", "--filter", "state=c*",
                          "-o", "reference,Disk", "-n", "other"});
  EXPECT_EQ(images.names, (std::vector<std::string>{"alpine", "other"}));
  EXPECT_EQ(images.list.filters, (std::vector<std::string>{"used=false", "state=c*"}));
  EXPECT_EQ(images.list.columns, (std::vector<std::string>{"REFERENCE", "DISK"}));
  EXPECT_FALSE(images.list.headings);
  EXPECT_TRUE(Parsed<ImagesArgs>({"images"}).list.headings);
  const LsArgs mounts = Parsed<LsArgs>({"ls", "-q", "/mnt"});
  EXPECT_EQ(mounts.list.columns, std::vector<std::string>{"DIRECTORY"});
  EXPECT_FALSE(mounts.list.headings);
  EXPECT_EQ(Exit({"ls", "-o", "size"}).code, 2);
  EXPECT_NE(Exit({"ls", "-o", "size"}).error.find("DIRECTORY, REFERENCE"), std::string::npos);
  EXPECT_EQ(Exit({"ls", "--filter", "used=true"}).code, 2);
  EXPECT_EQ(Exit({"images", ""}).code, 2);
}

TEST(CliTest, TheArgumentThatIsTooMuchIsNamed) {
  const std::string option = Exit({"mount", "--label", "a:b", "alpine", "/mnt"}).error;
  EXPECT_NE(option.find("mount has no option --label"), std::string::npos) << option;
  const std::string word = Exit({"mount", "alpine", "/mnt", "extra"}).error;
  EXPECT_NE(word.find("\"extra\" is one argument too many"), std::string::npos) << word;
  EXPECT_EQ(Exit({"profile", "show", "alpine", "file"}).code, 2);
}

TEST(CliTest, EmptyValuesAreRefused) {
  for (const std::vector<const char*>& arguments :
       std::vector<std::vector<const char*>>{{"mount", "alpine", ""},
                                             {"mount", "", "/mnt"},
                                             {"mount", "--map-uids", "", "alpine", "/mnt"},
                                             {"mount", "--context", "", "alpine", "/mnt"},
                                             {"mount", "--platform", "", "alpine", "/mnt"},
                                             {"mount", "--mode", "", "alpine", "/mnt"},
                                             {"mount", "--rw", "--upper", "", "alpine", "/mnt"},
                                             {"mount", "--deadline", "", "alpine", "/mnt"},
                                             {"umount", ""},
                                             {"pull", "--wait", ""},
                                             {"rm", ""},
                                             {"evict", ""},
                                             {"drop", ""},
                                             {"add", ""},
                                             {"add", "--name", "", "alpine"},
                                             {"index", "--push", "-o", "", "alpine"},
                                             {"index", "--push", "--to", "", "alpine"},
                                             {"index", "--push", "--sign", "", "alpine"},
                                             {"profile", "import", "alpine", ""},
                                             {"profile", "", "alpine"},
                                             {"rpull", "--address", "", "alpine"},
                                             {"rpull", "--namespace", "", "alpine"},
                                             {"rpull", "--snapshotter", "", "alpine"},
                                             {"status", ""},
                                             {"inspect", ""},
                                             {""},
                                             {"--root", "", "ls"},
                                             {"--run", "", "ls"},
                                             {"--config", "", "ls"},
                                             {"--ca-file", "", "ls"},
                                             {"--log-level", "", "ls"},
                                             {"--check-config", ""},
                                             {"daemon", "--idle-exit", ""}}) {
    const CliExit exit = Exit(arguments);
    EXPECT_EQ(exit.code, 2) << arguments[0] << " " << arguments.back();
    EXPECT_TRUE(exit.output.empty());
    EXPECT_TRUE(exit.error.starts_with("imagefs: ")) << exit.error;
  }
}

TEST(CliTest, ArgumentsThatAreNoTextAreRefused) {
  for (const std::vector<const char*>& arguments :
       std::vector<std::vector<const char*>>{{"mount", "alpine", "/mnt/\xe9"},
                                             {"umount", "\xff"},
                                             {"\xc3"},
                                             {"--root", "/\xed\xa0\x80", "ls"},
                                             {"add", "--name", "\xe9", "alpine"}}) {
    const CliExit exit = Exit(arguments);
    EXPECT_EQ(exit.code, 2);
    EXPECT_NE(exit.error.find("is not UTF-8"), std::string::npos) << exit.error;
  }
  const CliExit control = Exit({"mount", "--mode", "\x1b[31m\n", "alpine", "/mnt"});
  EXPECT_EQ(control.error.find('\x1b'), std::string::npos);
  EXPECT_EQ(control.error.find('\n'), control.error.size() - 1);
}

TEST(CliTest, UsageErrorsAndTheVersionAreJsonWhereThatIsAskedFor) {
  const CliExit exit = Exit({"--json", "mout"});
  EXPECT_EQ(exit.code, 2);
  EXPECT_NE(exit.output.find("\"code\": \"usage\""), std::string::npos) << exit.output;
  EXPECT_NE(exit.output.find("did you mean mount?"), std::string::npos) << exit.output;
  EXPECT_TRUE(exit.error.starts_with("imagefs: "));
  EXPECT_FALSE(Exit({"mount", "alpine", "--json"}).output.empty());
  EXPECT_TRUE(Exit({"mount", "--", "--json"}).output.empty());
  EXPECT_FALSE(Exit({"--json"}).output.empty());
  EXPECT_EQ(Exit({"--version", "--json"}).output,
            "{\n  \"version\": \"1.2.3\",\n  \"schema\": 1\n}\n");
  EXPECT_EQ(Exit({"--version"}).output, "imagefs 1.2.3\n");
}

TEST(CliTest, AConfigurationIsCheckedInPlaceOfAVerb) {
  EXPECT_EQ(Parsed<CheckConfigArgs>({"--check-config", "/etc/c.toml"}).file, "/etc/c.toml");
  EXPECT_EQ(Exit({"--check-config", "/etc/c.toml", "ls"}).code, 2);
  EXPECT_EQ(Exit({"--check-config"}).code, 2);
}

TEST(CliTest, TheConfigurationOfADaemonIsCheckedInsteadOfStartingIt) {
  EXPECT_EQ(Parsed<CheckConfigArgs>({"daemon", "--check-config"}).file, "");
  EXPECT_EQ(Parsed<CheckConfigArgs>({"daemon", "--config", "/c", "--check-config"}).file, "/c");
  EXPECT_EQ(Exit({"daemon", "--check-config", "/c"}).code, 2);
}

TEST(CliTest, ADoctorMayBeAskedAboutAnImage) {
  EXPECT_EQ(Parsed<DoctorArgs>({"doctor"}).reference, "");
  const DoctorArgs args = Parsed<DoctorArgs>({"doctor", "--platform", "linux/arm64", "a.test/b"});
  EXPECT_EQ(args.reference, "a.test/b");
  EXPECT_EQ(args.image.platform, "linux/arm64");
  EXPECT_EQ(Exit({"doctor", "--pull", "never", "a.test/b"}).code, 2);
}

TEST(CliTest, AContextIsNoLongerThanTheKernelTakes) {
  const std::string most(255, 'c'), more(256, 'c');
  EXPECT_EQ(Parsed<MountArgs>({"mount", "--context", most.c_str(), "a", "/b"}).context, most);
  EXPECT_EQ(Exit({"mount", "--context", more.c_str(), "a", "/b"}).code, 2);
}

TEST(CliTest, CredentialsOfACall) {
  const ImageOptions pair = Parsed<PullArgs>({"pull", "--creds", "me:a b:c", "r.test/a"}).image;
  EXPECT_EQ(pair.username, "me");
  EXPECT_EQ(pair.password.view(), "a b:c");
  const ImageOptions user = Parsed<InspectArgs>({"inspect", "r.test/a", "--creds=me"}).image;
  EXPECT_EQ(user.username, "me");
  EXPECT_TRUE(user.password.empty());
  EXPECT_EQ(Parsed<MountArgs>({"mount", "-o", "authfile=/f", "a", "/b"}).image.auth_file, "/f");
  EXPECT_EQ(Parsed<AddArgs>({"add", "--authfile", "f", "a", "b"}).image.auth_file, "f");
  EXPECT_EQ(Parsed<DoctorArgs>({"doctor", "--creds", "me:p", "a"}).image.username, "me");
  // Where one of the two images is in a registry.
  EXPECT_EQ(Parsed<IndexArgs>({"index", "oci:/l", "--to", "r.test/i", "--creds", "me:p"}).to,
            "r.test/i");
}

TEST(CliTest, CredentialsWithoutEffectAreRefusedAndNotShown) {
  for (const std::vector<const char*>& words : std::vector<std::vector<const char*>>{
           {"pull", "oci:/l", "--creds", "me:hidden"},
           {"pull", "oci-archive:/l", "--authfile", "/f"},
           {"pull", "--wait", "/d", "--creds", "me:hidden"},
           {"pull", "a", "--pull", "never", "--creds", "me:hidden"},
           {"pull", "a", "--creds", ":hidden"},
           {"pull", "a", "--creds", "me:"},
           {"pull", "a", "--creds", "me:hidden", "--authfile", "/f"},
           {"pull", "a", "--creds", "me:hidden", "--authfile", ""},
           {"pull", "a", "--creds", "me:hidden", "--unknown"},
           {"add", "--list", "--creds", "me:hidden"},
           {"rpull", "a", "--creds", "me:hidden"},
           {"doctor", "--creds", "me:hidden"},
           {"ls", "--creds", "me:hidden"},
           {"ls", "--creds=me:hidden"},
           {"--creds", "me:hidden", "ls"},
           {"--creds=me:hidden", "ls"}}) {
    const CliExit exit = Exit(words);
    EXPECT_EQ(exit.code, 2) << words[1];
    EXPECT_EQ(exit.error.find("hidden"), std::string::npos) << exit.error;
  }
}

TEST(CliTest, Logins) {
  const LoginArgs login = Parsed<LoginArgs>(
      {"login", "-u", "me", "--password-stdin", "--authfile", "f", "r.test/team"});
  EXPECT_EQ(login.registry, "r.test/team");
  EXPECT_EQ(login.username, "me");
  EXPECT_EQ(login.auth_file, "f");
  EXPECT_EQ(Parsed<LoginArgs>({"login", "-u", "me", "-p", "a b", "r.test"}).password.view(), "a b");
  EXPECT_TRUE(Parsed<LoginArgs>({"login", "--get-login", "r.test"}).get_login);
  EXPECT_EQ(Parsed<LogoutArgs>({"logout", "r.test"}).registry, "r.test");
  EXPECT_TRUE(Parsed<LogoutArgs>({"logout", "--all"}).all);
  for (const std::vector<const char*>& words : std::vector<std::vector<const char*>>{
           {"login"},
           {"login", ""},
           {"login", "-u", "", "r.test"},
           {"login", "-u", "me:hidden", "r.test"},
           {"login", "-u", "me", "-p", "", "r.test"},
           {"login", "-p", "hidden", "--password-stdin", "-u", "me", "r.test"},
           {"login", "--password-stdin", "r.test"},
           {"login", "--get-login", "-p", "hidden", "r.test"},
           {"logout"},
           {"logout", "--all", "r.test"}}) {
    const CliExit exit = Exit(words);
    EXPECT_EQ(exit.code, 2);
    EXPECT_EQ(exit.error.find("hidden"), std::string::npos) << exit.error;
  }
}

TEST(CliTest, EachVerbHasArgumentsOfItsOwn) {
  EXPECT_EQ(Parsed<PullArgs>({"pull", "--wait", "/mnt"}).directory, "/mnt");
  EXPECT_EQ(Parsed<RpullArgs>({"rpull", "a"}).snapshotter, "imagefs");
  EXPECT_EQ(Parsed<RpullArgs>({"rpull", "--namespace", "k8s.io", "a"}).name_space, "k8s.io");
  const IndexArgs index = Parsed<IndexArgs>({"index", "-o", "f", "--profile", "a"});
  EXPECT_EQ(index.file, "f");
  EXPECT_TRUE(index.profile);
  const ProfileArgs profile = Parsed<ProfileArgs>({"profile", "import", "a", "f"});
  EXPECT_EQ(profile.action, "import");
  EXPECT_EQ(profile.reference, "a");
  EXPECT_EQ(profile.file, "f");
  EXPECT_EQ(Parsed<EvictArgs>({"evict", "a", "b"}).references.size(), 2u);
  EXPECT_EQ(Parsed<RmArgs>({"rm", "a"}).references.size(), 1u);
  EXPECT_TRUE(Parsed<CheckArgs>({"check", "--repair"}).repair);
  EXPECT_EQ(Parsed<InspectArgs>({"inspect", "--pull", "never", "a"}).image.pull, "never");
  EXPECT_EQ(Parsed<StatusArgs>({"status", "/mnt"}).directory, "/mnt");
  EXPECT_EQ(Parsed<DaemonArgs>({"daemon", "--idle-exit", "5"}).idle_exit_seconds, 5);
  EXPECT_TRUE(Parsed<StopArgs>({"stop", "--unmount"}).unmount);
  EXPECT_TRUE(std::holds_alternative<ImagesArgs>(ParsedCommand({"images"}).args));
}

TEST(CliTest, FilesOfImages) {
  EXPECT_EQ(Parsed<CatArgs>({"cat", "alpine", "/a", "/b"}).paths,
            (std::vector<std::string>{"/a", "/b"}));
  EXPECT_EQ(Exit({"cat", "alpine"}).code, 2);
  EXPECT_EQ(Exit({"cat", "alpine", "etc/hosts"}).code, 2);
  const CopyArgs copy = Parsed<CopyArgs>({"cp", "-L", "alpine:3:/etc", "-"});
  EXPECT_TRUE(copy.follow);
  EXPECT_EQ(copy.source, "alpine:3:/etc");
  EXPECT_EQ(copy.destination, "-");
  EXPECT_EQ(Exit({"cp", "alpine:3:/etc"}).code, 2);
  const ListFilesArgs list = Parsed<ListFilesArgs>({"ls-files", "-l0", "--depth", "1", "alpine"});
  EXPECT_TRUE(list.long_format && list.null);
  EXPECT_EQ(list.depth, 1);
  EXPECT_EQ(list.path, "/");
  EXPECT_EQ(Parsed<ExportTreeArgs>({"export", "alpine"}).reference, "alpine");
  EXPECT_EQ(Exit({"export", "alpine", "/tmp"}).code, 2);
  const DiffArgs diff = Parsed<DiffArgs>({"diff", "--exit-code", "a:1", "a:2"});
  EXPECT_EQ(diff.after, "a:2");
  EXPECT_TRUE(diff.exit_code);
  EXPECT_FALSE(diff.times);
  EXPECT_EQ(Exit({"diff", "a:1"}).code, 2);
}

}  // namespace
}  // namespace imagefs
