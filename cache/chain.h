// SPDX-License-Identifier: Apache-2.0
// What the cache hands out: layers and chains that are on the local disk, or whose bytes are
// fetched on demand. Both are immutable and shared by reference. Holding a reference pins the
// object: the collector never removes a pinned one.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/functional/any_invocable.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "base/byte_range.h"
#include "base/cancel.h"
#include "base/digest.h"
#include "base/fd.h"
#include "cache/index_trust.h"
#include "image/erofs_reader.h"
#include "image/index_bundle.h"
#include "image/layer_form.h"

namespace imagefs {

class ImageSource;
class LayerFill;

// While one is held, bytes that were present when it was issued stay present. A value type.
struct ReadPin {
  // Bytes that did not fit on the disk. They are read instead of those of the data file.
  struct Memory {
    const LayerFill* layer = nullptr;
    uint64_t begin = 0;  // in the data file
    std::shared_ptr<const std::string> bytes;
  };
  std::shared_ptr<const void> data_file;
  std::vector<Memory> memory;
};

// The reader: a thread, by the number that the kernel passes with its requests; 0 = unspecified.
using ReaderId = uint32_t;

// Fetches the bytes of a layer that is not fully present. Thread-safe.
class LayerFill {
 public:
  virtual ~LayerFill() = default;
  // Runs `done` exactly once, on any thread (possibly inline): with a pin once every byte of
  // `range` of the data file is present and verified, else with the reason it is unavailable.
  // Returns kCancelled if the token fires first, and kDeadlineExceeded if the bytes did not arrive
  // within the time allowed for a read. Before it reports an error to the reader, the kernel
  // retries parts of the failed range; those retries fail at once.
  using Done = absl::AnyInvocable<void(absl::StatusOr<ReadPin>)>;
  virtual void Ensure(ByteRange range, ReaderId reader, CancelToken cancel, Done done) = 0;
  // True once every byte is present and was checked against the DiffID; stays true.
  virtual bool complete() const = 0;
  // True once every byte is in the data file, checked or not; stays true.
  virtual bool whole() const { return complete(); }
  // Returns whether any byte may be read from the data file as it is now.
  virtual bool readable() const { return complete(); }
  // Bytes of the blob that are present, and its size.
  struct Progress {
    uint64_t present = 0, total = 0;
    absl::Status failure = absl::OkStatus();  // else why every read fails from now on
  };
  virtual Progress progress() const { return {}; }
  // Raises the limit on how long a read may wait. The longest limit requested by any mount applies.
  virtual void AllowWaiting(absl::Duration at_most) { (void)at_most; }
};

// A layer. If `fill` is null, every byte is present and was checked against the DiffID.
struct Layer {
  Digest id;       // its local name: the DiffID, or that of an unproven layer (cache/identity.h)
  Digest diff_id;  // as claimed by the image's configuration, or what stands for it
  LayerForm form;
  IndexSource source = IndexSource::kInImage;  // of an unproven layer: who vouches for its tree
  // Made by a pass over its blob, although `id` is not its DiffID: its tar was hashed afterwards.
  bool by_pass = false;
  std::string directory;              // <root>/layers/<hex>: files `data`, `index`
  Fd data;                            // the raw tar (and moved sparse segments), read-only
  uint64_t data_bytes = 0;            // size of `data`; a multiple of 512
  std::unique_ptr<ErofsImage> index;  // overlay form
  std::shared_ptr<LayerFill> fill;    // null: nothing is missing
  std::shared_ptr<const void> use;    // notes when the layer is opened and released. May be null
  // Once nothing is missing: guards bytes that may have been modified. May be null.
  std::shared_ptr<LayerFill> guard;

  bool complete() const {
    return (fill == nullptr || fill->complete()) && (guard == nullptr || guard->complete());
  }
  // Returns whether `data` has every byte, so that the kernel can read it by itself.
  bool whole() const {
    return (fill == nullptr || fill->whole()) && (guard == nullptr || guard->complete());
  }
  // Returns whether any byte may be read from `data` now; otherwise call keeper()->Ensure first.
  bool readable() const {
    return (fill == nullptr || fill->readable()) && (guard == nullptr || guard->readable());
  }
  const std::shared_ptr<LayerFill>& keeper() const {
    return fill != nullptr && (guard == nullptr || !fill->complete()) ? fill : guard;
  }
  bool proven() const { return id == diff_id; }
};
using LayerRef = std::shared_ptr<const Layer>;

// What an image claims of a layer: the DiffID (from its configuration; or what stands for it,
// image/layer_form.h) and the blob (from its manifest).
struct LayerKey {
  Digest diff_id, blob;
  bool operator==(const LayerKey&) const = default;
  template <typename H>
  friend H AbslHashValue(H h, const LayerKey& key) {
    return H::combine(std::move(h), key.diff_id, key.blob);
  }
};

// The merged tree of a stack of layers. Device i+1 of `index` is layers[i]->data.
struct Chain {
  Digest chain_id;  // the ChainID, or the name of a tree with unproven layers (cache/identity.h)
  std::string index_path;
  std::unique_ptr<ErofsImage> index;  // merged form
  std::vector<LayerRef> layers;       // bottom first
  bool overlay_form = false;          // a single layer; chain_id is synthetic then

  bool complete() const {
    return std::all_of(layers.begin(), layers.end(), [](const auto& l) { return l->complete(); });
  }
  bool whole() const {
    return std::all_of(layers.begin(), layers.end(), [](const auto& l) { return l->whole(); });
  }
  bool readable() const {
    return std::all_of(layers.begin(), layers.end(), [](const auto& l) { return l->readable(); });
  }
  // Calls LayerFill::AllowWaiting on every lazy layer. Does nothing unless `at_most` is positive.
  void AllowWaiting(absl::Duration at_most) const {
    if (at_most <= absl::ZeroDuration()) return;
    for (const LayerRef& layer : layers) {
      if (layer->fill != nullptr) layer->fill->AllowWaiting(at_most);
    }
  }
};
using ChainRef = std::shared_ptr<const Chain>;

// What allows a layer to be mounted before its bytes are present: the tree, and where to find the
// bytes.
struct FoundIndex {
  IndexSource source = IndexSource::kInImage;  // who vouches for it
  std::string origin;  // what it was made from, for logs: "published", "eStargz", ...
  // Digest of the bytes that describe the layer: the published bundle, the table of contents, or
  // the zTOC, and who may give pages of it (cache/identity.h). Equal descriptions of equal blobs
  // give equal trees.
  Digest description;
  // Two unlinked files.
  Fd index;  // EROFS, overlay form, written locally from a tree without privileges
  uint64_t index_bytes = 0;
  Fd span_table;  // image/span_table.h
  // The windows of that table come later (cache/late_windows.h), from `windows_source`.
  std::optional<PublishedWindows> windows;
  std::shared_ptr<ImageSource> windows_source;
  std::optional<ByteRange> prefetch;  // of the data file: to be read first, according to its author
};
using FoundIndexRef = std::shared_ptr<const FoundIndex>;

}  // namespace imagefs
