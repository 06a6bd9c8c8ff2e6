// The files of a layer on the disk: the sums by which damage is found, and how they get to the
// disk for good. Blocks on the disk. Thread-safe.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/digest.h"

namespace imagefs {

// What the files of a layer have to have.
struct LayerSums {
  // SHA-256 of `data`; empty: not known. Of a layer that fills, it was whole before, and is to have
  // this again.
  Digest data;
  std::optional<uint32_t> index;  // CRC-32C of `index` (seed all ones)
  bool known() const { return !data.empty() && index.has_value(); }
  bool operator==(const LayerSums&) const = default;
};

// Which file that is, and when it was last changed, as one word: as long as it is the same, nobody
// wrote to the file (but through a mapping, or to the disk below it). "" = there is none.
std::string StampOf(const std::string& path);

// Of the files as they can be read now.
absl::StatusOr<LayerSums> SumsOfLayer(const std::string& directory);

// The same of the files as they are on the disk, past the page cache where the file system allows
// it. Calls `pace` with the number of bytes just read; kCancelled when that says false.
absl::StatusOr<LayerSums> SumsOnDisk(const std::string& directory,
                                     absl::FunctionRef<bool(size_t bytes)> pace);
// Lets go of what the page cache has of the layer's files, where nobody has them mapped.
void DropCached(const std::string& directory);

// Makes the file `to` equal to `from`, where it is not. Whoever reads or shows it sees the same
// file. Syncs nothing.
absl::Status CopyDifferences(int from, int to);

// Syncs the files of the layer, its directory and the one above.
//
// `careful`: a sync of these files failed before, or may have. The kernel reports such a failure
// once, and takes the pages for clean from then on. So everything is written anew, synced, and read
// back from the disk, past the page cache. kDataLoss when what can be read is not what has `sums`
// (or they are not known, so that nobody can say).
absl::Status SyncLayer(const std::string& directory, const LayerSums& sums, bool careful);

}  // namespace imagefs
