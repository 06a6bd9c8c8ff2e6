// SPDX-License-Identifier: Apache-2.0
// What occupies a store, and what can be given back of it. Value types. All sizes are bytes on the
// disk, as du(1) counts them, unless stated otherwise.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/time/time.h"

namespace imagefs {

struct StoreUsage {
  // One kind of files. `in_use` of `count` are needed by a mount or a container now.
  // `reclaimable`: what could be given back.
  struct Kind {
    std::string_view name;
    uint64_t count = 0, in_use = 0;
    uint64_t disk = 0, reclaimable = 0;
  };
  // "layers-shared", "layers-exclusive": of one and of several listed images; "layers-unlisted": of
  // images that only a mount or a runtime has, or nobody; "indexes", "trees", "partial", "blobs",
  // "writable-mounts", "containers", "podman", "database".
  std::vector<Kind> kinds;
  uint64_t profiles = 0, profile_bytes = 0;  // in the database; bytes of the values
  uint64_t used = 0;                         // what counts against the limit
  uint64_t limit = 0, high = 0, low = 0;     // 0: no limit
  uint64_t total = 0, free = 0, reserve = 0, background_min_free = 0;  // of the file system
};

struct PruneRequest {
  // Also images that nothing uses, unless they are pinned or could not be fetched again.
  bool all = false;
  bool dry_run = false;  // only say what would be given back
  // Only what was not used for so long.
  absl::Duration older = absl::ZeroDuration();
};

struct PruneResult {
  uint64_t partials = 0, partial_bytes = 0;
  uint64_t layers = 0, layer_bytes = 0;  // that no image needs, or only the removed ones
  std::vector<std::string> images;       // removed: their references
  uint64_t bytes() const { return partial_bytes + layer_bytes; }
};

}  // namespace imagefs
