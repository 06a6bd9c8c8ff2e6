// What LayerStore knows of one layer: the value of its record, and what is open of it. A value.
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

// Where the blob came from, that a layer was proven to come from.
struct BlobOrigin {
  Digest blob;
  std::string registry;
  bool open = false;  // without anybody's credentials
  bool operator==(const BlobOrigin&) const = default;
};

// Whom the bytes of a blob come from.
struct BlobFetch {
  std::string auth_scope;  // "" = not known
  bool open = false;
};

// Somebody waits for the proof of a layer.
struct ProofWait {
  std::function<void(absl::StatusOr<bool>)> finish;
  CancelToken::Registration on_cancel;
};

struct LayerEntry {
  LayerState state = LayerState::kWritten;
  uint64_t data_bytes = 0;
  uint64_t index_bytes = 0;
  LayerSums sums;
  std::string stamp;        // StampOf the files when they were last known to be right; "" = never
  bool unverified = false;  // kFilling: what is said to be here is checked before it is believed
  int64_t checked = 0;      // Unix seconds: when all of it was last read and right
  bool other_boot = false;  // kComplete: not yet looked at in this boot
  bool check_queued = false;
  // Its DiffID was hashed here, also under another name; it may fill anew after damage.
  bool was_proven() const { return state != LayerState::kFilling || !sums.data.empty(); }
  bool syncing = false;   // its files are being synced
  uint64_t instance = 0;  // of its files: another layer of that name has another
  Digest diff_id;         // the claim; of a proven layer its name
  // Of an unproven one.
  IndexSource source = IndexSource::kInImage;
  Digest index_digest;
  std::vector<BlobOrigin> origins;  // of an unproven one: the one that it is named by
  Digest fill_blob;                 // kFilling: the blob that its span table reads
  std::weak_ptr<const Layer> open;
  std::weak_ptr<LayerGuard> guard;  // of what is open
};

// Is told of layers that are not what they should be.
struct LayerObserver {
  std::function<void(const Digest& id)> gone;  // the layer was forgotten
  // The layer is shown, and its damaged parts are fetched again.
  std::function<void(const std::shared_ptr<FillingLayer>&)> fills;
  // The layer is shown and was forgotten: `heal` makes its file equal to that of another one of the
  // same DiffID.
  using Heal = std::function<void(LayerRef)>;
  std::function<void(const Digest& diff_id, const Heal& heal)> lost;
};

}  // namespace imagefs
