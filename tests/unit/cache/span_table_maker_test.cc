// SPDX-License-Identifier: Apache-2.0
#include "cache/span_table_maker.h"

#include <gtest/gtest.h>

#include <string>
#include <tuple>
#include <vector>

#include "image/span_table.h"
#include "tests/fakes/cache/lazy_blob.h"

namespace imagefs {
namespace {

// Every span decodes independently to the tar's bytes, whichever compressor made the blob.
// MakeSpanTable proves each span, so the existence of a table means that the spans are right; these
// tests check that there are enough of them, that they cover the tar, and that the table can be
// written and read.
class SpanTableMakerTest : public ::testing::TestWithParam<std::tuple<const char*, int, int, int>> {
};

TEST_P(SpanTableMakerTest, SpansCoverTheTar) {
  const auto& [name, level, members, strategy] = GetParam();
  const std::string tar = MixedBytes(4 << 20, 3);
  const std::string blob = GzipBytes(tar, level, members, strategy);
  const SpanTable table = MakeTable(tar, blob, 64 << 10);
  uint64_t end = 0;
  for (const SpanEntry& span : table.spans) {
    EXPECT_EQ(span.data_begin, end);
    end = span.data_end();
    EXPECT_LT(span.blob_bytes, 400U << 10);
  }
  EXPECT_EQ(end, tar.size());
  EXPECT_GT(table.spans.size(), 5U);
  auto bytes = WriteSpanTable(table);
  ASSERT_TRUE(bytes.ok()) << bytes.status();
  auto span_table = SpanTableReader::FromBytes(*bytes);
  ASSERT_TRUE(span_table.ok()) << span_table.status();
  ASSERT_EQ((*span_table)->span_count(), table.spans.size());
  for (size_t i = 0; i < table.spans.size(); ++i) {
    const SpanEntry span = (*span_table)->span(i);
    std::string out(span.data_bytes, '\0');
    ASSERT_TRUE(DecodeSpan(span, (*span_table)->WindowOf(span),
                           std::string_view(blob).substr(span.blob_begin, span.blob_bytes),
                           absl::MakeSpan(out))
                    .ok());
    EXPECT_EQ(out, tar.substr(span.data_begin, span.data_bytes));
  }
}

INSTANTIATE_TEST_SUITE_P(Gzip, SpanTableMakerTest,
                         ::testing::Values(std::make_tuple("stored", 0, 1, 0),
                                           std::make_tuple("fast", 1, 1, 0),
                                           std::make_tuple("usual", 6, 1, 0),
                                           std::make_tuple("best", 9, 1, 0),
                                           std::make_tuple("members", 6, 20, 0),
                                           std::make_tuple("many_members", 6, 2000, 0),
                                           std::make_tuple("huffman_only", 6, 1, 2)),
                         [](const auto& info) { return std::string(std::get<0>(info.param)); });

TEST(SpanTableMaker, FixedCodesAreOneBlockAfterTheOther) {
  // Blocks of fixed codes have headers of three bits: few of them are detected, none wrongly.
  const std::string tar = MixedBytes(1 << 20, 4);
  const SpanTable table = MakeTable(tar, GzipBytes(tar, 6, 1, 4), 64 << 10);
  EXPECT_GE(table.spans.size(), 1U);
}

TEST(SpanTableMaker, ZstdFramesAndPlainTars) {
  const std::string tar = MixedBytes(4 << 20, 5);
  EXPECT_EQ(MakeTable(tar, ZstdBytes(tar, 16), 1).spans.size(), 16U);
  EXPECT_EQ(MakeTable(tar, ZstdBytes(tar, 1), 1).spans.size(), 1U);
  EXPECT_GT(MakeTable(tar, tar, 64 << 10).spans.size(), 20U);
}

TEST(SpanTableMaker, ALargeZstdFrameIsCutIntoParts) {
  const std::string tar = MixedBytes(4 << 20, 5);
  const SpanTable table = MakeTable(tar, ZstdBytes(tar, 2), 1, 1 << 20);
  ASSERT_TRUE(WriteSpanTable(table).ok());
  EXPECT_GE(table.spans.size(), 6U);
  EXPECT_EQ(table.spans.front().codec, SpanCodec::kZstdBegin);
  EXPECT_EQ(table.spans.back().codec, SpanCodec::kZstdNext);
  EXPECT_EQ(table.spans.back().data_end(), tar.size());
  const auto reader = *SpanTableReader::FromBytes(*WriteSpanTable(table));
  ASSERT_EQ(reader->frames().size(), 2U);
  EXPECT_EQ(reader->frames()[0].second, reader->frames()[1].first);
  // Where it can be entered: at its frames.
  const std::vector<RestartPoint> points = PointsOf(*reader);
  ASSERT_EQ(points.size(), 2U);
  EXPECT_EQ(points[1].codec, SpanCodec::kZstd);
  EXPECT_EQ(points[1].blob_offset, table.spans[reader->frames()[1].first].blob_begin);
}

// Two machines that build the index of a layer produce the same bytes.
TEST(SpanTableMaker, PointsDoNotDependOnHowTheBytesCame) {
  const std::string tar = MixedBytes(4 << 20, 9);
  const std::string blob = GzipBytes(tar);
  std::vector<RestartPoint> first;
  for (const size_t piece : {size_t{1} << 20, size_t{70'001}, size_t{4096}, size_t{777}}) {
    auto decompressor = *Decompressor::Create(LayerCompression::kGzip, 32 << 10);
    std::string out(piece * 3 + 11, '\0');
    std::string_view rest = blob;
    while (true) {
      const auto step = decompressor->Run(rest.substr(0, piece), absl::MakeSpan(out));
      ASSERT_TRUE(step.ok()) << step.status();
      if (step->consumed == 0 && step->produced == 0) break;
      rest.remove_prefix(step->consumed);
    }
    if (first.empty()) first = decompressor->points();
    ASSERT_GT(first.size(), 10U);
    ASSERT_EQ(decompressor->points().size(), first.size()) << piece;
    for (size_t i = 0; i < first.size(); ++i) {
      EXPECT_EQ(decompressor->points()[i].blob_offset, first[i].blob_offset) << piece;
      EXPECT_EQ(decompressor->points()[i].bit, first[i].bit) << piece;
    }
  }
}

TEST(SpanTableMaker, WindowsAreSmall) {
  const std::string tar = MixedBytes(8 << 20, 6);
  const std::string blob = GzipBytes(tar);
  const SpanTable table = MakeTable(tar, blob, 128 << 10);
  EXPECT_LT(table.windows.size(), blob.size() * 3 / 100);
}

TEST(SpanTableMaker, WrongBytesOfASpanAreFound) {
  const std::string tar = MixedBytes(1 << 20, 7);
  std::string blob = GzipBytes(tar);
  const SpanTable table = MakeTable(tar, blob, 64 << 10);
  const SpanEntry& span = table.spans.at(1);
  std::string out(span.data_bytes, '\0');
  for (uint64_t at = span.blob_begin + 1; at < span.blob_end() - 1; at += 997) {
    std::string wrong = blob.substr(span.blob_begin, span.blob_bytes);
    wrong[at - span.blob_begin] ^= 0x40;
    const absl::Status status = DecodeSpan(
        span, std::string_view(table.windows).substr(span.window_offset, span.window_bytes), wrong,
        absl::MakeSpan(out));
    EXPECT_TRUE(absl::IsDataLoss(status)) << status;
  }
}

}  // namespace
}  // namespace imagefs
