// SPDX-License-Identifier: Apache-2.0
#include "cache/present_map.h"

#include <fcntl.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <memory>
#include <string>

#include "base/text.h"

namespace imagefs {
namespace {

constexpr size_t kSpans = 40;
constexpr uint32_t kSpanBytes = 512;

std::string DataOf(size_t span) { return std::string(kSpanBytes, static_cast<char>('a' + span)); }

std::unique_ptr<SpanTableReader> TableOf(SpanDigest digest_of) {
  SpanTable table;
  table.blob_digest = Sha256Of("blob");
  table.diff_id = Sha256Of("tar");
  table.blob_size = table.tar_bytes = table.data_bytes = kSpans * kSpanBytes;
  for (size_t i = 0; i < kSpans; ++i) {
    SpanEntry span;
    span.data_begin = span.blob_begin = i * kSpanBytes;
    span.data_bytes = span.blob_bytes = kSpanBytes;
    span.digest_of = digest_of;
    span.digest = Sha256Of(DataOf(i));
    table.spans.push_back(span);
  }
  return *SpanTableReader::FromBytes(*WriteSpanTable(table));
}

class PresentMapTest : public ::testing::Test {
 protected:
  PresentMapTest() { path_ = StrCat(::testing::TempDir(), "/present-", RandomHex(8)); }
  ~PresentMapTest() override { std::filesystem::remove(path_); }
  std::unique_ptr<PresentMap> Open() {
    auto map = PresentMap::Open(path_, *table_);
    EXPECT_TRUE(map.ok()) << map.status();
    return *std::move(map);
  }
  size_t Marks() {
    const auto map = Open();
    size_t marks = 0;
    for (size_t i = 0; i < kSpans; ++i) marks += map->mark(i).present ? 1 : 0;
    return marks;
  }
  void Write(uint64_t offset, const std::string& bytes) {
    const absl::StatusOr<Fd> fd = OpenFile(path_, O_WRONLY | O_CREAT);
    ASSERT_TRUE(fd.ok() && PwriteFull(fd->get(), bytes, offset).ok());
  }

  std::string path_;
  std::unique_ptr<SpanTableReader> table_ = TableOf(SpanDigest::kOfData);
};

TEST_F(PresentMapTest, MarksAreFoundAgain) {
  {
    const auto map = Open();
    ASSERT_TRUE(map->Set(3, Crc32c(~0U, DataOf(3))).ok());
    ASSERT_TRUE(map->Set(39, Crc32c(~0U, DataOf(39))).ok());
    ASSERT_TRUE(map->Set(7, 1).ok());
    ASSERT_TRUE(map->Clear(7).ok());
  }
  const auto map = Open();
  for (size_t i = 0; i < kSpans; ++i) EXPECT_EQ(map->mark(i).present, i == 3 || i == 39) << i;
  EXPECT_TRUE(map->Holds(3, DataOf(3)));
  EXPECT_FALSE(map->Holds(3, DataOf(4)));
}

TEST_F(PresentMapTest, NoTurnedBitMakesAMark) {
  ASSERT_TRUE(Open()->Set(0, Crc32c(~0U, DataOf(0))).ok());
  const std::string good = *ReadFile(path_, 1 << 20);
  for (size_t bit = 0; bit < 8 * good.size(); ++bit) {
    std::string bad = good;
    bad[bit / 8] = static_cast<char>(bad[bit / 8] ^ (1 << (bit % 8)));
    std::filesystem::remove(path_);
    Write(0, bad);
    EXPECT_EQ(Marks(), 0u) << bit;
  }
}

TEST_F(PresentMapTest, ZerosOnesAndMovedMarksAreNone) {
  ASSERT_TRUE(Open()->Set(0, Crc32c(~0U, DataOf(0))).ok());
  const std::string mark = ReadFile(path_, 1 << 20)->substr(8, 8);
  for (size_t i = 1; i < kSpans; ++i) Write(8 + 8 * i, mark);
  EXPECT_EQ(Marks(), 1u);
  Write(8, std::string(8 * kSpans, '\1'));
  EXPECT_EQ(Marks(), 0u);
  Write(8, std::string(8 * kSpans, '\0'));
  EXPECT_EQ(Marks(), 0u);
  Write(0, std::string(8 + 8 * kSpans, '\1'));
  EXPECT_EQ(Marks(), 0u);
}

TEST_F(PresentMapTest, FilesOfAnOlderVersionAreRead) {
  std::string old(kSpans, '\0');
  old[2] = old[5] = '\1';
  Write(0, old);
  {
    const auto map = Open();
    EXPECT_TRUE(map->mark(2).present && map->mark(5).present && !map->mark(3).present);
    EXPECT_FALSE(map->mark(2).sum.has_value());
    EXPECT_TRUE(map->Holds(2, DataOf(2)));
    ASSERT_TRUE(map->Set(2, Crc32c(~0U, DataOf(2))).ok());
  }
  EXPECT_EQ(Marks(), 1u);
}

TEST_F(PresentMapTest, WithoutADigestOfTheDataTheSumTells) {
  for (const SpanDigest digest_of : {SpanDigest::kOfBlob, SpanDigest::kNone}) {
    table_ = TableOf(digest_of);
    ASSERT_TRUE(Open()->Set(1, Crc32c(~0U, DataOf(1))).ok());
    const auto map = Open();
    EXPECT_TRUE(map->Holds(1, DataOf(1)));
    EXPECT_FALSE(map->Holds(1, DataOf(2)));
    EXPECT_FALSE(map->Holds(2, DataOf(2)));
  }
}

}  // namespace
}  // namespace imagefs
