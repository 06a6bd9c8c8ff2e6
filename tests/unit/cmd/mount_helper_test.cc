// SPDX-License-Identifier: Apache-2.0
#include "cmd/mount_helper.h"

#include <vector>

#include "gtest/gtest.h"

namespace imagefs {
namespace {

std::variant<Command, CliExit> Parse(std::vector<const char*> arguments) {
  arguments.insert(arguments.begin(), "/sbin/mount.imagefs");
  return ParseMountHelper(static_cast<int>(arguments.size()), arguments.data(), "1.2.3");
}

Command ParsedCommand(std::vector<const char*> arguments) {
  auto result = Parse(std::move(arguments));
  if (const auto* command = std::get_if<Command>(&result)) return *command;
  ADD_FAILURE() << std::get<CliExit>(result).error;
  return Command();
}

MountArgs Parsed(std::vector<const char*> arguments) {
  return std::get<MountArgs>(ParsedCommand(std::move(arguments)).args);
}

CliExit Exit(std::vector<const char*> arguments) {
  auto result = Parse(std::move(arguments));
  EXPECT_TRUE(std::holds_alternative<CliExit>(result));
  return std::holds_alternative<CliExit>(result) ? std::get<CliExit>(result) : CliExit{-1, "", ""};
}

TEST(MountHelperTest, ItsName) {
  EXPECT_TRUE(IsMountHelper("/sbin/mount.imagefs"));
  EXPECT_TRUE(IsMountHelper("mount.imagefs"));
  EXPECT_FALSE(IsMountHelper("/usr/bin/imagefs"));
  EXPECT_FALSE(IsMountHelper("/mount.imagefs/imagefs"));
  EXPECT_FALSE(IsMountHelper(""));
}

TEST(MountHelperTest, AsMount8CallsIt) {
  const MountArgs mount = Parsed({"docker.io/library/alpine:3", "/mnt", "-o", "rw"});
  EXPECT_EQ(mount.reference, "docker.io/library/alpine:3");
  EXPECT_EQ(mount.directory, "/mnt");
  EXPECT_FALSE(mount.writable) << "mount(8) says rw when nobody said anything";
  EXPECT_TRUE(mount.quiet);
  EXPECT_TRUE(mount.for_mount8);
}

TEST(MountHelperTest, LettersAnywhereAndTogether) {
  const MountArgs mount =
      Parsed({"-nv", "alpine", "-t", "imagefs", "-osuid,dev", "/mnt", "-o", "noexec"});
  EXPECT_FALSE(mount.quiet);
  EXPECT_EQ(mount.reference, "alpine");
  EXPECT_EQ(mount.directory, "/mnt");
  EXPECT_TRUE(mount.suid);
  EXPECT_TRUE(mount.dev);
  EXPECT_TRUE(mount.noexec);
  EXPECT_EQ(Parsed({"alpine", "--", "-strange"}).directory, "-strange");
}

TEST(MountHelperTest, Mount8KeepsSuidAndDevToItself) {
  const MountArgs mount = Parsed({"alpine", "/mnt", "-o", "rw,setuid,devices"});
  EXPECT_TRUE(mount.suid);
  EXPECT_TRUE(mount.dev);
  EXPECT_FALSE(Parsed({"alpine", "/mnt", "-o", "rw,setuid,nosuid"}).suid) << "the last one counts";
}

TEST(MountHelperTest, AnEmptyPathIsAnError) {
  EXPECT_EQ(Exit({"alpine", ""}).code, 1);
  EXPECT_EQ(Exit({"alpine", "/mnt", "-o", "writable,upper="}).code, 1);
  EXPECT_EQ(Exit({"alpine", "/mnt", "-o", "root="}).code, 1);
}

TEST(MountHelperTest, WordsOfFstab) {
  const Command whole = ParsedCommand(
      {"alpine", "/mnt", "-o",
       "rw,noauto,user=joe,nofail,_netdev,comment=x,x-systemd.requires=imagefs.socket,X-mount."
       "mkdir,"
       "writable,upper=/var/up,mode=kernel,pull=always,platform=linux/arm64,deadline=5,eager,"
       "plain-http,tls-skip-verify,root=/r,run=/u,config=/c,ca-file=/a"});
  const MountArgs& mount = std::get<MountArgs>(whole.args);
  EXPECT_TRUE(mount.writable);
  EXPECT_EQ(mount.upper, "/var/up");
  EXPECT_EQ(mount.mode, "kernel");
  EXPECT_EQ(mount.image.pull, "always");
  EXPECT_EQ(mount.image.platform, "linux/arm64");
  EXPECT_EQ(mount.deadline_seconds, 5);
  EXPECT_TRUE(mount.eager);
  EXPECT_TRUE(mount.image.plain_http);
  EXPECT_TRUE(mount.image.skip_tls_verify);
  EXPECT_EQ(whole.global.root, "/r");
  EXPECT_EQ(whole.global.run, "/u");
  EXPECT_EQ(whole.global.config, "/c");
  EXPECT_EQ(whole.global.ca_file, "/a");
  const MountArgs mapped =
      Parsed({"alpine", "/mnt", "-o", "map-uids=0:1:2,context=\"u:r:t:s0:c1,c2\",ro,suid"});
  EXPECT_EQ(mapped.id_map, "0:1:2");
  EXPECT_EQ(mapped.context, "u:r:t:s0:c1,c2");
  EXPECT_FALSE(mapped.writable);
}

TEST(MountHelperTest, WrongUseEndsWith1) {
  const std::vector<std::pair<std::vector<const char*>, const char*>> wrong = {
      {{}, "an image and a directory"},
      {{"alpine"}, "an image and a directory"},
      {{"alpine", "/mnt", "/more"}, "an image and a directory"},
      {{"alpine", "/mnt", "-x"}, "-x is not known"},
      {{"alpine", "/mnt", "--verbose"}, "is not known"},
      {{"alpine", "/mnt", "-o"}, "takes a value"},
      {{"alpine", "/mnt", "-t", "ext4"}, "ext4 is not imagefs"},
      {{"alpine", "/mnt", "-o", "flying"}, "flying is not known"},
      {{"alpine", "/mnt", "-o", "mode=eager"}, "mode= takes auto, kernel or fuse"},
      {{"alpine", "/mnt", "-o", "pull=soon"}, "pull= takes"},
      {{"alpine", "/mnt", "-o", "deadline=0"}, "deadline= takes a number of seconds"},
      {{"alpine", "/mnt", "-o", "deadline"}, "deadline is not known"},
      {{"alpine", "/mnt", "-o", "upper="}, "upper= takes a value"},
      {{"alpine", "/mnt", "-o", "uid="}, "uid= takes a number, or a name"},
      {{"alpine", "/mnt", "-o", "uid=4294967295"}, "uid= takes a number, or a name"},
      {{"alpine", "/mnt", "-o", "gid=no such group"}, "gid= takes a number, or a name"},
      {{"alpine", "/mnt", "-o", "umask=8"}, "umask= takes permissions in octal"},
      {{"alpine", "/mnt", "-o", "dmask=1777"}, "dmask= takes permissions in octal"},
      {{"alpine", "/mnt", "-o", "allow_root"}, "use allow_other"},
      {{"alpine", "/mnt", "-o", "uid=1,mode=kernel"}, "need FUSE"},
      {{"alpine", "/mnt", "-o", "fmask=0,map-uids=0:1:2"}, "need FUSE"},
      {{"alpine", "/mnt", "-o", "platform=a/b/c/d"}, "platform="},
      {{"alpine", "/mnt", "-o", "remount,ro"}, "remount is not possible"},
      {{"alpine", "/mnt", "-o", "context=\"a"}, "quotation mark"},
      {{"alpine", "/mnt", "-o", "upper=/x"}, "--upper needs --rw"},
      {{"alpine", "/mnt", "-o", "writable,map-uids=0:1:2"}, "exclude each other"},
      {{"UPPER CASE", "/mnt"}, ""},
  };
  for (const auto& [arguments, message] : wrong) {
    const CliExit exit = Exit(arguments);
    EXPECT_EQ(exit.code, 1) << message;
    EXPECT_EQ(exit.output, "");
    EXPECT_TRUE(exit.error.starts_with("mount.imagefs: ")) << exit.error;
    EXPECT_NE(exit.error.find(message), std::string::npos) << exit.error;
  }
}

TEST(MountHelperTest, CredentialsComeFromAFileOnly) {
  const auto parse = [](const char* reference, const char* words) {
    const char* argv[] = {"mount.imagefs", reference, "/mnt", "-o", words};
    return ParseMountHelper(5, argv, "1");
  };
  const auto parsed = parse("r.test/a", "authfile=/root/auth.json");
  ASSERT_TRUE(std::holds_alternative<Command>(parsed));
  EXPECT_EQ(std::get<MountArgs>(std::get<Command>(parsed).args).image.auth_file, "/root/auth.json");
  EXPECT_TRUE(std::holds_alternative<CliExit>(parse("oci:/l", "authfile=/root/auth.json")));
  EXPECT_TRUE(std::holds_alternative<CliExit>(parse("r.test/a", "creds=me:password")));
}

TEST(MountHelperTest, SloppyPassesOverWhatItDoesNotKnow) {
  EXPECT_TRUE(Parsed({"alpine", "/mnt", "-s", "-o", "flying,dev"}).dev);
  EXPECT_TRUE(Parsed({"alpine", "/mnt", "-o", "flying,dev", "-s"}).dev);
  // What it knows has to be right all the same.
  EXPECT_EQ(Exit({"alpine", "/mnt", "-s", "-o", "mode=eager"}).code, 1);
}

TEST(MountHelperTest, FakeChecksAndMountsNothing) {
  EXPECT_EQ(Exit({"alpine", "/mnt", "-f"}).code, 0);
  EXPECT_EQ(Exit({"alpine", "/mnt", "-f", "-o", "flying"}).code, 1);
  EXPECT_EQ(Exit({"UPPER CASE", "/mnt", "-f"}).code, 1);
}

TEST(MountHelperTest, HelpAndVersion) {
  EXPECT_EQ(Exit({"--version"}).output, "mount.imagefs 1.2.3\n");
  EXPECT_EQ(Exit({"-h"}).code, 0);
  EXPECT_TRUE(Exit({"-h"}).output.starts_with("mount.imagefs REF DIR"));
}

TEST(MountHelperTest, StatusesAreThoseOfMount8) {
  EXPECT_EQ(MountHelperStatus(0), 0);
  EXPECT_EQ(MountHelperStatus(1), 32);
  EXPECT_EQ(MountHelperStatus(130), 8);
}

TEST(MountHelperTest, TakesTheNamespaceOfMount8) {
  EXPECT_EQ(Parsed({"alpine", "/mnt", "-N", "/proc/1/ns/mnt"}).name_space, "/proc/1/ns/mnt");
  EXPECT_EQ(Parsed({"alpine", "/mnt"}).name_space, "");
}

}  // namespace
}  // namespace imagefs
