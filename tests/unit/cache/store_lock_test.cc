// SPDX-License-Identifier: Apache-2.0
#include "cache/store_lock.h"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <thread>

#include "absl/time/clock.h"
#include "base/text.h"

namespace imagefs {
namespace {

class StoreLockTest : public ::testing::Test {
 protected:
  StoreLockTest() { std::filesystem::create_directories(root_); }
  ~StoreLockTest() override { std::filesystem::remove_all(root_); }
  const std::string root_ = StrCat(::testing::TempDir(), "/lock-", RandomHex(8));
};

TEST_F(StoreLockTest, OneHasItAndIsNamed) {
  {
    const absl::StatusOr<Fd> lock = LockStore(root_);
    ASSERT_TRUE(lock.ok()) << lock.status();
    const absl::Status second = LockStore(root_).status();
    EXPECT_TRUE(absl::IsFailedPrecondition(second)) << second;
    EXPECT_NE(second.message().find(StrCat("pid ", getpid(), ";")), std::string_view::npos)
        << second;
  }
  EXPECT_TRUE(LockStore(root_).ok());
}

TEST_F(StoreLockTest, WaitsForOneThatWasKilledAndIsAboutToEnd) {
  absl::StatusOr<Fd> lock = LockStore(root_);
  ASSERT_TRUE(lock.ok()) << lock.status();
  // A process of which only the exit status is left, like a daemon whose last threads still hold
  // its files.
  const pid_t gone = fork();
  if (gone == 0) _exit(0);
  siginfo_t info;
  ASSERT_EQ(waitid(P_PID, static_cast<id_t>(gone), &info, WEXITED | WNOWAIT), 0);
  ASSERT_TRUE(PwriteFull(lock->get(), StrCat(gone, "      "), 0).ok());
  std::thread last([&lock] {
    absl::SleepFor(absl::Milliseconds(50));
    lock->Reset();
  });
  const absl::StatusOr<Fd> next = LockStore(root_);
  EXPECT_TRUE(next.ok()) << next.status();
  last.join();
  ASSERT_EQ(waitpid(gone, nullptr, 0), gone);
}

TEST_F(StoreLockTest, FileSystemsOfSeveralMachines) {
  for (const uint64_t type : {0x6969, 0x517B, 0x5346414F, 0x6B414653}) {
    EXPECT_NE(UnsafeFileSystem(type), "") << type;
  }
  EXPECT_EQ(UnsafeFileSystem(0x6969), "NFS");
  EXPECT_EQ(UnsafeFileSystem(0xFF534D42), "SMB");
  // ext4, tmpfs, overlayfs, btrfs, xfs
  for (const uint64_t type : {0xEF53U, 0x01021994U, 0x794c7630U, 0x9123683EU, 0x58465342U}) {
    EXPECT_EQ(UnsafeFileSystem(type), "") << type;
  }
}

}  // namespace
}  // namespace imagefs
