// SPDX-License-Identifier: Apache-2.0
// The files of a layer on disk: the checksums by which damage is detected, and syncing. Blocks on
// the disk. Thread-safe.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/digest.h"

namespace imagefs {

// The expected checksums of a layer's files.
struct LayerSums {
  // SHA-256 of `data`; empty: unknown. For a lazy layer: it was whole before, and must have this
  // again.
  Digest data;
  std::optional<uint32_t> index;  // CRC-32C of `index` (seed all ones)
  bool known() const { return !data.empty() && index.has_value(); }
  bool operator==(const LayerSums&) const = default;
};

// Identifies a file and its last change as one word: while it is unchanged, nobody has written to
// the file (except through a mapping, or to the disk below it). Returns "" if there is no file.
std::string StampOf(const std::string& path);

// Whether the path is a symbolic link: the data of a layer of a shared store is one.
bool IsLink(const std::string& path);

// Computes the checksums of the files as they are read now.
absl::StatusOr<LayerSums> SumsOfLayer(const std::string& directory);

// Like SumsOfLayer, but reads the disk, bypassing the page cache if the file system allows it.
// Calls `pace` with the number of bytes just read; returns kCancelled if that returns false.
absl::StatusOr<LayerSums> SumsOnDisk(const std::string& directory,
                                     absl::FunctionRef<bool(size_t bytes)> pace);
// Drops the layer's files from the page cache, except where they are mapped.
void DropCached(const std::string& directory);

// Makes the file `to` equal to `from` by writing only the differences. Existing readers and
// mappings see the change. Does not sync.
absl::Status CopyDifferences(int from, int to);

// Syncs the files of the layer, its directory and the parent directory.
//
// `careful`: a sync of these files failed before, or may have. The kernel reports such a failure
// once and considers the pages clean from then on. Everything is therefore rewritten, synced, and
// read back from the disk, bypassing the page cache. Returns kDataLoss if the data does not match
// `sums` (or they are unknown, so that it cannot be verified).
absl::Status SyncLayer(const std::string& directory, const LayerSums& sums, bool careful);

// Makes a new file of that size without data.
absl::Status WriteHole(const std::string& path, uint64_t bytes);

// Copies bytes of a data file to another file, or to another place in it, where a sparse file's
// segment belongs. Calls `allow` with the size of each piece before it is written, and stops at an
// error. kDataLoss if the file ends before the bytes do.
struct FilePlace {
  int fd = -1;
  uint64_t offset = 0;
};
absl::Status CopyBytes(FilePlace from, FilePlace to, uint64_t length,
                       absl::FunctionRef<absl::Status(size_t bytes)> allow);

}  // namespace imagefs
