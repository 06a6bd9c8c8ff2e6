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
  //   index    the tree (EROFS, overlay form)
  //   access, data   the span table (image/span_table.h); sparse
  //   windows  where the windows of a table are that came without (cache/late_windows.h)
  //   present  which spans were verified and are in `data` (cache/present_map.h)
  //   blob     of an unproven layer: the received parts of its blob, unless `data` has them
  //   hot      pages of `data` that came with a hot pack (cache/hot_marks.h)
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
