// SPDX-License-Identifier: Apache-2.0
#include "base/mapped_file.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <filesystem>
#include <string>
#include <thread>
#include <vector>

#include "base/fd.h"
#include "base/text.h"
#include "tests/fakes/base/eventually.h"

namespace imagefs {
namespace {

constexpr size_t kPage = 4096;

class MappedFileTest : public ::testing::Test {
 protected:
  MappedFileTest() : dir_(StrCat(::testing::TempDir(), "/mapped-", RandomHex(8))) {
    EXPECT_TRUE(MakeDirs(dir_).ok());
  }
  ~MappedFileTest() override { std::filesystem::remove_all(dir_); }

  Fd File(const std::string& name, size_t bytes) {
    Fd fd = *OpenFile(StrCat(dir_, "/", name), O_RDWR | O_CREAT | O_TRUNC);
    EXPECT_TRUE(PwriteFull(fd.get(), std::string(bytes, 'x'), 0).ok());
    return fd;
  }
  static size_t CountX(std::string_view bytes) {
    size_t n = 0;
    for (const char byte : bytes) n += byte == 'x' ? 1 : 0;
    return n;
  }
  const std::string dir_;
};

TEST_F(MappedFileTest, ReadsWhatIsThere) {
  const Fd fd = File("a", 3 * kPage + 5);
  const absl::StatusOr<MappedFile> file = MappedFile::Map(fd.get(), "a");
  ASSERT_TRUE(file.ok());
  EXPECT_EQ(CountX(file->bytes()), 3 * kPage + 5);
  EXPECT_FALSE(file->damaged());
  EXPECT_TRUE(file->CheckWhole("a").ok());
  const Fd empty = File("empty", 0);
  EXPECT_TRUE(MappedFile::Map(empty.get(), "empty")->bytes().empty());
}

TEST_F(MappedFileTest, AFileThatIsCutIsDamagedAndNotTheEnd) {
  const Fd fd = File("a", 64 * kPage);
  const absl::StatusOr<MappedFile> file = MappedFile::Map(fd.get(), "a");
  ASSERT_TRUE(file.ok());
  ASSERT_EQ(ftruncate(fd.get(), kPage), 0);
  EXPECT_FALSE(file->damaged()) << "nobody has touched what is gone";
  EXPECT_LT(CountX(file->bytes()), 64 * kPage);
  EXPECT_TRUE(file->damaged());
  const absl::Status status = file->CheckWhole("the file a");
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
  EXPECT_NE(ToStd(status.message()).find("the file a"), std::string_view::npos);
  EXPECT_EQ(CountX(file->bytes()), 0u) << "all of it is zeros from then on";
}

TEST_F(MappedFileTest, GoesOnWithAFileThatIsWholeAgain) {
  const Fd fd = File("a", 8 * kPage), other = File("b", 8 * kPage), longer = File("c", 9 * kPage);
  const absl::StatusOr<MappedFile> file = MappedFile::Map(fd.get(), "a");
  const char* const where = file->bytes().data();
  const uint64_t before = file->generation();
  EXPECT_TRUE(file->IsWholeSince(before));
  ASSERT_EQ(ftruncate(fd.get(), 0), 0);
  EXPECT_EQ(CountX(file->bytes()), 0u);
  EXPECT_FALSE(file->IsWholeSince(before));
  EXPECT_EQ(file->MapAgain(fd.get()).code(), absl::StatusCode::kDataLoss) << "it is still cut";
  EXPECT_EQ(file->MapAgain(longer.get()).code(), absl::StatusCode::kDataLoss);
  ASSERT_TRUE(file->MapAgain(other.get()).ok());
  EXPECT_EQ(file->bytes().data(), where);
  EXPECT_EQ(CountX(file->bytes()), 8 * kPage);
  EXPECT_FALSE(file->damaged());
  EXPECT_FALSE(file->IsWholeSince(before)) << "who read meanwhile may have read zeros";
  EXPECT_TRUE(file->IsWholeSince(file->generation()));
  file->Distrust();
  EXPECT_TRUE(file->damaged());
  ASSERT_TRUE(file->MapAgain(other.get()).ok());
  EXPECT_TRUE(file->CheckWhole("a").ok());
}

// Readers that honor `IsWholeSince` never mistake zeros for the file's content.
TEST_F(MappedFileTest, IsCutAndMappedAgainUnderReaders) {
  const Fd fd = File("a", 4 * kPage), whole = File("b", 4 * kPage);
  const absl::StatusOr<MappedFile> file = MappedFile::Map(fd.get(), "a");
  std::atomic<bool> stop{false};
  std::atomic<size_t> right{0}, wrong{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < 3; ++t) {
    threads.emplace_back([&] {
      while (!stop) {
        const uint64_t generation = file->generation();
        const size_t x = CountX(file->bytes());
        if (!file->IsWholeSince(generation)) continue;
        (x == 4 * kPage ? right : wrong)++;
      }
    });
  }
  const std::string bytes(4 * kPage, 'x');
  for (int i = 0; i < 60 || right == 0; ++i) {
    ASSERT_EQ(ftruncate(fd.get(), 0), 0);
    if (!Eventually([&] { return file->damaged(); })) {
      ADD_FAILURE() << "nobody saw that it was cut";
      break;
    }
    ASSERT_TRUE(file->MapAgain(whole.get()).ok());
    ASSERT_TRUE(PwriteFull(fd.get(), bytes, 0).ok());
    ASSERT_TRUE(file->MapAgain(fd.get()).ok());
  }
  stop = true;
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong, 0u);
  EXPECT_GT(right, 0u);
}

TEST_F(MappedFileTest, OthersAreNotTouched) {
  const Fd one = File("one", 8 * kPage), two = File("two", 8 * kPage);
  absl::StatusOr<MappedFile> cut = MappedFile::Map(one.get(), "one");
  const absl::StatusOr<MappedFile> whole = MappedFile::Map(two.get(), "two");
  ASSERT_EQ(ftruncate(one.get(), 0), 0);
  EXPECT_EQ(CountX(cut->bytes()), 0u);
  EXPECT_TRUE(cut->damaged());
  EXPECT_FALSE(whole->damaged());
  EXPECT_EQ(CountX(whole->bytes()), 8 * kPage);
  // The damaged state moves with the mapping and ends with it.
  MappedFile moved = std::move(*cut);
  EXPECT_TRUE(moved.damaged());
  ASSERT_TRUE(PwriteFull(one.get(), std::string(8 * kPage, 'x'), 0).ok());
  moved = *MappedFile::Map(one.get(), "one");
  EXPECT_FALSE(moved.damaged());
  EXPECT_EQ(CountX(moved.bytes()), 8 * kPage);
}

TEST_F(MappedFileTest, ManyMappingsAndThreads) {
  std::vector<MappedFile> files;
  const Fd whole = File("whole", 2 * kPage), cut = File("cut", 2 * kPage);
  for (int i = 0; i < 300; ++i) {
    files.push_back(*MappedFile::Map(i % 3 == 0 ? cut.get() : whole.get(), "file"));
  }
  ASSERT_EQ(ftruncate(cut.get(), 0), 0);
  std::atomic<size_t> damaged{0};
  std::vector<std::thread> threads;
  for (size_t t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      for (size_t i = t; i < files.size(); i += 4) {
        const size_t x = CountX(files[i].bytes());
        EXPECT_EQ(x, files[i].damaged() ? 0 : 2 * kPage);
        damaged += files[i].damaged() ? 1 : 0;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(damaged, 100u);
}

using MappedFileDeathTest = MappedFileTest;

TEST_F(MappedFileDeathTest, FaultsElsewhereEndTheProcess) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  const auto fault = [&] {
    signal(SIGBUS, SIG_DFL);  // even if a sanitizer installed a handler
    const Fd fd = File("own", 2 * kPage);
    const absl::StatusOr<MappedFile> guarded = MappedFile::Map(fd.get(), "own");
    void* const bare = mmap(nullptr, 2 * kPage, PROT_READ, MAP_SHARED, fd.get(), 0);
    if (ftruncate(fd.get(), 0) != 0) _exit(1);
    _exit(static_cast<volatile const char*>(bare)[kPage] == 'x' ? 2 : 3);
  };
  EXPECT_EXIT(fault(), ::testing::KilledBySignal(SIGBUS), "");
  const auto sent = [&] {
    signal(SIGBUS, SIG_DFL);
    const Fd fd = File("own", kPage);
    const absl::StatusOr<MappedFile> guarded = MappedFile::Map(fd.get(), "own");
    raise(SIGBUS);
    _exit(4);
  };
  EXPECT_EXIT(sent(), ::testing::KilledBySignal(SIGBUS), "");
}

}  // namespace
}  // namespace imagefs
