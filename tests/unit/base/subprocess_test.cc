// SPDX-License-Identifier: Apache-2.0
#include "base/subprocess.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <string>
#include <thread>

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

TEST(Subprocess, AnswersOnStandardErrorInAnEnvironmentOfItsOwn) {
  ASSERT_EQ(setenv("SUBPROCESS_TEST", "inherited", 1), 0);
  ProgramCall call = Shell("echo noise; echo \"[$SUBPROCESS_TEST$WORD]\" >&2");
  call.environment = {"WORD=given"};
  call.add_own_environment = false;
  call.answers_on_errors = true;
  const auto result = RunProgram(call);
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->output, "[given]\n");
}

TEST(Subprocess, IsGivenOneMoreDescriptor) {
  int ends[2];
  ASSERT_EQ(pipe2(ends, O_CLOEXEC), 0);
  const Fd reader(ends[0]);
  Fd writer(ends[1]);
  ProgramCall call = Shell("echo through it >&3");
  call.descriptor_3 = writer.get();
  ASSERT_TRUE(RunProgram(call).ok());
  writer.Reset();
  char text[32];
  const ssize_t n = read(reader.get(), text, sizeof(text));
  ASSERT_GT(n, 0);
  EXPECT_EQ(std::string(text, static_cast<size_t>(n)), "through it\n");
}

TEST(Subprocess, WhatGoesOnByItselfHasNothingOfThisProcessButWhatItIsGiven) {
  const std::string file = StrCat(::testing::TempDir(), "/spawned-", getpid());
  auto out = OpenFile(file, O_RDWR | O_CREAT | O_TRUNC);
  ASSERT_TRUE(out.ok()) << out.status();
  const Fd inheritable(fcntl(out->get(), F_DUPFD, 20));
  ASSERT_TRUE(inheritable.valid());
  SpawnOptions options;
  options.program = "sh";
  options.argv = {"its-name", "-c",
                  StrCat("echo $0; pwd; read -r a b c d e session rest </proc/$$/stat; "
                         "[ $session = $$ ] && echo leads; [ -e /proc/self/fd/",
                         inheritable.get(), " ] || echo closed; echo $WORD; cat")};
  options.environment = {"WORD=word", StrCat("PATH=", getenv("PATH"))};
  options.descriptors = {
      {STDIN_FILENO, kDevNull}, {STDOUT_FILENO, out->get()}, {STDERR_FILENO, out->get()}};
  options.group = SpawnOptions::Group::kOwnSession;
  options.directory = "/";
  const auto pid = Spawn(options);
  ASSERT_TRUE(pid.ok()) << pid.status();
  int status = 0;
  ASSERT_EQ(waitpid(*pid, &status, 0), *pid);
  EXPECT_EQ(status, 0);
  EXPECT_EQ(ReadFile(file, 1000).value_or(""), "its-name\n/\nleads\nclosed\nword\n");
  (void)unlink(file.c_str());
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

TEST(Subprocess, WhatIsTooMuchMayBeCut) {
  ProgramCall call = Shell("yes | head -c 3000000; exit 4");
  call.cut_output = true;
  call.max_output_bytes = 5000;
  const auto result = RunProgram(call);
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->output.size(), 5000U);
  EXPECT_EQ(result->HowItEnded(), "it ended with status 4");
}

TEST(Subprocess, WhatNobodyWaitsForIsEnded) {
  CancelSource cancel;
  ProgramCall call = Shell("echo begun; sleep 1000");
  call.cancel = cancel.token();
  call.timeout = std::chrono::seconds(900);
  std::thread caller([&] { EXPECT_TRUE(absl::IsCancelled(RunProgram(call).status())); });
  cancel.Cancel();
  caller.join();
  EXPECT_TRUE(absl::IsCancelled(RunProgram(call).status()));  // it has been before
}

TEST(Subprocess, WhatTakesTooLongIsEndedWithItsChildren) {
  const std::string file = StrCat(::testing::TempDir(), "/subprocess-", getpid());
  ProgramCall call = Shell(StrCat("sleep 1000 & echo $! >", file, "; wait"));
  call.timeout = std::chrono::seconds(1);
  EXPECT_TRUE(absl::IsDeadlineExceeded(RunProgram(call).status()));
  const auto pid = ReadFile(file, 100);
  ASSERT_TRUE(pid.ok()) << pid.status();
  // It is killed, then reaped by another process or not at all: gone, or a zombie.
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
