// SPDX-License-Identifier: Apache-2.0
// The state that LayerStore keeps for one layer: the value of its record, and its open objects. A
// value type.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "base/cancel.h"
#include "cache/chain.h"
#include "cache/filling_layer.h"
#include "cache/image_types.h"
#include "cache/layer_files.h"
#include "cache/layer_guard.h"

namespace imagefs {

// The source of the blob that a layer was proven to be made from.
struct BlobOrigin {
  Digest blob;
  std::string registry;
  bool open = false;  // without credentials
  bool operator==(const BlobOrigin&) const = default;
};

// Whose credentials the bytes of a blob are fetched with.
struct BlobFetch {
  std::string auth_scope;  // "" = unknown
  bool open = false;
};

// A caller that waits for the proof of a layer.
struct ProofWait {
  std::function<void(absl::StatusOr<bool>)> finish;
  CancelToken::Registration on_cancel;
};

struct LayerEntry {
  LayerState state = LayerState::kWritten;
  uint64_t data_bytes = 0;
  uint64_t tar_bytes = 0;  // of the data file; 0 = unknown, or recorded by an earlier version
  uint64_t index_bytes = 0;
  LayerSums sums;
  std::string stamp;        // StampOf the files when they were last known to be right; "" = never
  bool unverified = false;  // kFilling: verify spans marked as present before trusting them
  int64_t checked = 0;      // Unix seconds: when all of it was last read and found right
  bool other_boot = false;  // kComplete: not yet examined in this boot
  bool check_queued = false;
  // Its DiffID was verified locally, possibly under another name; it may be refilling after damage.
  bool was_proven() const { return state != LayerState::kFilling || !sums.data.empty(); }
  bool syncing = false;  // its files are being synced
  // Made by a pass over its blob, so that its files are those of the layer under its DiffID, under
  // which it is stored as well once `hashing` has ended. Until then it is kFilling, although no
  // byte is missing.
  bool by_pass = false;
  bool hashing = false;
  uint64_t instance = 0;  // identifies its files: a later layer of that name has another number
  Digest diff_id;         // the claimed DiffID; for a proven layer, its name
  LayerForm form;
  // For an unproven layer:
  IndexSource source = IndexSource::kInImage;
  Digest index_digest;
  std::vector<BlobOrigin> origins;  // for an unproven layer: the one in its name
  Digest fill_blob;                 // kFilling: the blob that its span table refers to
  std::weak_ptr<const Layer> open;
  std::weak_ptr<LayerGuard> guard;  // of the open layer
};

// Is notified of layers that are damaged or lost.
struct LayerObserver {
  std::function<void(const Digest& id)> gone;  // the layer was forgotten
  // The layer is in use, and its damaged parts are fetched again.
  std::function<void(const std::shared_ptr<FillingLayer>&)> fills;
  // The layer is in use and was forgotten: `heal` makes its file equal to that of another layer of
  // the same DiffID.
  using Heal = std::function<void(LayerRef)>;
  std::function<void(const Digest& diff_id, const Heal& heal)> lost;
};

}  // namespace imagefs
