// SPDX-License-Identifier: Apache-2.0
// Pages of a hot pack in a lazy layer (cache/filling_layer_pack.cc).
#include <fcntl.h>
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/time/clock.h"
#include "base/fd.h"
#include "tests/fakes/base/eventually.h"
#include "tests/fakes/cache/filling_layer_fixture.h"

namespace imagefs {
namespace {

// A layer for some of whose pages a hot pack is on its way.
class HotPackFillTest : public FillingLayerTest {
 protected:
  static constexpr uint64_t kPage = kHotPageBytes;
  // Pages 2 to 6, then 40, in frames of their own.
  bool Offer() {
    auto pack = std::make_shared<HotPack>();
    pack->layers = {{table_.diff_id, table_.data_bytes}};
    pack->pieces = {{0, {2 * kPage, 7 * kPage}}, {0, {40 * kPage, 41 * kPage}}};
    pack->frames = {{0, 1, {1000, 2000}, 5 * kPage, {}}, {1, 2, {2000, 3000}, kPage, {}}};
    HotOffer offer;
    offer.pack = std::move(pack);
    offer.arrival = arrival_;
    offer.lied = [this] { ++lies_; };
    return layer_->ExpectHot(std::move(offer), 0);
  }
  // As if a thousand bytes had come at once and the rest would take no time.
  void Fast() {
    const Moment now = Moment::Now();
    arrival_->Note(500, now);
    arrival_->Note(1000, now);
  }
  void Add(ByteRange range, bool wrong = false) {
    std::string bytes = tar_.substr(range.begin, range.size());
    if (wrong) bytes[10] ^= 1;
    layer_->AddHot(range, bytes);
  }
  uint64_t Requests() { return scheduler_->counters().requests.load(); }

  const std::shared_ptr<HotArrival> arrival_ =
      std::make_shared<HotArrival>(Moment::Now() - absl::Seconds(20));
  std::atomic<int> lies_{0};
};

TEST_F(HotPackFillTest, PagesAreServedWithoutTheirSpan) {
  ASSERT_TRUE(Offer());
  EXPECT_FALSE(Offer()) << "one at a time";
  Add({2 * kPage, 7 * kPage});
  EXPECT_TRUE(Check({2 * kPage + 100, 7 * kPage}).ok());
  EXPECT_EQ(Requests(), 0U);
  EXPECT_EQ(layer_->Report().hot_bytes, 5 * kPage);
  EXPECT_EQ(layer_->Report().blob_bytes_present, 0U);
  // One page more than came.
  EXPECT_TRUE(Check({6 * kPage, 8 * kPage}).ok());
  EXPECT_GT(Requests(), 0U);
  EXPECT_EQ(lies_, 0);
  layer_->WantAll(Priority::kForeground);
  ASSERT_TRUE(Eventually([&] { return layer_->complete(); }));
  EXPECT_EQ(lies_, 0);
  EXPECT_TRUE(Eventually([&] { return !std::filesystem::exists(directory_ + "/hot"); }));
}

TEST_F(HotPackFillTest, AReaderWaitsForWhatIsComing) {
  repository_.HoldAt(blob_.digest, 0);
  ASSERT_TRUE(Offer());
  Fast();
  const auto read = Begin({3 * kPage, 3 * kPage + 10});
  EXPECT_FALSE(read->ended.HasBeenNotified());
  Add({2 * kPage, 7 * kPage});
  EXPECT_TRUE(read->status().ok());
  EXPECT_EQ(Requests(), 0U);
  EXPECT_EQ(layer_->Report().waiting, 0U);
  repository_.Release(blob_.digest);
}

TEST_F(HotPackFillTest, AReaderDoesNotWaitForASilentPack) {
  ASSERT_TRUE(Offer());  // nothing of it has come
  EXPECT_TRUE(Check({3 * kPage, 3 * kPage + 10}).ok());
  EXPECT_GT(Requests(), 0U);
}

TEST_F(HotPackFillTest, WhicheverComesFirstServesTheReader) {
  repository_.HoldAt(blob_.digest, 0);
  ASSERT_TRUE(Offer());
  const auto read = Begin({3 * kPage, 3 * kPage + 10});  // asks for the span
  repository_.AwaitHeld(blob_.digest);
  Add({2 * kPage, 7 * kPage});
  EXPECT_TRUE(read->status().ok());
  repository_.Release(blob_.digest);
  layer_->WantAll(Priority::kForeground);
  ASSERT_TRUE(Eventually([&] { return layer_->complete(); }));
}

TEST_F(HotPackFillTest, WhenThePackEndsReadersAskForSpans) {
  ASSERT_TRUE(Offer());
  Fast();
  const auto read = Begin({3 * kPage, 3 * kPage + 10});
  EXPECT_FALSE(read->ended.HasBeenNotified());
  layer_->EndHot(/*lied=*/false);
  EXPECT_TRUE(read->status().ok());
  EXPECT_GT(Requests(), 0U);
  Add({2 * kPage, 7 * kPage}, /*wrong=*/true);  // too late: nobody expects it
  EXPECT_TRUE(Check({2 * kPage, 7 * kPage}).ok());
}

TEST_F(HotPackFillTest, AReaderWhoLeavesWaitsForNothing) {
  ASSERT_TRUE(Offer());
  Fast();
  const auto read = Begin({3 * kPage, 3 * kPage + 10});
  read->cancel.Cancel();
  EXPECT_TRUE(absl::IsCancelled(read->status()));
  EXPECT_EQ(layer_->Report().waiting, 0U);
  const auto last = Begin({3 * kPage, 3 * kPage + 10});
  scheduler_.reset();
  EXPECT_FALSE(last->status().ok());
}

TEST_F(HotPackFillTest, ALieThatSomebodyReadDamagesTheLayer) {
  ASSERT_TRUE(Offer());
  Add({2 * kPage, 7 * kPage}, /*wrong=*/true);
  ASSERT_TRUE(Begin({4 * kPage, 5 * kPage})->status().ok());
  layer_->WantAll(Priority::kForeground);
  ASSERT_TRUE(Eventually([&] { return layer_->Report().state == "damaged"; }));
  EXPECT_EQ(lies_, 1);
  EXPECT_TRUE(absl::IsDataLoss(Begin({4 * kPage, 5 * kPage})->status()));
}

TEST_F(HotPackFillTest, ALieThatNobodyReadIsDropped) {
  ASSERT_TRUE(Offer());
  Add({2 * kPage, 7 * kPage}, /*wrong=*/true);
  layer_->WantAll(Priority::kForeground);
  ASSERT_TRUE(Eventually([&] { return layer_->complete(); }));
  EXPECT_EQ(lies_, 1);
  EXPECT_TRUE(Check({0, 8 * kPage}).ok());
  EXPECT_FALSE(Offer());
}

TEST_F(HotPackFillTest, ALieIsFoundByTheNextProcess) {
  ASSERT_TRUE(Offer());
  Add({2 * kPage, 7 * kPage}, /*wrong=*/true);
  ASSERT_TRUE(Begin({4 * kPage, 5 * kPage})->status().ok());
  Close();
  Open();
  EXPECT_EQ(layer_->Report().blob_bytes_present, 0U);
  // Its pages are not served any more.
  EXPECT_TRUE(absl::IsDataLoss(Begin({4 * kPage, 5 * kPage})->status()));
  EXPECT_EQ(layer_->Report().state, "damaged");
}

TEST_F(HotPackFillTest, WhatIsEvictedIsNotServed) {
  ASSERT_TRUE(Offer());
  Add({2 * kPage, 7 * kPage});
  layer_->EndHot(/*lied=*/false);
  ASSERT_TRUE(Check({7 * kPage, 9 * kPage}).ok());  // brings the span of the pages
  ASSERT_TRUE(Eventually([&] { return layer_->Evict(64 << 20) > 0; }));
  const uint64_t before = Requests();
  EXPECT_TRUE(Check({2 * kPage, 3 * kPage}).ok());
  EXPECT_GT(Requests(), before);
  EXPECT_EQ(lies_, 0);
}

TEST_F(HotPackFillTest, PacksOfAnotherDataFileAreRefused) {
  table_.data_bytes += 512;
  EXPECT_FALSE(Offer());
  table_.data_bytes -= 512;
  table_.diff_id = Sha256Of("another");
  EXPECT_FALSE(Offer());
}

}  // namespace
}  // namespace imagefs
