// SPDX-License-Identifier: Apache-2.0
#include "fetch/image_verifier.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "absl/synchronization/notification.h"
#include "base/fd.h"
#include "base/json.h"
#include "base/status.h"
#include "base/text.h"
#include "tests/fakes/base/eventually.h"

namespace imagefs {
namespace {

class ImageVerifierTest : public ::testing::Test {
 protected:
  ImageVerifierTest()
      : directory_(StrCat(::testing::TempDir(), "/verifiers-", getpid(), "-", ++count_)) {
    std::filesystem::remove_all(directory_);
    std::filesystem::create_directories(bin());
    chmod(bin().c_str(), 0755);
    image_ = {"registry.test/app:1", "application/vnd.oci.image.index.v1+json",
              Sha256Of("an index"), 1234};
  }
  ~ImageVerifierTest() override { std::filesystem::remove_all(directory_); }

  std::string bin() const { return directory_ + "/bin"; }
  std::string At(std::string_view name) const { return StrCat(directory_, "/", name); }
  void Program(const std::string& name, const std::string& script, mode_t mode = 0755) {
    const std::string path = StrCat(bin(), "/", name);
    ASSERT_TRUE(WriteFileDurably(path, StrCat("#!/bin/sh\n", script, "\n")).ok());
    ASSERT_EQ(chmod(path.c_str(), mode), 0);
  }
  ImageVerifier& verifier() {
    if (verifier_ == nullptr) {
      verifier_ = std::make_unique<ImageVerifier>(ImageVerifier::Options{bin(), timeout_});
    }
    return *verifier_;
  }
  struct Call {
    absl::Notification ended;
    absl::Status status;
    FlightTicket ticket;
  };
  std::unique_ptr<Call> Start(const ImageVerifier::Image& image) {
    auto call = std::make_unique<Call>();
    call->ticket = verifier().Verify(image, [raw = call.get()](const absl::Status& status) {
      raw->status = status;
      raw->ended.Notify();
    });
    return call;
  }
  absl::Status Verify(const ImageVerifier::Image& image) {
    const std::unique_ptr<Call> call = Start(image);
    call->ended.WaitForNotification();
    return call->status;
  }
  absl::Status Verify() { return Verify(image_); }
  void ExpectDenied(const absl::Status& status, std::string_view cause) {
    EXPECT_TRUE(IsImageDenied(status)) << status;
    EXPECT_TRUE(absl::IsPermissionDenied(status)) << status;
    EXPECT_NE(ToStd(status.message()).find(cause), std::string_view::npos) << status;
    EXPECT_NE(ToStd(status.message()).find(image_.name), std::string_view::npos) << status;
  }
  uint64_t Counter(std::string_view name) {
    std::vector<std::pair<std::string, uint64_t>> counters;
    verifier().AppendCounters(counters);
    for (const auto& [key, value] : counters) {
      if (key == name) return value;
    }
    ADD_FAILURE() << "no counter " << name;
    return 0;
  }
  std::string Text(std::string_view name) { return ReadFile(At(name), 1 << 20).value_or("(none)"); }

  static int count_;
  const std::string directory_;
  ImageVerifier::Image image_;
  absl::Duration timeout_ = absl::Seconds(60);
  std::unique_ptr<ImageVerifier> verifier_;
};
int ImageVerifierTest::count_ = 0;

TEST_F(ImageVerifierTest, ProgramsGetWhatContainerdGivesThem) {
  Program("b", StrCat("printf '%s\\n' \"$@\" >", At("arguments"), "; cat >", At("input"),
                      "; echo b >>", At("order")));
  Program("a", StrCat("echo a >>", At("order")));
  ASSERT_TRUE(Verify().ok()) << Verify();
  EXPECT_EQ(Text("arguments"),
            StrCat("-name\nregistry.test/app:1\n-digest\n", image_.digest.ToString(),
                   "\n-stdin-media-type\napplication/vnd.oci.descriptor.v1+json\n"));
  const auto json = Json::Parse(Text("input"));
  ASSERT_TRUE(json.ok()) << json.status();
  EXPECT_EQ(json->StringOr("mediaType"), "application/vnd.oci.image.index.v1+json");
  EXPECT_EQ(json->StringOr("digest"), image_.digest.ToString());
  EXPECT_EQ(json->IntOr("size", 0), 1234);
  EXPECT_EQ(Text("order"), "a\nb\n");
}

TEST_F(ImageVerifierTest, OneDenialIsEnough) {
  Program("a", "exit 0");
  Program("b", "echo; echo 'no signature'; echo 'of mine'; echo noise >&2; exit 3");
  Program("c", StrCat("touch ", At("ran")));
  ExpectDenied(Verify(), "/bin/b: it ended with status 3: no signature\\nof mine;");
  EXPECT_EQ(Text("ran"), "(none)");
  EXPECT_EQ(Counter("verify_denied"), 1U);
  EXPECT_EQ(Counter("verify_program_runs"), 2U);
  EXPECT_TRUE(IsImageDenied(Annotate(Verify(), "while mounting")));
  EXPECT_FALSE(IsImageDenied(absl::PermissionDeniedError("no")));
}

TEST_F(ImageVerifierTest, WhatIsAllowedIsRememberedAndADenialIsNot) {
  Program("a", StrCat("echo run >>", At("runs"), "; test -e ", At("signed")));
  ExpectDenied(Verify(), "status 1");
  ASSERT_TRUE(WriteFileDurably(At("signed"), "").ok());
  EXPECT_TRUE(Verify().ok());
  std::filesystem::remove(At("signed"));
  EXPECT_TRUE(Verify().ok());
  EXPECT_EQ(Text("runs"), "run\nrun\n");
  // Another name and another digest are other questions.
  ImageVerifier::Image other = image_;
  other.name = "registry.test/app:2";
  EXPECT_TRUE(IsImageDenied(Verify(other)));
  other = image_;
  other.digest = Sha256Of("another");
  EXPECT_TRUE(IsImageDenied(Verify(other)));
}

TEST_F(ImageVerifierTest, CallersShareARun) {
  Program("a", StrCat("echo run >>", At("runs"), "; while ! test -e ", At("go"),
                      "; do sleep 0.01; done"));
  std::vector<std::unique_ptr<Call>> calls;
  for (int i = 0; i < 20; ++i) calls.push_back(Start(image_));
  calls[3]->ticket.Leave();
  calls[3]->ended.WaitForNotification();
  EXPECT_TRUE(absl::IsCancelled(calls[3]->status));
  ASSERT_TRUE(WriteFileDurably(At("go"), "").ok());
  for (size_t i = 0; i < calls.size(); ++i) {
    calls[i]->ended.WaitForNotification();
    EXPECT_TRUE(i == 3 || calls[i]->status.ok()) << calls[i]->status;
  }
  EXPECT_EQ(Text("runs"), "run\n");
  EXPECT_EQ(verifier().Flights().counters.joins, 19U);
}

TEST_F(ImageVerifierTest, NobodyWaitsSoTheProgramEnds) {
  Program("a", StrCat("echo $$ >", At("pid"), "; while :; do sleep 0.01; done"));
  const std::unique_ptr<Call> call = Start(image_);
  ASSERT_TRUE(Eventually([&] { return Text("pid").ends_with("\n") && Text("pid") != "(none)"; }));
  const pid_t pid = static_cast<pid_t>(std::stoi(Text("pid")));
  call->ticket.Leave();
  EXPECT_TRUE(Eventually([&] { return kill(pid, 0) != 0; }));
  EXPECT_TRUE(Eventually([&] { return verifier().Flights().running.empty(); }));
  EXPECT_EQ(Counter("verify_denied"), 0U);
}

TEST_F(ImageVerifierTest, AProgramThatTakesTooLongDenies) {
  timeout_ = absl::Milliseconds(200);  // one second
  Program("a", "echo begun; sleep 1000");
  ExpectDenied(Verify(), "no answer within 1 seconds");
  EXPECT_NE(Verify().message().find("timeout in [verify]"), absl::string_view::npos);
}

TEST_F(ImageVerifierTest, ProgramsThatBehaveBadly) {
  Program("a", "kill -SEGV $$");
  ExpectDenied(Verify(), "it was killed by signal 11");
  // What is beyond the limit is discarded, by the contract; the message stays short.
  Program("a", "yes 0123456789 | head -c 5000000; exit 1");
  const absl::Status denied = Verify();
  ExpectDenied(denied, "status 1: 0123456789\\n0123456789");
  EXPECT_LT(denied.message().size(), 2000U);
  Program("a", "printf '\\033[2J\\001\\377'; exit 1");
  ExpectDenied(Verify(), "status 1: \\x1b[2J\\x01\\xff;");
  Program("a", "yes | head -c 5000000");
  EXPECT_TRUE(Verify().ok());
  image_.digest = Sha256Of("input that is not read");
  Program("a", "exec <&-; exit 0");
  EXPECT_TRUE(Verify().ok());
  image_.digest = Sha256Of("a file that cannot be run");
  ASSERT_TRUE(WriteFileDurably(bin() + "/a", "neither script nor program").ok());
  ASSERT_EQ(chmod((bin() + "/a").c_str(), 0755), 0);
  ExpectDenied(Verify(), "cannot be started");
}

TEST_F(ImageVerifierTest, OnlyWhatRootOrThisUserMayChangeIsRun) {
  Program("a", "exit 0", 0775);
  ExpectDenied(Verify(), "/bin/a can be written by others");
  Program("a", "exit 0", 0757);
  ExpectDenied(Verify(), "/bin/a can be written by others; run: chmod go-w ");
  Program("a", "exit 0");
  ASSERT_EQ(chmod(bin().c_str(), 0777), 0);
  ExpectDenied(Verify(), "/bin can be written by others");
  ASSERT_EQ(chmod(bin().c_str(), 0755), 0);
  // Also where a link leads.
  std::filesystem::create_directories(At("open"));
  ASSERT_EQ(rename((bin() + "/a").c_str(), At("open/a").c_str()), 0);
  ASSERT_EQ(chmod(At("open").c_str(), 0777), 0);
  ASSERT_EQ(symlink(At("open/a").c_str(), (bin() + "/a").c_str()), 0);
  ExpectDenied(Verify(), "/open can be written by others");
  ASSERT_EQ(chmod(At("open").c_str(), 0755), 0);
  EXPECT_TRUE(Verify().ok());
  if (geteuid() != 0) return;
  image_.digest = Sha256Of("of another user");
  ASSERT_EQ(chown(At("open/a").c_str(), 12345, 0), 0);
  ExpectDenied(Verify(), "/open/a belongs to user 12345");
}

TEST_F(ImageVerifierTest, WithoutProgramsNothingIsAllowed) {
  ExpectDenied(Verify(), "/bin has no program");
  Program("README", "exit 0", 0644);
  std::filesystem::create_directories(bin() + "/folder");
  ExpectDenied(Verify(), "/bin has no program");
  Program("a", "exit 0");
  EXPECT_TRUE(Verify().ok());  // what is no program is ignored
  image_.digest = Sha256Of("too many");
  for (char name = 'b'; name <= 'k'; ++name) Program(std::string(1, name), "exit 0");
  ExpectDenied(Verify(), "has 11 programs, and at most 10 are run");
  std::filesystem::remove(bin() + "/k");
  EXPECT_TRUE(Verify().ok());
  image_.digest = Sha256Of("a link that leads nowhere");
  ASSERT_EQ(symlink("nowhere", (bin() + "/j2").c_str()), 0);
  ExpectDenied(Verify(), "/bin/j2: No such file");
  std::filesystem::remove_all(bin());
  ExpectDenied(Verify(), "/bin: No such file");
  EXPECT_NE(Verify().message().find("bin_dir in [verify]"), absl::string_view::npos);
}

TEST_F(ImageVerifierTest, NoDirectoryDeniesAll) {
  verifier_ = std::make_unique<ImageVerifier>(ImageVerifier::Options{});
  ExpectDenied(Verify(), "require is set in [verify], but bin_dir is not");
}

}  // namespace
}  // namespace imagefs
