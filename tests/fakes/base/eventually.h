// SPDX-License-Identifier: Apache-2.0
// Waiting for what other threads or the kernel do, for tests.
#pragma once

#include "absl/functional/function_ref.h"
#include "absl/time/clock.h"
#include "base/monotonic.h"

namespace imagefs {

// Asks again and again until `condition` holds, for a minute at most: what takes that long does not
// come. False then.
inline bool Eventually(absl::FunctionRef<bool()> condition) {
  const Moment deadline = Moment::Now() + absl::Minutes(1);
  while (!condition()) {
    if (Moment::Now() > deadline) return false;
    absl::SleepFor(absl::Milliseconds(1));
  }
  return true;
}

}  // namespace imagefs
