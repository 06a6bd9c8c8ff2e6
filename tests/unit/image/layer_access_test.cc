#include "image/layer_access.h"

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

AccessTable Sample() {
  AccessTable table;
  table.blob_digest = Sha256Of("blob");
  table.blob_size = 1000;
  table.diff_id = Sha256Of("tar");
  table.tar_bytes = 4000;
  table.data_bytes = 8192;
  table.windows = PackWindow("abcdefgh", {});
  AccessSpan first{.data_begin = 0, .data_bytes = 1500, .blob_begin = 0, .blob_bytes = 400};
  first.codec = SpanCodec::kGzip;
  AccessSpan second{.data_begin = 1500, .data_bytes = 2500, .blob_begin = 399, .blob_bytes = 601};
  second.codec = SpanCodec::kDeflate;
  second.bit = 5;
  second.window_bytes = static_cast<uint32_t>(table.windows.size());
  second.digest = Sha256Of("x");
  table.spans = {first, second};
  table.moves = {{100, 4096, 50}};
  return table;
}

TEST(LayerAccess, ReadsWhatWasWritten) {
  const AccessTable table = Sample();
  const auto bytes = WriteAccess(table);
  ASSERT_TRUE(bytes.ok()) << bytes.status();
  const auto access = LayerAccess::FromBytes(*bytes);
  ASSERT_TRUE(access.ok()) << access.status();
  EXPECT_EQ((*access)->blob_digest(), table.blob_digest);
  EXPECT_EQ((*access)->diff_id(), table.diff_id);
  EXPECT_EQ((*access)->blob_size(), 1000U);
  EXPECT_EQ((*access)->tar_bytes(), 4000U);
  EXPECT_EQ((*access)->data_bytes(), 8192U);
  ASSERT_EQ((*access)->span_count(), 2U);
  const AccessSpan span = (*access)->span(1);
  EXPECT_EQ(span.data_begin, 1500U);
  EXPECT_EQ(span.blob_end(), 1000U);
  EXPECT_EQ(span.codec, SpanCodec::kDeflate);
  EXPECT_EQ(span.bit, 5);
  EXPECT_EQ(span.digest, Sha256Of("x"));
  EXPECT_EQ((*access)->WindowOf(span), table.windows);
  EXPECT_EQ((*access)->WindowOf((*access)->span(0)), "");
  ASSERT_EQ((*access)->moves().size(), 1U);
  EXPECT_EQ((*access)->moves()[0].to, 4096U);
}

TEST(LayerAccess, AFileThatIsCutChangesNoSpan) {
  AccessTable table = Sample();
  table.windows.append(20'000, 'w');
  const std::string path = StrCat(::testing::TempDir(), "/access-", RandomHex(8));
  ASSERT_TRUE(WriteFileDurably(path, *WriteAccess(table)).ok());
  const auto access = LayerAccess::Open(path);
  ASSERT_TRUE(access.ok()) << access.status();
  EXPECT_TRUE((*access)->CheckWhole().ok());
  ASSERT_EQ(truncate(path.c_str(), 0), 0);
  const AccessSpan span = (*access)->span(1);
  EXPECT_EQ(span.data_begin, 1500U);
  EXPECT_EQ((*access)->SpansOf({0, 4000}), std::make_pair(size_t{0}, size_t{2}));
  EXPECT_NE((*access)->WindowOf(span), Sample().windows);
  EXPECT_EQ((*access)->CheckWhole().code(), absl::StatusCode::kDataLoss);
  EXPECT_FALSE(LayerAccess::Open(path).ok());
  unlink(path.c_str());
}

TEST(LayerAccess, FindsTheSpansOfARange) {
  AccessTable table = Sample();
  table.spans[1].data_begin = 2000;  // a gap from 1500 on
  table.spans[1].data_bytes = 2000;
  const auto access = LayerAccess::FromBytes(*WriteAccess(table));
  ASSERT_TRUE(access.ok());
  using Pair = std::pair<size_t, size_t>;
  EXPECT_EQ((*access)->SpansOf({0, 1}), Pair(0, 1));
  EXPECT_EQ((*access)->SpansOf({1499, 1500}), Pair(0, 1));
  EXPECT_EQ((*access)->SpansOf({1499, 2001}), Pair(0, 2));
  EXPECT_EQ((*access)->SpansOf({1500, 2000}), Pair(1, 1));
  EXPECT_EQ((*access)->SpansOf({3999, 8000}), Pair(1, 2));
  EXPECT_EQ((*access)->SpansOf({4000, 8192}), Pair(2, 2));
}

TEST(LayerAccess, EveryByteCounts) {
  const std::string bytes = *WriteAccess(Sample());
  const size_t windows = Sample().windows.size();
  for (size_t i = 0; i < bytes.size() - windows; ++i) {
    std::string wrong = bytes;
    wrong[i] ^= 1;
    EXPECT_FALSE(LayerAccess::FromBytes(wrong).ok()) << i;
  }
  for (size_t i = 0; i < bytes.size(); ++i) {
    EXPECT_FALSE(LayerAccess::FromBytes(bytes.substr(0, i)).ok()) << i;
  }
}

TEST(LayerAccess, RefusesTablesThatCannotBeRight) {
  using Lie = std::function<void(AccessTable&)>;
  const std::vector<std::pair<const char*, Lie>> lies = {
      {"no data", [](AccessTable& t) { t.spans[0].data_bytes = 0; }},
      {"too much data", [](AccessTable& t) { t.spans[1].data_bytes = kMaxSpanDataBytes + 1; }},
      {"no blob", [](AccessTable& t) { t.spans[0].blob_bytes = 0; }},
      {"behind the blob", [](AccessTable& t) { t.spans[1].blob_bytes = 602; }},
      {"far behind the blob", [](AccessTable& t) { t.spans[1].blob_begin = UINT64_MAX; }},
      {"behind the tar", [](AccessTable& t) { t.spans[1].data_bytes = 2501; }},
      {"overlap", [](AccessTable& t) { t.spans[1].data_begin = 1499; }},
      {"not ascending", [](AccessTable& t) { std::swap(t.spans[0], t.spans[1]); }},
      {"codec", [](AccessTable& t) { t.spans[0].codec = static_cast<SpanCodec>(4); }},
      {"bit", [](AccessTable& t) { t.spans[1].bit = 8; }},
      {"bit of a member", [](AccessTable& t) { t.spans[0].bit = 1; }},
      {"skip", [](AccessTable& t) { t.spans[0].skip = kMaxSpanSkip + 1; }},
      {"stored too long", [](AccessTable& t) { t.spans[0].codec = SpanCodec::kStored; }},
      {"window", [](AccessTable& t) { t.spans[1].window_offset = 1; }},
      {"window of a member", [](AccessTable& t) { t.spans[0].window_bytes = 1; }},
      {"window too large",
       [](AccessTable& t) {
         t.windows.resize(1 << 20);
         t.spans[1].window_bytes = 1 << 20;
       }},
      {"data not in blocks", [](AccessTable& t) { t.data_bytes = 8191; }},
      {"tar larger than data", [](AccessTable& t) { t.tar_bytes = 8193; }},
      {"move of nothing", [](AccessTable& t) { t.moves[0].length = 0; }},
      {"move from behind", [](AccessTable& t) { t.moves[0].from = 3990; }},
      {"move into the tar", [](AccessTable& t) { t.moves[0].to = 3999; }},
      {"move out of the data", [](AccessTable& t) { t.moves[0].to = 8190; }},
      {"moves that overlap",
       [](AccessTable& t) {
         t.moves.push_back({0, 4100, 10});
       }},
      {"layout", [](AccessTable& t) { t.layout = static_cast<DataLayout>(3); }},
  };
  for (const auto& [name, lie] : lies) {
    AccessTable table = Sample();
    lie(table);
    EXPECT_TRUE(absl::IsDataLoss(WriteAccess(table).status())) << name;
  }
}

TEST(LayerAccess, StoredSpansAndDigestsOfTheBlob) {
  const std::string blob = "0123456789";
  AccessSpan span{.data_begin = 0, .data_bytes = 4, .blob_begin = 0, .blob_bytes = 10};
  span.skip = 3;
  span.digest = Sha256Of("3456");
  std::string out(4, '\0');
  EXPECT_TRUE(DecodeSpan(span, "", blob, absl::MakeSpan(out)).ok());
  EXPECT_EQ(out, "3456");
  span.digest_of_blob = true;
  EXPECT_TRUE(absl::IsDataLoss(DecodeSpan(span, "", blob, absl::MakeSpan(out))));
  span.digest = Sha256Of(blob);
  EXPECT_TRUE(DecodeSpan(span, "", blob, absl::MakeSpan(out)).ok());
}

TEST(LayerAccess, AWindowThatIsNoneIsAnError) {
  AccessSpan span{.data_begin = 0, .data_bytes = 4, .blob_begin = 0, .blob_bytes = 10};
  span.codec = SpanCodec::kDeflate;
  std::string out(4, '\0');
  EXPECT_FALSE(DecodeSpan(span, "no zstd frame", "0123456789", absl::MakeSpan(out)).ok());
}

TEST(LayerAccess, WindowsKeepWhatIsUsed) {
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
