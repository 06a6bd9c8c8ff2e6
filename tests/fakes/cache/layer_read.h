// SPDX-License-Identifier: Apache-2.0
// One read of a layer whose bytes may be missing, for tests that let others happen meanwhile.
#pragma once

#include <memory>
#include <utility>

#include "absl/status/statusor.h"
#include "absl/synchronization/notification.h"
#include "base/cancel.h"
#include "cache/chain.h"

namespace imagefs {

struct LayerRead {
  absl::Notification ended;
  absl::StatusOr<ReadPin> pin;
  CancelSource cancel;
  // Waits for its end.
  absl::Status status() {
    ended.WaitForNotification();
    return pin.status();
  }
};

// The read must end before it is destroyed.
inline std::unique_ptr<LayerRead> BeginRead(LayerFill& layer, ByteRange range,
                                            ReaderId reader = 0) {
  auto read = std::make_unique<LayerRead>();
  layer.Ensure(range, reader, read->cancel.token(),
               [raw = read.get()](absl::StatusOr<ReadPin> pin) {
                 raw->pin = std::move(pin);
                 raw->ended.Notify();
               });
  return read;
}

}  // namespace imagefs
