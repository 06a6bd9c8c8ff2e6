// SPDX-License-Identifier: Apache-2.0
#include "cache/write_watch.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <string>

#include "absl/synchronization/notification.h"
#include "base/text.h"

namespace imagefs {
namespace {

class WriteWatchTest : public ::testing::Test {
 protected:
  WriteWatchTest() : path_(StrCat(::testing::TempDir(), "/watched-", RandomHex(8))) { Write("a"); }
  ~WriteWatchTest() override {
    std::filesystem::remove(path_);
    std::filesystem::remove(path_ + ".link");
  }
  void Write(const std::string& bytes) const {
    const absl::StatusOr<Fd> fd = OpenFile(path_, O_WRONLY | O_CREAT);
    ASSERT_TRUE(fd.ok() && PwriteFull(fd->get(), bytes, 0).ok());
  }
  const std::string path_;
};

TEST_F(WriteWatchTest, EveryNameOfTheFileIsTold) {
  std::filesystem::create_hard_link(path_, path_ + ".link");
  absl::Notification one, other;
  WriteWatch watch;
  watch.Add(path_, [&] { one.HasBeenNotified() ? void() : one.Notify(); });
  watch.Add(path_ + ".link", [&] { other.HasBeenNotified() ? void() : other.Notify(); });
  Write("b");
  one.WaitForNotification();
  other.WaitForNotification();
}

TEST_F(WriteWatchTest, WhatWasRemovedIsNotTold) {
  std::filesystem::create_hard_link(path_, path_ + ".link");
  absl::Notification told;
  bool removed_told = false;
  {
    WriteWatch watch;
    watch.Add(path_, [&] { removed_told = true; });
    watch.Add(path_ + ".link", [&] { told.HasBeenNotified() ? void() : told.Notify(); });
    watch.Remove(path_);
    ASSERT_EQ(truncate(path_.c_str(), 0), 0);
    told.WaitForNotification();
  }
  EXPECT_FALSE(removed_told);
}

TEST_F(WriteWatchTest, AFileThatIsNotThereIsNoTrouble) {
  WriteWatch watch;
  watch.Add(path_ + ".none", [] {});
  watch.Remove(path_ + ".none");
}

}  // namespace
}  // namespace imagefs
