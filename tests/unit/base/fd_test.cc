// SPDX-License-Identifier: Apache-2.0
#include "base/fd.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <string>
#include <thread>
#include <utility>

#include "base/text.h"

namespace imagefs {
namespace {

class FdTest : public ::testing::Test {
 protected:
  FdTest() : dir_(StrCat(::testing::TempDir(), "/fd-", RandomHex(8))) {
    EXPECT_TRUE(MakeDirs(dir_).ok());
  }
  ~FdTest() override { std::filesystem::remove_all(dir_); }
  static bool IsOpen(int fd) { return fcntl(fd, F_GETFD) >= 0; }
  const std::string dir_;
};

TEST_F(FdTest, OwnsMovesAndCloses) {
  absl::StatusOr<Fd> opened = OpenFile(dir_ + "/f", O_RDWR | O_CREAT);
  ASSERT_TRUE(opened.ok()) << opened.status();
  Fd fd = *std::move(opened);
  const int raw = fd.get();
  EXPECT_NE(fcntl(raw, F_GETFD) & FD_CLOEXEC, 0);
  absl::StatusOr<Fd> copy = fd.Duplicate();
  ASSERT_TRUE(copy.ok());
  EXPECT_NE(fcntl(copy->get(), F_GETFD) & FD_CLOEXEC, 0);
  Fd moved(std::move(fd));
  EXPECT_EQ(moved.get(), raw);
  moved = *std::move(copy);
  EXPECT_FALSE(IsOpen(raw)) << "assignment closes what was there";
  const int kept = moved.Release();
  moved.Reset();
  EXPECT_TRUE(IsOpen(kept));
  close(kept);
}

TEST_F(FdTest, ReadsAndWritesInFull) {
  absl::StatusOr<Fd> fd = OpenFile(dir_ + "/f", O_RDWR | O_CREAT);
  ASSERT_TRUE(fd.ok());
  ASSERT_TRUE(PwriteFull(fd->get(), "world", 6).ok());
  ASSERT_TRUE(WriteFull(fd->get(), "hello ").ok());
  char buffer[32];
  absl::StatusOr<size_t> n = PreadFull(fd->get(), absl::MakeSpan(buffer), 0);
  ASSERT_TRUE(n.ok());
  EXPECT_EQ(std::string_view(buffer, *n), "hello world");
  n = PreadFull(fd->get(), absl::MakeSpan(buffer), 100);
  ASSERT_TRUE(n.ok());
  EXPECT_EQ(*n, 0u) << "beyond the end";
}

TEST_F(FdTest, FullDiskIsResourceExhausted) {
  absl::StatusOr<Fd> full = OpenFile("/dev/full", O_WRONLY);
  if (!full.ok()) GTEST_SKIP() << full.status();
  EXPECT_TRUE(absl::IsResourceExhausted(WriteFull(full->get(), "x")));
  EXPECT_TRUE(absl::IsResourceExhausted(PwriteFull(full->get(), "x", 0)));
}

TEST_F(FdTest, ErrorsNameThePath) {
  const absl::Status status = OpenFile(dir_ + "/absent", O_RDONLY).status();
  EXPECT_TRUE(absl::IsNotFound(status));
  EXPECT_NE(ToStd(status.message()).find("/absent"), std::string_view::npos) << status;
  EXPECT_TRUE(absl::IsNotFound(ReadFile(dir_ + "/absent", 10).status()));
  EXPECT_TRUE(absl::IsNotFound(StatPath(dir_ + "/absent").status()));
}

TEST_F(FdTest, APipeIsReadToItsEndAndNobodyWaitsForeverForIt) {
  const std::string path = dir_ + "/pipe";
  ASSERT_EQ(mkfifo(path.c_str(), 0600), 0);
  EXPECT_EQ(*ReadFile(path, 10), "");  // no writer
  Fd writer(open(path.c_str(), O_RDWR | O_CLOEXEC));
  EXPECT_TRUE(absl::IsDeadlineExceeded(ReadFile(path, 10, /*patience_ms=*/1).status()));
  // A pipe that nobody has open loses what is in it, and the writer may be done before ReadFile.
  const Fd other = *OpenInput(path);
  std::thread late([&writer] {
    EXPECT_TRUE(WriteFull(writer.get(), "text").ok());
    writer.Reset();
  });
  const absl::StatusOr<std::string> text = ReadFile(path, 10, /*patience_ms=*/60'000);
  late.join();
  EXPECT_EQ(text.value_or("nothing"), "text");
}

TEST_F(FdTest, ReadFileIsBounded) {
  ASSERT_TRUE(WriteFileDurably(dir_ + "/f", std::string(100, 'x')).ok());
  EXPECT_EQ(ReadFile(dir_ + "/f", 100)->size(), 100u);
  EXPECT_TRUE(absl::IsResourceExhausted(ReadFile(dir_ + "/f", 99).status()));
}

TEST_F(FdTest, WriteFileDurablyReplacesAndLeavesNoTrash) {
  ASSERT_TRUE(WriteFileDurably(dir_ + "/f", "old", 0640).ok());
  ASSERT_TRUE(WriteFileDurably(dir_ + "/f", "new", 0640).ok());
  EXPECT_EQ(*ReadFile(dir_ + "/f", 10), "new");
  // A directory is in the way: the rename fails and the temporary file is removed.
  ASSERT_TRUE(MakeDirs(dir_ + "/folder/inside").ok());
  EXPECT_FALSE(WriteFileDurably(dir_ + "/folder", "x").ok());
  size_t entries = 0;
  for (const auto& entry : std::filesystem::directory_iterator(dir_)) {
    (void)entry;
    ++entries;
  }
  EXPECT_EQ(entries, 2u);
}

TEST_F(FdTest, MakeDirs) {
  EXPECT_TRUE(MakeDirs(dir_ + "/a/b//c/").ok());
  EXPECT_TRUE(MakeDirs(dir_ + "/a/b/c").ok());
  EXPECT_TRUE(S_ISDIR(StatPath(dir_ + "/a/b/c")->st_mode));
  ASSERT_TRUE(WriteFileDurably(dir_ + "/a/file", "x").ok());
  EXPECT_FALSE(MakeDirs(dir_ + "/a/file/d").ok());
}

TEST_F(FdTest, RemoveTreeDoesNotFollowLinks) {
  ASSERT_TRUE(MakeDirs(dir_ + "/outside").ok());
  ASSERT_TRUE(WriteFileDurably(dir_ + "/outside/kept", "x").ok());
  ASSERT_TRUE(MakeDirs(dir_ + "/tree/a/b").ok());
  ASSERT_TRUE(WriteFileDurably(dir_ + "/tree/a/f", "x").ok());
  std::filesystem::create_symlink(dir_ + "/outside", dir_ + "/tree/a/link");
  EXPECT_TRUE(RemoveTree(dir_ + "/tree").ok());
  EXPECT_TRUE(absl::IsNotFound(StatPath(dir_ + "/tree").status()));
  EXPECT_TRUE(StatPath(dir_ + "/outside/kept").ok());
  EXPECT_TRUE(RemoveTree(dir_ + "/tree").ok()) << "a missing path is fine";
}

TEST_F(FdTest, OpenOrCreateKeepsWhatIsThere) {
  const Fd made = *OpenOrCreate(dir_ + "/f");
  ASSERT_TRUE(WriteFull(made.get(), "bytes").ok());
  const Fd again = *OpenOrCreate(dir_ + "/f");
  EXPECT_EQ(*ReadFile(dir_ + "/f", 10), "bytes");
  EXPECT_TRUE(PwriteFull(again.get(), "B", 0).ok());
  EXPECT_TRUE(absl::IsNotFound(OpenOrCreate(dir_ + "/none/f").status()));
}

TEST_F(FdTest, SameFile) {
  ASSERT_TRUE(WriteFileDurably(dir_ + "/f", "x").ok());
  ASSERT_TRUE(WriteFileDurably(dir_ + "/g", "x").ok());
  std::filesystem::create_symlink("f", dir_ + "/link");
  EXPECT_TRUE(SameFile(dir_ + "/f", dir_ + "/link"));
  EXPECT_TRUE(SameFile(dir_ + "/f", dir_ + "/../" + dir_.substr(dir_.rfind('/') + 1) + "/f"));
  EXPECT_FALSE(SameFile(dir_ + "/f", dir_ + "/g"));
  EXPECT_TRUE(SameFile(dir_ + "/none", dir_ + "/none"));
  EXPECT_FALSE(SameFile(dir_ + "/none", dir_ + "/neither"));
}

}  // namespace
}  // namespace imagefs
