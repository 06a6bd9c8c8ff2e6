// SPDX-License-Identifier: Apache-2.0
#include "cmd/output.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <functional>
#include <string>

#include "base/fd.h"
#include "base/text.h"
#include "cmd/cli.h"
#include "gtest/gtest.h"

namespace imagefs {
namespace {

struct Ended {
  int status = -1;
  std::string out, error;
};

// Runs `body` in a process with these standard descriptors (a path that is opened, "" = closed).
Ended Ran(const std::function<int()>& body, const std::string& out, bool ignore_pipe = false) {
  const std::string name = StrCat(testing::TempDir(), "/output-", RandomHex(6));
  const pid_t child = fork();
  if (child == 0) {
    if (ignore_pipe) signal(SIGPIPE, SIG_IGN);
    dup2(open((name + ".err").c_str(), O_WRONLY | O_CREAT, 0600), 2);
    close(1);
    if (!out.empty()) {
      const std::string path = out == "file" ? name + ".out" : out;
      if (open(path.c_str(), O_WRONLY | O_CREAT, 0600) != 1) _exit(99);
    }
    HoldStandardDescriptors();
    _exit(body());
  }
  Ended ended;
  int status = 0;
  EXPECT_EQ(waitpid(child, &status, 0), child);
  ended.status = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  ended.out = ReadFile(name + ".out", 1000).value_or("");
  ended.error = ReadFile(name + ".err", 1000).value_or("");
  return ended;
}

int Say() {
  Output output(/*json=*/false);
  output.Print("text\n");
  return output.Finish(0);
}

int SayNothing() {
  Output output(/*json=*/false);
  return output.Finish(0);
}

TEST(OutputTest, WhatIsPrintedArrives) {
  const Ended ended = Ran(Say, "file");
  EXPECT_EQ(ended.status, 0);
  EXPECT_EQ(ended.out, "text\n");
  EXPECT_EQ(ended.error, "");
}

TEST(OutputTest, AFailureIsSaidAndCounts) {
  const Ended full = Ran(Say, "/dev/full");
  EXPECT_EQ(full.status, 1);
  EXPECT_EQ(full.error, "imagefs: standard output: No space left on device\n");
  EXPECT_EQ(Ran(SayNothing, "/dev/full").status, 0);
}

TEST(OutputTest, AClosedOneFailsAndNothingElseGetsItsNumber) {
  const Ended closed = Ran(
      [] {
        const Fd socket(open("/dev/null", O_WRONLY));
        return socket.get() <= 2 ? 98 : Say();
      },
      "");
  EXPECT_EQ(closed.status, 1);
  EXPECT_EQ(closed.error, "imagefs: standard output: Bad file descriptor\n");
  EXPECT_EQ(Ran(SayNothing, "").status, 0);
}

TEST(OutputTest, WhoReadsNoLongerIsToldNothing) {
  const Ended ended = Ran(
      [] {
        int ends[2];
        if (pipe(ends) != 0) return 98;
        close(ends[0]);
        dup2(ends[1], 1);
        return Say();
      },
      "/dev/null", /*ignore_pipe=*/true);
  EXPECT_EQ(ended.status, 1);
  EXPECT_EQ(ended.error, "");
}

TEST(OutputTest, AFailureIsOneLineAndWithJsonAnObject) {
  const auto fail = [](bool json) {
    Output output(json);
    const int status = output.Fail(absl::NotFoundError("no\nsuch\x1bthing"));
    return output.Finish(status);
  };
  const Ended plain = Ran([&] { return fail(false); }, "file");
  EXPECT_EQ(plain.status, 4);
  EXPECT_EQ(plain.out, "");
  EXPECT_EQ(plain.error, "imagefs: no such thing\n");
  const Ended json = Ran([&] { return fail(true); }, "file");
  EXPECT_EQ(json.error, plain.error);
  EXPECT_EQ(json.status, 4);
  EXPECT_NE(json.out.find("\"code\": \"not_found\""), std::string::npos);
  EXPECT_NE(json.out.find("\"exit\": 4"), std::string::npos);
}

TEST(OutputTest, AnExitKeepsItsStatus) {
  const auto usage = [] { return PrintExit(CliExit{2, "", "imagefs: wrong\n"}); };
  EXPECT_EQ(Ran(usage, "/dev/full").status, 2);
  const auto help = [] { return PrintExit(CliExit{0, "help\n", ""}); };
  EXPECT_EQ(Ran(help, "/dev/full").status, 1);
  EXPECT_EQ(Ran(help, "file").out, "help\n");
}

}  // namespace
}  // namespace imagefs
