// SPDX-License-Identifier: Apache-2.0
#include "cache/scan_plan.h"

#include <algorithm>

#include "base/text.h"
#include "base/units.h"

namespace imagefs {
namespace {

// Most layers that are worth it begin with a few directories.
constexpr uint64_t kFirstBytes = 16 << 10;
// Behind a large file: its successor's header, with a PAX header and the name in it.
constexpr uint64_t kHopBytes = 3 << 10;
constexpr uint64_t kMostBytes = 1 << 20;      // of one request, unless one entry needs more
constexpr uint64_t kMostOfAnEntry = 3 << 20;  // a PAX header and two long names of 1 MiB
// A round trip of 20 ms on a line of 200 Mbit/s.
constexpr uint64_t kRequestCost = 512 << 10;
// The first requests tell what the layer is like, unless they bring much of it.
constexpr uint64_t kTrials = 8, kTrialPart = 16;
// Reading headers may cost this part of streaming what they describe, or of the whole.
constexpr uint64_t kWorth = 4, kStake = 64;
// It may take as long as streaming the layer over a fast line.
constexpr uint64_t kFastLine = 100 << 20;  // bytes per second
constexpr absl::Duration kPatience = absl::Seconds(10);

}  // namespace

absl::Status ScanPlan::CheckWorth(uint64_t position, absl::Duration elapsed) const {
  if (requests_ < kTrials && bytes_ <= blob_bytes_ / kTrialPart) return absl::OkStatus();
  const uint64_t cost = bytes_ + requests_ * kRequestCost;
  if (cost > std::max(position / kWorth, blob_bytes_ / kStake)) {
    return absl::ResourceExhaustedError(
        StrCat("its files are small: ", requests_, " requests with ", FormatBytes(bytes_),
               " of headers came no further than ", FormatBytes(position), " of ",
               FormatBytes(blob_bytes_)));
  }
  const double part =
      static_cast<double>(std::max<uint64_t>(position, 1)) / static_cast<double>(blob_bytes_);
  const absl::Duration limit = std::max(
      kPatience, absl::Seconds(static_cast<double>(blob_bytes_) / static_cast<double>(kFastLine)));
  if (elapsed / part > limit) {
    return absl::ResourceExhaustedError(
        StrCat("the registry answers slowly: ", requests_, " requests took ",
               absl::FormatDuration(absl::Trunc(elapsed, absl::Milliseconds(1)))));
  }
  return absl::OkStatus();
}

absl::StatusOr<ByteRange> ScanPlan::Next(uint64_t position, uint64_t needed,
                                         absl::Duration elapsed) {
  if (absl::Status status = CheckWorth(position, elapsed); !status.ok()) return status;
  if (needed - position > kMostOfAnEntry) {
    return absl::ResourceExhaustedError(
        StrCat("the headers of one entry have more than ", FormatBytes(kMostOfAnEntry)));
  }
  uint64_t want = kHopBytes;
  if (requests_ == 0) {
    want = kFirstBytes;
  } else if (position == last_.begin) {
    want = 2 * last_.size();  // it was too small for one entry
  } else if (position <= last_.end) {
    want = std::min(2 * last_.size(), kMostBytes);  // it was full of headers
  }
  const uint64_t end = std::max(needed, position + std::min(want, blob_bytes_ - position));
  last_ = {position, end};
  ++requests_;
  bytes_ += last_.size();
  return last_;
}

}  // namespace imagefs
