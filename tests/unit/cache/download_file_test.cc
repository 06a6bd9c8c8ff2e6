// SPDX-License-Identifier: Apache-2.0
#include "cache/download_file.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <string>
#include <thread>

#include "base/fd.h"
#include "base/text.h"

namespace imagefs {
namespace {

class DownloadFileTest : public ::testing::Test {
 protected:
  DownloadFileTest() : dir_(StrCat(::testing::TempDir(), "/download-", RandomHex(8))) {
    std::filesystem::create_directories(dir_);
  }
  ~DownloadFileTest() override { std::filesystem::remove_all(dir_); }

  std::shared_ptr<DownloadFile> Open(uint64_t size) {
    absl::StatusOr<std::shared_ptr<DownloadFile>> download =
        DownloadFile::Open(dir_ + "/blob", size, nullptr, StoreSpace::Writer::kWhole);
    EXPECT_TRUE(download.ok()) << download.status();
    return *std::move(download);
  }
  const std::string dir_;
};

TEST_F(DownloadFileTest, ReadsInOrderWhatIsWrittenOutOfOrder) {
  const std::string bytes(300'000, 'x');
  std::shared_ptr<DownloadFile> download = Open(bytes.size());
  DownloadFile::Reader reader(download);
  std::thread writer([&] {
    EXPECT_TRUE(download->Write(200'000, bytes.substr(200'000)).ok());
    EXPECT_TRUE(download->Write(0, bytes.substr(0, 100'000)).ok());
    EXPECT_TRUE(download->Write(100'000, bytes.substr(100'000, 100'000)).ok());
    reader.End(absl::OkStatus());
  });
  std::string got;
  char buffer[7000];
  while (true) {
    absl::StatusOr<size_t> n = reader.Read(absl::MakeSpan(buffer), got.size());
    ASSERT_TRUE(n.ok()) << n.status();
    if (*n == 0) break;
    got.append(buffer, *n);
  }
  writer.join();
  EXPECT_EQ(got, bytes);
  EXPECT_TRUE(download->Missing().empty());
}

TEST_F(DownloadFileTest, EndedTransferWithAHoleIsTruncation) {
  std::shared_ptr<DownloadFile> download = Open(100);
  DownloadFile::Reader reader(download);
  ASSERT_TRUE(download->Write(0, std::string(40, 'a')).ok());
  reader.End(absl::OkStatus());
  char buffer[100];
  EXPECT_EQ(*reader.Read(absl::MakeSpan(buffer), 0), 40u);
  EXPECT_TRUE(absl::IsDataLoss(reader.Read(absl::MakeSpan(buffer), 40).status()));
}

TEST_F(DownloadFileTest, ReaderSeesTheErrorOnlyWhereBytesAreMissing) {
  std::shared_ptr<DownloadFile> download = Open(100);
  DownloadFile::Reader reader(download);
  ASSERT_TRUE(download->Write(0, std::string(40, 'a')).ok());
  reader.End(absl::UnavailableError("cut"));
  char buffer[10];
  EXPECT_EQ(*reader.Read(absl::MakeSpan(buffer), 30), 10u);
  EXPECT_TRUE(absl::IsUnavailable(reader.Read(absl::MakeSpan(buffer), 40).status()));
}

TEST_F(DownloadFileTest, RefusesMoreThanTheBlobsSize) {
  std::shared_ptr<DownloadFile> download = Open(100);
  EXPECT_TRUE(absl::IsDataLoss(download->Write(90, std::string(11, 'a'))));
  EXPECT_TRUE(absl::IsDataLoss(download->Write(UINT64_MAX, "a")));
  EXPECT_EQ(download->present_bytes(), 0u);
}

TEST_F(DownloadFileTest, FirstByteCallbackRunsOnceForOffsetZero) {
  std::shared_ptr<DownloadFile> download = Open(100);
  int calls = 0;
  download->OnFirstByte([&] { ++calls; });
  ASSERT_TRUE(download->Write(50, "b").ok());
  EXPECT_EQ(calls, 0);
  ASSERT_TRUE(download->Write(0, "a").ok());
  ASSERT_TRUE(download->Write(1, "a").ok());
  EXPECT_EQ(calls, 1);
  download->OnFirstByte([&] { ++calls; });
  EXPECT_EQ(calls, 2);
}

// Data written by an earlier process is reused, except the last block of a run, which may be
// partially written.
TEST_F(DownloadFileTest, FindsEarlierBytesByTheirHoles) {
  const uint64_t size = 4 << 20;
  {
    std::shared_ptr<DownloadFile> download = Open(size);
    ASSERT_TRUE(download->Write(0, std::string(1'000'000, 'a')).ok());
    ASSERT_TRUE(download->Write(2 << 20, std::string(1 << 20, 'b')).ok());
  }
  std::shared_ptr<DownloadFile> download = Open(size);
  const std::vector<ByteRange> missing = download->Missing();
  ASSERT_EQ(missing.size(), 2u);
  EXPECT_GT(missing[0].begin, 1'000'000u - 8192);
  EXPECT_LE(missing[0].begin, 1'000'000u);
  EXPECT_EQ(missing[0].end, 2u << 20);
  EXPECT_LE(missing[1].begin, 3u << 20);
  EXPECT_EQ(missing[1].end, size);
}

TEST_F(DownloadFileTest, WholeEarlierBlobIsWhole) {
  const std::string bytes(123'457, 'z');
  { ASSERT_TRUE(Open(bytes.size())->Write(0, bytes).ok()); }
  EXPECT_TRUE(Open(bytes.size())->Missing().empty());
}

TEST_F(DownloadFileTest, FileLargerThanTheBlobIsForgotten) {
  { ASSERT_TRUE(Open(1000)->Write(0, std::string(1000, 'q')).ok()); }
  EXPECT_EQ(Open(10)->present_bytes(), 0u);
}

}  // namespace
}  // namespace imagefs
