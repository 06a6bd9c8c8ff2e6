// What the cache hands out: layers and chains that are on this disk, or whose bytes come when they
// are asked for. Both are immutable and shared by reference; holding one pins it, so the collector
// never takes what someone holds.
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

namespace imagefs {

class LayerFill;

// While one is held, bytes that were here when it was given stay here. A value.
struct ReadPin {
  // Bytes that the disk had no room for. They are read instead of those of the data file.
  struct Memory {
    const LayerFill* layer = nullptr;
    uint64_t begin = 0;  // in the data file
    std::shared_ptr<const std::string> bytes;
  };
  std::shared_ptr<const void> data_file;
  std::vector<Memory> memory;
};

// Who reads: a thread, by the number that the kernel gives with its requests; 0 = nobody in
// particular.
using ReaderId = uint32_t;

// Brings the bytes of a layer that is not all here. Thread-safe.
class LayerFill {
 public:
  virtual ~LayerFill() = default;
  // Runs `done` once, on any thread (inline allowed): with a pin when every byte of `range` of the
  // data file is here and was checked, else why it cannot be had. kCancelled when the token fires
  // first, kDeadlineExceeded when they did not come in the time that a read has. The kernel asks
  // again for parts of what failed before it tells the reader: those fail at once.
  using Done = absl::AnyInvocable<void(absl::StatusOr<ReadPin>)>;
  virtual void Ensure(ByteRange range, ReaderId reader, CancelToken cancel, Done done) = 0;
  // True once every byte is here and was checked against the DiffID; stays true.
  virtual bool complete() const = 0;
  // Whether any byte may be read from the data file as it is now.
  virtual bool readable() const { return complete(); }
  // Bytes of the blob that are here, and all of them.
  struct Progress {
    uint64_t present = 0, total = 0;
  };
  virtual Progress progress() const { return {}; }
  // How long a read may wait: the longest that any mount asked for.
  virtual void AllowWaiting(absl::Duration at_most) { (void)at_most; }
};

// A layer. Without `fill` every byte of it is here and was checked against its DiffID.
struct Layer {
  Digest id;       // its name here: the DiffID, or that of an unproven layer (cache/identity.h)
  Digest diff_id;  // that the image's configuration claims
  IndexSource source = IndexSource::kInImage;  // of an unproven one: who vouches for its tree
  std::string directory;                       // <root>/layers/<hex>: files `data`, `index`
  Fd data;                                     // the raw tar (and moved sparse segments), read-only
  uint64_t data_bytes = 0;                     // size of `data`; a multiple of 512
  std::unique_ptr<ErofsImage> index;           // overlay form
  std::shared_ptr<LayerFill> fill;             // null: nothing is missing
  // Once nothing is missing: stands before bytes that somebody may have changed. May be null.
  std::shared_ptr<LayerFill> guard;

  bool complete() const {
    return (fill == nullptr || fill->complete()) && (guard == nullptr || guard->complete());
  }
  // Whether any byte may be read from `data` as it is; else keeper()->Ensure comes first.
  bool readable() const {
    return (fill == nullptr || fill->complete()) && (guard == nullptr || guard->readable());
  }
  const std::shared_ptr<LayerFill>& keeper() const {
    return fill != nullptr && (guard == nullptr || !fill->complete()) ? fill : guard;
  }
  bool proven() const { return id == diff_id; }
};
using LayerRef = std::shared_ptr<const Layer>;

// What an image claims of a layer: its configuration the DiffID, its manifest the blob.
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
  bool overlay_form = false;          // one layer by itself; chain_id is made up then

  bool complete() const {
    return std::all_of(layers.begin(), layers.end(), [](const auto& l) { return l->complete(); });
  }
  bool readable() const {
    return std::all_of(layers.begin(), layers.end(), [](const auto& l) { return l->readable(); });
  }
  // Of every layer that fills, LayerFill::AllowWaiting; not more than zero: nothing changes.
  void AllowWaiting(absl::Duration at_most) const {
    if (at_most <= absl::ZeroDuration()) return;
    for (const LayerRef& layer : layers) {
      if (layer->fill != nullptr) layer->fill->AllowWaiting(at_most);
    }
  }
};
using ChainRef = std::shared_ptr<const Chain>;

// What makes a layer showable before its bytes are here: the tree, and where the bytes are.
struct FoundIndex {
  IndexSource source = IndexSource::kInImage;  // who vouches for it
  std::string origin;  // what it was made of, for logs: "published", "eStargz", ...
  // Of the bytes that describe the layer: the published bundle, the table of contents, the zTOC.
  // Equal digests and equal blobs give equal trees.
  Digest description;
  // Two unlinked files.
  Fd index;                           // EROFS, overlay form, written here from a disarmed tree
  uint64_t index_bytes = 0;           // of it
  Fd span_table;                      // image/span_table.h
  std::optional<ByteRange> prefetch;  // of the data file: read at the start, says its author
};
using FoundIndexRef = std::shared_ptr<const FoundIndex>;

}  // namespace imagefs
