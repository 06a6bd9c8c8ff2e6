// SPDX-License-Identifier: Apache-2.0
// What a layer occupies on the disk, and whether it is needed. A value type.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>

#include "base/digest.h"
#include "cache/image_types.h"

namespace imagefs {

struct LayerUse {
  Digest id, diff_id;
  LayerState state = LayerState::kAbsent;
  // Bytes on the disk. A file that two layers share is counted once.
  uint64_t data_bytes = 0;   // of `data`
  uint64_t index_bytes = 0;  // of `index`, `access` and `present`
  uint64_t blob_bytes = 0;   // of `blob`
  bool in_use = false;
  bool in_parts = false;  // it has a span table: it can be fetched in parts
  int64_t used = 0;       // Unix seconds: when it was last opened or released
  uint64_t bytes() const { return data_bytes + index_bytes + blob_bytes; }
};

// Records that the layer in that directory is used when it is made and when it is destroyed: as the
// directory's time of modification, which costs no write per read and survives a restart. Then sets
// `released`.
class LayerUseNote {
 public:
  LayerUseNote(std::string directory, std::shared_ptr<std::atomic<bool>> released);
  ~LayerUseNote();
  LayerUseNote(const LayerUseNote&) = delete;
  LayerUseNote& operator=(const LayerUseNote&) = delete;

 private:
  const std::string directory_;
  const std::shared_ptr<std::atomic<bool>> released_;
};

// Bytes on the disk that are freed when the layer in that directory is removed: without files that
// another layer has, too.
uint64_t BytesFreedWith(const std::string& directory);

}  // namespace imagefs
