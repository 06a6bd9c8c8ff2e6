// What the cache hands out: layers and chains that are on this disk. Both are immutable and shared
// by reference; holding one pins it, so the collector never takes what someone holds.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/digest.h"
#include "base/fd.h"
#include "image/erofs_reader.h"

namespace imagefs {

// A layer whose every byte is here and was checked against its DiffID.
struct Layer {
  Digest diff_id;
  std::string directory;              // <root>/layers/<hex>: files `data`, `index`
  Fd data;                            // the raw tar (and moved sparse segments), read-only
  uint64_t data_bytes = 0;            // size of `data`; a multiple of 512
  std::unique_ptr<ErofsImage> index;  // overlay form
};
using LayerRef = std::shared_ptr<const Layer>;

// The merged tree of a stack of layers. Device i+1 of `index` is layers[i]->data.
struct Chain {
  Digest chain_id;
  std::string index_path;
  std::unique_ptr<ErofsImage> index;  // merged form
  std::vector<LayerRef> layers;       // bottom first
};
using ChainRef = std::shared_ptr<const Chain>;

}  // namespace imagefs
