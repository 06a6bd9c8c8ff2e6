// SPDX-License-Identifier: Apache-2.0
#include "cache/filling_layer.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <filesystem>
#include <optional>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "base/fd.h"
#include "base/status.h"
#include "base/text.h"
#include "tests/fakes/base/eventually.h"
#include "tests/fakes/cache/filling_layer_fixture.h"

namespace imagefs {
namespace {

TEST_F(FillingLayerTest, BringsWhatIsAskedForAndNoMore) {
  EXPECT_TRUE(Check({1'000'000, 1'000'100}).ok());
  EXPECT_LE(Asked(), 2 * (64U << 10));
  const uint64_t asked = Asked();
  EXPECT_TRUE(Check({1'000'000, 1'000'100}).ok());
  EXPECT_EQ(Asked(), asked);
  const FillReport report = layer_->Report();
  EXPECT_EQ(report.state, "filling");
  EXPECT_EQ(report.blob_bytes_fetched, asked);
  EXPECT_EQ(report.blob_bytes_needed, report.blob_bytes_present);
  EXPECT_EQ(report.waiting, 0U);
}

TEST_F(FillingLayerTest, ItsPictureTellsWhatBroughtWhichBytes) {
  layer_->Prefetch({0, 100'000}, Priority::kForeground);
  ASSERT_TRUE(Eventually([this] {
    const FillReport report = layer_->Report();
    return report.blob_bytes_present > 0 && report.in_flight.empty();
  }));
  EXPECT_TRUE(Check({2'000'000, 2'000'100}).ok());
  // A reader does not wait for the end of its request.
  ASSERT_TRUE(Eventually([this] { return layer_->Report().in_flight.empty(); }));
  FillPicture picture = layer_->Picture();
  ASSERT_EQ(picture.spans.size(), table_.spans.size());
  EXPECT_EQ(picture.spans[0], ByteState::kPrefetched);
  EXPECT_EQ(picture.spans[SpanOf(table_, 2'000'000)], ByteState::kNeeded);
  EXPECT_EQ(picture.spans.back(), ByteState::kAbsent);
  EXPECT_TRUE(Check({0, 100}).ok());  // it is here: no request, and nobody waits
  picture = layer_->Picture();
  EXPECT_EQ(picture.spans[0], ByteState::kNeeded);
  uint64_t bytes = 0;
  bool profile = false, on_demand = false;
  size_t waits = 0;
  for (const TimelineEvent& event : picture.events.events) {
    EXPECT_LE(event.began, event.ended);
    EXPECT_FALSE(event.failed);
    if (event.step == TimelineEvent::Step::kWait) {
      ++waits;
      EXPECT_EQ(event.bytes, (ByteRange{2'000'000, 2'000'100}));
      continue;
    }
    ASSERT_EQ(event.step, TimelineEvent::Step::kRange);
    EXPECT_GE(event.answered, event.began);
    EXPECT_LE(event.answered, event.ended);
    bytes += event.bytes.size();
    profile |= event.priority == Priority::kForeground;
    on_demand |= event.priority == Priority::kOnDemand;
  }
  EXPECT_EQ(waits, 1U);
  EXPECT_TRUE(profile && on_demand);
  EXPECT_EQ(bytes, Asked());
}

TEST_F(FillingLayerTest, ItsPictureHasWhatHasNotEnded) {
  const SpanEntry span = table_.spans.at(table_.spans.size() / 2);
  repository_.HoldAt(blob_.digest, span.blob_begin + 10);
  const auto read = Begin({span.data_begin, span.data_begin + 1});
  const auto open = [this](TimelineEvent::Step step) {
    const FillPicture picture = layer_->Picture();
    return std::count_if(picture.events.events.begin(), picture.events.events.end(),
                         [step](const TimelineEvent& event) {
                           return event.step == step && event.ended == Moment::InfiniteFuture();
                         });
  };
  ASSERT_TRUE(Eventually([&] { return open(TimelineEvent::Step::kRange) == 1; }));
  EXPECT_EQ(open(TimelineEvent::Step::kWait), 1);
  repository_.Release(blob_.digest);
  EXPECT_TRUE(read->status().ok());
  ASSERT_TRUE(Eventually([&] { return open(TimelineEvent::Step::kRange) == 0; }));
  EXPECT_EQ(open(TimelineEvent::Step::kWait), 0);
}

TEST_F(FillingLayerTest, AnAnsweredReadLeavesNoTimerForItsDeadline) {
  layer_->AllowWaiting(absl::Hours(24));
  const SpanEntry span = table_.spans.at(table_.spans.size() / 2);
  repository_.HoldAt(blob_.digest, span.blob_begin + 10);
  std::vector<std::unique_ptr<Read>> reads;
  for (int i = 0; i < 20; ++i) reads.push_back(Begin({span.data_begin, span.data_begin + 1}));
  EXPECT_EQ(scheduler_->timers(), 20U);
  reads.front()->cancel.Cancel();
  EXPECT_TRUE(absl::IsCancelled(reads.front()->status()));
  EXPECT_EQ(scheduler_->timers(), 19U);
  repository_.Release(blob_.digest);
  for (size_t i = 1; i < reads.size(); ++i) EXPECT_TRUE(reads[i]->status().ok());
  EXPECT_EQ(scheduler_->timers(), 0U);
}

TEST_F(FillingLayerTest, ManyReadersOfTheSameBytesShareOneRequest) {
  const SpanEntry span = table_.spans.at(table_.spans.size() / 2);
  repository_.HoldAt(blob_.digest, span.blob_begin + 10);
  std::vector<std::unique_ptr<Read>> reads;
  reads.push_back(Begin({span.data_begin, span.data_begin + 1}));
  repository_.AwaitHeld(blob_.digest);
  for (int i = 0; i < 20; ++i) reads.push_back(Begin({span.data_begin, span.data_end()}));
  EXPECT_EQ(layer_->Report().waiting, 21U);
  EXPECT_EQ(layer_->Report().in_flight.size(), 1U);
  repository_.Release(blob_.digest);
  for (const auto& read : reads) EXPECT_TRUE(read->status().ok());
  EXPECT_EQ(repository_.Reads(blob_.digest).size(), 1U);
}

TEST_F(FillingLayerTest, RandomReadsByManyReadersAskForEachByteOnceAndComplete) {
  ReadEverywhere(100);
  layer_->WantAll(Priority::kForeground);
  AwaitComplete();
  EXPECT_EQ(checks_, 1);
  ExpectEachOnce();
  EXPECT_EQ(layer_->Report().state, "complete");
}

TEST_F(FillingLayerTest, CompletesByItselfAfterAQuietMoment) {
  Close();
  options_.background = true;
  Open();
  AwaitComplete();
  EXPECT_TRUE(Check({0, tar_.size()}).ok());
  ExpectEachOnce();
}

TEST_F(FillingLayerTest, WaitsAreTimedByCause) {
  const auto waited = [this](FillScheduler::WaitCause cause) {
    return scheduler_->counters().waited.at(static_cast<size_t>(cause)).Read().count();
  };
  ASSERT_TRUE(Check({0, 1000}).ok());
  EXPECT_EQ(waited(FillScheduler::WaitCause::kFetch), 1U);
  ASSERT_TRUE(Check({0, 1000}).ok());  // it is local now
  EXPECT_EQ(waited(FillScheduler::WaitCause::kFetch), 1U);
  EXPECT_EQ(waited(FillScheduler::WaitCause::kInFlight), 0U);
  EXPECT_EQ(waited(FillScheduler::WaitCause::kRecheck), 0U);
  EXPECT_GE(scheduler_->counters().decode.Read().count(), 1U);

  Close();
  Open(/*unverified=*/true);
  ASSERT_TRUE(Check({0, 1000}).ok());
  EXPECT_EQ(waited(FillScheduler::WaitCause::kRecheck), 1U);
  EXPECT_EQ(waited(FillScheduler::WaitCause::kFetch), 0U);
}

TEST_F(FillingLayerTest, MostOfItReadBringsTheRest) {
  ASSERT_TRUE(Check({0, tar_.size() * 7 / 10}).ok());
  AwaitComplete();
  ExpectEachOnce();
}

TEST_F(FillingLayerTest, AReaderInSequenceIsReadAheadOf) {
  for (uint64_t at = 0; at < 600'000; at += 50'000) ASSERT_TRUE(Check({at, at + 50'000}).ok());
  EXPECT_GT(scheduler_->counters().prefetched_spans.load(), 0U);
  ExpectEachOnce();
}

TEST_F(FillingLayerTest, ALargeSpanWhoseBytesInterleaveIsRead) {
  for (const size_t mib : {9, 20}) {
    MakeFrames(mib << 20, 1);
    EXPECT_TRUE(Check({(mib << 20) - 5000, mib << 20}).ok()) << mib;
    EXPECT_TRUE(Check({0, 5000}).ok()) << mib;
    ExpectEachOnce();
  }
}

TEST_F(FillingLayerTest, LargeSpansShareTheMemoryOfAll) {
  const std::vector<std::unique_ptr<Read>> reads = ReadLargeSpansInLittleMemory();
  // One holds 20 MiB, compressed and decoded; the others wait, each of them in flight.
  repository_.AwaitHeld(blob_.digest);
  ASSERT_TRUE(Eventually([&] { return layer_->Report().in_flight.size() >= 4; }));
  EXPECT_GE(scheduler_->memory(Priority::kOnDemand).held(), 20U << 20);
  EXPECT_LE(scheduler_->memory(Priority::kOnDemand).held(), 25U << 20);
  EXPECT_EQ(repository_.Reads(blob_.digest).size(), 1U);
  repository_.Release(blob_.digest);
  for (const auto& read : reads) EXPECT_TRUE(read->status().ok());
  EXPECT_TRUE(Check({0, tar_.size()}).ok());
  ExpectEachOnce();
  Close();
}

TEST_F(FillingLayerTest, ReadersOfLargeSpansThatWaitForRoomAreToldWhenTheStoreCloses) {
  const std::vector<std::unique_ptr<Read>> reads = ReadLargeSpansInLittleMemory();
  repository_.AwaitHeld(blob_.digest);
  scheduler_.reset();
  for (const auto& read : reads) EXPECT_TRUE(absl::IsCancelled(read->status()));
}

TEST_F(FillingLayerTest, BytesThatComeTwiceAreTakenOnce) {
  repository_.RepeatPieces(blob_.digest, 100);
  EXPECT_TRUE(Check({0, tar_.size()}).ok());
}

TEST_F(FillingLayerTest, AWrongByteIsFetchedAgainAndCounted) {
  const SpanEntry span = table_.spans.at(3);
  repository_.CorruptAt(blob_.digest, span.blob_begin + 100, 1);
  EXPECT_TRUE(Check({span.data_begin, span.data_end()}).ok());
  EXPECT_EQ(scheduler_->counters().wrong_spans.load(), 1U);
}

TEST_F(FillingLayerTest, BytesThatAreWrongEveryTimeAreNeverServed) {
  const SpanEntry span = table_.spans.at(3);
  repository_.CorruptAt(blob_.digest, span.blob_begin + 100, 1000);
  EXPECT_TRUE(absl::IsDataLoss(Check({span.data_begin, span.data_end()})));
  EXPECT_EQ(scheduler_->counters().wrong_spans.load(), 3U);
  // Other spans are not affected.
  EXPECT_TRUE(Check({0, 1000}).ok());
  EXPECT_FALSE(layer_->Report().reason.empty());
  // Later requests get the same answer at once, without a request for each.
  const size_t asked = repository_.Reads(blob_.digest).size();
  for (int i = 0; i < 1000; ++i) {
    EXPECT_TRUE(absl::IsDataLoss(Check({span.data_begin, span.data_end()})));
  }
  EXPECT_LE(repository_.Reads(blob_.digest).size(), asked + 50);
  repository_.CorruptAt(blob_.digest, 0, 0);
  EXPECT_TRUE(Eventually([&] { return Check({span.data_begin, span.data_end()}).ok(); }));
  EXPECT_EQ(layer_->Report().reason, "");
}

TEST_F(FillingLayerTest, WrongBytesAreFetchedFromAnotherSourceFirst) {
  layer_->AddSource(repository_.Open("bob"));
  const SpanEntry span = table_.spans.at(3);
  repository_.CorruptAt(blob_.digest, span.blob_begin + 100, 1);
  EXPECT_TRUE(Check({span.data_begin, span.data_end()}).ok());
  EXPECT_EQ(layer_->AuthScopes(), (std::vector<std::string>{"bob", "alice"}));
}

TEST_F(FillingLayerTest, ARegistryThatIsAwayForAMomentIsWaitedFor) {
  repository_.FailAt(blob_.digest, 0, absl::UnavailableError("away"), 2);
  EXPECT_TRUE(Check({0, 1000}).ok());
}

TEST_F(FillingLayerTest, ADeadRegistryEndsReadsAtTheirDeadline) {
  layer_->AllowWaiting(absl::Milliseconds(300));
  repository_.FailAt(blob_.digest, 0, absl::UnavailableError("away"), 1000);
  const absl::Status status = Check({0, 1000});
  EXPECT_TRUE(absl::IsDeadlineExceeded(status)) << status;
  EXPECT_NE(status.message().find("away"), std::string::npos) << status;
  EXPECT_EQ(scheduler_->counters().expired.load(), 1U);
  EXPECT_EQ(layer_->Report().waiting, 0U);
}

TEST_F(FillingLayerTest, AReaderThatGoesAwayDisturbsNobody) {
  const SpanEntry span = table_.spans.at(2);
  repository_.HoldAt(blob_.digest, span.blob_begin + 10);
  const auto first = Begin({span.data_begin, span.data_end()});
  repository_.AwaitHeld(blob_.digest);
  const auto second = Begin({span.data_begin, span.data_end()});
  first->cancel.Cancel();
  EXPECT_TRUE(absl::IsCancelled(first->status()));
  EXPECT_EQ(layer_->Report().waiting, 1U);
  repository_.Release(blob_.digest);
  EXPECT_TRUE(second->status().ok());
}

TEST_F(FillingLayerTest, RefusedCredentialsDoNotStopHoldersOfOthers) {
  layer_->AddSource(repository_.Open("mallory"));
  repository_.Deny("mallory");
  EXPECT_TRUE(Check({0, 1000}).ok());
}

TEST_F(FillingLayerTest, RefusedCredentialsOfAllAreAnErrorOnceTheyAreCertain) {
  repository_.Deny("alice");
  const absl::Status status = Check({0, 1000});
  EXPECT_TRUE(absl::IsPermissionDenied(status)) << status;
  EXPECT_EQ(layer_->Report().reason.find("denied to alice; certain"), 0U)
      << layer_->Report().reason;
  EXPECT_EQ(layer_->Report().cause, "denied to alice");
}

// A proxy that returns errors for a moment: each kind of failure is waited out.
TEST_F(FillingLayerTest, WhatARegistryAnswersForAMomentReachesNoReader) {
  for (const absl::Status& answer :
       {absl::NotFoundError("404"), absl::UnauthenticatedError("401"),
        absl::PermissionDeniedError("403"), absl::DataLossError("416"),
        absl::ResourceExhaustedError("429"), absl::FailedPreconditionError("301")}) {
    repository_.FailAt(blob_.digest, 0, answer, 4);
    layer_->Evict(tar_.size());
    EXPECT_TRUE(Check({0, 1000}).ok()) << answer;
    EXPECT_EQ(layer_->Report().reason, "");
  }
}

TEST_F(FillingLayerTest, WhatIsCertainFailsAtOnceAndIsFoundOutAgain) {
  repository_.FailAt(blob_.digest, 0, absl::NotFoundError("unknown"), 1'000'000);
  EXPECT_TRUE(absl::IsNotFound(Check({0, 1000})));
  const size_t asked = repository_.Reads(blob_.digest).size();
  for (int i = 0; i < 1000; ++i) EXPECT_TRUE(absl::IsNotFound(Check({0, 1000})));
  // More readers do not cause more requests.
  EXPECT_LE(repository_.Reads(blob_.digest).size(), asked + 50);
  repository_.FailAt(blob_.digest, 0, absl::OkStatus(), 0);
  EXPECT_TRUE(Eventually([&] { return Check({0, 1000}).ok(); }));
}

TEST_F(FillingLayerTest, AForegroundWishPassesNoPauseAndIsTold) {
  repository_.FailAt(blob_.digest, 0, absl::NotFoundError("unknown"), 1'000'000);
  layer_->WantAll(Priority::kForeground);
  EXPECT_TRUE(absl::IsNotFound(AwaitTold()));
  // 600 ms until it is certain, and pauses up to 150 ms.
  EXPECT_LE(repository_.Reads(blob_.digest).size(), 40U);
  layer_->WantAll(Priority::kForeground);
  repository_.FailAt(blob_.digest, 0, absl::OkStatus(), 0);
  AwaitComplete();
}

TEST_F(FillingLayerTest, WhoWaitsForTheWholeIsToldWhenNothingComes) {
  Close();
  options_.give_up = absl::Milliseconds(200);
  Open();
  repository_.FailAt(blob_.digest, 0, absl::UnavailableError("away"), 1'000'000);
  layer_->WantAll(Priority::kForeground);
  const absl::Status told = AwaitTold();
  EXPECT_TRUE(absl::IsDeadlineExceeded(told)) << told;
  EXPECT_NE(told.message().find("away"), std::string::npos) << told;
  EXPECT_LE(repository_.Reads(blob_.digest).size(), 40U);
}

TEST_F(FillingLayerTest, WhoWaitsForTheWholeIsToldOfSilence) {
  Close();
  options_.give_up = absl::Milliseconds(200);
  Open();
  repository_.Stall(blob_.digest, 1000);
  layer_->WantAll(Priority::kForeground);
  EXPECT_TRUE(absl::IsDeadlineExceeded(AwaitTold()));
  Close();
}

TEST_F(FillingLayerTest, AReadersSpansAreAskedForAgainWhenTheirRequestIsSilent) {
  Close();
  options_.health.least_silence = absl::Milliseconds(30);
  Open();
  repository_.Stall(blob_.digest, 1);
  EXPECT_TRUE(Check({1'000'000, 1'000'100}).ok());
  EXPECT_EQ(scheduler_->counters().hedges.load(), 1U);
  // The first right answer ends the other request.
  EXPECT_TRUE(Eventually([&] { return repository_.Standing(blob_.digest) == 0; }));
  EXPECT_TRUE(Eventually([&] { return layer_->Report().in_flight.empty(); }));
  layer_->WantAll(Priority::kForeground);
  AwaitComplete();
}

TEST_F(FillingLayerTest, ASilentRegistryThatIsWellAgainAnswersReadersSoon) {
  Close();
  options_.health.least_silence = absl::Milliseconds(20);
  Open();
  repository_.Stall(blob_.digest, 6);
  std::vector<std::unique_ptr<Read>> reads;
  for (uint64_t at = 0; at < tar_.size(); at += 400'000) reads.push_back(Begin({at, at + 1}));
  for (const auto& read : reads) EXPECT_TRUE(read->status().ok());
  EXPECT_EQ(scheduler_->counters().expired.load(), 0U);
}

TEST_F(FillingLayerTest, EachHedgeMayBeSilentForTwiceAsLongAsTheOneBefore) {
  Close();
  options_.health.least_silence = absl::Milliseconds(20);
  Open();
  repository_.Stall(blob_.digest, 1000);
  const Moment began = Moment::Now();
  const auto read = Begin({1'000'000, 1'000'100});
  ASSERT_TRUE(Eventually([&] { return scheduler_->counters().hedges.load() >= 5; }));
  EXPECT_GE(Moment::Now() - began, absl::Milliseconds(20 + 20 + 40 + 80 + 160));
  // The first request was not cancelled: it may still be answered.
  repository_.Release(blob_.digest);
  EXPECT_TRUE(read->status().ok());
}

TEST_F(FillingLayerTest, ALineThatIsSlowAndFlowsIsNotAskedTwice) {
  Close();
  options_.health.least_silence = absl::Milliseconds(30);
  Open();
  const SpanEntry span = table_.spans.at(3);
  repository_.Stall(blob_.digest, 1);
  const auto read = Begin({span.data_begin, span.data_end()});
  ASSERT_TRUE(Eventually([&] { return scheduler_->counters().hedges.load() > 0; }));
  EXPECT_TRUE(read->status().ok());
  // This taught the scheduler the response time: half a second is now normal and not a silence.
  scheduler_->health().Answered({"registry.test alice", blob_.digest}, absl::Milliseconds(500));
  const SpanEntry other = table_.spans.at(8);
  repository_.HoldAt(blob_.digest, other.blob_begin + 10);
  const auto slow = Begin({other.data_begin, other.data_end()});
  repository_.AwaitHeld(blob_.digest);
  absl::SleepFor(absl::Milliseconds(200));
  repository_.Release(blob_.digest);
  EXPECT_TRUE(slow->status().ok());
  EXPECT_EQ(scheduler_->counters().hedges.load(), 1U);
}

TEST_F(FillingLayerTest, OneReadHasOneDeadline) {
  layer_->AllowWaiting(absl::Milliseconds(100));
  repository_.Stall(blob_.digest, 1000);
  EXPECT_TRUE(absl::IsDeadlineExceeded(Begin({0, 100'000}, 11)->status()));
  // The kernel's next requests for the same read.
  for (const ByteRange& part : {ByteRange{0, 4096}, ByteRange{4096, 8192}}) {
    const auto again = Begin(part, 11);
    EXPECT_TRUE(again->ended.HasBeenNotified());
    EXPECT_TRUE(absl::IsDeadlineExceeded(again->status()));
  }
  EXPECT_EQ(scheduler_->counters().expired.load(), 1U);
  // Other readers, and unspecified ones, have their own time.
  for (const ReaderId reader : {12U, 0U}) {
    const auto other = Begin({0, 4096}, reader);
    EXPECT_FALSE(other->ended.HasBeenNotified());
    EXPECT_TRUE(absl::IsDeadlineExceeded(other->status()));
  }
  EXPECT_EQ(scheduler_->counters().expired.load(), 3U);
  Close();
}

TEST_F(FillingLayerTest, WhatAFailedRequestBroughtIsNotAskedForAgain) {
  MakeFrames(20 << 20, 1);
  repository_.Interleave(blob_.digest, 1 << 20, 1);
  repository_.FailAt(blob_.digest, 7 << 20, absl::UnavailableError("cut"), 1);
  EXPECT_TRUE(Check({0, 1000}).ok());
  const std::vector<ByteRange> reads = repository_.Reads(blob_.digest);
  ASSERT_EQ(reads.size(), 2U);
  EXPECT_EQ(reads[0].begin, 0U);
  EXPECT_EQ(reads[1], (ByteRange{7 << 20, blob_.size}));
  EXPECT_TRUE(Check({0, tar_.size()}).ok());
}

TEST_F(FillingLayerTest, ATransferThatEndsEarlyAndSaysThatAllIsWellIsAskedAgain) {
  const SpanEntry span = table_.spans.at(3);
  repository_.EndEarly(blob_.digest, span.blob_begin + 100, 1);
  EXPECT_TRUE(Check({span.data_begin, span.data_end()}).ok());
}

TEST_F(FillingLayerTest, EvictedBytesComeAgain) {
  ASSERT_TRUE(Check({0, 500'000}).ok());
  EXPECT_GT(layer_->Evict(400'000), 0U);
  EXPECT_TRUE(Check({0, 500'000}).ok());
}

TEST_F(FillingLayerTest, EvictionUnderReadersNeverShowsZeros) {
  std::atomic<bool> over{false};
  std::thread evictor([this, &over] {
    while (!over) {
      layer_->Evict(300'000);
      absl::SleepFor(absl::Milliseconds(1));
    }
  });
  std::vector<std::thread> readers;
  for (uint32_t seed = 0; seed < 6; ++seed) {
    readers.emplace_back([this, seed] {
      std::mt19937 random(seed);
      for (int i = 0; i < 60 && !layer_->complete(); ++i) {
        const uint64_t begin = random() % tar_.size();
        const uint64_t end = std::min<uint64_t>(tar_.size(), begin + 1 + random() % 100'000);
        const absl::Status status = Check({begin, end});
        EXPECT_TRUE(status.ok()) << status;
      }
    });
  }
  for (std::thread& reader : readers) reader.join();
  over = true;
  evictor.join();
}

TEST_F(FillingLayerTest, WhatIsHereOutlivesTheProcess) {
  ASSERT_TRUE(Check({0, 300'000}).ok());
  const uint64_t asked = Asked();
  Close();
  Open();
  EXPECT_TRUE(Check({0, 300'000}).ok());
  EXPECT_EQ(Asked(), asked);
}

TEST_F(FillingLayerTest, BytesOfAnEarlierBootAreCheckedBeforeTheyAreBelieved) {
  ASSERT_TRUE(Check({0, 300'000}).ok());
  const uint64_t asked = Asked();
  Close();
  {
    const Fd fd = *OpenFile(directory_ + "/data", O_RDWR);
    ASSERT_TRUE(PwriteFull(fd.get(), "XX", 10).ok());
  }
  Open(/*unverified=*/true);
  EXPECT_TRUE(Check({0, 300'000}).ok());
  const uint64_t more = Asked() - asked;
  EXPECT_GT(more, 0U);
  EXPECT_LT(more, asked);
}

TEST_F(FillingLayerTest, ALayerThatIsItsBlobIsNotKeptTwice) {
  MakeStored();
  EXPECT_TRUE(Check({1'000'000, 1'000'100}).ok());
  EXPECT_LE(Asked(), 512U << 10);
  layer_->WantAll(Priority::kForeground);
  AwaitComplete();
  EXPECT_EQ(checks_, 1);
  EXPECT_EQ(layer_->BlobPath(), directory_ + "/data");
  EXPECT_FALSE(std::filesystem::exists(directory_ + "/blob"));
  ExpectEachOnce();
}

TEST_F(FillingLayerTest, SpansWithoutDigestsAreCheckedByTheirMarks) {
  MakeStored();
  ASSERT_TRUE(Check({0, 1 << 20}).ok());
  const uint64_t asked = Asked();
  Close();
  {
    const Fd fd = *OpenFile(directory_ + "/data", O_RDWR);
    ASSERT_TRUE(PwriteFull(fd.get(), "XX", 10).ok());
  }
  Open(/*unverified=*/true);
  EXPECT_TRUE(Check({0, 1 << 20}).ok());
  const uint64_t more = Asked() - asked;
  EXPECT_GT(more, 0U);
  EXPECT_LT(more, asked);
}

TEST_F(FillingLayerTest, APoisonedLayerServesNothing) {
  check_ = absl::DataLossError("not what was promised");
  layer_->WantAll(Priority::kForeground);
  ASSERT_TRUE(Eventually([&] { return layer_->Report().state == "damaged"; }));
  EXPECT_TRUE(absl::IsDataLoss(Check({0, 10})));
  EXPECT_FALSE(layer_->complete());
  EXPECT_EQ(layer_->Report().reason, "not what was promised");
}

TEST_F(FillingLayerTest, ClosingTellsWhoWaits) {
  repository_.HoldAt(blob_.digest, 10);
  const auto read = Begin({0, 1000});
  repository_.AwaitHeld(blob_.digest);
  std::thread closing([this] { scheduler_.reset(); });
  EXPECT_FALSE(read->status().ok());
  repository_.Release(blob_.digest);
  closing.join();
}

TEST_F(FillingLayerTest, TouchedRangesComeInTheirOrder) {
  const uint64_t late = table_.spans.at(8).data_begin, early = table_.spans.at(1).data_begin;
  ASSERT_TRUE(Check({late, late + 10}).ok());
  ASSERT_TRUE(Check({early, early + 1}).ok());
  // What was requested before keeps its place.
  ASSERT_TRUE(Check({late - 5, late + 20}).ok());
  std::vector<ByteRange> touched;
  uint64_t order = 0;
  for (const auto& [number, range] : layer_->ReadParts()) {
    EXPECT_GE(number, order);
    order = number;
    touched.push_back(range);
  }
  EXPECT_EQ(touched,
            (std::vector<ByteRange>{
                {late, late + 10}, {early, early + 1}, {late - 5, late}, {late + 10, late + 20}}));
}

// A layer on a file system that can be filled.
class FullDiskTest : public FillingLayerTest {
 protected:
  void SetUp() override {
    if (geteuid() != 0) GTEST_SKIP() << "SKIPPED: a small file system needs root";
    Close();
    ASSERT_EQ(mount("tmpfs", directory_.c_str(), "tmpfs", 0, "size=8m"), 0);
    mounted_ = true;
    ASSERT_TRUE(WriteFileDurably(directory_ + "/access", *WriteSpanTable(table_)).ok());
    Open();
    hog_ = *OpenFile(directory_ + "/hog", O_WRONLY | O_CREAT | O_APPEND);
  }
  void TearDown() override {
    Close();
    hog_.Reset();
    if (mounted_) umount2(directory_.c_str(), MNT_DETACH);
  }
  void Fill() {
    const std::string block(4096, 'x');
    while (WriteFull(hog_.get(), block).ok()) {
    }
  }
  void Free() { ASSERT_EQ(ftruncate(hog_.get(), 0), 0); }
  uint64_t InMemory() { return *scheduler_->counters().memory_bytes; }

 private:
  bool mounted_ = false;
  Fd hog_;
};

TEST_F(FullDiskTest, ReadersGetTheirBytesFromMemory) {
  Fill();
  for (uint64_t at = 100'000; at < tar_.size(); at += 400'000) {
    EXPECT_TRUE(Check({at, std::min<uint64_t>(at + 200'000, tar_.size())}).ok()) << at;
  }
  const FillReport report = layer_->Report();
  EXPECT_EQ(report.blob_bytes_present, 0u) << "nothing is said to be here that is not";
  EXPECT_NE(report.reason.find("No space left"), std::string::npos) << report.reason;
  EXPECT_GT(InMemory(), 0u);
  const uint64_t asked = Asked();
  EXPECT_TRUE(Check({100'000, 300'000}).ok());
  EXPECT_EQ(Asked(), asked) << "what is in memory is not asked for again";
  // Spans in memory are stored once there is space, without a request.
  Free();
  ASSERT_TRUE(Eventually([&] { return InMemory() == 0; }));
  EXPECT_GT(layer_->Report().blob_bytes_present, 0u);
  EXPECT_TRUE(Check({0, tar_.size()}).ok());
  AwaitComplete();
}

TEST_F(FullDiskTest, WhatNobodyReadsIsNotFetchedAgainAndAgain) {
  Fill();
  layer_->WantAll(Priority::kForeground);
  const absl::Status why = AwaitTold();
  EXPECT_EQ(why.code(), absl::StatusCode::kResourceExhausted) << why;
  EXPECT_LE(Asked(), 2 * blob_.size);
  EXPECT_EQ(layer_->Report().blob_bytes_present, 0u);
  // Readers are served anyway.
  EXPECT_TRUE(Check({0, 200'000}).ok());
  Free();
  // A caller that arrives while an earlier attempt to store fails gets that error, too.
  ASSERT_TRUE(Eventually([&] {
    layer_->WantAll(Priority::kForeground);
    return layer_->complete();
  }));
  EXPECT_TRUE(Check({0, tar_.size()}).ok());
}

TEST_F(FullDiskTest, ADataFileThatWasCutIsNotWrittenOn) {
  ASSERT_TRUE(Check({2'000'000, 2'100'000}).ok());
  ASSERT_EQ(truncate((directory_ + "/data").c_str(), 4096), 0);
  const absl::Status status = Check({1'000'000, 1'000'100});
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss) << status;
  EXPECT_EQ(layer_->Report().state, "damaged");
  struct stat st;
  ASSERT_EQ(stat((directory_ + "/data").c_str(), &st), 0);
  EXPECT_EQ(st.st_size, 4096) << "what was cut off does not come back as zeros";
  Close();
  FillingLayer::Options options;
  options.directory = directory_;
  FillScheduler scheduler(options_);
  EXPECT_FALSE(FillingLayer::Open(options, scheduler).ok());
}

TEST_F(FullDiskTest, ASpanTableThatWasCutEndsTheLayerAlone) {
  ASSERT_TRUE(Check({0, 1000}).ok());
  ASSERT_EQ(truncate((directory_ + "/access").c_str(), 0), 0);
  absl::Status status;
  for (uint64_t at = 0; at < tar_.size() && status.ok(); at += 100'000) {
    status = Check({at, at + 100});
  }
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss) << status;
  EXPECT_EQ(layer_->Report().state, "damaged");
}

}  // namespace
}  // namespace imagefs
