#include "cache/spool.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <string>
#include <thread>

#include "base/fd.h"
#include "base/text.h"

namespace imagefs {
namespace {

class SpoolTest : public ::testing::Test {
 protected:
  SpoolTest() : dir_(StrCat(::testing::TempDir(), "/spool-", RandomHex(8))) {
    std::filesystem::create_directories(dir_);
  }
  ~SpoolTest() override { std::filesystem::remove_all(dir_); }

  std::shared_ptr<Spool> Open(uint64_t size) {
    absl::StatusOr<std::shared_ptr<Spool>> spool = Spool::Open(dir_ + "/blob", size);
    EXPECT_TRUE(spool.ok()) << spool.status();
    return *std::move(spool);
  }
  const std::string dir_;
};

TEST_F(SpoolTest, ReadsInOrderWhatIsWrittenOutOfOrder) {
  const std::string bytes(300'000, 'x');
  std::shared_ptr<Spool> spool = Open(bytes.size());
  Spool::Reader reader(spool);
  std::thread writer([&] {
    EXPECT_TRUE(spool->Write(200'000, bytes.substr(200'000)).ok());
    EXPECT_TRUE(spool->Write(0, bytes.substr(0, 100'000)).ok());
    EXPECT_TRUE(spool->Write(100'000, bytes.substr(100'000, 100'000)).ok());
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
  EXPECT_TRUE(spool->Missing().empty());
}

TEST_F(SpoolTest, EndedTransferWithAHoleIsTruncation) {
  std::shared_ptr<Spool> spool = Open(100);
  Spool::Reader reader(spool);
  ASSERT_TRUE(spool->Write(0, std::string(40, 'a')).ok());
  reader.End(absl::OkStatus());
  char buffer[100];
  EXPECT_EQ(*reader.Read(absl::MakeSpan(buffer), 0), 40u);
  EXPECT_TRUE(absl::IsDataLoss(reader.Read(absl::MakeSpan(buffer), 40).status()));
}

TEST_F(SpoolTest, ReaderSeesTheErrorOnlyWhereBytesAreMissing) {
  std::shared_ptr<Spool> spool = Open(100);
  Spool::Reader reader(spool);
  ASSERT_TRUE(spool->Write(0, std::string(40, 'a')).ok());
  reader.End(absl::UnavailableError("cut"));
  char buffer[10];
  EXPECT_EQ(*reader.Read(absl::MakeSpan(buffer), 30), 10u);
  EXPECT_TRUE(absl::IsUnavailable(reader.Read(absl::MakeSpan(buffer), 40).status()));
}

TEST_F(SpoolTest, RefusesMoreThanTheBlobsSize) {
  std::shared_ptr<Spool> spool = Open(100);
  EXPECT_TRUE(absl::IsDataLoss(spool->Write(90, std::string(11, 'a'))));
  EXPECT_TRUE(absl::IsDataLoss(spool->Write(UINT64_MAX, "a")));
  EXPECT_EQ(spool->present_bytes(), 0u);
}

TEST_F(SpoolTest, FirstByteCallbackRunsOnceForOffsetZero) {
  std::shared_ptr<Spool> spool = Open(100);
  int calls = 0;
  spool->OnFirstByte([&] { ++calls; });
  ASSERT_TRUE(spool->Write(50, "b").ok());
  EXPECT_EQ(calls, 0);
  ASSERT_TRUE(spool->Write(0, "a").ok());
  ASSERT_TRUE(spool->Write(1, "a").ok());
  EXPECT_EQ(calls, 1);
  spool->OnFirstByte([&] { ++calls; });
  EXPECT_EQ(calls, 2);
}

// What an earlier process wrote is used again, except the last block of a run, which may be half
// written.
TEST_F(SpoolTest, FindsEarlierBytesByTheirHoles) {
  const uint64_t size = 4 << 20;
  {
    std::shared_ptr<Spool> spool = Open(size);
    ASSERT_TRUE(spool->Write(0, std::string(1'000'000, 'a')).ok());
    ASSERT_TRUE(spool->Write(2 << 20, std::string(1 << 20, 'b')).ok());
  }
  std::shared_ptr<Spool> spool = Open(size);
  const std::vector<ByteRange> missing = spool->Missing();
  ASSERT_EQ(missing.size(), 2u);
  EXPECT_GT(missing[0].begin, 1'000'000u - 8192);
  EXPECT_LE(missing[0].begin, 1'000'000u);
  EXPECT_EQ(missing[0].end, 2u << 20);
  EXPECT_LE(missing[1].begin, 3u << 20);
  EXPECT_EQ(missing[1].end, size);
}

TEST_F(SpoolTest, WholeEarlierBlobIsWhole) {
  const std::string bytes(123'457, 'z');
  { ASSERT_TRUE(Open(bytes.size())->Write(0, bytes).ok()); }
  EXPECT_TRUE(Open(bytes.size())->Missing().empty());
}

TEST_F(SpoolTest, FileLargerThanTheBlobIsForgotten) {
  { ASSERT_TRUE(Open(1000)->Write(0, std::string(1000, 'q')).ok()); }
  EXPECT_EQ(Open(10)->present_bytes(), 0u);
}

}  // namespace
}  // namespace imagefs
