// SPDX-License-Identifier: Apache-2.0
// Helpers for tests of fetch/: waiting for a callback, and sample data.
#pragma once

#include <cstdint>
#include <string>
#include <utility>

#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "absl/synchronization/notification.h"

namespace imagefs {

// Must outlive the call that was given Done().
template <typename T>
struct Pending {
  absl::Notification finished;
  T result = absl::UnknownError("not finished");
  absl::AnyInvocable<void(T)> Done() {
    return [this](T r) {
      result = std::move(r);
      finished.Notify();
    };
  }
  T& Wait() {
    finished.WaitForNotification();
    return result;
  }
};

inline std::string PatternBytes(size_t size) {
  std::string bytes(size, '\0');
  uint32_t state = 12345;
  for (char& c : bytes) {
    state = state * 1664525 + 1013904223;
    c = static_cast<char>(state >> 24);
  }
  return bytes;
}

inline bool Mentions(const absl::Status& status, const std::string& text) {
  return std::string(status.message()).find(text) != std::string::npos;
}

}  // namespace imagefs
