// What the cache hands out: layers and chains that are on this disk, or whose bytes come when they
// are asked for. Both are immutable and shared by reference; holding one pins it, so the collector
// never takes what someone holds.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "base/byte_range.h"
#include "base/cancel.h"
#include "base/digest.h"
#include "base/fd.h"
#include "image/erofs_reader.h"

namespace imagefs {

// Brings the bytes of a layer that is not all here. Thread-safe.
class LayerFill {
 public:
  virtual ~LayerFill() = default;
  // Runs `done` once, on any thread (inline allowed): OK when every byte of `range` of the data
  // file is here and was checked, else why it cannot be had. kCancelled when the token fires first.
  virtual void Ensure(ByteRange range, CancelToken cancel,
                      absl::AnyInvocable<void(absl::Status)> done) = 0;
  // True once every byte is here and was checked against the DiffID; stays true.
  virtual bool complete() const = 0;
};

// A layer. Without `fill` every byte of it is here and was checked against its DiffID.
struct Layer {
  Digest diff_id;
  std::string directory;              // <root>/layers/<hex>: files `data`, `index`
  Fd data;                            // the raw tar (and moved sparse segments), read-only
  uint64_t data_bytes = 0;            // size of `data`; a multiple of 512
  std::unique_ptr<ErofsImage> index;  // overlay form
  std::shared_ptr<LayerFill> fill;    // null: nothing is missing

  bool complete() const { return fill == nullptr || fill->complete(); }
};
using LayerRef = std::shared_ptr<const Layer>;

// The merged tree of a stack of layers. Device i+1 of `index` is layers[i]->data.
struct Chain {
  Digest chain_id;
  std::string index_path;
  std::unique_ptr<ErofsImage> index;  // merged form
  std::vector<LayerRef> layers;       // bottom first

  bool complete() const {
    return std::all_of(layers.begin(), layers.end(), [](const auto& l) { return l->complete(); });
  }
};
using ChainRef = std::shared_ptr<const Chain>;

}  // namespace imagefs
