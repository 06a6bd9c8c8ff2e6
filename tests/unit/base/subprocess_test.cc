#include "base/subprocess.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <unistd.h>

#include <filesystem>
#include <string>

#include "base/fd.h"
#include "base/text.h"

namespace imagefs {
namespace {

ProgramCall Shell(std::string script) {
  ProgramCall call;
  call.argv = {"sh", "-c", std::move(script)};
  return call;
}

TEST(Subprocess, AnswersWhatItIsGiven) {
  ProgramCall call = Shell("cat; printf %s \"$WORD\"; echo noise >&2");
  call.input = "question ";
  call.environment = {"WORD=answer"};
  const auto result = RunProgram(call);
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_TRUE(result->succeeded());
  EXPECT_EQ(result->output, "question answer");
}

TEST(Subprocess, InputThatIsNotReadBreaksNothing) {
  const std::string input(1 << 20, 'x');
  ProgramCall call = Shell("echo done");
  call.input = input;
  const auto result = RunProgram(call);
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->output, "done\n");
}

TEST(Subprocess, SaysHowItEnded) {
  const auto failed = RunProgram(Shell("echo no such host; exit 3"));
  ASSERT_TRUE(failed.ok()) << failed.status();
  EXPECT_FALSE(failed->succeeded());
  EXPECT_EQ(failed->Complaint(), "it ended with status 3 (no such host)");
  const auto killed = RunProgram(Shell("kill -KILL $$"));
  ASSERT_TRUE(killed.ok()) << killed.status();
  EXPECT_EQ(killed->Complaint(), "it was killed by signal 9");
  const auto secret = RunProgram(Shell("echo '{\"Secret\": \"s3cret\"}'; exit 1"));
  ASSERT_TRUE(secret.ok()) << secret.status();
  EXPECT_EQ(secret->Complaint().find("s3cret"), std::string::npos);
}

TEST(Subprocess, ProgramsThatAreNotThere) {
  ProgramCall call;
  call.argv = {"imagefs-no-such-program"};
  EXPECT_TRUE(absl::IsNotFound(RunProgram(call).status()));
  call.argv = {"/nowhere/program"};
  EXPECT_TRUE(absl::IsNotFound(RunProgram(call).status()));
  call.argv = {"/etc/passwd"};
  EXPECT_TRUE(absl::IsPermissionDenied(RunProgram(call).status())) << RunProgram(call).status();
}

TEST(Subprocess, SaysTooMuch) {
  ProgramCall call = Shell("yes");
  EXPECT_TRUE(absl::IsResourceExhausted(RunProgram(call).status()));
}

TEST(Subprocess, WhatTakesTooLongIsEndedWithItsChildren) {
  const std::string file = StrCat(::testing::TempDir(), "/subprocess-", getpid());
  ProgramCall call = Shell(StrCat("sleep 1000 & echo $! >", file, "; wait"));
  call.timeout = std::chrono::seconds(1);
  EXPECT_TRUE(absl::IsDeadlineExceeded(RunProgram(call).status()));
  const auto pid = ReadFile(file, 100);
  ASSERT_TRUE(pid.ok()) << pid.status();
  // It is killed and then reaped by somebody else, if at all: gone, or a zombie.
  const std::string path = StrCat("/proc/", pid->substr(0, pid->find('\n')), "/stat");
  bool lives = true;
  for (int i = 0; i < 500 && lives; ++i) {
    const auto stat = ReadFile(path, 4096);
    lives = stat.ok() && stat->find(") Z ") == std::string::npos;
    if (lives) usleep(10'000);
  }
  EXPECT_FALSE(lives);
  std::filesystem::remove(file);
}

}  // namespace
}  // namespace imagefs
