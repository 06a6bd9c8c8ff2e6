// SPDX-License-Identifier: Apache-2.0
// Tests the real imagefs-holder.
#include "fs/session_holder.h"

#include <signal.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <filesystem>
#include <set>

#include "base/text.h"
#include "gtest/gtest.h"
#include "tests/fakes/fs/descriptor_keeper_contract.h"
#include "tests/fakes/fs/fake_keeper.h"
#include "tests/fakes/fs/mount_fixture.h"

namespace imagefs {
namespace {

// A run directory, and the processes that were started for it.
class RunDirectory {
 public:
  RunDirectory() : path_(StrCat(testing::TempDir(), "/holder-", RandomHex(6))) {
    EXPECT_TRUE(MakeDirs(path_).ok());
  }
  ~RunDirectory() {
    for (const pid_t pid : Holders()) kill(pid, SIGKILL);
    EXPECT_TRUE(Eventually([&] { return Holders().empty(); }));
    EXPECT_TRUE(RemoveTree(path_).ok());
  }
  const std::string& path() const { return path_; }
  std::vector<pid_t> Holders() const {
    std::vector<pid_t> out;
    for (const auto& entry : std::filesystem::directory_iterator("/proc")) {
      const std::string pid = entry.path().filename();
      if (pid.find_first_not_of("0123456789") != std::string::npos) continue;
      // The process may end in the meantime.
      const std::string words =
          ReadFile((entry.path() / "cmdline").string(), 64 << 10).value_or("");
      if (words ==
          StrCat("imagefs-holder", std::string_view("\0", 1), path_, std::string_view("\0", 1))) {
        out.push_back(std::stoi(pid));
      }
    }
    return out;
  }

 private:
  const std::string path_;
};

class SessionHolderTest : public testing::Test {
 protected:
  std::unique_ptr<SessionHolder> NewDaemon() {
    return std::make_unique<SessionHolder>(SessionHolder::Options{directory_, IMAGEFS_HOLDER, {}});
  }
  std::vector<pid_t> Holders() const { return run_.Holders(); }
  static Fd File() { return Fd(memfd_create("kept", MFD_CLOEXEC)); }
  static ino_t InodeOf(const Fd& fd) {
    struct stat st;
    return fstat(fd.get(), &st) == 0 ? st.st_ino : 0;
  }

  const RunDirectory run_;
  const std::string& directory_ = run_.path();
};

TEST_F(SessionHolderTest, DescriptorsOutliveWhoGaveThem) {
  const Fd a = File(), b = File();
  {
    const auto daemon = NewDaemon();
    EXPECT_TRUE(daemon->Inherit().empty());
    EXPECT_TRUE(Holders().empty()) << "nothing is started for nothing";
    ASSERT_EQ(daemon->Keep("aa", a), absl::OkStatus());
    ASSERT_EQ(daemon->Keep("bb", b), absl::OkStatus());
  }
  const auto next = NewDaemon();
  std::map<std::string, ino_t> found;
  for (const KeptDescriptor& kept : next->Inherit()) found[kept.name] = InodeOf(kept.fd);
  EXPECT_EQ(found, (std::map<std::string, ino_t>{{"aa", InodeOf(a)}, {"bb", InodeOf(b)}}));
  EXPECT_EQ(Holders().size(), 1u);
  // They remain kept for the daemon after that.
  EXPECT_EQ(NewDaemon()->Inherit().size(), 2u);
  next->Drop("aa");
  EXPECT_EQ(NewDaemon()->Inherit().size(), 1u);
  next->Drop("bb");
  EXPECT_TRUE(Eventually([&] { return Holders().empty(); })) << "it ends when it holds nothing";
  // It is started again when needed.
  ASSERT_EQ(next->Keep("cc", a), absl::OkStatus());
  EXPECT_EQ(NewDaemon()->Inherit().size(), 1u);
}

TEST_F(SessionHolderTest, ANameIsKeptOnce) {
  const Fd a = File(), b = File();
  const auto daemon = NewDaemon();
  ASSERT_EQ(daemon->Keep("aa", a), absl::OkStatus());
  ASSERT_EQ(daemon->Keep("aa", b), absl::OkStatus());
  const std::vector<KeptDescriptor> kept = NewDaemon()->Inherit();
  ASSERT_EQ(kept.size(), 1u);
  EXPECT_EQ(InodeOf(kept[0].fd), InodeOf(b));
}

TEST_F(SessionHolderTest, AThousandAreKept) {
  const auto daemon = NewDaemon();
  const Fd file = File();
  for (int i = 0; i < 1000; ++i) ASSERT_EQ(daemon->Keep(StrCat("n", i), file), absl::OkStatus());
  std::set<std::string> names;
  for (const KeptDescriptor& kept : NewDaemon()->Inherit()) names.insert(kept.name);
  EXPECT_EQ(names.size(), 1000u);
}

TEST_F(SessionHolderTest, AKilledOneIsReplaced) {
  const auto daemon = NewDaemon();
  const Fd file = File();
  ASSERT_EQ(daemon->Keep("aa", file), absl::OkStatus());
  for (const pid_t pid : Holders()) kill(pid, SIGKILL);
  ASSERT_TRUE(Eventually([&] { return Holders().empty(); }));
  ASSERT_EQ(daemon->Keep("bb", file), absl::OkStatus());
  const std::vector<KeptDescriptor> kept = NewDaemon()->Inherit();
  ASSERT_EQ(kept.size(), 1u);
  EXPECT_EQ(kept[0].name, "bb");
}

// A program that takes the daemon's place and reports that it ran.
class RestartTest : public SessionHolderTest {
 protected:
  std::unique_ptr<SessionHolder> NewDaemon() {
    const std::string ran = directory_ + "/ran";
    return std::make_unique<SessionHolder>(
        SessionHolder::Options{directory_,
                               IMAGEFS_HOLDER,
                               {"/bin/sh", "sh", "-c", StrCat("echo $HOME $# >>", ran), "-"},
                               absl::Milliseconds(20)});
  }
  std::string Ran() const { return ReadFile(directory_ + "/ran", 4096).value_or(""); }
};

TEST_F(RestartTest, AKilledDaemonIsStartedAgainUntilOneIsThere) {
  // Its destructor closes the connection, as a kill does.
  ASSERT_EQ(NewDaemon()->Keep("aa", File()), absl::OkStatus());
  const std::string line = StrCat(getenv("HOME"), " 0\n");
  EXPECT_TRUE(Eventually([&] { return Ran().starts_with(StrCat(line, line)); })) << Ran();
  const auto next = NewDaemon();
  EXPECT_EQ(next->Inherit().size(), 1u);
  absl::SleepFor(absl::Milliseconds(500));  // let anything that was just started finish
  const std::string before = Ran();
  absl::SleepFor(absl::Milliseconds(1500));
  EXPECT_EQ(Ran(), before) << "one is there";
  EXPECT_EQ(Holders().size(), 1u);
}

TEST_F(RestartTest, OneThatWasToldToEndIsNot) {
  {
    const auto daemon = NewDaemon();
    ASSERT_EQ(daemon->Keep("aa", File()), absl::OkStatus());
    daemon->Leave();
  }
  absl::SleepFor(absl::Milliseconds(100));
  EXPECT_EQ(Ran(), "");
  // The next one may be killed, too.
  EXPECT_EQ(NewDaemon()->Inherit().size(), 1u);
  EXPECT_TRUE(Eventually([&] { return !Ran().empty(); }));
}

TEST_F(RestartTest, NothingHeldNeedsNoDaemon) {
  {
    const auto daemon = NewDaemon();
    ASSERT_EQ(daemon->Keep("aa", File()), absl::OkStatus());
    daemon->Drop("aa");
  }
  EXPECT_TRUE(Eventually([&] { return Holders().empty(); }));
  EXPECT_EQ(Ran(), "");
}

TEST_F(RestartTest, ACommandLineThatDoesNotFitIsAnError) {
  SessionHolder daemon({directory_, IMAGEFS_HOLDER, {"/bin/sh", "sh", std::string(1 << 20, 'x')}});
  EXPECT_TRUE(absl::IsInvalidArgument(daemon.Keep("aa", File())));
}

TEST_F(SessionHolderTest, WhatCannotBeStartedIsAnError) {
  SessionHolder daemon({directory_, directory_ + "/none", {}});
  EXPECT_FALSE(daemon.Keep("aa", File()).ok());
}

class HolderHarness {
 public:
  DescriptorKeeper& keeper() { return *daemon_; }
  void NextDaemon() { daemon_ = New(); }

 private:
  std::unique_ptr<SessionHolder> New() const {
    return std::make_unique<SessionHolder>(SessionHolder::Options{run_.path(), IMAGEFS_HOLDER, {}});
  }

  const RunDirectory run_;
  std::unique_ptr<SessionHolder> daemon_ = New();
};

class FakeHarness {
 public:
  DescriptorKeeper& keeper() { return keeper_; }
  void NextDaemon() {}

 private:
  FakeKeeper keeper_;
};

INSTANTIATE_TYPED_TEST_SUITE_P(Holder, DescriptorKeeperContractTest, HolderHarness);
INSTANTIATE_TYPED_TEST_SUITE_P(Fake, DescriptorKeeperContractTest, FakeHarness);

}  // namespace
}  // namespace imagefs
