// SPDX-License-Identifier: Apache-2.0
#include "image/span_table.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "base/fd.h"
#include "base/text.h"

namespace imagefs {
namespace {

SpanTable Sample() {
  SpanTable table;
  table.blob_digest = Sha256Of("blob");
  table.blob_size = 1000;
  table.diff_id = Sha256Of("tar");
  table.tar_bytes = 4000;
  table.data_bytes = 8192;
  table.windows = PackWindow("abcdefgh", {});
  SpanEntry first{.data_begin = 0, .data_bytes = 1500, .blob_begin = 0, .blob_bytes = 400};
  first.codec = SpanCodec::kGzip;
  SpanEntry second{.data_begin = 1500, .data_bytes = 2500, .blob_begin = 399, .blob_bytes = 601};
  second.codec = SpanCodec::kDeflate;
  second.bit = 5;
  second.window_bytes = static_cast<uint32_t>(table.windows.size());
  second.digest = Sha256Of("x");
  table.spans = {first, second};
  table.moves = {{100, 4096, 50}};
  return table;
}

TEST(SpanTableReader, ReadsWhatWasWritten) {
  const SpanTable table = Sample();
  const auto bytes = WriteSpanTable(table);
  ASSERT_TRUE(bytes.ok()) << bytes.status();
  const auto span_table = SpanTableReader::FromBytes(*bytes);
  ASSERT_TRUE(span_table.ok()) << span_table.status();
  EXPECT_EQ((*span_table)->blob_digest(), table.blob_digest);
  EXPECT_EQ((*span_table)->diff_id(), table.diff_id);
  EXPECT_EQ((*span_table)->blob_size(), 1000U);
  EXPECT_EQ((*span_table)->tar_bytes(), 4000U);
  EXPECT_EQ((*span_table)->data_bytes(), 8192U);
  ASSERT_EQ((*span_table)->span_count(), 2U);
  const SpanEntry span = (*span_table)->span(1);
  EXPECT_EQ(span.data_begin, 1500U);
  EXPECT_EQ(span.blob_end(), 1000U);
  EXPECT_EQ(span.codec, SpanCodec::kDeflate);
  EXPECT_EQ(span.bit, 5);
  EXPECT_EQ(span.digest, Sha256Of("x"));
  EXPECT_EQ((*span_table)->WindowOf(span), table.windows);
  EXPECT_EQ((*span_table)->WindowOf((*span_table)->span(0)), "");
  ASSERT_EQ((*span_table)->moves().size(), 1U);
  EXPECT_EQ((*span_table)->moves()[0].to, 4096U);
}

TEST(SpanTableReader, AFileThatIsCutChangesNoSpan) {
  SpanTable table = Sample();
  table.windows.append(20'000, 'w');
  const std::string path = StrCat(::testing::TempDir(), "/access-", RandomHex(8));
  ASSERT_TRUE(WriteFileDurably(path, *WriteSpanTable(table)).ok());
  const auto span_table = SpanTableReader::Open(path);
  ASSERT_TRUE(span_table.ok()) << span_table.status();
  EXPECT_TRUE((*span_table)->CheckWhole().ok());
  ASSERT_EQ(truncate(path.c_str(), 0), 0);
  const SpanEntry span = (*span_table)->span(1);
  EXPECT_EQ(span.data_begin, 1500U);
  EXPECT_EQ((*span_table)->SpansOf({0, 4000}), std::make_pair(size_t{0}, size_t{2}));
  EXPECT_NE((*span_table)->WindowOf(span), Sample().windows);
  EXPECT_EQ((*span_table)->CheckWhole().code(), absl::StatusCode::kDataLoss);
  EXPECT_FALSE(SpanTableReader::Open(path).ok());
  unlink(path.c_str());
}

TEST(SpanTableReader, WindowsMayComeLater) {
  const std::string whole = *WriteSpanTable(Sample());
  const std::string windows = Sample().windows;
  const std::string without = SpanTableWithoutWindows(whole);
  ASSERT_EQ(without.size(), whole.size() - windows.size());
  EXPECT_FALSE(SpanTableReader::FromBytes(without).ok());
  std::string table = without + std::string(windows.size(), '\0');
  const auto early = SpanTableReader::FromBytes(table);
  ASSERT_TRUE(early.ok()) << early.status();
  EXPECT_TRUE((*early)->late_windows());
  EXPECT_EQ((*early)->windows(), (ByteRange{without.size(), whole.size()}));
  EXPECT_EQ((*early)->span(1).window(), (ByteRange{0, windows.size()}));
  table.replace(without.size(), windows.size(), windows);
  const std::string header = *HeaderOfCompleted(table);
  EXPECT_EQ(table.replace(0, header.size(), header), whole);
  EXPECT_FALSE((*SpanTableReader::FromBytes(whole))->late_windows());
  // As a crash may leave it: the header says that they are here, and they are not.
  table[whole.size() - 1] ^= 1;
  EXPECT_FALSE(SpanTableReader::FromBytes(table).ok());
  SpanTable none = Sample();
  none.windows.clear();
  none.spans[1].window_bytes = 0;
  EXPECT_EQ(SpanTableWithoutWindows(*WriteSpanTable(none)), *WriteSpanTable(none));
}

TEST(SpanTableReader, FindsTheSpansOfARange) {
  SpanTable table = Sample();
  table.spans[1].data_begin = 2000;  // a gap from 1500 on
  table.spans[1].data_bytes = 2000;
  const auto span_table = SpanTableReader::FromBytes(*WriteSpanTable(table));
  ASSERT_TRUE(span_table.ok());
  using Pair = std::pair<size_t, size_t>;
  EXPECT_EQ((*span_table)->SpansOf({0, 1}), Pair(0, 1));
  EXPECT_EQ((*span_table)->SpansOf({1499, 1500}), Pair(0, 1));
  EXPECT_EQ((*span_table)->SpansOf({1499, 2001}), Pair(0, 2));
  EXPECT_EQ((*span_table)->SpansOf({1500, 2000}), Pair(1, 1));
  EXPECT_EQ((*span_table)->SpansOf({3999, 8000}), Pair(1, 2));
  EXPECT_EQ((*span_table)->SpansOf({4000, 8192}), Pair(2, 2));
}

TEST(SpanTableReader, EveryByteCounts) {
  const std::string bytes = *WriteSpanTable(Sample());
  const size_t windows = Sample().windows.size();
  for (size_t i = 0; i < bytes.size() - windows; ++i) {
    std::string wrong = bytes;
    wrong[i] ^= 1;
    EXPECT_FALSE(SpanTableReader::FromBytes(wrong).ok()) << i;
  }
  for (size_t i = 0; i < bytes.size(); ++i) {
    EXPECT_FALSE(SpanTableReader::FromBytes(bytes.substr(0, i)).ok()) << i;
  }
}

TEST(SpanTableReader, RefusesTablesThatCannotBeRight) {
  using Lie = std::function<void(SpanTable&)>;
  const std::vector<std::pair<const char*, Lie>> lies = {
      {"no data", [](SpanTable& t) { t.spans[0].data_bytes = 0; }},
      {"too much data", [](SpanTable& t) { t.spans[1].data_bytes = kMaxSpanDataBytes + 1; }},
      {"no blob", [](SpanTable& t) { t.spans[0].blob_bytes = 0; }},
      {"behind the blob", [](SpanTable& t) { t.spans[1].blob_bytes = 602; }},
      {"far behind the blob", [](SpanTable& t) { t.spans[1].blob_begin = UINT64_MAX; }},
      {"behind the tar", [](SpanTable& t) { t.spans[1].data_bytes = 2501; }},
      {"overlap", [](SpanTable& t) { t.spans[1].data_begin = 1499; }},
      {"not ascending", [](SpanTable& t) { std::swap(t.spans[0], t.spans[1]); }},
      {"codec", [](SpanTable& t) { t.spans[0].codec = static_cast<SpanCodec>(4); }},
      {"bit", [](SpanTable& t) { t.spans[1].bit = 8; }},
      {"bit of a member", [](SpanTable& t) { t.spans[0].bit = 1; }},
      {"skip", [](SpanTable& t) { t.spans[0].skip = kMaxSpanSkip + 1; }},
      {"stored too long", [](SpanTable& t) { t.spans[0].codec = SpanCodec::kStored; }},
      {"window", [](SpanTable& t) { t.spans[1].window_offset = 1; }},
      {"window of a member", [](SpanTable& t) { t.spans[0].window_bytes = 1; }},
      {"window too large",
       [](SpanTable& t) {
         t.windows.resize(1 << 20);
         t.spans[1].window_bytes = 1 << 20;
       }},
      {"data not in blocks", [](SpanTable& t) { t.data_bytes = 8191; }},
      {"tar larger than data", [](SpanTable& t) { t.tar_bytes = 8193; }},
      {"move of nothing", [](SpanTable& t) { t.moves[0].length = 0; }},
      {"move from behind", [](SpanTable& t) { t.moves[0].from = 3990; }},
      {"move into the tar", [](SpanTable& t) { t.moves[0].to = 3999; }},
      {"move out of the data", [](SpanTable& t) { t.moves[0].to = 8190; }},
      {"moves that overlap",
       [](SpanTable& t) {
         t.moves.push_back({0, 4100, 10});
       }},
      {"digest", [](SpanTable& t) { t.spans[0].digest_of = static_cast<SpanDigest>(3); }},
      {"no digest of a stream", [](SpanTable& t) { t.spans[0].digest_of = SpanDigest::kNone; }},
      {"layout", [](SpanTable& t) { t.layout = static_cast<DataLayout>(3); }},
  };
  for (const auto& [name, lie] : lies) {
    SpanTable table = Sample();
    lie(table);
    EXPECT_TRUE(absl::IsDataLoss(WriteSpanTable(table).status())) << name;
  }
}

TEST(SpanTableReader, PartsOfAFrameFollowEachOther) {
  SpanTable table = Sample();
  table.windows.clear();
  table.spans.clear();
  for (uint32_t i = 0; i < 6; ++i) {
    SpanEntry part{
        .data_begin = 500 * i, .data_bytes = 500, .blob_begin = 100 * i, .blob_bytes = 100};
    part.codec = i == 1 || i == 4 ? SpanCodec::kZstdBegin : SpanCodec::kZstdNext;
    if (i == 0) part.codec = SpanCodec::kGzip;
    if (i > 0) part.digest_of = SpanDigest::kOfBlob;
    table.spans.push_back(part);
  }
  const auto bytes = WriteSpanTable(table);
  ASSERT_TRUE(bytes.ok()) << bytes.status();
  using Frame = SpanTableReader::Frame;
  EXPECT_EQ((*SpanTableReader::FromBytes(*bytes))->frames(), (std::vector<Frame>{{1, 4}, {4, 6}}));
  const auto refused = [&table](const std::function<void(std::vector<SpanEntry>&)>& change) {
    SpanTable wrong = table;
    change(wrong.spans);
    return absl::IsDataLoss(WriteSpanTable(wrong).status());
  };
  using Spans = std::vector<SpanEntry>;
  EXPECT_TRUE(refused([](Spans& spans) { spans[1].codec = SpanCodec::kZstdNext; }));
  EXPECT_TRUE(refused([](Spans& spans) { spans[2].blob_begin += 1; }));
  EXPECT_TRUE(refused([](Spans& spans) { spans[2].data_begin += 1, spans[2].data_bytes -= 1; }));
  EXPECT_TRUE(refused([](Spans& spans) { spans[2].digest_of = SpanDigest::kOfData; }));
  EXPECT_TRUE(refused([](Spans& spans) { spans[1].skip = 1; }));
  SpanTable large = table;
  large.spans.resize(2);
  large.blob_size = large.tar_bytes = large.data_bytes = 4 << 20;
  large.moves.clear();
  large.spans[1].data_bytes = large.spans[1].blob_bytes = 1 << 20;
  EXPECT_TRUE(WriteSpanTable(large).ok());
  large.spans[1].blob_bytes += 1;
  EXPECT_TRUE(absl::IsDataLoss(WriteSpanTable(large).status()));
  EXPECT_TRUE(refused([](Spans& spans) { spans[2].bit = 1; }));
  EXPECT_TRUE(refused([](Spans& spans) { spans.erase(spans.begin() + 4); }));
  EXPECT_TRUE(refused([](Spans& spans) { spans[2].codec = static_cast<SpanCodec>(6); }));
  EXPECT_FALSE(refused([](Spans& spans) { spans.resize(3); }));
}

TEST(SpanTableReader, StoredSpansAndDigestsOfTheBlob) {
  const std::string blob = "0123456789";
  SpanEntry span{.data_begin = 0, .data_bytes = 4, .blob_begin = 0, .blob_bytes = 10};
  span.skip = 3;
  span.digest = Sha256Of("3456");
  std::string out(4, '\0');
  EXPECT_TRUE(DecodeSpan(span, "", blob, absl::MakeSpan(out)).ok());
  EXPECT_EQ(out, "3456");
  span.digest_of = SpanDigest::kOfBlob;
  EXPECT_TRUE(absl::IsDataLoss(DecodeSpan(span, "", blob, absl::MakeSpan(out))));
  span.digest = Sha256Of(blob);
  EXPECT_TRUE(DecodeSpan(span, "", blob, absl::MakeSpan(out)).ok());
}

TEST(SpanTableReader, ASpanWithoutADigestIsTakenAsItComes) {
  SpanEntry span{.data_begin = 0, .data_bytes = 4, .blob_begin = 0, .blob_bytes = 4};
  span.digest_of = SpanDigest::kNone;
  std::string out(4, '\0');
  EXPECT_TRUE(DecodeSpan(span, "", "any!", absl::MakeSpan(out)).ok());
  EXPECT_EQ(out, "any!");
}

TEST(SpanTableReader, AStoredTableCoversItsBlob) {
  for (const uint64_t bytes : {uint64_t{1}, uint64_t{512}, uint64_t{3} << 20,
                               (5U << 20) + uint64_t{3}, uint64_t{1} << 40}) {
    const SpanTable table = StoredSpanTable(Sha256Of("blob"), bytes);
    EXPECT_LE(table.spans.size(), 64U << 10) << bytes;
    const auto reader = SpanTableReader::FromBytes(*WriteSpanTable(table));
    ASSERT_TRUE(reader.ok()) << reader.status();
    EXPECT_TRUE((*reader)->data_is_blob()) << bytes;
    EXPECT_FALSE((*reader)->has_digests()) << bytes;
    EXPECT_EQ((*reader)->diff_id(), Sha256Of("blob"));
  }
}

TEST(SpanTableReader, DataIsTheBlobOnlyIfAllOfItIs) {
  const auto is_blob = [](const std::function<void(SpanTable&)>& change) {
    SpanTable table = StoredSpanTable(Sha256Of("blob"), 1 << 20);
    for (SpanEntry& span : table.spans) span.digest_of = SpanDigest::kOfData;
    change(table);
    const auto reader = SpanTableReader::FromBytes(*WriteSpanTable(table));
    EXPECT_TRUE(reader.ok()) << reader.status();
    EXPECT_TRUE(reader.ok() && (*reader)->has_digests());
    return reader.ok() && (*reader)->data_is_blob();
  };
  EXPECT_TRUE(is_blob([](SpanTable&) {}));
  EXPECT_FALSE(is_blob([](SpanTable& t) { t.spans.pop_back(); }));
  EXPECT_FALSE(is_blob([](SpanTable& t) { t.spans.erase(t.spans.begin()); }));
  EXPECT_FALSE(is_blob([](SpanTable& t) { t.diff_id = Sha256Of("another"); }));
  EXPECT_FALSE(is_blob([](SpanTable& t) { t.blob_size += 1; }));
  EXPECT_FALSE(is_blob([](SpanTable& t) { t.spans[1].codec = SpanCodec::kZstd; }));
  EXPECT_FALSE(
      is_blob([](SpanTable& t) { std::swap(t.spans[1].blob_begin, t.spans[2].blob_begin); }));
  EXPECT_FALSE(is_blob([](SpanTable& t) { t.layout = DataLayout::kForeignTar; }));
}

TEST(SpanTableReader, AWindowThatIsNoneIsAnError) {
  SpanEntry span{.data_begin = 0, .data_bytes = 4, .blob_begin = 0, .blob_bytes = 10};
  span.codec = SpanCodec::kDeflate;
  std::string out(4, '\0');
  EXPECT_FALSE(DecodeSpan(span, "no zstd frame", "0123456789", absl::MakeSpan(out)).ok());
}

TEST(SpanTableReader, WindowsKeepWhatIsUsed) {
  std::string window(kDeflateWindowBytes, 'a');
  std::vector<bool> used(kDeflateWindowBytes, false);
  EXPECT_EQ(PackWindow(window, used), "");
  used[100] = true;
  EXPECT_NE(PackWindow(window, used), "");
  EXPECT_LT(PackWindow(window, used).size(), 100U);
  EXPECT_EQ(PackWindow("", {}), "");
}

}  // namespace
}  // namespace imagefs
