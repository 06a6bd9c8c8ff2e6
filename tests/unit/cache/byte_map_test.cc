// SPDX-License-Identifier: Apache-2.0
#include "cache/byte_map.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/text.h"
#include "tests/fakes/image/tree_samples.h"

namespace imagefs {
namespace {

constexpr uint32_t kBlob = 1000, kData = 4096;
constexpr auto kAbsent = ByteState::kAbsent, kNeeded = ByteState::kNeeded,
               kPrefetched = ByteState::kPrefetched, kFetched = ByteState::kFetched;

// Spans of equal size; `at[i]` is the place of span i in the blob, in units of kBlob.
std::unique_ptr<SpanTableReader> Table(const std::vector<uint64_t>& at, uint64_t blob_bytes = 0) {
  SpanTable table;
  table.blob_digest = Sha256Of("blob");
  table.diff_id = Sha256Of("tar");
  table.tar_bytes = table.data_bytes = at.size() * kData;
  for (size_t i = 0; i < at.size(); ++i) {
    SpanEntry span;
    span.codec = SpanCodec::kGzip;
    span.data_begin = i * kData;
    span.data_bytes = kData;
    span.blob_begin = at[i] * kBlob;
    span.blob_bytes = kBlob;
    table.blob_size = std::max({table.blob_size, span.blob_end(), blob_bytes});
    table.spans.push_back(span);
  }
  return *SpanTableReader::FromBytes(*WriteSpanTable(table));
}

std::vector<uint64_t> InOrder(size_t count) {
  std::vector<uint64_t> at(count);
  for (size_t i = 0; i < count; ++i) at[i] = i;
  return at;
}

std::array<uint64_t, kByteStates> Bytes(uint64_t absent, uint64_t needed, uint64_t prefetched,
                                        uint64_t fetched) {
  return {absent, needed, prefetched, fetched};
}

// Files: name, where its data begins, its size.
struct File {
  std::string name;
  uint64_t begin, size;
};
ByteMap Named(const SpanTableReader& table, const std::vector<ByteState>& states,
              const std::vector<File>& files, size_t most_runs, size_t name_bytes = 1 << 20) {
  TreeMaker maker;
  for (const File& file : files) {
    std::vector<Extent> extents;
    if (file.size > 0) extents.push_back({0, file.begin, file.size, 1});
    maker.File(StrCat("usr/", file.name), file.size, std::move(extents));
  }
  const std::string bytes = LayerImage(maker.tree, table.data_bytes());
  const auto index = ErofsImage::FromMemory(bytes);
  EXPECT_TRUE(index.ok()) << index.status();
  ByteMap map = MakeByteMap(table, states, most_runs);
  AddNames(table, **index, name_bytes, map);
  return map;
}
std::vector<std::string> NamesOf(const ByteMap& map, size_t run) {
  std::vector<std::string> names;
  for (const uint32_t name : map.runs[run].names) names.push_back(map.names.at(name));
  return names;
}

TEST(ByteMapTest, EachSpanIsARun) {
  const auto table = Table(InOrder(5));
  const ByteMap map = MakeByteMap(*table, {kAbsent, kNeeded, kNeeded, kPrefetched, kFetched}, 100);
  ASSERT_EQ(map.runs.size(), 5U);
  EXPECT_EQ(map.runs[0].blob, (ByteRange{0, 1000}));
  EXPECT_EQ(map.runs[0].bytes, Bytes(1000, 0, 0, 0));
  EXPECT_EQ(map.runs[1].bytes, Bytes(0, 1000, 0, 0));
  EXPECT_EQ(map.runs[2].blob, (ByteRange{2000, 3000}));
  EXPECT_EQ(map.runs[3].bytes, Bytes(0, 0, 1000, 0));
  EXPECT_EQ(map.runs[4].bytes, Bytes(0, 0, 0, 1000));
}

TEST(ByteMapTest, FollowsTheOrderOfTheBlob) {
  const auto table = Table({2, 0, 500});
  const ByteMap map = MakeByteMap(*table, {kNeeded, kAbsent, kAbsent}, 100);
  ASSERT_EQ(map.runs.size(), 3U);
  EXPECT_EQ(map.runs[0].blob, (ByteRange{0, 1000}));
  EXPECT_EQ(map.runs[1].blob, (ByteRange{2000, 3000}));
  EXPECT_EQ(map.runs[1].bytes, Bytes(0, 1000, 0, 0));
  EXPECT_EQ(map.runs[2].blob, (ByteRange{500'000, 501'000}));
}

TEST(ByteMapTest, NeighboursMayShareAByte) {
  SpanTable table;
  table.blob_digest = Sha256Of("blob");
  table.diff_id = Sha256Of("tar");
  table.tar_bytes = table.data_bytes = 2 * kData;
  table.blob_size = 2 * kBlob;
  for (const uint64_t i : {0, 1}) {
    SpanEntry span;
    span.codec = SpanCodec::kGzip;
    span.data_begin = i * kData;
    span.data_bytes = kData;
    span.blob_begin = i * (kBlob - 1);
    span.blob_bytes = kBlob;
    table.spans.push_back(span);
  }
  const auto reader = *SpanTableReader::FromBytes(*WriteSpanTable(table));
  const std::vector<File> files = {{"a", 0, 1024}, {"b", kData, 1024}};
  const ByteMap map = Named(*reader, {kNeeded, kAbsent}, files, /*most_runs=*/10);
  ASSERT_EQ(map.runs.size(), 2U);
  EXPECT_EQ(map.runs[0].blob, (ByteRange{0, 1000}));
  EXPECT_EQ(map.runs[1].blob, (ByteRange{1000, 1999}));
  EXPECT_EQ(map.runs[1].bytes, Bytes(1000, 0, 0, 0));
  EXPECT_EQ(NamesOf(map, 0), (std::vector<std::string>{"usr/a"}));
  EXPECT_EQ(NamesOf(map, 1), (std::vector<std::string>{"usr/b"}));
}

TEST(ByteMapTest, SpansOfTheSameBytesAreOneRun) {
  const auto table = Table({0, 0, 1});
  const ByteMap map = MakeByteMap(*table, {kNeeded, kAbsent, kFetched}, 100);
  ASSERT_EQ(map.runs.size(), 2U);
  EXPECT_EQ(map.runs[0].blob, (ByteRange{0, 1000}));
  EXPECT_EQ(map.runs[0].bytes, Bytes(1000, 1000, 0, 0));
}

TEST(ByteMapTest, ManyRunsAreMergedAndNoByteIsLost) {
  const size_t count = 10'000, most = 64;
  const auto table = Table(InOrder(count));
  std::vector<ByteState> states(count, kAbsent);
  for (size_t i = 0; i < count; i += 3) states[i] = kNeeded;
  for (size_t i = 1; i < count; i += 7) states[i] = kPrefetched;
  const ByteMap map = MakeByteMap(*table, states, most);
  EXPECT_LE(map.runs.size(), most);
  EXPECT_GE(map.runs.size(), most / 2);
  std::array<uint64_t, kByteStates> sum{}, expected{};
  for (const ByteState state : states) expected[static_cast<size_t>(state)] += kBlob;
  uint64_t end = 0;
  for (const ByteMap::Run& run : map.runs) {
    EXPECT_GE(run.blob.begin, end);
    end = run.blob.end;
    for (size_t i = 0; i < kByteStates; ++i) sum[i] += run.bytes[i];
  }
  EXPECT_EQ(sum, expected);
  EXPECT_EQ(MakeByteMap(*table, states, 1).runs.size(), 1U);
}

TEST(ByteMapTest, NothingIsAMapWithoutRuns) {
  EXPECT_TRUE(MakeByteMap(*Table({0, 1}), {}, 10).runs.empty());
}

TEST(ByteMapTest, RunsHaveTheNamesOfTheirLargestFiles) {
  const auto table = Table(InOrder(4));
  const ByteMap map = Named(*table, {kNeeded, kNeeded, kAbsent, kAbsent},
                            {{"small", 0, 512},
                             {"large", 512, 2048},
                             {"tiny", 2560, 10},
                             {"fourth", 3072, 5},
                             {"across", kData, 2 * kData},
                             {"empty", 0, 0}},
                            /*most_runs=*/2);
  ASSERT_EQ(map.runs.size(), 2U);
  EXPECT_EQ(map.runs[0].files, 5U);
  EXPECT_EQ(NamesOf(map, 0), (std::vector<std::string>{"usr/across", "usr/large", "usr/small"}));
  EXPECT_EQ(map.runs[1].files, 1U);
  EXPECT_EQ(NamesOf(map, 1), (std::vector<std::string>{"usr/across"}));
  EXPECT_EQ(map.names.size(), 3U);  // once each
}

TEST(ByteMapTest, NamesAreBoundedAndEachRunGetsOneFirst) {
  const auto table = Table(InOrder(2));
  const std::vector<File> files = {
      {"a1", 0, 1024}, {"a2", 1024, 512}, {"b1", kData, 1024}, {"b2", kData + 1024, 512}};
  const ByteMap map = Named(*table, {kNeeded, kAbsent}, files, /*most_runs=*/10, /*name_bytes=*/12);
  EXPECT_EQ(NamesOf(map, 0), (std::vector<std::string>{"usr/a1"}));
  EXPECT_EQ(NamesOf(map, 1), (std::vector<std::string>{"usr/b1"}));
  EXPECT_EQ(map.runs[0].files, 2U);
}

TEST(ByteMapTest, ADamagedIndexCostsOnlyTheNames) {
  const auto table = Table(InOrder(2));
  TreeMaker maker;
  maker.File("f", 1000, {{0, 0, 1000, 1}});
  const std::string bytes = LayerImage(maker.tree, table->data_bytes());
  for (size_t i = 1100; i < bytes.size(); i += 7) {
    std::string damaged = bytes;
    damaged[i] = static_cast<char>(~damaged[i]);
    const auto index = ErofsImage::FromMemory(damaged);
    if (!index.ok()) continue;
    ByteMap map = MakeByteMap(*table, {kNeeded, kAbsent}, 10);
    AddNames(*table, **index, 1000, map);
    EXPECT_EQ(map.runs.size(), 2U);
  }
}

}  // namespace
}  // namespace imagefs
