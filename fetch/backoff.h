// SPDX-License-Identifier: Apache-2.0
// The delay before a retry: exponential backoff with jitter, so that clients that failed together
// do not retry together.
#pragma once

#include <algorithm>
#include <chrono>
#include <random>

namespace imagefs {

// Returns between half and all of first * 2^(retry - 1), at most `most`. `retry` counts from 1.
inline std::chrono::milliseconds BackoffDelay(
    std::chrono::milliseconds first, int retry,
    std::chrono::milliseconds most = std::chrono::milliseconds(10'000)) {
  const std::chrono::milliseconds full =
      std::min(most, first * (int64_t{1} << std::clamp(retry - 1, 0, 16)));
  thread_local std::minstd_rand random(std::random_device{}());
  return full / 2 + std::chrono::milliseconds(std::uniform_int_distribution<int64_t>(
                        0, std::max<int64_t>(0, full.count() / 2))(random));
}

}  // namespace imagefs
