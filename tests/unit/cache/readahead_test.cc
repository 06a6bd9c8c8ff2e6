// SPDX-License-Identifier: Apache-2.0
#include "cache/readahead.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <memory>
#include <numeric>
#include <string>
#include <vector>

#include "base/fd.h"
#include "cache/read_streams.h"
#include "image/erofs_writer.h"
#include "image/tree.h"
#include "tests/fakes/cache/lazy_blob.h"

namespace imagefs {
namespace {

using Spans = std::vector<uint32_t>;

constexpr uint32_t kMiB = 1 << 20;
const Moment kNow = Moment::Now();

// A layer whose spans have `span_bytes` of the blob each, and three times as many of data.
class Layer {
 public:
  Layer(uint32_t spans, uint32_t span_bytes, bool guess = true)
      : data_bytes_(3 * span_bytes), ahead_(false, guess) {
    table_ = EvenTable(spans, span_bytes, data_bytes_);
    map_.SetTable(*table_);
  }

  // Of the data, by span.
  ByteRange Of(uint32_t first, uint32_t last) const {
    return {uint64_t{first} * data_bytes_, uint64_t{last} * data_bytes_};
  }
  // The layer has these files and no others that matter.
  void SetFiles(const std::vector<ByteRange>& files) {
    Tree tree;
    for (const ByteRange& file : files) {
      Inode inode;
      inode.mode = S_IFREG | 0644;
      inode.size = file.size();
      const InodeId id = tree.NewInode(inode);
      tree.SetExtents(id, {{0, file.begin, file.size(), 1}});
      tree.Link(Tree::kRoot, std::to_string(file.begin), id);
    }
    const std::string path = ::testing::TempDir() + "/readahead-" + RandomHex(8);
    const Fd out = *OpenFile(path, O_CREAT | O_RDWR);
    ASSERT_TRUE(
        WriteErofs(tree, {.devices = {{std::string(64, '0'), table_->data_bytes()}}}, out.get())
            .ok());
    for (const uint32_t span :
         ahead_.SetFiles(FileRuns::Of(**ErofsImage::OpenFd(out.get(), "index")), *table_, map_)) {
      Fetch(span);
      ++fetched_;
    }
    ASSERT_EQ(unlink(path.c_str()), 0);
  }
  // A reader requests all of these spans; returns what is fetched besides.
  Spans Read(uint32_t first, uint32_t last) {
    Spans ahead = ahead_.OnRead(Of(first, last), first, last, *table_, map_, kNow);
    for (uint32_t i = first; i < last; ++i) Fetch(i);
    for (const uint32_t span : ahead) Fetch(span);
    fetched_ += ahead.size();
    return ahead;
  }
  // How many requests a program makes that reads these spans in turn, and waits for each.
  size_t RequestsFor(const Spans& reads) {
    size_t requests = 0;
    for (const uint32_t span : reads) {
      if (!map_.readable(span)) ++requests;
      Read(span, span + 1);
    }
    return requests;
  }
  size_t fetched() const { return fetched_; }
  Readahead& ahead() { return ahead_; }

 private:
  void Fetch(uint32_t span) {
    if (map_.readable(span)) return;
    map_.SetInFlight(span, Priority::kReadahead);
    ASSERT_TRUE(map_.Take(span, SpanMap::State::kInFlight));
    map_.SetPresent(span);
  }

  const uint32_t data_bytes_;
  std::unique_ptr<SpanTableReader> table_;
  SpanMap map_{{absl::Seconds(1), absl::Seconds(2), absl::Seconds(3), absl::Seconds(4)}};
  Readahead ahead_;
  size_t fetched_ = 0;
};

Spans Sequence(uint32_t first, uint32_t last) {
  Spans out(last - first);
  std::iota(out.begin(), out.end(), first);
  return out;
}

TEST(ReadaheadTest, WithoutAWishTheBackgroundFetches) {
  EXPECT_TRUE(Readahead(true).Fetches(Priority::kBackground, kNow));
  EXPECT_FALSE(Readahead(true).Fetches(Priority::kForeground, kNow));
  EXPECT_FALSE(Readahead(false).Fetches(Priority::kBackground, kNow));
}

TEST(ReadaheadTest, TheMostUrgentWishCounts) {
  Readahead readahead(false);
  EXPECT_TRUE(readahead.WantAll(Priority::kReadahead));
  EXPECT_FALSE(readahead.awaited());
  EXPECT_TRUE(readahead.WantAll(Priority::kForeground));
  EXPECT_FALSE(readahead.WantAll(Priority::kReadahead));
  EXPECT_TRUE(readahead.awaited());
  EXPECT_TRUE(readahead.Fetches(Priority::kForeground, kNow));
  EXPECT_FALSE(readahead.Fetches(Priority::kReadahead, kNow));
  EXPECT_TRUE(readahead.StopWantingAll());
  EXPECT_FALSE(readahead.StopWantingAll());
  EXPECT_FALSE(readahead.Fetches(Priority::kBackground, kNow));
}

TEST(ReadaheadTest, AFullDiskStopsItUntilThen) {
  Layer layer(40, 192 << 10);
  layer.SetFiles({layer.Of(0, 5), layer.Of(20, 25), layer.Of(30, 35)});
  EXPECT_FALSE(layer.Read(0, 1).empty());
  layer.ahead().StopUntil(kNow + absl::Seconds(30));
  EXPECT_TRUE(layer.Read(20, 21).empty());
  EXPECT_FALSE(layer.ahead().Fetches(Priority::kBackground, kNow));
  layer.ahead().Resume();
  EXPECT_FALSE(layer.ahead().stopped());
  EXPECT_FALSE(layer.Read(30, 31).empty());
}

TEST(ReadaheadTest, OfAFileTheRestComesAfterItsFirstBytesThenWhatIsBefore) {
  Layer layer(100, 192 << 10);
  layer.SetFiles({layer.Of(10, 20), layer.Of(20, 22)});
  EXPECT_EQ(layer.Read(12, 13), (Spans{13, 14, 15, 16, 17, 18, 19, 10, 11}));
  EXPECT_EQ(layer.Read(21, 22), (Spans{20}));
  EXPECT_TRUE(layer.Read(15, 16).empty()) << "all of it was requested";
}

TEST(ReadaheadTest, AFileThatWasReadBeforeTheFilesWereKnownComes) {
  Layer layer(100, 192 << 10);
  layer.Read(12, 13);
  layer.Read(60, 61);
  layer.SetFiles({layer.Of(10, 20), layer.Of(30, 40)});
  EXPECT_EQ(layer.fetched(), 9U);
}

// Pages at the ends of a file also have bytes of its neighbours.
TEST(ReadaheadTest, TheFileIsTheOneWithMostOfThePages) {
  Layer layer(100, 192 << 10);
  layer.SetFiles({{layer.Of(10, 11).begin, layer.Of(14, 15).begin + 1024},
                  {layer.Of(14, 15).begin + 1024, layer.Of(20, 21).begin}});
  layer.Read(14, 15);
  EXPECT_EQ(layer.fetched(), 5U);
}

TEST(ReadaheadTest, AFileThatIsTooLargeIsNotReadAheadWhole) {
  Layer layer(100, 192 << 10);
  layer.SetFiles({layer.Of(10, 40)});
  EXPECT_LE(layer.Read(12, 13).size(), 2U);
}

// A program that imports modules reads many files of one folder, in any order.
TEST(ReadaheadTest, WhereReadersUsedEnoughTheNeighbourhoodComes) {
  const Spans imports = {17, 19, 27, 28, 25, 18, 15, 22, 23, 14, 29, 24, 21, 16};
  Layer layer(80, 192 << 10), without(80, 192 << 10, false);
  const size_t now = layer.RequestsFor(imports);
  EXPECT_LE(3 * now, 2 * without.RequestsFor(imports));
  EXPECT_LE(now + layer.fetched(), imports.size() * 5 / 2) << "what readers used, and 1.5 of it";
}

TEST(ReadaheadTest, WhatIsCheaperThanARoundTripComesAlong) {
  Layer layer(1000, 8 << 10);  // a table of contents: a span for each small file
  const Spans ahead = layer.Read(500, 501);
  EXPECT_EQ(ahead.size(), 2 * Readahead::kCheapBytes / (8 << 10));
  EXPECT_EQ(ahead.front(), 501U);
  EXPECT_TRUE(layer.Read(505, 506).size() < ahead.size());
}

TEST(ReadaheadTest, GuessesThatNobodyUsesStop) {
  Layer layer(4000, 192 << 10);
  std::vector<ByteRange> files;
  for (uint32_t i = 0; i < 4000; i += 20) files.push_back(layer.Of(i, i + 20));
  layer.SetFiles(files);
  // As by file(1): the first bytes of each.
  Spans heads;
  for (uint32_t i = 0; i < 4000; i += 20) heads.push_back(i);
  EXPECT_EQ(layer.RequestsFor(heads), heads.size());
  const uint64_t most = Readahead::kMostUnused + heads.size() * (192 << 10) / 4 + 20 * (192 << 10);
  EXPECT_LE(layer.fetched() * (192 << 10), most);
  // Those that are used earn more.
  Layer used(4000, 192 << 10);
  used.SetFiles(files);
  EXPECT_LE(used.RequestsFor(Sequence(0, 2000)), 2000U / 20 + 1);
}

TEST(ReadaheadTest, AProfileReplacesGuesses) {
  Layer layer(100, 192 << 10);
  layer.ahead().SetProfiled();
  EXPECT_TRUE(layer.Read(50, 51).empty());
  EXPECT_FALSE(layer.ahead().AsksForFiles());
}

TEST(ReadaheadTest, FilesAreAskedForOnce) {
  Readahead readahead(false);
  EXPECT_TRUE(readahead.AsksForFiles());
  EXPECT_FALSE(readahead.AsksForFiles());
}

TEST(ReadaheadTest, ASequentialReaderOfALargeFileIsFarBehindAndStopsItAtItsEnd) {
  constexpr uint32_t kSpans = 2000, kEnd = 1500;
  Layer layer(kSpans, 192 << 10);
  layer.SetFiles({layer.Of(0, kEnd)});
  uint32_t farthest = 0;
  uint64_t least = UINT64_MAX, most = 0, added = 0;
  for (uint32_t i = 0; i < kEnd; ++i) {
    const Spans ahead = layer.Read(i, i + 1);
    for (const uint32_t span : ahead) farthest = std::max(farthest, span);
    if (i < 200 || i >= 1300) continue;
    least = std::min(least, uint64_t{farthest - i} * (192 << 10));
    most = std::max(most, uint64_t{farthest - i} * (192 << 10));
    added += ahead.empty() ? 0 : 1;
  }
  // By halves, so that requests are large.
  EXPECT_GE(least, 7U * kMiB);
  EXPECT_GE(most, 15U * kMiB);
  EXPECT_LE(most, 17U * kMiB);
  EXPECT_LE(added, 1100U * (192 << 10) / (7 * kMiB));
  EXPECT_LT(farthest, kEnd);
  Layer again(kSpans, 192 << 10);
  again.SetFiles({again.Of(0, kEnd)});
  EXPECT_LE(again.RequestsFor(Sequence(0, kEnd)), 4U);
}

TEST(ReadStreamsTest, TwiceAsFarEachTime) {
  ReadStreams streams;
  constexpr uint64_t kLeast = ReadStreams::kLeast;
  EXPECT_EQ(streams.Advance(10, 11, false), 0U);
  EXPECT_EQ(streams.Advance(11, 12, false), kLeast);
  EXPECT_EQ(streams.Advance(12, 13, false), 2 * kLeast);
  EXPECT_EQ(streams.Advance(100, 101, false), 0U);
  EXPECT_EQ(streams.Advance(13, 14, false), 4 * kLeast);
  EXPECT_EQ(streams.Advance(13, 14, false), 0U) << "the same again";
  for (uint32_t at = 14; at < 30; ++at) streams.Advance(at, at + 1, false);
  EXPECT_EQ(streams.Advance(30, 31, false), ReadStreams::kMost);
}

TEST(ReadStreamsTest, OnlyWhatIsReadInSequenceIsRequestedByMore) {
  ReadStreams streams;
  EXPECT_EQ(streams.AheadOf(0), 0U);
  for (uint32_t at = 10; at < 30; ++at) streams.Advance(at, at + 1, false);
  EXPECT_EQ(streams.AheadOf(29), ReadStreams::kMost);
  EXPECT_EQ(streams.AheadOf(30), 0U);
  EXPECT_EQ(streams.AheadOf(5), 0U);
  streams.Advance(100, 101, false);
  EXPECT_EQ(streams.AheadOf(100), 0U);
}

TEST(ReadStreamsTest, WhereAProfileSaysWhatComesGoingOnIsChanceAtFirst) {
  ReadStreams streams;
  for (uint32_t at = 10; at < 14; ++at) EXPECT_EQ(streams.Advance(at, at + 1, true), 0U);
  EXPECT_EQ(streams.Advance(14, 15, true), ReadStreams::kLeast);
}

}  // namespace
}  // namespace imagefs
