// SPDX-License-Identifier: Apache-2.0
#include "cache/hot_pages.h"

#include <fcntl.h>
#include <gtest/gtest.h>

#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include "absl/time/clock.h"
#include "base/text.h"
#include "cache/hot_marks.h"

namespace imagefs {
namespace {

constexpr uint64_t kPage = kHotPageBytes;

// Two frames: pages 1 and 2, then page 7.
HotOffer Offer() {
  auto pack = std::make_shared<HotPack>();
  pack->layers = {{Sha256Of("other"), 10 * kPage}, {Sha256Of("layer"), 7 * kPage + 100}};
  pack->pieces = {{1, {kPage, 3 * kPage}}, {0, {0, kPage}}, {1, {7 * kPage, 7 * kPage + 100}}};
  pack->frames = {{0, 2, {100, 200}, 3 * kPage, {}}, {2, 3, {200, 300}, 100, {}}};
  HotOffer offer;
  offer.pack = pack;
  offer.arrival = std::make_shared<HotArrival>(Moment::Now());
  return offer;
}
bool Nothing(ByteRange) { return false; }

TEST(HotPages, KnowsWithWhatAPageComes) {
  HotPages pages;
  ASSERT_TRUE(pages.Expect(Offer(), 1, Nothing));
  EXPECT_TRUE(pages.coming());
  EXPECT_EQ(pages.ComesWith(0), std::nullopt);
  EXPECT_EQ(pages.ComesWith(2), 200U);
  EXPECT_EQ(pages.ComesWith(7), 300U);
  EXPECT_TRUE(pages.Provides({7 * kPage, 7 * kPage + 1}));
  pages.SetHere({kPage, 3 * kPage});
  pages.SetHere({0, kPage});  // of another layer: not expected
  EXPECT_EQ(pages.ComesWith(0), std::nullopt);
  EXPECT_EQ(pages.ComesWith(1), 0U);
  EXPECT_TRUE(pages.Provides({kPage + 5, kPage + 6}));
  EXPECT_FALSE(pages.Provides({0, kPage}));
  EXPECT_EQ(pages.bytes_here(), 2 * kPage);
  using Ranges = std::vector<ByteRange>;
  EXPECT_EQ(pages.Here({kPage + 10, 8 * kPage}), (Ranges{{kPage + 10, 3 * kPage}}));
  pages.EndComing();
  EXPECT_EQ(pages.ComesWith(7), std::nullopt);
  EXPECT_EQ(pages.ComesWith(1), 0U);
  pages.Forget({2 * kPage, 2 * kPage + 1});
  EXPECT_EQ(pages.ComesWith(2), std::nullopt);
  EXPECT_EQ(pages.bytes_here(), kPage);
}

TEST(HotPages, ExpectsOnlyWhatIsMissing) {
  HotPages pages;
  EXPECT_FALSE(pages.Expect(Offer(), 1, [](ByteRange) { return true; }));
  EXPECT_FALSE(pages.coming());
  ASSERT_TRUE(pages.Expect(Offer(), 1, [](ByteRange page) { return page.begin < 7 * kPage; }));
  EXPECT_EQ(pages.ComesWith(1), std::nullopt);
  EXPECT_EQ(pages.ComesWith(7), 300U);
  EXPECT_TRUE(pages.Provides({7 * kPage, 7 * kPage + 1}));
}

TEST(HotPages, WhatIsDistrustedIsComparedAndNotServed) {
  HotPages pages;
  ASSERT_TRUE(pages.Expect(Offer(), 1, Nothing));
  pages.SetHere({kPage, 2 * kPage});
  pages.Distrust();
  EXPECT_EQ(pages.ComesWith(1), std::nullopt);
  EXPECT_EQ(pages.Here({0, 8 * kPage}).size(), 1U);
  HotPages later;
  later.SetEarlier({3 * kPage, 4 * kPage});
  EXPECT_EQ(later.ComesWith(3), std::nullopt);
  EXPECT_EQ(later.Here({0, 8 * kPage}).size(), 1U);
  EXPECT_TRUE(later.served());
}

TEST(HotArrival, KnowsWhatIsFasterThanTheRest) {
  const Moment asked = Moment::Now();
  HotArrival arrival(asked);
  EXPECT_EQ(arrival.Until(1, asked), absl::InfiniteDuration());
  Moment now = asked + absl::Milliseconds(20);
  arrival.Note(1000, now);
  // A thousand bytes a millisecond.
  for (int i = 2; i <= 100; ++i) arrival.Note(i * 1000, now = now + absl::Milliseconds(1));
  EXPECT_EQ(arrival.Until(100'000, now), absl::ZeroDuration());
  EXPECT_NEAR(absl::ToDoubleMilliseconds(arrival.Until(130'000, now)), 30, 1);
  // The answer's 20 ms, and half of the line.
  EXPECT_NEAR(absl::ToDoubleMilliseconds(arrival.OfRequest(50'000)), 120, 2);
  EXPECT_EQ(arrival.Until(130'000, now + absl::Seconds(1)), absl::InfiniteDuration());
  // Slower from now on: that counts.
  for (int i = 1; i <= 10; ++i)
    arrival.Note(100'000 + i * 1000, now = now + absl::Milliseconds(40));
  EXPECT_GT(arrival.Until(130'000, now), absl::Milliseconds(600));
}

TEST(HotMarks, RemembersWithinABoot) {
  const std::string path = StrCat(::testing::TempDir(), "/hot-", RandomHex(8));
  using Ranges = std::vector<ByteRange>;
  {
    HotMarks marks(path);
    EXPECT_EQ(*marks.Read(100 * kPage), Ranges());
    EXPECT_TRUE(marks.Clear({0, kPage}).ok());
    ASSERT_TRUE(marks.Set({3 * kPage, 12 * kPage}).ok());
    ASSERT_TRUE(marks.Set({99 * kPage, 99 * kPage + 7}).ok());
    ASSERT_TRUE(marks.Clear({5 * kPage + 1, 6 * kPage + 1}).ok());
  }
  {
    HotMarks marks(path);
    EXPECT_EQ(
        *marks.Read(99 * kPage + 7),
        (Ranges{{3 * kPage, 5 * kPage}, {7 * kPage, 12 * kPage}, {99 * kPage, 99 * kPage + 7}}));
  }
  {
    std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
    file.write("another boot", 12);
  }
  HotMarks marks(path);
  EXPECT_EQ(*marks.Read(100 * kPage), Ranges());
  EXPECT_TRUE(absl::IsNotFound(OpenFile(path, O_RDONLY).status()));
}

}  // namespace
}  // namespace imagefs
