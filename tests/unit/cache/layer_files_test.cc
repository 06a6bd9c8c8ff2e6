// SPDX-License-Identifier: Apache-2.0
#include "cache/layer_files.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <filesystem>
#include <string>

#include "base/fd.h"
#include "base/text.h"

namespace imagefs {
namespace {

std::atomic<int> failures{0};

int FailingFsync(int fd) {
  if (failures > 0 && failures-- > 0) {
    errno = EIO;
    return -1;
  }
  return fsync(fd);
}

class LayerFilesTest : public ::testing::Test {
 protected:
  LayerFilesTest() {
    directory_ = StrCat(::testing::TempDir(), "/layer-", RandomHex(8));
    EXPECT_TRUE(MakeDirs(directory_).ok());
    Write("data", std::string(3'000'000, 'd'));
    Write("index", std::string(5120, 'i'));
    Write("access", "a");
    sums_ = *SumsOfLayer(directory_);
    ReplaceFsyncForTesting(FailingFsync);
  }
  ~LayerFilesTest() override {
    failures = 0;
    ReplaceFsyncForTesting(nullptr);
    std::filesystem::remove_all(directory_);
  }
  void Write(const std::string& name, const std::string& bytes, uint64_t offset = 0) {
    const absl::StatusOr<Fd> fd = OpenFile(StrCat(directory_, "/", name), O_RDWR | O_CREAT);
    ASSERT_TRUE(fd.ok() && PwriteFull(fd->get(), bytes, offset).ok());
  }
  int64_t WrittenAt(const std::string& name) {
    const struct stat st = *StatPath(StrCat(directory_, "/", name));
    return int64_t{st.st_mtim.tv_sec} * 1'000'000'000 + st.st_mtim.tv_nsec;
  }

  std::string directory_;
  LayerSums sums_;
};

TEST_F(LayerFilesTest, EverySyncThatFailsIsToldOf) {
  // data, index, access, the directory, the parent directory
  for (int calls = 1; calls <= 5; ++calls) {
    static int left;
    left = calls;
    ReplaceFsyncForTesting([](int fd) {
      if (--left != 0) return fsync(fd);
      errno = EIO;
      return -1;
    });
    const absl::Status status = SyncLayer(directory_, sums_, calls % 2 == 0);
    EXPECT_FALSE(status.ok()) << calls;
    EXPECT_FALSE(absl::IsDataLoss(status)) << status;
    EXPECT_NE(status.message().find("Input/output error"), std::string::npos) << status;
  }
}

TEST_F(LayerFilesTest, AfterAFailureEverythingIsWrittenAgain) {
  failures = 1;
  ASSERT_FALSE(SyncLayer(directory_, sums_, false).ok());
  const int64_t data = WrittenAt("data"), index = WrittenAt("index"),
                span_table = WrittenAt("access");
  ASSERT_TRUE(SyncLayer(directory_, sums_, true).ok());
  EXPECT_GT(WrittenAt("data"), data);
  EXPECT_GT(WrittenAt("index"), index);
  EXPECT_GT(WrittenAt("access"), span_table);
  EXPECT_EQ(*SumsOfLayer(directory_), sums_);
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(directory_), {}), 3);
}

TEST_F(LayerFilesTest, OtherBytesAreDataLoss) {
  Write("data", "x", 1'234'567);
  EXPECT_TRUE(absl::IsDataLoss(SyncLayer(directory_, sums_, true)));
  Write("data", "d", 1'234'567);
  EXPECT_TRUE(SyncLayer(directory_, sums_, true).ok());
  Write("index", std::string(1, '\0'), 5119);
  EXPECT_TRUE(absl::IsDataLoss(SyncLayer(directory_, sums_, true)));
  Write("index", "i", 5119);
  Write("data", "d", 3'000'000);
  EXPECT_TRUE(absl::IsDataLoss(SyncLayer(directory_, sums_, true)));
}

TEST_F(LayerFilesTest, WithoutSumsNothingIsBelieved) {
  EXPECT_TRUE(absl::IsDataLoss(SyncLayer(directory_, LayerSums(), true)));
  EXPECT_TRUE(SyncLayer(directory_, LayerSums(), false).ok());
}

TEST(CopyBytesTest, CopiesInPiecesAndAsksBeforeEach) {
  const Fd fd(memfd_create("data", MFD_CLOEXEC));
  const std::string bytes = std::string(300 << 10, 'a') + std::string(300 << 10, 'b');
  ASSERT_TRUE(PwriteFull(fd.get(), bytes, 0).ok());
  size_t asked = 0;
  const auto allow = [&asked](size_t n) {
    asked += n;
    return absl::OkStatus();
  };
  ASSERT_TRUE(CopyBytes({fd.get(), 0}, {fd.get(), 1 << 20}, bytes.size(), allow).ok());
  EXPECT_EQ(asked, bytes.size());
  std::string moved(bytes.size(), '\0');
  ASSERT_TRUE(PreadFull(fd.get(), absl::MakeSpan(moved), 1 << 20).ok());
  EXPECT_EQ(moved, bytes);
}

TEST(CopyBytesTest, StopsWhereItMayNotGoOnOrHasNoBytes) {
  const Fd fd(memfd_create("data", MFD_CLOEXEC));
  ASSERT_TRUE(PwriteFull(fd.get(), "0123456789", 0).ok());
  const auto allow = [](size_t) { return absl::OkStatus(); };
  EXPECT_TRUE(absl::IsDataLoss(CopyBytes({fd.get(), 5}, {fd.get(), 100}, 6, allow)));
  const auto refuse = [](size_t) { return absl::ResourceExhaustedError("full"); };
  EXPECT_TRUE(absl::IsResourceExhausted(CopyBytes({fd.get(), 0}, {fd.get(), 100}, 5, refuse)));
  struct stat st;
  ASSERT_EQ(fstat(fd.get(), &st), 0);
  EXPECT_EQ(st.st_size, 10);
}

}  // namespace
}  // namespace imagefs
