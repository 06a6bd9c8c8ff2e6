// SPDX-License-Identifier: Apache-2.0
// Large zstd frames: their parts are decoded one after another (cache/filling_layer_frames.cc).
#include <gtest/gtest.h>

#include <random>
#include <string>
#include <thread>
#include <vector>

#include "tests/fakes/cache/filling_layer_fixture.h"

namespace imagefs {
namespace {

constexpr uint64_t kMiB = 1 << 20;

class FillingFramesTest : public FillingLayerTest {
 protected:
  FillingFramesTest() {
    static const std::string tar = MixedBytes(24 * kMiB, 21);
    whole_frame_bytes_ = 1 * kMiB;
    tar_ = tar;
    Make(ZstdBytes(tar_, 1));
  }
  uint64_t BlobEndOf(uint64_t offset) const {
    return table_.spans[SpanOf(table_, offset)].blob_end();
  }
  // What is requested of the blob, and how often.
  int TimesAsked(uint64_t at) const {
    int times = 0;
    for (const ByteRange& range : repository_.Reads(blob_.digest)) {
      times += range.begin <= at && at < range.end ? 1 : 0;
    }
    return times;
  }
};

TEST_F(FillingFramesTest, AFrameIsManySpans) {
  ASSERT_GT(table_.spans.size(), 40U);
  EXPECT_EQ(table_.spans.front().codec, SpanCodec::kZstdBegin);
  EXPECT_EQ(table_.spans.back().codec, SpanCodec::kZstdNext);
}

TEST_F(FillingFramesTest, ItsBeginningIsHereBeforeItsEnd) {
  repository_.HoldAt(blob_.digest, BlobEndOf(2 * kMiB));
  EXPECT_TRUE(Check({0, 2 * kMiB}).ok());
  EXPECT_FALSE(layer_->complete());
  repository_.Release(blob_.digest);
  AwaitComplete();  // all of a frame comes once it is entered
  ExpectEachOnce();
}

TEST_F(FillingFramesTest, AReaderOfItsEndWaitsForAllBeforeIt) {
  EXPECT_TRUE(Check({tar_.size() - 5000, tar_.size()}).ok());
  EXPECT_TRUE(Check({0, tar_.size()}).ok());
  ExpectEachOnce();
}

TEST_F(FillingFramesTest, ReadersAnywhereGetTheirBytesAndEachByteComesOnce) {
  ReadEverywhere(50);
  AwaitComplete();
  EXPECT_EQ(checks_, 1);
  ExpectEachOnce();
}

TEST_F(FillingFramesTest, EachFrameIsEnteredByItself) {
  Make(ZstdBytes(tar_, 3));
  EXPECT_TRUE(Check({17 * kMiB, 18 * kMiB}).ok());
  EXPECT_EQ(TimesAsked(0), 0);
  EXPECT_TRUE(Check({0, tar_.size()}).ok());
  ExpectEachOnce();
}

TEST_F(FillingFramesTest, SmallFramesBesideALargeOneAreRead) {
  const std::string small = tar_.substr(0, 1000), large = tar_.substr(1000);
  // One point enters the blob, so that all frames are cut.
  Make(ZstdBytes(small, 3) + ZstdBytes(large, 1));
  EXPECT_TRUE(Check({0, 100}).ok());
  EXPECT_TRUE(Check({tar_.size() - 100, tar_.size()}).ok());
  layer_->WantAll(Priority::kForeground);
  AwaitComplete();
}

TEST_F(FillingFramesTest, AWrongByteIsFetchedAgainAndTheDecoderGoesOn) {
  const SpanEntry& span = table_.spans[20];
  repository_.CorruptAt(blob_.digest, span.blob_begin + 100, 1);
  EXPECT_TRUE(Check({span.data_end() + 3 * kMiB, span.data_end() + 4 * kMiB}).ok());
  EXPECT_EQ(scheduler_->counters().wrong_spans, 1U);
  EXPECT_EQ(TimesAsked(table_.spans[2].blob_begin), 1);
  EXPECT_EQ(TimesAsked(span.blob_begin), 2);
}

TEST_F(FillingFramesTest, BytesThatAreWrongEveryTimeAreNeverServed) {
  const SpanEntry& span = table_.spans[20];
  repository_.CorruptAt(blob_.digest, span.blob_begin + 100, 1000);
  const absl::Status status = Check({span.data_end(), span.data_end() + 1});
  EXPECT_TRUE(absl::IsDataLoss(status)) << status;
  EXPECT_TRUE(Check({0, span.data_begin}).ok());  // what is before it is right
  EXPECT_LT(TimesAsked(span.blob_begin), 20);
  // A reader is told at once now, and another one gets it when the registry is well again.
  EXPECT_TRUE(absl::IsDataLoss(Check({span.data_begin, span.data_end()})));
  repository_.CorruptAt(blob_.digest, 0, 0);
  EXPECT_TRUE(Eventually([&] { return Check({span.data_end(), span.data_end() + 1}).ok(); }));
}

TEST_F(FillingFramesTest, AnInterruptedTransferGoesOn) {
  repository_.FailAt(blob_.digest, BlobEndOf(9 * kMiB) - 17, absl::UnavailableError("away"), 3);
  EXPECT_TRUE(Check({tar_.size() - 1, tar_.size()}).ok());
  AwaitComplete();
  EXPECT_EQ(TimesAsked(0), 1);  // it goes on where it was
}

TEST_F(FillingFramesTest, RefusedCredentialsAreAnErrorAndFoundToBeGoodAgain) {
  repository_.Deny("alice");
  EXPECT_TRUE(absl::IsPermissionDenied(Check({10 * kMiB, 10 * kMiB + 1})));
  layer_->AddSource(repository_.Open("bob"));
  EXPECT_TRUE(Eventually([&] { return Check({10 * kMiB, 10 * kMiB + 1}).ok(); }));
}

TEST_F(FillingFramesTest, ASilentRequestIsAskedAgain) {
  options_.health.least_silence = absl::Milliseconds(50);
  Make(ZstdBytes(tar_, 1));
  repository_.Stall(blob_.digest, 1);
  EXPECT_TRUE(Check({10 * kMiB, 10 * kMiB + 1}).ok());
  EXPECT_GE(scheduler_->counters().hedges, 1U);
}

TEST_F(FillingFramesTest, EvictedBytesComeAgain) {
  check_ = absl::UnavailableError("it stays lazy");
  EXPECT_TRUE(Check({0, tar_.size()}).ok());
  ASSERT_TRUE(Eventually([&] {
    layer_->Evict(tar_.size());
    return layer_->Report().data_bytes_present < tar_.size();
  }));
  for (const uint64_t at : {20 * kMiB, 3 * kMiB, 11 * kMiB, uint64_t{0}}) {
    EXPECT_TRUE(Check({at, at + kMiB}).ok()) << at;
  }
  EXPECT_TRUE(Check({0, tar_.size()}).ok());
}

TEST_F(FillingFramesTest, EvictionUnderReadersNeverShowsZeros) {
  check_ = absl::UnavailableError("it stays lazy");
  std::atomic<bool> stop{false};
  std::thread evicts([&] {
    while (!stop) {
      layer_->Evict(2 * kMiB);
      absl::SleepFor(absl::Milliseconds(3));
    }
  });
  std::vector<std::thread> readers;
  for (uint32_t seed = 0; seed < 4; ++seed) {
    readers.emplace_back([this, seed] {
      std::mt19937 random(seed);
      for (int i = 0; i < 25; ++i) {
        const uint64_t begin = random() % (tar_.size() - 100'000);
        EXPECT_TRUE(Check({begin, begin + 100'000}).ok());
      }
    });
  }
  for (std::thread& reader : readers) reader.join();
  stop = true;
  evicts.join();
}

TEST_F(FillingFramesTest, WhatIsHereOutlivesTheProcess) {
  repository_.HoldAt(blob_.digest, BlobEndOf(12 * kMiB));
  EXPECT_TRUE(Check({0, 12 * kMiB}).ok());
  Close();
  repository_.Release(blob_.digest);
  Open();
  const size_t asked = repository_.Reads(blob_.digest).size();
  EXPECT_TRUE(Check({0, 12 * kMiB}).ok());
  EXPECT_EQ(repository_.Reads(blob_.digest).size(), asked);
  // Its decoder is gone, so the frame is entered once more.
  EXPECT_TRUE(Check({20 * kMiB, 20 * kMiB + 1}).ok());
  AwaitComplete();
}

TEST_F(FillingFramesTest, WhatWasKeptOfTheBlobIsNotFetchedAgain) {
  unproven_ = true;
  Make(ZstdBytes(tar_, 1));
  repository_.HoldAt(blob_.digest, BlobEndOf(12 * kMiB));
  EXPECT_TRUE(Check({0, 12 * kMiB}).ok());
  Close();
  repository_.Release(blob_.digest);
  // A crash may have lost some of it.
  const SpanEntry& lost = table_.spans[4];
  {
    const Fd blob = *OpenFile(directory_ + "/blob", O_RDWR);
    ASSERT_TRUE(PwriteFull(blob.get(), "wrong", lost.blob_begin + 100).ok());
  }
  Open();
  EXPECT_TRUE(Check({20 * kMiB, 20 * kMiB + 1}).ok());
  AwaitComplete();
  EXPECT_EQ(TimesAsked(0), 1);
  EXPECT_EQ(TimesAsked(lost.blob_begin), 2);
  EXPECT_EQ(TimesAsked(table_.spans[10].blob_begin), 1);
}

TEST_F(FillingFramesTest, BytesOfAnEarlierBootAreCheckedBeforeTheyAreBelieved) {
  repository_.HoldAt(blob_.digest, BlobEndOf(12 * kMiB));
  EXPECT_TRUE(Check({0, 12 * kMiB}).ok());
  Close();
  {
    const Fd data = *OpenFile(directory_ + "/data", O_RDWR);
    ASSERT_TRUE(PwriteFull(data.get(), "wrong", 5 * kMiB).ok());
  }
  repository_.Release(blob_.digest);
  Open(/*unverified=*/true);
  EXPECT_TRUE(Check({kMiB, 2 * kMiB}).ok());
  EXPECT_TRUE(Check({5 * kMiB, 6 * kMiB}).ok());
}

TEST_F(FillingFramesTest, ATableThatLiesDamagesTheLayerAndServesNothing) {
  SpanTable lie = table_;
  // The sizes of two neighbours, the first of which says to have less.
  lie.spans[10].data_bytes -= 512;
  lie.spans[11].data_begin -= 512;
  lie.spans[11].data_bytes += 512;
  Close();
  std::filesystem::remove_all(directory_);
  ASSERT_TRUE(MakeDirs(directory_).ok());
  ASSERT_TRUE(WriteFileDurably(directory_ + "/access", *WriteSpanTable(lie)).ok());
  Open();
  const absl::Status status = Check({lie.spans[11].data_begin, lie.spans[11].data_end()});
  EXPECT_TRUE(absl::IsDataLoss(status)) << status;
  EXPECT_EQ(layer_->Report().state, "damaged");
}

TEST_F(FillingFramesTest, ManyFramesWaitForTheMemoryOfTheirDecoders) {
  options_.decoders_memory = 20 << 20;  // for few of those of 3 MiB
  Make(ZstdBytes(tar_, 8));
  std::vector<std::unique_ptr<Read>> reads;
  for (uint64_t at = 0; at < tar_.size(); at += kMiB) reads.push_back(Begin({at, at + 1}));
  for (const auto& read : reads) EXPECT_TRUE(read->status().ok());
  AwaitComplete();
  EXPECT_EQ(scheduler_->decoders_memory().held(), 0U);
  ExpectEachOnce();
}

TEST_F(FillingFramesTest, ClosingTellsWhoWaits) {
  repository_.HoldAt(blob_.digest, BlobEndOf(2 * kMiB));
  const auto read = Begin({20 * kMiB, 20 * kMiB + 1});
  repository_.AwaitHeld(blob_.digest);
  Close();
  EXPECT_TRUE(absl::IsCancelled(read->status()));
}

}  // namespace
}  // namespace imagefs
