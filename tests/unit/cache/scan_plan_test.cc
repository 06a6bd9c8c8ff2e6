// SPDX-License-Identifier: Apache-2.0
#include "cache/scan_plan.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

namespace imagefs {
namespace {

constexpr uint64_t kMiB = 1 << 20;

// Scans a layer of files of these sizes, each with a header of 512 bytes, by requests of `trip`.
struct Scanned {
  absl::Status status;
  uint64_t requests = 0, bytes = 0;
};
Scanned Scan(const std::vector<uint64_t>& files, absl::Duration trip = absl::ZeroDuration()) {
  uint64_t size = 1024;
  for (const uint64_t file : files) size += 512 + (file + 511) / 512 * 512;
  ScanPlan plan(size);
  absl::Duration elapsed;
  ByteRange part;
  uint64_t at = 0;
  const auto read_to = [&](uint64_t end) -> absl::Status {
    while (end > part.end) {
      const absl::StatusOr<ByteRange> next = plan.Next(at, end, elapsed);
      if (!next.ok()) return next.status();
      EXPECT_TRUE(next->begin == at && next->end >= end && next->end <= size);
      part = *next;
      elapsed += trip;
    }
    return absl::OkStatus();
  };
  Scanned scanned;
  for (const uint64_t file : files) {
    scanned.status = read_to(at + 512);
    if (!scanned.status.ok()) break;
    at += 512 + (file + 511) / 512 * 512;
  }
  if (scanned.status.ok()) scanned.status = read_to(at + 1024);
  scanned.requests = plan.requests();
  scanned.bytes = plan.bytes();
  return scanned;
}

TEST(ScanPlanTest, AFewLargeFilesCostAFewSmallRequests) {
  const Scanned twenty = Scan(std::vector<uint64_t>(20, 100 * kMiB));
  EXPECT_TRUE(twenty.status.ok()) << twenty.status;
  EXPECT_LE(twenty.requests, 21u);
  EXPECT_LE(twenty.bytes, 80u << 10);
  const Scanned one = Scan({2048 * kMiB});
  EXPECT_TRUE(one.status.ok()) << one.status;
  EXPECT_EQ(one.requests, 2u);
}

TEST(ScanPlanTest, HeadersInARowAreReadInEverLargerParts) {
  std::vector<uint64_t> files(2000, 0);
  files.push_back(1000 * kMiB);
  const Scanned scanned = Scan(files);
  EXPECT_TRUE(scanned.status.ok()) << scanned.status;
  EXPECT_LE(scanned.requests, 9u);
  EXPECT_LE(scanned.bytes, 2100 * kMiB / 1024);
}

TEST(ScanPlanTest, ManySmallFilesAreStreamed) {
  for (const uint64_t size : {uint64_t{100}, uint64_t{3000}, uint64_t{50'000}, uint64_t{400'000}}) {
    const uint64_t files = 500 * kMiB / (size + 1024);
    const Scanned scanned = Scan(std::vector<uint64_t>(files, size));
    EXPECT_TRUE(absl::IsResourceExhausted(scanned.status)) << size;
    EXPECT_LE(scanned.bytes, 8 * kMiB) << size;
    EXPECT_LE(scanned.requests, 20u) << size;
  }
}

TEST(ScanPlanTest, ASmallFractionOfSmallFilesIsPassed) {
  std::vector<uint64_t> files(5000, 1000);
  files.push_back(4000 * kMiB);
  EXPECT_TRUE(Scan(files).status.ok());
}

TEST(ScanPlanTest, ASlowRegistryIsNotAskedForEver) {
  const std::vector<uint64_t> files(200, 10 * kMiB);
  EXPECT_TRUE(Scan(files, absl::Milliseconds(20)).status.ok());
  const Scanned slow = Scan(files, absl::Milliseconds(500));
  EXPECT_TRUE(absl::IsResourceExhausted(slow.status)) << slow.status;
  EXPECT_LE(slow.requests, 9u);
}

TEST(ScanPlanTest, AnEntryWithoutEndIsGivenUp) {
  const uint64_t size = 1000 * kMiB;
  ScanPlan plan(size);
  uint64_t needed = 512, requests = 0;
  while (true) {
    const absl::StatusOr<ByteRange> next = plan.Next(0, needed, absl::ZeroDuration());
    if (!next.ok()) break;
    EXPECT_GE(next->end, needed);
    needed = next->end + 512;
    ASSERT_LE(++requests, 20u);
  }
  EXPECT_LE(plan.bytes(), 10 * kMiB);
}

}  // namespace
}  // namespace imagefs
