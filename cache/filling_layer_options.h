// SPDX-License-Identifier: Apache-2.0
// How a lazy layer (cache/filling_layer.h) is opened, and whom it tells what. A value type.
#pragma once

#include <functional>
#include <string>

#include "absl/status/status.h"
#include "cache/late_windows.h"

namespace imagefs {

class FillingLayer;

struct FillingLayerOptions {
  std::string directory;
  bool unverified = false;  // verify spans that `present` names before trusting them
  // The layer has not been hashed as a whole yet: its blob is kept, completed once every span is
  // present, and its digest is checked.
  bool unproven = false;
  // Called on a worker when every span (and the blob, of an unproven layer) is present. The layer
  // is complete if it returns OK, damaged if kDataLoss; otherwise the call is retried later.
  std::function<absl::Status(FillingLayer&)> check;
  // Called on a worker, to notify waiters, when requests fail repeatedly. `for_good`: it is
  // certain that the bytes are unavailable, or nothing arrived for
  // FillScheduler::Options::give_up while somebody waited for the whole layer. The layer keeps
  // trying. May be empty.
  std::function<void(const absl::Status& why, bool for_good)> failing;
  // Called once if the layer is damaged, after all reads have been failed. May be empty.
  std::function<void(const absl::Status& why)> damaged;
  LateWindows::OpenRepository open;
};

}  // namespace imagefs
