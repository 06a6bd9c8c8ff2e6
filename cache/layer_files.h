// The files of a layer on the disk: the sums by which damage is found, and how they get to the
// disk for good. Blocks on the disk. Thread-safe.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/digest.h"

namespace imagefs {

// What the files of a whole layer have to have.
struct LayerSums {
  Digest data;         // SHA-256 of `data`; empty: not known
  uint32_t index = 0;  // CRC-32C of `index` (seed all ones)
  bool known() const { return !data.empty(); }
  bool operator==(const LayerSums&) const = default;
};

// Of the files as they can be read now.
absl::StatusOr<LayerSums> SumsOfLayer(const std::string& directory);

// Syncs the files of the layer, its directory and the one above.
//
// `careful`: a sync of these files failed before, or may have. The kernel reports such a failure
// once, and takes the pages for clean from then on. So everything is written anew, synced, and read
// back from the disk, past the page cache. kDataLoss when what can be read is not what has `sums`
// (or they are not known, so that nobody can say).
absl::Status SyncLayer(const std::string& directory, const LayerSums& sums, bool careful);

}  // namespace imagefs
